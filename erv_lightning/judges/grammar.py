"""The judge of the built-in clips: the explanations' own grammar, read backwards."""

from __future__ import annotations

from collections.abc import Sequence

from erv_lightning.data.grammar import read_emotion
from erv_lightning.judges.protocol import Judge, Verdicts
from erv_lightning.labels import LabelSpace


class GrammarJudge(Judge):
    """Finds the cue phrases of the built-in explanations and the emotion they belong to.

    It shares nothing with the verifier, which learns from sentences: a policy that games the verifier is caught
    here. Text that the grammar cannot say earns −1.
    """

    name = "grammar"

    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        """Label ids of the explanations, −1 where the grammar reads no emotion."""
        read = [read_emotion(text) for text in explanations]
        return Verdicts([-1 if emotion is None else space.id(emotion) for emotion in read])
