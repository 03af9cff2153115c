"""What a judge of explanations is. It reads text alone: it knows neither the clip, nor the answer, nor the label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from erv_lightning.labels import LabelSpace


@dataclass(frozen=True)
class Verdicts:
    """What a judge read in N explanations.

    Attributes:
        label_ids: (N,), ids of the label space; −1 where an explanation conveys no one emotion.
        probs: (N, labels of the space), how likely each is, where the judge has probabilities; else None. A row of NaN
            where there was nothing to read.
    """

    label_ids: list[int]
    probs: Tensor | None = None


class Judge(ABC):
    """Names the emotion that an explanation conveys, from its text alone.

    Attributes:
        name: what its verdicts are filed under in predictions.jsonl.
    """

    name: str

    @abstractmethod
    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        """The emotion of each explanation, in the order given. An empty one has none: −1."""

    def __call__(self, explanations: Sequence[str], space: LabelSpace) -> list[int]:
        """Label ids alone; −1 where an explanation conveys no one emotion."""
        return self.read(explanations, space).label_ids


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
