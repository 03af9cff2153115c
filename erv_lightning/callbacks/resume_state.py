"""What a checkpoint needs beyond Lightning's own, so that a resumed run equals one that was never stopped.

Three things: the random state of every process, the moment between two steps that a checkpoint describes, and how far
the log files were.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn

from erv_lightning.data.loader import EpochLoader

RANDOM, LINES = "random_states", "log_lines"
LOGS = ("metrics.csv", "rollouts.jsonl", "bad_clips.jsonl")


class ResumeState(L.Callback):
    """Makes every checkpoint one of a moment between two steps, random state and log positions included.

    A checkpoint that is written while a step or a validation is under way (an interrupt, an error) describes the moment
    before it: the resumed run does it again from its beginning.

    Args:
        folder: the run's, with its log files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting: list[dict[str, Any]] | None = None
        # before the step under way: random state, and sizes of the log files, to which callbacks add as it begins
        self._before: dict[str, Any] | None = None
        self._sizes: dict[str, int] = {}
        self._validating = False

    # -- writing -----------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Puts the random state back in a resumed run's first step, and remembers it in every step."""
        if self._waiting is not None:
            self._put_back(trainer)
        self._before, self._sizes = random_state(), self._log_sizes()
        self._count_unread(trainer, 1)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """The step is done."""
        self._before = None
        self._count_unread(trainer, 0)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A validation is under way."""
        self._validating = not trainer.sanity_checking

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """It is done."""
        self._validating = False

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """All processes come here, one writes."""
        own = self._before or random_state()
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            dist.all_gather_object(states, own)
        checkpoint[RANDOM] = states
        if trainer.is_global_zero:
            sizes = self._log_sizes() if self._before is None else self._sizes
            checkpoint[LINES] = {name: _lines(self.folder / name, size) for name, size in sizes.items()}
        loops = checkpoint["loops"]["fit_loop"]
        if self._validating:
            loops["epoch_loop.val_loop.batch_progress"] = _not_begun(loops["epoch_loop.val_loop.batch_progress"])
        elif self._before is not None:
            loops["epoch_loop.batch_progress"] = _before_batch(loops["epoch_loop.batch_progress"])

    def _log_sizes(self) -> dict[str, int]:
        return {name: (self.folder / name).stat().st_size for name in LOGS if (self.folder / name).is_file()}

    @staticmethod
    def _count_unread(trainer: L.Trainer, batches: int) -> None:
        """The batch of the step under way has left the loader, but is not done."""
        for loader in trainer.fit_loop._combined_loader.flattened if trainer.fit_loop._combined_loader else ():
            if isinstance(loader, EpochLoader):
                loader.unread = batches

    # -- going on ------------------------------------------------------------------------------------------------

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remembers the random states until the first step: building model and data draws numbers, too."""
        self._waiting = checkpoint.get(RANDOM)

    def _put_back(self, trainer: L.Trainer) -> None:
        states, self._waiting = self._waiting or [], None
        if len(states) == trainer.world_size:
            set_random_state(states[trainer.global_rank])
            return
        rank_zero_warn(
            f"the checkpoint was written by {len(states)} processes, this run has {trainer.world_size}: it goes on, "
            "but not with the random numbers and the share of clips that each would have had"
        )


def _before_batch(progress: dict[str, Any]) -> dict[str, Any]:
    """A batch progress of Lightning's as if the batch under way had not come yet."""

    def done(counts: dict[str, int]) -> dict[str, int]:
        return {
            name: counts["completed"] if name in {"ready", "started", "processed"} else value
            for name, value in counts.items()
        }

    return {**progress, "total": done(progress["total"]), "current": done(progress["current"])}


def _not_begun(progress: dict[str, Any]) -> dict[str, Any]:
    """A validation's progress from which Lightning takes up the validation, at its first batch."""
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    return {**progress, "total": {**progress["total"], **begun}, "current": {**progress["current"], **begun}}


# -- random state ----------------------------------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's, torch's and CUDA's generators, as types that load without running code."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *(float(one) for one in rest)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,  # each process has one device
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


# -- log files -------------------------------------------------------------------------------------------------------


def _lines(path: Path, size: int) -> int:
    """Whole lines among the first bytes of a file."""
    with path.open("rb") as file:
        return sum(file.read(min(1 << 20, size - start)).count(b"\n") for start in range(0, size, 1 << 20))


def cut_logs(folder: Path, lines: Mapping[str, int]) -> None:
    """Drops what was logged after a checkpoint: the run that goes on from there will log it again.

    Args:
        folder: the run's.
        lines: of each log file, as the checkpoint has them; a file that it does not name did not exist then.
    """
    for name in LOGS:
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as file:
            kept = b"".join(islice(file, lines.get(name, 0)))
        if len(kept) < path.stat().st_size:  # also where the last line is but half there
            unfinished = path.with_name(f".{name}.tmp")
            unfinished.write_bytes(kept)
            unfinished.replace(path)
