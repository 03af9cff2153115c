"""Writing clips into LitData shards, which stream from object storage: files as they are, every setting stays free.

One folder a split: LitData's chunks, and `samples.jsonl` with the records in the order of the items.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erv_lightning.data.readers.files import raise_problems
from erv_lightning.data.sample import Sample

SAMPLES = "samples.jsonl"
MEGABYTE = 1_000_000


def write_shards(
    samples: Mapping[str, Sequence[Sample]], folder: Path, shard_mb: int = 64, done: Callable[[], None] = lambda: None
) -> None:
    """Writes the clips of each split; the folder appears when all is written.

    Args:
        samples: split → its samples.
        folder: where to; must not exist yet. Upload it as it is.
        shard_mb: megabytes of a shard, at most, unless a single clip is larger.
        done: called after each clip.

    Raises:
        ValueError: LitData is not installed, the folder exists, a split is empty, or clips are missing: all are named.
    """
    if folder.exists():
        raise ValueError(f"{str(folder)!r} exists: name another folder, or remove it first")
    problems = [f"the split {split!r} has no samples" for split, those in samples.items() if not those]
    problems += [
        f"{sample.record or sample.id}: {path!r} does not exist"
        for those in samples.values()
        for sample in those
        for path in (sample.clip, sample.audio)
        if path and not Path(path).exists()
    ]
    raise_problems(problems)
    writer = _writer()
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for split, those in samples.items():
            chunks = writer(str(unfinished / split), chunk_bytes=shard_mb * MEGABYTE)
            for index, sample in enumerate(those):
                chunks[index] = {"clip": _content(sample.clip), "audio": _content(sample.audio)}
                done()
            chunks.done()
            chunks.merge()
            rows = (json.dumps(sample.to_json(), ensure_ascii=False) + "\n" for sample in those)
            (unfinished / split / SAMPLES).write_text("".join(rows), encoding="utf-8")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _writer() -> Any:
    try:
        from litdata.streaming import Cache
    except ImportError as error:
        raise ValueError("shards need LitData: pip install 'erv-lightning[shards]'") from error
    return Cache


def _content(path: str) -> bytes:
    """A file's bytes; of a folder of frames, an uncompressed archive; of no path, nothing."""
    if not path:
        return b""
    if not Path(path).is_dir():
        return Path(path).read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(Path(path).iterdir()):
            if file.is_file():
                archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes())  # without times: same bytes always
    return packed.getvalue()
