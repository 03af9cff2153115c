"""A loader that knows how far into its epoch it is, so that a resumed run goes on with the next batch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from torch.utils.data import DataLoader

from erv_lightning.data.sampler import EpochSampler


class EpochLoader(DataLoader[Any]):
    """Batches of an `EpochSampler`. Lightning keeps `state_dict` in checkpoints and gives it back on resume.

    The state knows no rank, since one process writes the checkpoint for all: every process is at the same batch.
    """

    _handed_out = 0
    unread = 0  # of the batches handed out, those whose step is not done
    ahead = False  # without workers, the next batch is made in a thread while the last one is computed with

    @property
    def _order(self) -> EpochSampler | None:
        """None where `trainer.overfit_batches` has put an order of Lightning's in its place."""
        return self.sampler if isinstance(self.sampler, EpochSampler) else None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # an iterator is all that anyone needs
        self._handed_out = self._order.skip // cast("int", self.batch_size) if self._order else 0
        batches = super().__iter__()
        for batch in _one_ahead(batches) if self.ahead and not self.num_workers else batches:
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches of this epoch whose step is done."""
        return {"batches": self._handed_out - self.unread}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass begins after these batches. A finished epoch leaves nothing to skip."""
        if self._order:
            done = state["batches"] if state["batches"] < len(self) else 0
            self._order.skip = done * cast("int", self.batch_size)


def _one_ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, each begun when the one before is handed out. Decoding lets other threads compute."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="next batch") as pool:
        coming = pool.submit(next, batches, end)
        while (batch := coming.result()) is not end:
            coming = pool.submit(next, batches, end)
            yield batch
