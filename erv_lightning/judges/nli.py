"""A model of natural language inference as the judge, for any labels. It knows no list of emotions but the one asked.

Shapes: N explanations, K labels of the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from erv_lightning.judges.classifier import default_device, token_limit
from erv_lightning.judges.protocol import Judge, Verdicts
from erv_lightning.labels import LabelSpace


class NliJudge(Judge):
    """The label whose hypothesis, "The person in the video feels happy.", follows best from the explanation.

    Probabilities are the softmax of the hypotheses' entailment over the labels of the space. An explanation longer
    than the model reads is cut, never the hypothesis.

    Args:
        pretrained: folder or hub id of a classifier with an output called entailment; read when first asked. Code
            from the hub is not run.
        name: what its verdicts are filed under.
        template: the hypothesis; a label's name takes the place of ``{}``.
        batch_size: pairs of explanation and hypothesis read at once.
        device: where it runs; a GPU where there is one.

    Raises:
        ValueError: the template has no ``{}``.
    """

    def __init__(
        self,
        pretrained: str,
        name: str = "nli",
        template: str = "The person in the video feels {}.",
        batch_size: int = 64,
        device: str | None = None,
    ) -> None:
        if "{}" not in template:
            raise ValueError(
                f"judge {name!r}: the template {template!r} has no place for the emotion: write {{}} there"
            )
        self.pretrained, self.name, self.template = pretrained, name, template
        self.batch_size, self.device = batch_size, device
        self._pipeline: Any = None

    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        """Label ids with their probabilities (N, K), rows of sum 1; −1 and a row of NaN for an empty explanation.

        Raises:
            ValueError: there is no such model, or none of its outputs is called entailment.
        """
        if self._pipeline is None:
            self._pipeline = self._load()
        # equal texts once, in the order of their length: a batch is as long as its longest pair
        unique = sorted({text for text in explanations if text.strip()}, key=lambda text: (len(text), text))
        row = {text: index for index, text in enumerate(unique)}
        nothing_K = torch.full((1, len(space.names)), torch.nan)
        probs_NK = torch.cat([self._probs(unique, space), nothing_K])[[row.get(text, -1) for text in explanations]]
        there_N = torch.tensor([text in row for text in explanations], dtype=torch.bool)
        return Verdicts(probs_NK.argmax(1).where(there_N, -1).tolist(), probs_NK)

    def _probs(self, texts: list[str], space: LabelSpace) -> Tensor:
        """(texts, K)."""
        if not texts:
            return torch.zeros(0, len(space.names))
        read = self._pipeline(
            texts, list(space.names), hypothesis_template=self.template, batch_size=self.batch_size
        )  # one dictionary a text, its labels by descending score
        scores = [dict(zip(one["labels"], one["scores"], strict=True)) for one in read]
        return torch.tensor([[score[name] for name in space.names] for score in scores])

    def _load(self) -> Any:
        from transformers import pipeline  # brings every kind of pipeline along

        try:
            loaded = pipeline("zero-shot-classification", self.pretrained, device=default_device(self.device))
        except OSError as error:
            raise ValueError(
                f"no NLI model in {self.pretrained!r}, neither as a folder nor on the hub: {error}"
            ) from error
        if loaded.entailment_id < 0:
            raise ValueError(
                f"{self.pretrained!r} has the outputs {list(loaded.model.config.label2id)}, none called entailment: "
                "use a model trained on natural language inference, or ClassifierJudge for a classifier of emotions"
            )
        loaded.tokenizer.model_max_length = token_limit(loaded.model, loaded.tokenizer)
        return loaded
