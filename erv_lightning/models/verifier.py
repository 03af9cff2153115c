"""The Emotional Rationale Verifier: a text classifier that tells which emotions a sentence conveys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from erv_lightning.labels import GOEMOTIONS, LabelSpace, goemotions_index
from erv_lightning.models.tiny import tiny_verifier

_BATCH_CHARACTERS = 65536  # of a padded batch, some 16,000 tokens: what bounds its memory


class EmotionVerifier(nn.Module):
    """A multi-label sequence classifier and its tokenizer.

    Its outputs are either the names of a label space or the 28 GoEmotions labels
    (``SamLowe/roberta-base-go_emotions``, ``Rhatanii/Emo_Classifier``); `output_index` finds the way.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        names = model.config.id2label
        self.labels: tuple[str, ...] = tuple(names[index] for index in range(len(names)))

    @classmethod
    def from_pretrained(cls, pretrained: str) -> EmotionVerifier:
        """Reads a sequence classifier from a folder or the hub.

        Raises:
            ValueError: it is not there; names it.
        """
        try:
            model = AutoModelForSequenceClassification.from_pretrained(pretrained)
            return cls(model, AutoTokenizer.from_pretrained(pretrained))
        except OSError as error:
            raise ValueError(f"no classifier in {pretrained!r}, neither as a folder nor on the hub: {error}") from error

    @classmethod
    def tiny(cls, sentences: Sequence[str], labels: Sequence[str], seed: int = 0) -> EmotionVerifier:
        """The built-in small classifier, untrained, with a tokenizer made from the training sentences."""
        return cls(*tiny_verifier(sentences, labels, seed))

    def output_index(self, space: LabelSpace) -> list[int]:
        """For every label of the space, the output that stands for it.

        GoEmotions outputs are mapped by method.md's table (happiness → joy, anxiety → nervousness, …).

        Raises:
            ValueError: labels of the space that no output stands for.
        """
        if self.labels == GOEMOTIONS:
            return [goemotions_index(name) for name in space.names]
        own = {space.id(label): index for index, label in enumerate(self.labels)}
        missing = [name for label, name in enumerate(space.names) if label not in own]
        if missing:
            raise ValueError(
                f"the verifier knows {list(self.labels)}, but the data's label space {space.name!r} also has "
                f"{missing}: train a verifier on this data, or use one with the 28 GoEmotions outputs"
            )
        return [own[label] for label in range(len(space.names))]

    def neutral_output(self, space: LabelSpace) -> int:
        """The output that stands for the space's neutral label."""
        return self.output_index(space)[space.neutral]

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Logits of sentences, (sentences, outputs)."""
        encoded = self.tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt").to(
            self.model.device
        )
        logits: Tensor = self.model(**encoded).logits
        return logits

    @torch.no_grad()
    def logits(self, texts: Sequence[str], batch_size: int = 512) -> Tensor:
        """Logits of texts in the order given, (texts, outputs), float32 on the CPU.

        Equal texts are scored once, and batches hold texts of similar length; fewer than `batch_size` where they are
        long.
        """
        if not texts:
            return torch.zeros(0, len(self.labels))
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        # to the CPU once: a GPU works on one batch while the next is cut into tokens
        scored = torch.cat([self(batch) for batch in _batches(unique, batch_size)]).float().cpu()
        place = {text: index for index, text in enumerate(unique)}
        return scored[[place[text] for text in texts]]

    def probs(self, sentences: Sequence[str], batch_size: int = 512) -> Tensor:
        """Independent probabilities of each label, (sentences, outputs), in [0, 1], on the CPU; see `logits`."""
        return self.logits(sentences, batch_size).sigmoid()

    def save(self, folder: Path) -> None:
        """Writes model and tokenizer in Hugging Face's layout."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Texts, the shortest first, in batches of at most `size` and of few enough characters once they are padded."""
    start = 0
    for end, text in enumerate(texts):
        rows = end - start
        if rows and (rows == size or (rows + 1) * len(text) > _BATCH_CHARACTERS):
            yield texts[start:end]
            start = end
    yield texts[start:]
