"""Rewards of completions: form, right answer, and an explanation that conveys the right emotion.

Emotions are ids and sentences are rows of probabilities here; who computes them is not this file's business.

Shapes: G responses, S sentences of all responses together, K labels of the verifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erv_lightning.text import Response

VARIANTS = ("paper", "top1", "half", "all_sentences")
"""How `explanation_reward` counts; see there."""


def format_reward(responses: Sequence[Response]) -> Tensor:
    """R_format: 1 for each well-formed response, else 0. Returns (responses,), float32."""
    return torch.tensor([float(response.well_formed) for response in responses])


def accuracy_reward(answer_ids: Tensor | Sequence[int], label_ids: Tensor | Sequence[int]) -> Tensor:
    """R_accuracy: 1 where the answer is the label, else 0; an id of -1 (no valid answer) equals nothing.

    Args:
        answer_ids: (responses,), ids of one label space.
        label_ids: (responses,), ids of the same space.

    Returns:
        (responses,), float32.

    Raises:
        ValueError: if the two differ in length.
    """
    answer_G, label_G = torch.as_tensor(answer_ids), torch.as_tensor(label_ids)
    if answer_G.shape != label_G.shape or answer_G.ndim != 1:
        raise ValueError(f"one answer per label is needed, got {tuple(answer_G.shape)} and {tuple(label_G.shape)}")
    return ((answer_G == label_G.to(answer_G.device)) & (answer_G >= 0)).float()


def explanation_reward(
    probs: Sequence[Tensor],
    target: Sequence[int],
    neutral: int,
    *,
    threshold: float = 0.1,
    max_labels: int = 2,
    variant: str = "paper",
) -> Tensor:
    r"""R_E: how much of each explanation conveys the true emotion, sentence by sentence (method: stage 3).

    A sentence with probabilities p has the label set L = {k : p_k > threshold}; an empty one becomes
    {argmax}, a larger one keeps its ``max_labels`` likeliest. Among equal probabilities the lower id goes
    first. With n_match = #{j : y ∈ L_j} and n_nonneutral = #{j : L_j ≠ {neutral}} over a response's n
    sentences,

    .. math::
        R_E = n_{match} / n_{nonneutral} \;(y \ne neutral), \qquad R_E = n_{match} / n \;(y = neutral)

    and 0 where the denominator is 0. y is the label, never the policy's own answer.

    Args:
        probs: one tensor (sentences, labels) per response, each probability in [0, 1]; no sentence, no
            reward.
        target: the true emotion of each response, an index of the verifier's labels.
        neutral: the neutral index of the verifier's labels.
        threshold: least probability, exclusive, of a label that a sentence conveys.
        max_labels: most labels of one sentence, at least 1.
        variant: ``paper``: as above; ``top1``: a sentence's label set is {argmax}; ``half``: 1 where the
            paper's ratio is at least 1/2, else 0; ``all_sentences``: the denominator is always n.

    Returns:
        (responses,), float32 in [0, 1].

    Raises:
        ValueError: for an unknown variant, shapes or indices that do not fit, or values that are no
            probabilities.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of the explanation reward; known: {', '.join(VARIANTS)}")
    _check(probs, target, neutral, max_labels)
    if not probs:
        return torch.zeros(0)
    p_SK = torch.cat([p.float() for p in probs])
    if not bool(((p_SK >= 0) & (p_SK <= 1)).all()):  # nan fails both
        raise ValueError("probs holds values outside [0, 1] or nan: apply the sigmoid to the verifier's logits first")

    sentences_G = torch.tensor([len(p) for p in probs], device=p_SK.device)
    target_G = torch.as_tensor(target, device=p_SK.device)
    response_S = torch.arange(len(probs), device=p_SK.device).repeat_interleave(sentences_G)
    in_set_SK = _label_sets(p_SK, threshold, 1 if variant == "top1" else max_labels)
    match_S = in_set_SK.gather(1, target_G[response_S].unsqueeze(1)).squeeze(1)
    only_neutral_S = in_set_SK[:, neutral] & (in_set_SK.sum(1) == 1)

    match_G = _count(match_S, response_S, len(probs))
    counted_G = _count(~only_neutral_S, response_S, len(probs))
    if variant == "all_sentences":
        counted_G = sentences_G
    counted_G = torch.where(target_G == neutral, sentences_G, counted_G)
    # match <= counted: a sentence that matches y ≠ neutral is not {neutral}
    reward_G = match_G.float() / counted_G.clamp(min=1)
    return (reward_G >= 0.5).float() if variant == "half" else reward_G


def _label_sets(p_SK: Tensor, threshold: float, max_labels: int) -> Tensor:
    """Which labels each sentence conveys: (sentences, labels), bool, between one and `max_labels` a row."""
    # stable, so that ties go to the lower id on every device
    sorted_SK, order_SK = p_SK.sort(dim=1, descending=True, stable=True)
    keep_SK = sorted_SK > threshold
    keep_SK[:, max_labels:] = False
    keep_SK[:, 0] = True
    return torch.zeros_like(keep_SK).scatter(1, order_SK, keep_SK)


def _count(flag_S: Tensor, response_S: Tensor, responses: int) -> Tensor:
    return torch.zeros(responses, dtype=torch.long, device=flag_S.device).index_add(0, response_S, flag_S.long())


def _check(probs: Sequence[Tensor], target: Sequence[int], neutral: int, max_labels: int) -> None:
    problems = []
    if len(probs) != len(target):
        problems.append(f"{len(probs)} responses but {len(target)} targets")
    if max_labels < 1:
        problems.append(f"max_labels must be at least 1, got {max_labels}")
    shapes = sorted({tuple(p.shape[1:]) for p in probs})
    if len(shapes) > 1 or any(len(shape) != 1 or shape == (0,) for shape in shapes):
        problems.append(f"probs must all be (sentences, labels) over the same labels, got (sentences, *{shapes})")
    elif shapes:
        (labels,) = shapes[0]
        out = sorted({int(index) for index in (*target, neutral) if not 0 <= index < labels})
        if out:
            problems.append(f"target or neutral {out} outside the verifier's {labels} labels")
    if problems:
        raise ValueError("explanation_reward: " + "; ".join(problems))
