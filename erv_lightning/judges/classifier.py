"""Any sequence classifier as the judge of whole explanations. It knows neither sentences nor the reward's verifier.

Shapes: N explanations, O outputs of the classifier, K labels of the space.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erv_lightning.judges.protocol import Judge, Verdicts
from erv_lightning.labels import GOEMOTIONS, LabelSpace, goemotions_index
from erv_lightning.models.verifier import EmotionVerifier


class ClassifierJudge(Judge):
    """The label that a Hugging Face classifier finds most probable in the whole explanation.

    `VerifierJudge` reads sentence by sentence instead, as the reward does. An output stands for the label of its name
    or synonym; the 28 GoEmotions outputs are mapped by method.md's table. Probabilities are the softmax over the
    outputs, independent ones where the classifier is multi-label; what goes to outputs that stand for no label of the
    space is lost, so that a row need not sum to 1.

    Args:
        pretrained: folder or hub id of a sequence classifier; read when first asked.
        name: what its verdicts are filed under.
        labels: output → emotion, for outputs that are called otherwise (``{LABEL_0: happy, love: happy}``), "" for one
            that stands for none. Where several outputs stand for one label, their softmax probabilities add up; of
            independent ones the largest counts. An emotion that only other label spaces have is left out.
        batch_size: explanations read at once.
        device: where it runs; a GPU where there is one.
    """

    def __init__(
        self,
        pretrained: str,
        name: str = "classifier",
        labels: dict[str, str] | None = None,
        batch_size: int = 64,
        device: str | None = None,
    ) -> None:
        self.pretrained, self.name, self.labels = pretrained, name, labels or {}
        self.batch_size, self.device = batch_size, device
        self._classifier: EmotionVerifier | None = None

    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        """Label ids with their probabilities (N, K); −1 and a row of NaN for an empty explanation.

        Warns once of explanations longer than the classifier reads, which are cut.

        Raises:
            ValueError: there is no such classifier, `labels` does not fit it, or no output stands for a label.
        """
        if self._classifier is None:
            self._classifier = self._load()
        stands_OK = standing_for(self._classifier.labels, space, self.labels, self.pretrained)
        there_N = torch.tensor([bool(text.strip()) for text in explanations], dtype=torch.bool)
        texts = [text for text in explanations if text.strip()]
        self._warn_of_cuts(texts)
        probs_NK = torch.full((len(explanations), len(space.names)), torch.nan)
        probs_NK[there_N] = self._probs(self._classifier, texts, stands_OK)
        return Verdicts(probs_NK.argmax(1).where(there_N, -1).tolist(), probs_NK)

    def _load(self) -> EmotionVerifier:
        classifier = EmotionVerifier.from_pretrained(self.pretrained).requires_grad_(False).eval()
        classifier.tokenizer.model_max_length = token_limit(classifier.model, classifier.tokenizer)
        return classifier.to(default_device(self.device))

    def _probs(self, classifier: EmotionVerifier, texts: Sequence[str], stands_OK: Tensor) -> Tensor:
        """(N, K): each label's probability from the outputs that stand for it."""
        logits_NO = classifier.logits(texts, self.batch_size)
        if classifier.model.config.problem_type == "multi_label_classification":
            return logits_NO.sigmoid()[:, :, None].mul(stands_OK).amax(1)
        return logits_NO.softmax(1) @ stands_OK.float()

    def _warn_of_cuts(self, texts: Sequence[str]) -> None:
        assert self._classifier is not None
        tokenizer = self._classifier.tokenizer
        limit = tokenizer.model_max_length
        unique = sorted(set(texts))
        tokens = tokenizer(unique, return_attention_mask=False, verbose=False)["input_ids"] if unique else []
        long = {text for text, ids in zip(unique, tokens, strict=True) if len(ids) > limit}
        if long:
            cut = sum(text in long for text in texts)
            warnings.warn(
                f"judge {self.name!r}: {cut} of {len(texts)} explanations are longer than the {limit} tokens that "
                f"{self.pretrained!r} reads; it judged their beginnings",
                stacklevel=3,
            )


def standing_for(outputs: Sequence[str], space: LabelSpace, labels: Mapping[str, str], pretrained: str) -> Tensor:
    """Which outputs of a classifier stand for which labels, (O, K), bool.

    Args:
        outputs: their names, O.
        space: K labels.
        labels: output → emotion, before what an output's own name says.
        pretrained: the classifier, for errors.

    Raises:
        ValueError: `labels` names what is no output or no emotion, or labels of the space are left without an output;
            all of it in one line.
    """
    problems = [f"it has no output {output!r}" for output in labels if output not in outputs]
    problems += [f"{word!r} is no emotion" for word in labels.values() if word and not _is_emotion(word, space)]
    stands_OK = torch.tensor(
        [
            [
                space.id(labels[output]) == label if output in labels else label in own
                for label in range(len(space.names))
            ]
            for output, own in zip(outputs, _labels_by_name(outputs, space), strict=True)
        ]
    )
    missing = [name for name, found in zip(space.names, stands_OK.any(0).tolist(), strict=True) if not found]
    if missing:
        problems.append(f"no output stands for {missing} of the label space {space.name!r}")
    if problems:
        raise ValueError(
            f"classifier {pretrained!r} has the outputs {list(outputs)}, but {'; '.join(problems)}: say in the judge's "
            "`labels` which output stands for which emotion"
        )
    return stands_OK


def _labels_by_name(outputs: Sequence[str], space: LabelSpace) -> list[list[int]]:
    """For each output, the ids of the labels that its name stands for."""
    if tuple(outputs) == GOEMOTIONS:
        places = [_goemotion(name) for name in space.names]
        return [[label for label, place in enumerate(places) if place == output] for output in range(len(outputs))]
    return [[space.id(output)] for output in outputs]


def _goemotion(name: str) -> int:
    try:
        return goemotions_index(name)
    except ValueError:
        return -1


def _is_emotion(word: str, space: LabelSpace) -> bool:
    """Whether this space or another one has it: one judge reads the explanations of all data sets."""
    return space.id(word) >= 0 or _goemotion(word) >= 0


def token_limit(model: Any, tokenizer: Any) -> int:
    """The most tokens that a model reads at once. The tokenizer alone does not tell: many come without their limit."""
    limit: int = tokenizer.model_max_length
    positions = getattr(model.config, "max_position_embeddings", None) or limit
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1  # RoBERTa counts from there
    return min(limit, positions)


def default_device(device: str | None) -> str:
    """The device asked for; without one, a GPU where there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")
