"""What a judge of explanations is. It reads text alone: it knows neither the clip, nor the answer, nor the label."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from erv_lightning.labels import LabelSpace
from erv_lightning.rl.rewards import label_sets

_WITHOUT_INFLUENCE = ("name", "batch_size", "device")  # settings that change no verdict


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


@dataclass(frozen=True)
class LabelSets:
    """The emotions that each of N sentences conveys.

    Attributes:
        label_ids: (N,), ids of the label space, none twice and the surest first; empty where a sentence conveys none.
        probs: (N, labels of the space), as in `Verdicts`.
    """

    label_ids: list[tuple[int, ...]]
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

    def conveyed(
        self, sentences: Sequence[str], space: LabelSpace, threshold: float = 0.1, max_labels: int = 2
    ) -> LabelSets:
        """All the emotions of each sentence, in the order given: what a verifier is taught.

        A judge with probabilities takes the reward's own rule, see `rl.rewards.label_sets`; one without has the single
        label of `read`, or none.

        Args:
            sentences: one at a time, not whole explanations.
            space: the labels that count.
            threshold: least probability, exclusive, of a label.
            max_labels: most labels of one sentence, at least 1.
        """
        verdicts = self.read(sentences, space)
        if verdicts.probs is None:
            return LabelSets([() if label < 0 else (label,) for label in verdicts.label_ids])
        probs_NK = verdicts.probs.nan_to_num(0.0)
        in_set_NK = label_sets(probs_NK, threshold, max_labels).tolist()
        order_NK = probs_NK.argsort(dim=1, descending=True, stable=True).tolist()
        return LabelSets(
            [
                () if label < 0 else tuple(one for one in order if held[one])
                for label, order, held in zip(verdicts.label_ids, order_NK, in_set_NK, strict=True)
            ],
            verdicts.probs,
        )

    def settings(self) -> dict[str, Any]:
        """What decides which emotions a sentence conveys to it, as plain JSON: its class, and the settings it keeps.

        Two judges with equal settings say the same. No key or password is in them.
        """
        own = {name: getattr(self, name, None) for name in inspect.signature(type(self)).parameters}
        told = {
            name: value
            for name, value in own.items()
            if isinstance(value, str | int | float | list | dict) and name not in _WITHOUT_INFLUENCE
        }
        return {"class": type(self).__name__, **told}

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
