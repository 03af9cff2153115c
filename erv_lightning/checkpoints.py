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

_FOREIGN = "is no checkpoint of a run"

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


def read_checkpoint(path: Path, *, weights: bool = True) -> dict[str, Any]:
    """A Lightning checkpoint on the CPU, its weights under ``state_dict``.

    A sharded folder comes without the optimiser's state. Of a file only what is looked at is read from the disk.

    Args:
        path: the file or folder.
        weights: False leaves a folder's weights on the disk, and ``state_dict`` empty, for who asks for the rest.

    Raises:
        ValueError: it is not there, cut off, no checkpoint, or holds more than data.
    """
    if not path.exists():
        raise ValueError(f"checkpoint {path} does not exist")
    if path.is_dir():
        return _read_folder(path, weights)
    checkpoint = _read_file(path)
    found = checkpoint.get(WEIGHTS) if isinstance(checkpoint, dict) else None
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"{path} {_FOREIGN}: it holds no {WEIGHTS!r}")
    return dict(checkpoint)


def _read_file(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(4)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _BROKEN as error:
        if start.startswith(b"PK"):  # every file that torch.save writes
            if isinstance(error, pickle.UnpicklingError):
                raise ValueError(f"{path} {_FOREIGN}: it holds objects that run code when they are read") from error
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


def _read_folder(path: Path, weights: bool) -> dict[str, Any]:
    """The weights of a sharded checkpoint, whole, and what Lightning keeps beside them."""
    if not (path / ".metadata").is_file():
        raise ValueError(f"{path} is no checkpoint: a folder without '.metadata', which sharded training writes last")
    if not (path / META).is_file():
        raise ValueError(f"checkpoint {path} is {_damaged('folder')} ({META} is missing)")
    rest = _read_file(path / META)
    try:
        reader = _Reader(path)
        kept = reader.read_metadata().state_dict_metadata
        # Only tensors, and of them only weights: torch would run what other entries bring along.
        sizes = {name: one for name, one in kept.items() if isinstance(one, TensorStorageMetadata)}
        sizes = {name: one for name, one in sizes.items() if name.startswith(f"{WEIGHTS}.")}
        whole: dict[str, Tensor] = {}
        if weights:
            for name, one in sizes.items():
                whole[name.removeprefix(f"{WEIGHTS}.")] = torch.empty(one.size, dtype=one.properties.dtype)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it should be
                load({WEIGHTS: whole}, storage_reader=reader, no_dist=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} {_FOREIGN}, or damaged: its index cannot be read: {error}") from error
    except (CheckpointException, *_BROKEN) as error:
        raise ValueError(f"checkpoint {path} is {_damaged('folder')}") from error
    if not isinstance(rest, dict) or not sizes:
        raise ValueError(f"{path} {_FOREIGN}: it holds no {WEIGHTS!r}")
    return {**rest, WEIGHTS: whole}


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
