"""Where a sweep's trials run, found out before any starts: the command line is asked to read the first one's words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from erv_lightning.errors import ConfigError
from erv_lightning.runs import RunFolder
from erv_lightning.sweeping.spec import SweepFile

_PLACEHOLDER = "TRIALID"
OVERLAY = "configs/logger/sweep.yaml"


@dataclass(frozen=True)
class Place:
    """The run folders of a sweep.

    Attributes:
        root: folder of all runs.
        stage: of the trials.
        name: of a trial's run, with a placeholder for the trial's id.
    """

    root: Path
    stage: str
    name: str

    def run(self, trial: str) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self.root, self.stage, self.name.replace(_PLACEHOLDER, trial))


def runs_words(runs: Path | None) -> list[str]:
    """The words that send a trial to another folder of runs than its config says."""
    return [] if runs is None else [f"--runs={runs}"]


def find_place(sweep: SweepFile, params: Mapping[str, Any], runs: Path | None) -> Place:
    """Asks `fit --print_config` what the trials' words mean.

    Args:
        sweep: the file.
        params: of one trial.
        runs: folder of runs, if not the config's.

    Raises:
        ConfigError: a parameter or config that the command line does not know, trials that would share one run
            folder, or an earlier stage's model that every trial would train for itself.
    """
    words = [*sweep.fit_words(params), *runs_words(runs), "--print_config"]
    environment = {**os.environ, "WANDB_RUN_ID": _PLACEHOLDER}
    command = [sys.executable, "-m", "erv_lightning", *words]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if outcome.returncode != 0:
        said = [line.removeprefix("error: ") for line in outcome.stderr.splitlines() if line.startswith("error: ")]
        raise ConfigError(f"{sweep.path}: {said[-1] if said else outcome.stderr.strip() or 'fit failed'}")
    settings: dict[str, Any] = yaml.safe_load(outcome.stdout)
    place = Place(Path(settings["runs"]), settings["stage"], settings["name"])
    if _PLACEHOLDER not in place.name:
        raise ConfigError(f"{sweep.path}: all trials would be called {place.name!r}: add -c {OVERLAY} to the command")
    for made in sorted({path for path in _strings(settings["model"]) if _missing(path)}):
        run = RunFolder.of_export(made)
        assert run is not None
        raise ConfigError(
            f"{made} is not there, and every trial would train it for itself: first python -m erv_lightning fit "
            f"-c configs/{run.stage}.yaml --name {run.name} --runs {run.root} (with the sweep's model and data)"
        )
    return place


def _missing(path: str) -> bool:
    run = RunFolder.of_export(path)
    return run is not None and not run.export.is_dir()


def _strings(node: Any) -> Iterator[str]:
    """Every string in nested settings."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, (dict, list)):
        for one in node.values() if isinstance(node, dict) else node:
            yield from _strings(one)
