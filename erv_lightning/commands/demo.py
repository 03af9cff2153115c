"""`demo`: the three stages on the built-in clips, each by the command a user would type; comparison and report."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from erv_lightning.commands import compare, report
from erv_lightning.errors import ConfigError
from erv_lightning.runs import RunFolder


@dataclass(frozen=True)
class Step:
    """One run of the demo.

    Attributes:
        title: what it is, for people.
        run: its folder.
        configs: config files, in order.
        options: command-line options, in order.
    """

    title: str
    run: RunFolder
    configs: tuple[str, ...]
    options: tuple[str, ...] = ()

    def command(self, verb: str) -> list[str]:
        """The words after `python -m erv_lightning`."""
        files = [word for config in self.configs for word in ("-c", config)]
        return [verb, *files, "--runs", str(self.run.root), "--name", self.run.name, *self.options]

    @property
    def verbs(self) -> list[str]:
        """What is still to be done: nothing for a run that has been trained and tested before."""
        trained = self.run.export.is_dir()
        tested = trained and (self.run.path / "summary.json").is_file()
        return [] if tested else ["test"] if trained else ["fit", "test"]


def steps(seed: int, runs: Path, configs: Path) -> Iterator[Step]:
    """The runs of one seed, in order: each builds on those before it."""
    name, words = f"seed{seed}", ("--seed_everything", str(seed))
    grpo, from_sft = str(configs / "grpo.yaml"), ("--from_sft", name)
    yield Step("SFT, the cold start", RunFolder(runs, "sft", name), (str(configs / "sft.yaml"),), words)
    yield Step("verifier of explanations", RunFolder(runs, "verifier", name), (str(configs / "verifier.yaml"),), words)
    yield Step(
        "GRPO, format + accuracy",
        RunFolder(runs, "grpo", f"accuracy-{name}"),
        (grpo, str(configs / "reward" / "accuracy_only.yaml")),
        (*words, *from_sft),
    )
    yield Step(
        "GRPO with the explanation reward",
        RunFolder(runs, "grpo", f"explanation-{name}"),
        (grpo,),
        (*words, *from_sft, "--from_verifier", name),
    )


def main(argv: list[str]) -> int:
    """Runs what is missing, then compares; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m erv_lightning demo", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, 0 to N − 1 (default: 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs/demo"), help="where the runs go (default: runs/demo)")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder of the configs")
    arguments = parser.parse_args(argv)
    if not (arguments.configs / "grpo.yaml").is_file():
        raise ConfigError(f"no {arguments.configs / 'grpo.yaml'}: run the demo from the checkout, or give --configs")
    console, start = Console(), time.monotonic()
    plan = [step for seed in range(arguments.seeds) for step in steps(seed, arguments.runs, arguments.configs)]
    for number, step in enumerate(plan, start=1):
        console.rule(f"[bold]{number} of {len(plan)}: {step.title} ({step.run.name})")
        if not step.verbs:
            console.print(f"done before: {step.run.path} (delete the folder to do it again)")
        for verb in step.verbs:
            words = step.command(verb)
            console.print(f"python -m erv_lightning {' '.join(words)}", style="dim", soft_wrap=True)
            status = subprocess.run([sys.executable, "-m", "erv_lightning", *words], check=False).returncode
            if status != 0:
                return status
    policies = [str(step.run.path) for step in sorted(plan, key=_arm) if step.run.stage != "verifier"]
    console.rule("[bold]comparison")
    status = compare.main([*policies, "--out", str(arguments.runs / "comparison")])
    console.rule("[bold]report: every response beside its clip")
    status = status or report.main([*policies, "--out", str(arguments.runs / "report.html")])
    console.print(f"took {time.monotonic() - start:.0f} s")
    return status


def _arm(step: Step) -> int:
    """SFT, then the accuracy arm, then the explanation arm, whatever the seed."""
    return (
        ("sft", "accuracy", "explanation").index(
            step.run.stage if step.run.stage != "grpo" else step.run.name.split("-")[0]
        )
        if step.run.stage != "verifier"
        else -1
    )
