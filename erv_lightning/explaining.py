"""What the verifier thinks of an explanation, sentence by sentence, and what the explanation reward pays for it."""

from __future__ import annotations

from dataclasses import dataclass

from erv_lightning.labels import LabelSpace
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.rl.reward_terms import EXPLANATION_REWARDS, Completions, ExplanationRule, RewardSum
from erv_lightning.text import Response, split_sentences


@dataclass(frozen=True)
class SentenceVerdict:
    """One sentence.

    Attributes:
        text: it.
        labels: what it conveys by the rule, the likeliest first.
        probs: each label of the space with its probability in [0, 1], the likeliest first.
    """

    text: str
    labels: tuple[str, ...]
    probs: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """An explanation.

    Attributes:
        sentences: in order.
        label: the emotion that it conveys as a whole, by the mean of the probabilities; "" without a sentence.
        probs: that mean, by label, the likeliest first.
        rewards: what each variant of the explanation reward pays, in [0, 1], where a true label was given.
    """

    sentences: tuple[SentenceVerdict, ...]
    label: str
    probs: dict[str, float]
    rewards: dict[str, float]


def explain(
    text: str,
    verifier: EmotionVerifier,
    space: LabelSpace,
    *,
    label: str | None = None,
    rule: ExplanationRule | None = None,
) -> Verdict:
    """The verifier's verdict on each sentence of an explanation.

    Args:
        text: the explanation, without tags.
        verifier: the classifier.
        space: the labels that matter.
        label: the true emotion, a name or synonym of the space; then `Verdict.rewards` says what it would earn, if
            the answer were right.
        rule: which labels a sentence conveys; the paper's by default.

    Raises:
        ValueError: a label that is not in the space, or labels that the verifier does not know.
    """
    rule = rule or ExplanationRule()
    sentences = split_sentences(text)
    outputs = verifier.output_index(space)
    probs_SK = verifier.probs(sentences, calibrated=rule.calibrated)[:, outputs]
    conveyed = rule.conveyed(probs_SK, verifier, space)
    read = [
        SentenceVerdict(sentence, tuple(space.names[label] for label in labels), _ranked(space, probs_K))
        for sentence, labels, probs_K in zip(sentences, conveyed, probs_SK.tolist(), strict=True)
    ]
    mean = _ranked(space, probs_SK.mean(0).tolist()) if sentences else {}
    rewards = {} if label is None else _rewards(text, label, verifier, space, rule)
    return Verdict(tuple(read), next(iter(mean), ""), mean, rewards)


def _ranked(space: LabelSpace, probs: list[float]) -> dict[str, float]:
    """Label → probability, the likeliest first; among equal ones the lower id."""
    return dict(sorted(zip(space.names, probs, strict=True), key=lambda pair: -pair[1]))


def _rewards(
    text: str, label: str, verifier: EmotionVerifier, space: LabelSpace, rule: ExplanationRule
) -> dict[str, float]:
    target = space.id(label)
    if target < 0:
        raise ValueError(f"label {label!r} is not in the label space {space.name!r}: {', '.join(space.names)}")
    completions = Completions([Response(text, label, True)], [target], [target], space, verifier, rule)
    earned = RewardSum(dict.fromkeys(EXPLANATION_REWARDS, 1.0), {})(completions)
    return {name: float(part) for name, part in earned.parts.items()}
