"""A text classifier as the judge, for explanations in free language."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from erv_lightning.judges.protocol import Judge, Verdicts
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

    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        """Label ids with the mean probabilities; −1 for an explanation without a sentence."""
        if self._verifier is None:
            self._verifier = EmotionVerifier.from_pretrained(self.pretrained).requires_grad_(False).eval()
        sentences = [split_sentences(text) for text in explanations]
        probs_SK = self._verifier.probs([sentence for text in sentences for sentence in text])
        probs_SK = probs_SK[:, self._verifier.output_index(space)]
        sentences_N = torch.tensor([len(text) for text in sentences], dtype=torch.long)
        explanation_S = torch.arange(len(sentences)).repeat_interleave(sentences_N)
        sums_NK = torch.zeros(len(sentences), len(space.names)).index_add(0, explanation_S, probs_SK)
        probs_NK = sums_NK / sentences_N[:, None]  # 0/0, an explanation without a sentence, is a row of NaN
        label_N = probs_NK.argmax(1).where(sentences_N > 0, -1)
        return Verdicts(label_N.tolist(), probs_NK)
