"""Clips in LitData shards, on a disk or in object storage; `python -m erv_lightning data optimize` writes them."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from typing import Any

from erv_lightning.data.sample import ClipSource, Sample


class ShardedClips(ClipSource):
    """Annotations are read at once, clips when their turn comes, a shard at a time.

    Args:
        root: a folder, or an address that both LitData and fsspec know, such as ``s3://bucket/corpus``.
        cache_dir: where downloaded shards are kept; null: LitData's place.
        cache_gb: how much of them, for each split.
    """

    def __init__(self, root: str, cache_dir: str | None = None, cache_gb: float = 100.0) -> None:
        self.root, self.cache_dir, self.cache_gb = root.rstrip("/"), cache_dir, cache_gb
        self._readers: dict[tuple[int, str], Any] = {}
        self._lock = threading.Lock()

    def _read(self, split: str, name: str) -> str:
        import fsspec

        place = f"{self.root.removeprefix('local:')}/{split}/{name}"
        try:
            with fsspec.open(place, "r", encoding="utf-8") as file:
                text: str = file.read()
        except (OSError, ImportError, ValueError) as error:
            raise ValueError(
                f"no shards of the split {split!r} in {self.root!r} ({error}): check data.source.init_args.root"
            ) from error
        return text

    def samples(self, split: str) -> list[Sample]:
        """The samples of a split; `clip` names the item, which `media` fetches."""
        rows = self._read(split, "samples.jsonl").splitlines()
        samples = [Sample.from_json(json.loads(row)) for row in rows]
        # what was a path on the machine that wrote the shards is an item of them now
        return [replace(sample, clip=f"{self.root}/{split}#{index}", audio="") for index, sample in enumerate(samples)]

    def blocks(self, split: str) -> list[int]:
        """Samples in each shard."""
        chunks = json.loads(self._read(split, "index.json"))["chunks"]
        return [int(chunk["chunk_size"]) for chunk in chunks]

    def media(self, sample: Sample) -> tuple[str | bytes, str | bytes]:
        """The content of the clip and of its separate sound."""
        place, _, index = sample.clip.rpartition("#")
        with self._lock:  # the next batch is made in a thread, others may be drawn beside it
            item = self._reader(place)[int(index)]
        return item["clip"], item["audio"]

    def _reader(self, place: str) -> Any:
        """LitData's view of a split. Each process has its own: it comes with threads, which do not survive a fork."""
        key = (os.getpid(), place)
        if key not in self._readers:
            try:
                from litdata import StreamingDataset
            except ImportError as error:
                raise ValueError("shards need LitData: pip install 'erv-lightning[shards]'") from error
            reader = StreamingDataset(place, cache_dir=self.cache_dir, max_cache_size=int(self.cache_gb * 1e9))
            # whole shards: neighbours in a shard have their turn soon after one another (`EpochSampler`)
            reader._on_demand_bytes = False
            self._readers[key] = reader
        return self._readers[key]
