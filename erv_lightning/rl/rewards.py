"""Rewards of completions: form, right answer, an explanation that conveys the right emotion, and length.

Emotions are ids, sentences are rows of probabilities, likelihoods are numbers here; who computes them is not
this file's business.

Shapes: N responses, S sentences of all responses together, K labels of the verifier; where responses are
compared within their prompt, P prompts with G responses each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erv_lightning.text import Response

VARIANTS = ("paper", "paragraph", "top1", "half", "all_sentences", "gated", "self_consistent", "graded")
"""How `explanation_reward` counts; see there."""

_ABOUT_ANSWERS = ("gated", "self_consistent", "graded")


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
    answer_N, label_N = torch.as_tensor(answer_ids), torch.as_tensor(label_ids)
    if answer_N.shape != label_N.shape or answer_N.ndim != 1:
        raise ValueError(f"one answer per label is needed, got {tuple(answer_N.shape)} and {tuple(label_N.shape)}")
    return ((answer_N == label_N.to(answer_N.device)) & (answer_N >= 0)).float()


def explanation_reward(
    probs: Sequence[Tensor],
    target: Sequence[int],
    neutral: int,
    *,
    threshold: float | Tensor = 0.1,
    max_labels: int = 2,
    variant: str = "paper",
    answers: Sequence[int] | None = None,
) -> Tensor:
    r"""R_E: how much of each explanation conveys the true emotion, sentence by sentence (method: stage 3).

    A sentence with probabilities p has the label set L = {k : p_k > threshold_k}; an empty one becomes
    {argmax}, a larger one keeps its ``max_labels`` likeliest. Among equal probabilities the lower id goes
    first. With n_match = #{j : y ∈ L_j} and n_nonneutral = #{j : L_j ≠ {neutral}} over a response's n
    sentences,

    .. math::
        R_E = n_{match} / n_{nonneutral} \;(y \ne neutral), \qquad R_E = n_{match} / n \;(y = neutral)

    and 0 where the denominator is 0. y is the label, never the policy's own answer. That is ``paper``; the
    other variants change one thing each:

    - ``paragraph``: the same of the whole explanation, scored as one sentence: 0 or 1.
    - ``top1``: a sentence's label set is {argmax}.
    - ``half``: 1 where the ratio is at least 1/2, else 0.
    - ``all_sentences``: the denominator is always n.
    - ``gated``: 0 unless the answer is right.
    - ``self_consistent``: y is the policy's own answer; 0 without a valid one.
    - ``graded``: the mean of p_y over all n sentences, without label sets; 0 unless the answer is right. After CA-EMER,
      as method.md describes it: graded marks for every sentence instead of hits. [I] There a judge model marks each
      sentence from 1 to 5 and weighs it by its function; here p stands for the mark, and all sentences weigh the same.

    Args:
        probs: one tensor (sentences, labels) per response, each probability in [0, 1]; no sentence, no
            reward. For ``paragraph`` one row, or none where there is no explanation.
        target: the true emotion of each response, an index of the verifier's labels.
        neutral: the neutral index of the verifier's labels.
        threshold: least probability, exclusive, of a label that a sentence conveys; one for all, or (labels,).
        max_labels: most labels of one sentence, at least 1.
        variant: one of `VARIANTS`.
        answers: the emotion that each response answers, an index of the verifier's labels, −1 for none;
            ``gated``, ``self_consistent`` and ``graded`` need it.

    Returns:
        (responses,), float32 in [0, 1].

    Raises:
        ValueError: for an unknown variant, shapes or indices that do not fit, or values that are no
            probabilities.
    """
    _check(probs, target, neutral, max_labels, variant, answers)
    if not probs:
        return torch.zeros(0)
    p_SK = torch.cat([p.float() for p in probs])
    if isinstance(threshold, Tensor) and threshold.shape != p_SK.shape[1:]:
        raise ValueError(f"explanation_reward: {tuple(threshold.shape)} thresholds for {p_SK.shape[1]} labels")
    if not bool(((p_SK >= 0) & (p_SK <= 1)).all()):  # nan fails both
        raise ValueError("probs holds values outside [0, 1] or nan: apply the sigmoid to the verifier's logits first")

    sentences_N = torch.tensor([len(p) for p in probs], device=p_SK.device)
    aim_N, paid_N = (each.to(p_SK.device) for each in _aims(target, answers, variant))
    if variant == "graded":
        return paid_N * _mean_of_aim(p_SK, sentences_N, aim_N)
    in_set_SK = label_sets(p_SK, threshold, 1 if variant == "top1" else max_labels)
    match_N, nonneutral_N = _count_matches(in_set_SK, sentences_N, aim_N, neutral)
    every = (aim_N == neutral) | (variant == "all_sentences")
    # match <= counted: a sentence that matches y ≠ neutral is not {neutral}
    ratio_N = match_N.float() / torch.where(every, sentences_N, nonneutral_N).clamp(min=1)
    return paid_N * ((ratio_N >= 0.5).float() if variant == "half" else ratio_N)


def care_bonus(answer_logp: Tensor, right: Tensor, group_size: int) -> Tensor:
    r"""GRPO-CARE's consistency bonus: a right answer that the reference finds likely after the explanation.

    The bonus is 1 where the answer is right and p = exp(``answer_logp``) is at least the mean p of the group
    (arXiv 2506.16141, as method.md puts it), else 0. [I] The mean runs over the group's responses that have an
    answer, right or wrong, and p is the geometric mean of the probabilities of the answer's tokens. The
    authors' release takes the mean over the right answers alone, and offers a cap on p and a margin below the
    mean.

    Args:
        answer_logp: (prompts · group_size,), mean log-probability of the answer's tokens under the reference,
            given prompt and explanation; nan where there is no answer. The responses to a prompt stand side by
            side.
        right: (prompts · group_size,), whether the answer is right.
        group_size: responses per prompt.

    Returns:
        (prompts · group_size,), float32, 0 or 1.

    Raises:
        ValueError: for shapes that do not fit.
    """
    if answer_logp.ndim != 1 or right.shape != answer_logp.shape or group_size < 1 or len(right) % group_size:
        raise ValueError(
            f"care_bonus: answer_logp {tuple(answer_logp.shape)} and right {tuple(right.shape)} are no whole "
            f"groups of {group_size} responses"
        )
    p_PG = answer_logp.detach().double().exp().view(-1, group_size)
    answered_PG = ~p_PG.isnan()
    mean_P1 = p_PG.nansum(1, keepdim=True) / answered_PG.sum(1, keepdim=True).clamp(min=1)
    # the mean of equal numbers may exceed them by a rounding, which would cost all of them their bonus
    likely_PG = p_PG >= mean_P1 * (1 - 1e-6)  # nan never is
    return (right.bool() & likely_PG.flatten()).float()


def overlong_penalty(lengths: Tensor, max_new_tokens: int, buffer: int) -> Tensor:
    r"""DAPO's soft overlong punishment (arXiv 2503.14476, equation 13).

    0 up to ``max_new_tokens − buffer`` tokens, from there falling linearly to −1 at ``max_new_tokens``.

    Args:
        lengths: (responses,), tokens of each.
        max_new_tokens: L_max, where sampling stops.
        buffer: L_cache, the last tokens before it, in which length costs; 1 to ``max_new_tokens``.

    Returns:
        (responses,), float32 in [−1, 0].

    Raises:
        ValueError: for a buffer out of range.
    """
    if not 1 <= buffer <= max_new_tokens:
        raise ValueError(f"overlong_penalty: buffer must be 1 to max_new_tokens = {max_new_tokens}, got {buffer}")
    return ((max_new_tokens - buffer - lengths) / buffer).clamp(-1.0, 0.0).float()


def _aims(target: Sequence[int], answers: Sequence[int] | None, variant: str) -> tuple[Tensor, Tensor]:
    """The emotion that each explanation should convey, and whether it can earn anything: (responses,) each."""
    target_N = torch.as_tensor(target)
    if answers is None or variant not in _ABOUT_ANSWERS:
        return target_N, torch.ones(len(target_N))
    answer_N = torch.as_tensor(answers)
    if variant in ("gated", "graded"):
        return target_N, (answer_N == target_N).float()
    return answer_N.clamp(min=0), (answer_N >= 0).float()


def label_sets(p_SK: Tensor, threshold: float | Tensor, max_labels: int) -> Tensor:
    """Which labels each sentence conveys, see `explanation_reward`.

    Args:
        p_SK: (sentences, labels), probabilities.
        threshold: least probability, exclusive; one for all labels, or (labels,).
        max_labels: most labels of one sentence, at least 1.

    Returns:
        (sentences, labels), bool, between one and `max_labels` a row.
    """
    above_SK = p_SK > (threshold.to(p_SK) if isinstance(threshold, Tensor) else threshold)
    # stable, so that ties go to the lower id on every device
    order_SK = p_SK.argsort(dim=1, descending=True, stable=True)
    if isinstance(threshold, Tensor):  # a likely label may be below its own threshold, and goes last
        last_SK = (~above_SK.gather(1, order_SK)).int()
        order_SK = order_SK.gather(1, last_SK.argsort(dim=1, stable=True))
    keep_SK = above_SK.gather(1, order_SK)
    keep_SK[:, max_labels:] = False
    keep_SK[:, 0] = True
    return torch.zeros_like(keep_SK).scatter(1, order_SK, keep_SK)


def _count_matches(in_set_SK: Tensor, sentences_N: Tensor, aim_N: Tensor, neutral: int) -> tuple[Tensor, Tensor]:
    """n_match and n_nonneutral of each response: (responses,) each."""
    response_S = torch.arange(len(sentences_N), device=aim_N.device).repeat_interleave(sentences_N)
    match_S = in_set_SK.gather(1, aim_N[response_S].unsqueeze(1)).squeeze(1)
    only_neutral_S = in_set_SK[:, neutral] & (in_set_SK.sum(1) == 1)
    none_N = torch.zeros_like(sentences_N)
    return (
        none_N.index_add(0, response_S, match_S.long()),
        none_N.index_add(0, response_S, (~only_neutral_S).long()),
    )


def _mean_of_aim(p_SK: Tensor, sentences_N: Tensor, aim_N: Tensor) -> Tensor:
    """The mean probability of the wanted emotion over each response's sentences, (responses,); 0 without any."""
    response_S = torch.arange(len(sentences_N), device=aim_N.device).repeat_interleave(sentences_N)
    p_S = p_SK.gather(1, aim_N[response_S].unsqueeze(1)).squeeze(1)
    sums_N = torch.zeros(len(sentences_N), device=p_SK.device).index_add(0, response_S, p_S)
    return sums_N / sentences_N.clamp(min=1)


def _check(
    probs: Sequence[Tensor],
    target: Sequence[int],
    neutral: int,
    max_labels: int,
    variant: str,
    answers: Sequence[int] | None,
) -> None:
    problems = []
    if variant not in VARIANTS:
        problems.append(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    if len(probs) != len(target):
        problems.append(f"{len(probs)} responses but {len(target)} targets")
    if answers is None and variant in _ABOUT_ANSWERS:
        problems.append(f"variant {variant!r} needs answers")
    if answers is not None and len(answers) != len(target):
        problems.append(f"{len(target)} targets but {len(answers)} answers")
    if max_labels < 1:
        problems.append(f"max_labels must be at least 1, got {max_labels}")
    problems += _shape_problems(probs, [*target, neutral], answers or [])
    if variant == "paragraph" and any(p.shape[:1] > (1,) for p in probs):
        problems.append("variant 'paragraph' takes one row per response, the whole explanation's")
    if problems:
        raise ValueError("explanation_reward: " + "; ".join(problems))


def _shape_problems(probs: Sequence[Tensor], indices: Sequence[int], answers: Sequence[int]) -> list[str]:
    shapes = sorted({tuple(p.shape[1:]) for p in probs})
    if len(shapes) > 1 or any(len(shape) != 1 or shape == (0,) for shape in shapes):
        return [f"probs must all be (sentences, labels) over the same labels, got (sentences, *{shapes})"]
    labels = shapes[0][0] if shapes else None
    if labels is None:
        return []
    out = {int(index) for index in indices if not 0 <= index < labels}
    out |= {int(index) for index in answers if not -1 <= index < labels}
    return [f"target, neutral or answers {sorted(out)} outside the verifier's {labels} labels"] if out else []
