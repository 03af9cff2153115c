"""What raters are shown: the clips that two files of predictions share. Knows no rater and no web page."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from erv_lightning.labels import get_label_space

PLAYABLE = (".mp4", ".m4v", ".mov", ".webm", ".ogv")
"""Endings of clips that browsers play, if the codec inside is one of theirs."""

ARMS = ("a", "b")
"""The first and the second file of predictions."""


@dataclass(frozen=True)
class Told:
    """What one arm says of a clip.

    Attributes:
        explanation: as it is shown, without tags.
        answer_id: the arm's answer, −1 for none; never shown.
        judges: judge's name → label id that it read in the explanation; never shown.
    """

    explanation: str
    answer_id: int
    judges: dict[str, int]


@dataclass(frozen=True)
class Item:
    """A clip with two explanations.

    Attributes:
        dataset, id, clip, source, label_space, label_id: as in predictions.jsonl.
        a, b: what the arms say.
        check: whether it is kept for attention checks: then an instruction stands in place of A's explanation.
    """

    dataset: str
    id: str
    clip: str
    source: str
    label_space: str
    label_id: int
    a: Told
    b: Told
    check: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions that a rater chooses from."""
        return get_label_space(self.label_space).names


def match(a: pd.DataFrame, b: pd.DataFrame) -> tuple[list[Item], Counter[str]]:
    """The clips that can be shown, and how many cannot and why.

    Args:
        a, b: tables of predictions, see `erv_lightning.results.read_predictions`.

    Returns:
        Items in the order of A, and reason → clips left out.
    """
    rows_a, rows_b = _rows(a), _rows(b)
    left_out: Counter[str] = Counter()
    items = []
    for key in rows_a | rows_b:
        if key not in rows_a or key not in rows_b:
            left_out["in one file only"] += 1
            continue
        item, reason = _item(rows_a[key], rows_b[key])
        if reason:
            left_out[reason] += 1
        else:
            items.append(item)
    return items, left_out


def _rows(frame: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    if "explanation" not in frame:
        raise ValueError(f"{frame.attrs['path']} has no explanations: raters would have nothing to read")
    rows: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]  # its columns are names
    return {(str(row["dataset"]), str(row["id"])): row for row in rows}


def _item(a: dict[str, Any], b: dict[str, Any]) -> tuple[Item, str]:
    """The item of two rows, and why it cannot be shown, "" if it can."""
    same = ("dataset", "id", "label_space", "label_id")
    item = Item(**{key: a[key] for key in (*same, "clip", "source")}, a=_told(a), b=_told(b))
    if any(a[key] != b[key] for key in same):
        return item, "with another label in each file"
    if not item.a.explanation or not item.b.explanation:
        return item, "without an explanation in one file"
    if item.a.explanation == item.b.explanation:
        return item, "explained word for word the same"
    if not Path(item.clip).is_file():
        return item, "not found on disk"
    if Path(item.clip).suffix.lower() not in PLAYABLE:
        return item, f"of a kind that browsers do not play ({Path(item.clip).suffix})"
    return item, ""


def _told(row: dict[str, Any]) -> Told:
    explanation = row["explanation"]
    text = explanation.strip() if isinstance(explanation, str) else ""
    return Told(text, int(row["answer_id"]), {str(name): int(value) for name, value in row["judges"].items()})


def select(items: Sequence[Item], count: int | None, checks: int, seed: int) -> list[Item]:
    """The clips of a study, in random order: those to rate, then those kept for attention checks.

    Args:
        items: all that could be shown.
        count: how many to rate, as many of each label as there can be; None: all that checks leave.
        checks: how many clips are kept for attention checks; they are not rated.
        seed: of the order.

    Raises:
        ValueError: there are too few.
    """
    wanted = count if count is not None else max(len(items) - checks, 1)
    if wanted + checks > len(items):
        raise ValueError(
            f"{wanted} clips to rate and {checks} for attention checks are more than the {len(items)} that can be "
            "shown: lower --items or --attention"
        )
    mixed = list(items)
    random.Random(seed).shuffle(mixed)
    order = _by_turns(mixed)
    rated, rest = order[:wanted], order[wanted:]
    random.Random(seed + 1).shuffle(rated)
    return rated + [replace(item, check=True) for item in rest[len(rest) - checks :]]


def _by_turns(items: Sequence[Item]) -> list[Item]:
    """One item of each label in turn, so that the first of them hold all labels alike."""
    seen: Counter[tuple[str, int]] = Counter()
    turns = []
    for item in items:
        label = item.label_space, item.label_id
        turns.append(seen[label])
        seen[label] += 1
    return [item for _, item in sorted(zip(turns, items, strict=True), key=lambda pair: pair[0])]


def fingerprint(items: Sequence[Item], arms: Sequence[str]) -> str:
    """A hash of everything that raters are shown and of what it is compared with."""
    content = json.dumps([list(arms), [asdict(item) for item in items]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
