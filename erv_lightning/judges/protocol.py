"""What a judge of explanations is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence

from erv_lightning.labels import LabelSpace


class Judge(ABC):
    """Names the emotion that an explanation conveys, from its text alone.

    Attributes:
        name: what its verdicts are filed under in predictions.jsonl.
    """

    name: str

    @abstractmethod
    def __call__(self, explanations: Sequence[str], space: LabelSpace) -> list[int]:
        """Label ids of the explanations; −1 where an explanation conveys no one emotion."""


def judge_each(judge: Judge, explanations: Sequence[str], spaces: Sequence[LabelSpace]) -> list[int]:
    """Verdicts on explanations that each have a label space of their own; one call of the judge per space."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, space in enumerate(spaces):
        rows[space.name].append(row)
    verdicts = [-1] * len(explanations)
    for members in rows.values():
        read = judge([explanations[row] for row in members], spaces[members[0]])
        for row, label in zip(members, read, strict=True):
            verdicts[row] = label
    return verdicts
