"""What can be said about configuration files before anything heavy is imported: do they exist, read, and fit?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from erv_lightning.errors import ConfigError
from erv_lightning.runs import STAGES


@dataclass(frozen=True)
class ConfigFile:
    """One file given with `-c`.

    Attributes:
        path: as given.
        content: its mapping, unresolved.
    """

    path: str
    content: dict[str, Any]

    @property
    def group(self) -> str:
        """The config group it belongs to: the name of its folder, e.g. ``model``, ``data``, ``reward``."""
        return Path(self.path).parent.name


def paths_in(argv: list[str]) -> list[str]:
    """The files given with `-c`, `--config` or `--config=`."""
    paths = []
    for index, word in enumerate(argv):
        if word in {"-c", "--config"}:
            if index + 1 == len(argv):
                raise ConfigError(f"{word} needs a file: for example {word} configs/grpo.yaml")
            paths.append(argv[index + 1])
        elif word.startswith("--config="):
            paths.append(word.removeprefix("--config="))
    return paths


def read(paths: list[str]) -> list[ConfigFile]:
    """Reads the files.

    Raises:
        ConfigError: all files that are missing, no YAML or no mapping, in one message.
    """
    files, problems = [], []
    for path in paths:
        try:
            content = yaml.safe_load(Path(path).read_text())
        except FileNotFoundError:
            problems.append(f"config file {path!r} does not exist (here: {Path.cwd()})")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"config file {path!r} cannot be read: {error}")
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at line {mark.line + 1}" if mark else ""
            problems.append(f"config file {path!r} is no valid YAML{where}: {getattr(error, 'problem', error)}")
        else:
            if isinstance(content, dict):
                files.append(ConfigFile(path, content))
            else:
                problems.append(f"config file {path!r} holds no settings")
    if problems:
        raise ConfigError("; ".join(problems))
    return files


def stage_of(files: list[ConfigFile]) -> str:
    """The one stage that the files are for.

    Raises:
        ConfigError: no file names a stage, or two name different ones.
    """
    named = [(file.path, file.content["stage"]) for file in files if "stage" in file.content]
    if not named:
        raise ConfigError(
            "no config names a stage: begin with -c configs/sft.yaml, configs/verifier.yaml or configs/grpo.yaml"
        )
    path, stage = named[0]
    for other, other_stage in named[1:]:
        if other_stage != stage:
            raise ConfigError(
                f"{other!r} is for stage {other_stage!r}, but {path!r} is for {stage!r}: leave one of them out"
            )
    if stage not in STAGES:
        raise ConfigError(f"{path!r}: unknown stage {stage!r}, one of {', '.join(STAGES)} is needed")
    return str(stage)
