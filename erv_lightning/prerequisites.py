"""Trains the stages a run builds on, where their exported models are not there yet."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from erv_lightning.config_files import ConfigFile
from erv_lightning.errors import ConfigError
from erv_lightning.runs import RunFolder

# Overlays that a stage hands on to the stages it builds on, by config group.
DEFAULT_BASE = "tiny"  # of the setting `base`: a stage's own config then decides
HANDED_ON = {"sft": {"model", "data", "judge", "trainer"}, "verifier": {"data", "trainer"}}


def train_missing(settings: Namespace, stage: str, files: Sequence[ConfigFile]) -> None:
    """Runs `fit` of an earlier stage for every exported model in the settings that does not exist yet.

    Args:
        settings: parsed settings of the run.
        stage: of the run.
        files: its config files; the earlier stage's config is looked for beside them, then in `configs/`.

    Raises:
        ConfigError: a model that no stage can make, or a stage that did not finish.
        KeyboardInterrupt: the user stopped the earlier stage.
    """
    for path in sorted(set(_strings(settings.model))):
        run = RunFolder.of_export(path)
        if run is None or run.export.is_dir():
            continue
        if run.stage == stage:
            raise ConfigError(
                f"{path} does not exist: a {stage} run can start from another only once that has finished"
            )
        command = [sys.executable, "-m", "erv_lightning", *_fit_words(run, settings, files)]
        rank_zero_info(f"{run.export} is not there yet: training it first with\n  python {' '.join(command[1:])}")
        status = _run(command)
        if status != 0:
            raise ConfigError(f"the {run.stage} stage did not finish (exit status {status}), so this one cannot start")


def _fit_words(run: RunFolder, settings: Namespace, files: Sequence[ConfigFile]) -> list[str]:
    config = _config(run, settings, files)
    overlays = [file.path for file in files if file.group in HANDED_ON[run.stage]]
    words = ["fit", *(word for path in (str(config), *overlays) for word in ("-c", path))]
    words += ["--name", run.name, "--runs", str(run.root), "--seed_everything", str(settings.seed_everything)]
    if run.stage == "sft" and settings.base != DEFAULT_BASE:
        words += ["--base", settings.base]
    if run.last.is_file() and not run.export.is_dir():  # it was interrupted
        words += ["--ckpt_path", "last"]
    return words


def _config(run: RunFolder, settings: Namespace, files: Sequence[ConfigFile]) -> Path:
    """What a missing run is trained with.

    Raises:
        ConfigError: a file that is not there.
    """
    if named := settings.get(f"{run.stage}_config"):
        if not Path(named).is_file():
            raise ConfigError(f"{run.export} does not exist, and neither does {run.stage}_config {named!r}")
        return Path(named)
    folders = [*(Path(file.path).parent for file in files), Path("configs")]
    found = [folder / f"{run.stage}.yaml" for folder in folders if (folder / f"{run.stage}.yaml").is_file()]
    if not found:
        raise ConfigError(f"{run.export} does not exist, and there is no configs/{run.stage}.yaml to make it with")
    return found[0]


def _run(command: list[str]) -> int:
    """Runs a stage in a process of its own, which hears Ctrl-C itself and needs time to save."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # Not inherited: the stage listens to Ctrl-C, only this waiting process does not.
        restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
        status = subprocess.run(command, check=False, preexec_fn=restore).returncode
    finally:
        signal.signal(signal.SIGINT, handler)
    if status == 130:
        raise KeyboardInterrupt
    return status


def _strings(value: Any) -> Iterator[str]:
    """Every string in nested settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Namespace, Mapping)):
        items = vars(value) if isinstance(value, Namespace) else value
        for item in items.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
