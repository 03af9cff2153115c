"""Users' own clips: one file a split, JSON lines or Parquet with the same fields."""

from __future__ import annotations

import importlib
import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from erv_lightning.data.readers.files import known_label, raise_problems
from erv_lightning.data.sample import QUESTION, ClipSource, Sample
from erv_lightning.labels import LabelSpace, get_label_space
from erv_lightning.text import split_sentences


class _RowClips(ClipSource):
    """One file of rows for each split."""

    def __init__(self, root: str, pattern: str, label_space: str, question: str) -> None:
        self.root, self.pattern = Path(root), pattern
        self.label_space, self.question = label_space, question

    @abstractmethod
    def _rows(self, path: Path) -> Iterator[tuple[int, Any]]:
        """The rows of a file, numbered from 1, as `_row` takes them."""

    def _row(self, raw: Any) -> Any:
        """What a row says; raises ValueError for one that cannot be read."""
        return raw

    def samples(self, split: str) -> list[Sample]:
        """The rows of a split's file.

        Raises:
            ValueError: a missing file, or all bad rows at once, each with its line number.
        """
        path = self.root / self.pattern.format(split=split)
        if not path.is_file():
            raise ValueError(f"no file {str(path)!r} for the split {split!r}: check data.source.init_args.root")
        samples: dict[str, Sample] = {}
        problems = []
        for number, raw in self._rows(path):
            try:
                sample = self._sample(self._row(raw), split, f"{path}:{number}")
                if sample.id in samples:
                    raise ValueError(f"the id {sample.id!r} stands already at {samples[sample.id].record}")
                samples[sample.id] = sample
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
        raise_problems(problems)
        return list(samples.values())

    def _sample(self, row: Any, split: str, record: str) -> Sample:
        if not isinstance(row, dict):
            raise ValueError("a JSON object is needed")
        row = {key: value for key, value in row.items() if value is not None}
        missing = [key for key in ("clip", "label") if not isinstance(row.get(key), str)]
        if missing:
            raise ValueError(f"no text under {missing}")
        _check_types(row)
        space = get_label_space(row.get("label_space", self.label_space))
        sentence_labels = row.get("sentence_labels", [])
        sentences = len(split_sentences(row.get("explanation", "")))
        sentence_probs = row.get("sentence_probs", [])
        for what, given in (("labels", sentence_labels), ("probabilities", sentence_probs)):
            if given and len(given) != sentences:
                raise ValueError(f"{len(given)} sentence {what} for {sentences} sentences")
        return Sample(
            id=str(row.get("id", Path(record).name)),
            dataset=str(row.get("dataset", self.root.name)),
            clip=_seen_from(self.root, row["clip"]),
            question=row.get("question", self.question),
            label_space=space.name,
            label=known_label(space, row["label"]),
            split=split,
            explanation=row.get("explanation", ""),
            sentence_labels=tuple(
                None if labels is None else tuple(known_label(space, label) for label in labels)
                for labels in sentence_labels
            ),
            sentence_probs=tuple(None if probs is None else known_probs(space, probs) for probs in sentence_probs),
            subtitle=row.get("subtitle", ""),
            fold=row.get("fold"),
            source=row.get("source", ""),
            audio=_seen_from(self.root, row["audio"]) if row.get("audio") else "",
            weight=float(row.get("weight", 1)),
            record=record,
        )


class JsonlClips(_RowClips):
    """Rows with at least `clip` and `label`; docs/data.md lists the optional fields.

    Args:
        root: folder of the JSONL files; clip paths are relative to it.
        pattern: file of a split.
        label_space: of rows that name none.
        question: of rows that have none.
    """

    def __init__(
        self, root: str, pattern: str = "{split}.jsonl", label_space: str = "dfew", question: str = QUESTION
    ) -> None:
        super().__init__(root, pattern, label_space, question)

    def _rows(self, path: Path) -> Iterator[tuple[int, Any]]:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{str(path)!r} is not UTF-8 text: save it as UTF-8") from error
        return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())

    def _row(self, raw: Any) -> Any:
        return json.loads(raw)


class ParquetClips(_RowClips):
    """The same rows in Parquet files; needs ``pip install 'erv-lightning[parquet]'``.

    Args:
        root: folder of the Parquet files; clip paths are relative to it.
        pattern: file of a split.
        label_space: of rows that name none.
        question: of rows that have none.
    """

    def __init__(
        self, root: str, pattern: str = "{split}.parquet", label_space: str = "dfew", question: str = QUESTION
    ) -> None:
        super().__init__(root, pattern, label_space, question)

    def _rows(self, path: Path) -> Iterator[tuple[int, Any]]:
        # as a file: datasets' own loader takes the name for a pattern, and keeps a copy in its cache
        parquet = parquet_library("pyarrow.parquet")
        try:
            with parquet.ParquetFile(path) as file:
                return enumerate(file.read().to_pylist(), start=1)
        except (ValueError, OSError) as error:
            raise ValueError(f"{str(path)!r} is not Parquet ({error}): is the file complete?") from error


def known_probs(space: LabelSpace, probs: Mapping[str, Any]) -> tuple[float, ...]:
    """Probabilities by label in the order of the space.

    Raises:
        ValueError: a label is missing, is not of the space or stands twice, or a value is no probability.
    """
    found = {known_label(space, label): p for label, p in probs.items() if p is not None}  # Parquet's for no entry
    if missing := [name for name in space.names if name not in found]:
        raise ValueError(f"no probability of {', '.join(missing)}: each label of {space.name!r} needs one")
    wrong = [f"{name}: {p!r}" for name, p in found.items() if isinstance(p, bool) or not isinstance(p, int | float)]
    wrong = wrong or [f"{name}: {p}" for name, p in found.items() if not 0 <= p <= 1]
    if wrong or len(found) < sum(p is not None for p in probs.values()):
        raise ValueError(f"probabilities between 0 and 1 are needed, one a label, got {', '.join(wrong) or probs}")
    return tuple(float(found[name]) for name in space.names)


def parquet_library(name: str = "datasets") -> Any:
    """Hugging Face datasets, or a library that comes with it. Raises ValueError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError("Parquet needs Hugging Face datasets: pip install 'erv-lightning[parquet]'") from error


def _seen_from(root: Path, name: str) -> str:
    """A path relative to the folder, without the ".." that lead out of it again, where no link makes them differ."""
    path = root / name
    if ".." not in path.parts:
        return str(path)
    plain = os.path.normpath(path)
    return plain if os.path.realpath(plain) == os.path.realpath(path) else str(path)


def _check_types(row: dict[str, Any]) -> None:
    wrong = [
        key
        for key in ("question", "label_space", "explanation", "subtitle", "source", "audio")
        if not isinstance(row.get(key, ""), str)
    ]
    wrong += ["fold"] if not isinstance(row.get("fold", 0), int) else []
    wrong += ["weight"] if not isinstance(row.get("weight", 1), int | float) else []
    labels = row.get("sentence_labels", [])
    rows = labels if isinstance(labels, list) else [labels]
    if not all(one is None or (isinstance(one, list) and all(isinstance(name, str) for name in one)) for one in rows):
        wrong.append("sentence_labels")
    probs = row.get("sentence_probs", [])
    if not isinstance(probs, list) or not all(one is None or isinstance(one, dict) for one in probs):
        wrong.append("sentence_probs")
    if wrong:
        raise ValueError(f"values of a wrong type under {wrong}")
    if not row.get("weight", 1) > 0:
        raise ValueError(f"weight is {row['weight']}: it must be above 0")
