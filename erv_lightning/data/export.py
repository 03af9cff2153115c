"""Writing samples to one file a split, as JSON lines or Parquet, for `JsonlClips` and `ParquetClips` to read back."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from erv_lightning.data.readers.jsonl import parquet_library
from erv_lightning.data.sample import Sample


def write_samples(samples: Iterable[Sample], path: str | Path) -> None:
    """Writes the samples of one split; a half-written file never bears the final name.

    Read back, they are equal but for `record`: `split` is what the file is asked for, e.g. ``train.jsonl`` for
    ``train``. Absolute paths of clips and sounds stay; others are written relative to the file's folder.

    Args:
        samples: of one split, their ids distinct.
        path: a ``.jsonl`` or a ``.parquet`` file; its folder is made.

    Raises:
        ValueError: another ending, no samples, several splits, an id that stands twice, or Parquet without its library.
    """
    path, samples = Path(path), list(samples)
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{str(path)!r} is neither .jsonl nor .parquet: end its name so")
    _check(samples, path)
    rows = [_row(sample, path.parent) for sample in samples]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        if path.suffix == ".jsonl":
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            unfinished.write_text("".join(lines), encoding="utf-8", newline="\n")
        else:
            _write_parquet(rows, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _check(samples: Sequence[Sample], path: Path) -> None:
    splits = sorted({sample.split for sample in samples})
    if len(splits) != 1:
        what = f"samples of {', '.join(splits)}" if splits else "no samples"
        raise ValueError(f"{what} for {str(path)!r}: write one file for each split")
    twice = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if twice:
        raise ValueError(f"ids that stand twice for {str(path)!r}, e.g. {twice[0]!r}: write one file for each data set")


def _row(sample: Sample, folder: Path) -> dict[str, Any]:
    row = sample.to_json()
    del row["record"], row["split"]
    row["sentence_labels"] = [None if labels is None else list(labels) for labels in sample.sentence_labels]
    row["sentence_probs"] = [
        None if probs is None else dict(zip(sample.space.names, probs, strict=True)) for probs in sample.sentence_probs
    ]
    for key in ("clip", "audio"):
        row[key] = _seen_from(folder, row[key])
    return row


def _seen_from(folder: Path, name: str) -> str:
    """A path relative to a folder; an absolute one, or "", as it is."""
    if not name or os.path.isabs(name):
        return name
    relative = os.path.relpath(name, folder)
    # ".." out of a folder that is a link leads elsewhere
    same = os.path.realpath(folder / relative) == os.path.realpath(name)
    return relative if same else os.path.abspath(name)


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    datasets = parquet_library()
    text = datasets.Value("string")
    numbers = {"fold": datasets.Value("int64"), "weight": datasets.Value("float64")}
    special = {**numbers, "sentence_labels": datasets.List(datasets.List(text))}
    labels = {label for row in rows for probs in row["sentence_probs"] for label in probs or ()}
    if labels:
        special["sentence_probs"] = datasets.List({label: datasets.Value("float64") for label in sorted(labels)})
    else:  # a column of records needs a field
        rows = [{key: value for key, value in row.items() if key != "sentence_probs"} for row in rows]
    features = datasets.Features({key: special.get(key, text) for key in rows[0]})
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))
