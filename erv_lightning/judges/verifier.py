"""A text classifier as the judge, for explanations in free language."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from erv_lightning.judges.protocol import Judge
from erv_lightning.labels import LabelSpace
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.text import split_sentences


class VerifierJudge(Judge):
    """The label with the highest mean probability over an explanation's sentences.

    Use another classifier than the reward's verifier: a reward must not be its own examiner.

    Args:
        pretrained: folder or hub id of a sequence classifier; read when first asked.
        name: what its verdicts are filed under.
    """

    def __init__(self, pretrained: str, name: str = "verifier") -> None:
        self.pretrained, self.name = pretrained, name
        self._verifier: EmotionVerifier | None = None

    def __call__(self, explanations: Sequence[str], space: LabelSpace) -> list[int]:
        """Label ids; −1 for an explanation without a sentence."""
        if self._verifier is None:
            self._verifier = EmotionVerifier.from_pretrained(self.pretrained).requires_grad_(False).eval()
        sentences = [split_sentences(text) for text in explanations]
        probs = self._verifier.probs([sentence for text in sentences for sentence in text])
        probs = probs[:, self._verifier.output_index(space)]
        rows = torch.split(probs, [len(text) for text in sentences])
        return [int(row.mean(0).argmax()) if len(row) else -1 for row in rows]
