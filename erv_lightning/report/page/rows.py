"""Completions and predictions as columns of numbers, every text once: what a browser filters fast. Reads no files."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from erv_lightning.labels import LabelSpace, get_label_space
from erv_lightning.text import split_sentences

ROLLOUT, PREDICTION = 0, 1

NUMBERS = (
    "kind",
    "run",
    "step",
    "sample",
    "completion",
    "text",
    "explanation",
    "answer",
    "answer_id",
    "well_formed",
    "tokens",
    "truncated",
)
"""The whole-number columns."""

_Key = TypeVar("_Key", bound=Hashable)


class Unique(Generic[_Key]):
    """Values in the order in which they came first, each with its place."""

    def __init__(self) -> None:
        self._places: dict[_Key, int] = {}

    def place(self, value: _Key) -> int:
        """Where a value stands; a new one at the end."""
        return self._places.setdefault(value, len(self._places))

    def __iter__(self) -> Any:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Sample:
    """A clip as a data set has it."""

    id: str
    dataset: str
    space: str
    label: int
    clip: str


@dataclass
class Explanation:
    """A text as one verifier reads it.

    Attributes:
        text: it.
        space: name of the label space.
        reader: whose verdicts these are; "" for nobody known.
        sentences: of the text.
        verdicts: for each sentence the label ids that it conveys and the highest probability; None: not read yet.
        place: where the text stands first, for messages.
    """

    text: str
    space: str
    reader: str
    sentences: list[str]
    verdicts: list[tuple[list[int], float | None]] | None = None
    place: str = ""


@dataclass
class Columns:
    """All rows.

    Attributes:
        judges: whose verdicts are kept, in this order.
        numbers: the whole-number columns by name, each (rows,).
        reward, advantage: (rows,), null where there is none.
        judged: for each judge (rows,), −1 where it did not read, or read nothing.
        parts: by the name of a reward (rows,).
        texts, answers, samples, clips, datasets, spaces: what the numbers stand for.
        questions: by the place of a sample.
        explanations: by the place.
        rebuilt: names of runs whose rows hold no whole response.
    """

    judges: Sequence[str]
    numbers: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in NUMBERS})
    reward: list[float | None] = field(default_factory=list)
    advantage: list[float | None] = field(default_factory=list)
    judged: list[list[int]] = field(default_factory=list)
    parts: dict[str, list[float | None]] = field(default_factory=dict)
    texts: Unique[str] = field(default_factory=Unique)
    answers: Unique[str] = field(default_factory=Unique)
    samples: Unique[Sample] = field(default_factory=Unique)
    clips: Unique[str] = field(default_factory=Unique)
    datasets: Unique[str] = field(default_factory=Unique)
    spaces: dict[str, LabelSpace] = field(default_factory=dict)
    questions: dict[int, str] = field(default_factory=dict)
    explanations: dict[tuple[str, str, str], Explanation] = field(default_factory=dict)
    rebuilt: dict[str, None] = field(default_factory=dict)
    _places: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.judged = [[] for _ in self.judges]

    def __len__(self) -> int:
        return len(self.reward)

    def add(self, row: Mapping[str, Any], kind: int, run: int, name: str, own: str, reader: str) -> None:
        """Adds a checked row.

        Args:
            row: of rollouts.jsonl or predictions.jsonl.
            kind: `ROLLOUT` or `PREDICTION`.
            run: place of its run.
            name: of its run.
            own: who read the sentences, where the row has verdicts.
            reader: who is to read them, where it has none.

        Raises:
            ValueError: its verdicts do not fit its sentences.
        """
        space = self._space(row["label_space"])
        explanation, answer = _text(row, "explanation"), _text(row, "answer")
        response = row.get("response")
        if not isinstance(response, str):  # rows of earlier versions
            self.rebuilt[name] = None
            response = f"<think>{explanation}</think>\n<answer>{answer}</answer>"
        cells = {
            "kind": kind,
            "run": run,
            "step": row["step"] if kind == ROLLOUT else -1,
            "sample": self._sample(row, space),
            "completion": row["completion"] if kind == ROLLOUT else 0,
            "text": self.texts.place(response),
            "explanation": self._explanation(explanation, space, row, own, reader),
            "answer": self.answers.place(answer),
            "answer_id": row["answer_id"],
            "well_formed": int(row.get("well_formed") is True),
            "tokens": row["tokens"] if type(row.get("tokens")) is int else -1,
            "truncated": int(row.get("truncated") is True),
        }
        for place, value in cells.items():
            self.numbers[place].append(value)
        for column, judge in zip(self.judged, self.judges, strict=True):
            column.append(row["judges"].get(judge, -1))
        self._add_rewards(row)

    def _add_rewards(self, row: Mapping[str, Any]) -> None:
        parts = row.get("rewards")
        parts = parts if isinstance(parts, Mapping) else {}
        for name in parts:
            if name not in self.parts:
                self.parts[name] = [None] * len(self)
        for name, column in self.parts.items():
            column.append(finite(parts.get(name)))
        self.reward.append(finite(row.get("reward")))
        self.advantage.append(finite(row.get("advantage")))

    def _space(self, name: str) -> LabelSpace:
        if name not in self.spaces:
            self.spaces[name] = get_label_space(name)
        return self.spaces[name]

    def _sample(self, row: Mapping[str, Any], space: LabelSpace) -> int:
        clip = _text(row, "clip")
        self.datasets.place(row["dataset"])
        self.clips.place(clip)
        place = self.samples.place(Sample(row["id"], row["dataset"], space.name, row["label_id"], clip))
        if question := _text(row, "question"):  # rollouts do not repeat it
            self.questions.setdefault(place, question)
        return place

    def _explanation(self, text: str, space: LabelSpace, row: Mapping[str, Any], own: str, reader: str) -> int:
        read = row.get("sentences") if isinstance(row.get("sentences"), list) else None
        key = (text, space.name, reader if read is None else own)
        if key not in self.explanations:
            self.explanations[key] = Explanation(*key, split_sentences(text), place=row.get("place", ""))
            self._places[key] = len(self._places)
        one = self.explanations[key]
        if read is not None and one.verdicts is None:
            if len(read) != len(one.sentences):
                raise ValueError(
                    f"{row.get('place', '')}: {len(read)} verdicts in sentences, but the explanation has "
                    f"{len(one.sentences)} sentences"
                )
            one.verdicts = [(_labels(verdict, space, row), finite(verdict.get("p"))) for verdict in read]
        return self._places[key]


def finite(value: Any) -> float | None:
    """A number for JSON, which has no NaN and no infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _text(row: Mapping[str, Any], key: str) -> str:
    """A text of a row, "" where the row has none."""
    return row[key] if isinstance(row.get(key), str) else ""


def _labels(verdict: Mapping[str, Any], space: LabelSpace, row: Mapping[str, Any]) -> list[int]:
    labels: list[int] = verdict["labels"]
    if wrong := [label for label in labels if not 0 <= label < len(space.names)]:
        allowed = f"0 to {len(space.names) - 1} in {space.name}"
        raise ValueError(f"{row.get('place', '')}: a sentence has the label {wrong[0]}, allowed is {allowed}")
    return labels
