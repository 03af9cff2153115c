"""Reads the file that an offline W&B run keeps, `run-*.wandb`, without W&B's server. Knows no metric.

W&B has no public function for it; `wandb sync` uploads the file. It is a LevelDB log of protobuf records
(https://github.com/google/leveldb/blob/main/doc/log_format.md): seven bytes of head, then blocks of 32 KiB. A record is
one chunk, or goes on in the next block. A chunk begins with seven bytes: checksum, length, and whether it is a whole
record (1), its first part (2), a middle (3) or the last (4).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MAGIC = b":W&B"
_HEAD = 7
_BLOCK = 32 * 1024
_CHUNK = struct.Struct("<IHB")
_WHOLE, _LAST = 1, 4


class WandbFileError(ValueError):
    """A file that is none of W&B's, or broken in the middle."""


def history(path: Path) -> Iterator[dict[str, Any]]:
    """What an offline run logged, call by call.

    Args:
        path: ``run-*.wandb``. One that is still being written ends with its last whole record.

    Yields:
        Name → value as logged; a nested name has a dot for each level. W&B's own begin with ``_``: ``_step``,
        ``_runtime``, ``_timestamp``.

    Raises:
        WandbFileError: the file is of another kind.
    """
    from wandb.proto import wandb_internal_pb2

    for data in _records(path):
        try:
            record = wandb_internal_pb2.Record.FromString(data)
        except Exception as error:  # protobuf's own, whose class depends on its implementation
            raise WandbFileError(f"{path}: a record cannot be read: {error}") from None
        if record.WhichOneof("record_type") == "history":
            yield {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}


def _records(path: Path) -> Iterator[bytes]:
    """The records' bytes; half a record at the end, of a run that was killed or still goes on, is left out."""
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise WandbFileError(f"{path} is no file of an offline W&B run")
    position, parts = _HEAD, b""
    while position + _CHUNK.size <= len(data):
        if _BLOCK - position % _BLOCK < _CHUNK.size:  # too short for a chunk's head: zeros up to the next block
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = _CHUNK.unpack_from(data, position)
        start = position + _CHUNK.size
        if kind not in range(_WHOLE, _LAST + 1) or start + length > len(data):
            return
        parts += data[start : start + length]
        position = start + length
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""
