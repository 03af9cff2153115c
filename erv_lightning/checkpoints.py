"""Reads checkpoints: one file, or the folder that sharded training leaves. Runs no code that a file brings along.

Knows no stage: `read_checkpoint` gives a dictionary, `load_weights` puts weights into any module they fit.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

META = "meta.pt"  # Lightning's: everything but weights and optimiser
WEIGHTS = "state_dict"
SHOWN = 3  # names in an error

# What the index of a sharded checkpoint is made of; anything else in it would be somebody's program.
_METADATA = "torch.distributed.checkpoint.metadata"
_INDEX = {
    _METADATA: {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
_BROKEN = (RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, pickle.UnpicklingError)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint on the CPU, its weights under ``state_dict``.

    A sharded folder comes without the optimiser's state. Of a file only what is looked at is read from the disk.

    Raises:
        ValueError: it is not there, cut off, no checkpoint, or holds more than data.
    """
    if not path.exists():
        raise ValueError(f"checkpoint {path} does not exist")
    checkpoint = _read_folder(path) if path.is_dir() else _read_file(path)
    weights = checkpoint.get(WEIGHTS) if isinstance(checkpoint, dict) else None
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{path} is no checkpoint of a run: it holds no {WEIGHTS!r}")
    return checkpoint


def _read_file(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(4)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _BROKEN as error:
        if start.startswith(b"PK"):  # every file that torch.save writes
            if isinstance(error, pickle.UnpicklingError):
                raise ValueError(
                    f"{path} is no checkpoint of a run: it holds objects that run code when they are read"
                ) from error
            raise ValueError(f"checkpoint {path} is {_damaged('file')}") from error
        what = "is empty" if not start else "is no checkpoint: it is no file that torch.save writes"
        raise ValueError(f"{path} {what}") from error


def _damaged(what: str) -> str:
    return (
        f"cut off or damaged: the run was stopped while it was written, or the {what} was not copied whole. Take "
        "another checkpoint"
    )


# -- sharded ------------------------------------------------------------------------------------------------------


class _Index(pickle.Unpickler):
    """Reads a sharded checkpoint's index, and nothing that could be called."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of the list.

        Raises:
            pickle.UnpicklingError: for any other.
        """
        if name not in _INDEX.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """torch's reader with a careful eye on the index."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Index(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("it is no index")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _read_folder(path: Path) -> dict[str, Any]:
    """The weights of a sharded checkpoint, whole, and what Lightning keeps beside them."""
    if not (path / ".metadata").is_file():
        raise ValueError(f"{path} is no checkpoint: a folder without '.metadata', which sharded training writes last")
    if not (path / META).is_file():
        raise ValueError(f"checkpoint {path} is {_damaged('folder')} ({META} is missing)")
    try:
        rest = _read_file(path / META)
        reader = _Reader(path)
        whole: dict[str, dict[str, Tensor]] = {WEIGHTS: {}}
        for name, kept in reader.read_metadata().state_dict_metadata.items():
            # Only tensors, and of them only weights: torch would run what other entries bring along.
            if name.startswith(f"{WEIGHTS}.") and isinstance(kept, TensorStorageMetadata):
                empty = torch.empty(kept.size, dtype=kept.properties.dtype)
                whole[WEIGHTS][name.removeprefix(f"{WEIGHTS}.")] = empty
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it should be
            load(whole, storage_reader=reader, no_dist=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is no checkpoint of a run, or damaged: its index cannot be read: {error}") from error
    except (CheckpointException, *_BROKEN) as error:
        raise ValueError(f"checkpoint {path} is {_damaged('folder')}") from error
    if not isinstance(rest, dict):
        raise ValueError(f"{path} is no checkpoint of a run: {META} holds no settings")
    return rest | whole


# -- into a module ------------------------------------------------------------------------------------------------


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], path: Path, names: Collection[str] | None = None
) -> None:
    """Puts weights into a module.

    Args:
        module: whose own they are.
        weights: of a checkpoint.
        path: it was read from, for the error.
        names: what must be there; None: all that the module saves itself, with LoRA the adapters alone.

    Raises:
        ValueError: names or shapes that do not fit; nothing has been loaded then.
    """
    own = module.state_dict()
    wanted = set(own if names is None else names)
    problems = {
        "missing": [name for name in own if name in wanted and name not in weights],
        "unknown": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} {list(value.shape)}, not {list(own[name].shape)}"
            for name, value in weights.items()
            if name in wanted and value.shape != own[name].shape
        ],
    }
    found = [f"{_few(those)} {what}" for what, those in problems.items() if those]
    if found:
        raise ValueError(f"checkpoint {path} is of another model than the run's config: {'; '.join(found)}")
    module.load_state_dict(weights, strict=False)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
