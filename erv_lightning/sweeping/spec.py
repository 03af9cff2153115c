"""A W&B sweep file: what it must say, and the command of a trial as the W&B agent assembles it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erv_lightning import config_files
from erv_lightning.errors import ConfigError

METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
PROGRAM = ["-m", "erv_lightning", "fit"]
ARGUMENTS = ("${args}", "${args_no_equals}", "${args_no_boolean_flags}")
MACROS = ("${env}", "${interpreter}", *ARGUMENTS)


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that has been checked.

    Attributes:
        path: of the file.
        content: its mapping, as read.
    """

    path: Path
    content: dict[str, Any]

    @property
    def method(self) -> str:
        """One of `METHODS`."""
        return str(self.content["method"])

    @property
    def metric(self) -> str:
        """What the trials are judged by."""
        return str(self.content["metric"]["name"])

    @property
    def maximize(self) -> bool:
        """Whether more of it is better."""
        return bool(self.content["metric"].get("goal", "minimize") == "maximize")

    @property
    def stops_early(self) -> bool:
        """Whether trials that fall behind are stopped."""
        return "early_terminate" in self.content

    @property
    def run_cap(self) -> int | None:
        """The most trials, if the file says so."""
        return self.content.get("run_cap")

    def best(self, values: list[float]) -> float | None:
        """The best of a trial's values, None if there are none."""
        return None if not values else max(values) if self.maximize else min(values)

    def command(self, params: Mapping[str, Any]) -> list[str]:
        """The words of a trial's command, macros filled in.

        Args:
            params: value of every parameter, by its name on the command line.
        """
        filled: dict[str, list[str]] = {
            "${env}": ["/usr/bin/env"],
            "${interpreter}": ["python"],
            "${args}": [f"--{name}={value}" for name, value in params.items()],
            "${args_no_equals}": [word for name, value in params.items() for word in (f"--{name}", str(value))],
            "${args_no_boolean_flags}": [
                f"--{name}" if value is True else f"--{name}={value}"
                for name, value in params.items()
                if value is not False
            ],
        }
        return [word for chunk in self.content["command"] for word in filled.get(str(chunk), [str(chunk)])]

    def fit_words(self, params: Mapping[str, Any]) -> list[str]:
        """The words after `python -m erv_lightning`, whatever starts the processes."""
        words = self.command(params)
        return words[_start(words) + 2 :]


def _start(words: list[str]) -> int:
    """Where `-m erv_lightning fit` begins; −1 if nowhere."""
    return next((i for i in range(len(words)) if words[i : i + 3] == PROGRAM), -1)


def read_sweep(path: Path) -> SweepFile:
    """Reads a sweep file.

    Raises:
        ConfigError: the file is missing or no YAML, or all that is wrong with what it says, in one line.
    """
    content = config_files.read([str(path)])[0].content
    problems = [*_of_search(content), *_of_command(content)]
    if problems:
        raise ConfigError(f"{path}: {'; '.join(problems)}")
    return SweepFile(path, content)


def _of_search(content: Mapping[str, Any]) -> list[str]:
    problems = []
    method, metric, parameters = content.get("method"), content.get("metric"), content.get("parameters")
    if method not in METHODS:
        said = "no method" if method is None else f"unknown method {method!r}"
        problems.append(f"{said}, one of {', '.join(METHODS)} is needed")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        problems.append("no metric, for example metric: {name: val/fcr, goal: maximize}")
    elif metric.get("goal", "minimize") not in GOALS:
        problems.append(f"unknown goal {metric['goal']!r} of the metric, one of {', '.join(GOALS)} is needed")
    if not isinstance(parameters, dict) or not parameters:
        problems.append("no parameters, for example parameters: {model.init_args.beta: {values: [0.0, 0.04]}}")
    else:
        problems += [f"parameter {name} is no mapping" for name, one in parameters.items() if not isinstance(one, dict)]
        problems += [
            f"parameter {name} holds parameters of its own: write their names with dots, as on the command line"
            for name, one in parameters.items()
            if isinstance(one, dict) and "parameters" in one
        ]
    return problems


def _of_command(content: Mapping[str, Any]) -> list[str]:
    command = content.get("command")
    if not isinstance(command, list) or not command:
        return ['no command, for example [python, -m, erv_lightning, fit, -c, configs/grpo.yaml, "${args}"]']
    words = [str(word) for word in command]
    problems = []
    if _start(words) < 0:
        problems.append("the command does not run -m erv_lightning fit")
    if not set(ARGUMENTS) & set(words):
        problems.append("the command has no ${args}, so no trial would get its parameters")
    unknown = [word for word in words if word.startswith("${") and word.endswith("}") and word not in MACROS]
    if unknown:
        problems.append(f"the command has {', '.join(unknown)}, of which only W&B's agent knows the meaning")
    return problems
