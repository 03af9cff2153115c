"""Checkpoints that are complete or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

FULL = (errno.ENOSPC, errno.EDQUOT)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint, then takes its place. Lightning writes through the system's temporary folder, from
    where a file is copied if that lies on another disk: a kill would leave half of it.

    On a full disk the older checkpoint stays, a warning says so, and the run goes on.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint; one on another machine (``s3://…``) as Lightning does."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        unfinished = final.with_name(f".{final.name}.tmp")
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(final)
        except (OSError, RuntimeError) as error:
            unfinished.unlink(missing_ok=True)
            if not _disk_is_full(error):
                raise
            kept = f"the older {final} is kept" if final.is_file() else "there is none yet"
            rank_zero_warn(
                f"no space left on the disk, the checkpoint was not written: {kept}. Make room for the next one"
            )


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, or behind one that torch made of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
