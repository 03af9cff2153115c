"""What a judge of explanations is."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
