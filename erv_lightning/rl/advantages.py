"""From rewards to advantages: each completion against the others of its prompt.

A completion that is not applicable (no reward says anything about it) is as if it had not been drawn: it counts
in no mean and no deviation, and its advantage is 0.

Shapes: P prompts, G completions of each; 1 broadcasts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALES = ("group", "batch", "none")
"""What `group_advantages` divides by; see there."""


def group_advantages(
    rewards: Tensor,
    group_size: int,
    *,
    scale: str = "group",
    eps: float = 1e-4,
    applicable: Tensor | None = None,
) -> Tensor:
    r"""The advantage of each completion over its group (GRPO, arXiv 2402.03300).

    .. math::
        A_i = (R_i - \mathrm{mean}(R_{group})) / (\mathrm{std} + eps)

    with the unbiased standard deviation. Rewards that are all equal have the advantage 0 exactly, whatever
    rounding would have made of them; so has every completion where fewer than two of a group are applicable.

    Args:
        rewards: (prompts · group_size,), the completions of a prompt side by side, finite where applicable.
        group_size: completions per prompt.
        scale: ``group``: the deviation within the group (the paper's); ``batch``: of all rewards given here;
            ``none``: no division (Dr. GRPO, arXiv 2503.20783).
        eps: added to the deviation.
        applicable: (prompts · group_size,), False for completions to leave out; all count if None.

    Returns:
        (prompts · group_size,), floating point, detached; 0 where not applicable.

    Raises:
        ValueError: for an unknown scale, a shape that does not fit, or a reward that is not finite.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown advantage scale {scale!r}; known: {', '.join(SCALES)}")
    rewards_PG, counts_PG = _groups(rewards, group_size, applicable)
    advantages_PG = rewards_PG - _mean(rewards_PG, counts_PG)
    if scale == "group":
        advantages_PG = advantages_PG / (_std(rewards_PG, counts_PG) + eps)
    elif scale == "batch":
        advantages_PG = advantages_PG / (_std(rewards_PG.view(1, -1), counts_PG.view(1, -1)) + eps)
    # the mean of equal numbers may differ from them in the last bit
    nothing_PG = _all_equal(rewards_PG, counts_PG) | ~counts_PG
    return advantages_PG.masked_fill(nothing_PG, 0.0).flatten()


def normalised_sum(
    parts: Mapping[str, Tensor],
    weights: Mapping[str, float],
    group_size: int,
    *,
    eps: float = 1e-4,
    applicable: Tensor | None = None,
) -> Tensor:
    r"""Advantages from rewards that are normalised one by one (GDPO, arXiv 2601.05242).

    .. math::
        S_i = \sum_k w_k (R_{ki} - \mathrm{mean}(R_{k,group})) / (\mathrm{std}(R_{k,group}) + eps), \qquad
        A_i = (S_i - \mathrm{mean}(S)) / (\mathrm{std}(S) + eps)

    with the mean and the deviation of S over all completions given here, as TRL's ``normalize_then_sum``. A
    reward that is the same for a whole group adds exactly 0 there, and where every reward does, A is exactly 0.

    Args:
        parts: each reward, (prompts · group_size,), before weighting; nan where it does not apply, so that
            the completion is left out for this reward alone.
        weights: the weight of each reward.
        group_size: completions per prompt.
        eps: added to the deviations.
        applicable: (prompts · group_size,), False for completions to leave out altogether.

    Returns:
        (prompts · group_size,), floating point, detached; 0 where no reward applies.

    Raises:
        ValueError: for rewards and weights that do not go together, a shape that does not fit, or an infinite
            reward.
    """
    if not parts or set(parts) != set(weights):
        raise ValueError(f"normalised_sum: rewards {sorted(parts)} but weights of {sorted(weights)}")
    total, any_applies, any_differs = torch.zeros(()), torch.tensor(False), torch.tensor(False)
    for name, part in parts.items():
        applies = ~part.isnan() if applicable is None else ~part.isnan() & applicable.bool()
        total = total + weights[name] * group_advantages(part, group_size, eps=eps, applicable=applies)
        any_applies = any_applies | applies
        any_differs = any_differs | ~zero_std_groups(part, group_size, applies)
    if not bool(any_applies.any()):
        return torch.zeros_like(total)
    total_1N, counts_1N = total.unsqueeze(0), any_applies.unsqueeze(0)
    advantages_1N = (total_1N - _mean(total_1N, counts_1N)) / (_std(total_1N, counts_1N) + eps)
    # each group's S sums to 0, and so does the batch's, but for the last bit: that is no advantage either
    nothing_N = ~any_differs.repeat_interleave(group_size) | ~any_applies
    return advantages_1N.masked_fill(nothing_N | _all_equal(total_1N, counts_1N), 0.0).squeeze(0)


def zero_std_groups(rewards: Tensor, group_size: int, applicable: Tensor | None = None) -> Tensor:
    """Which groups have nothing to learn from: their applicable rewards are all the same.

    The test is equality, not a small deviation: rounding makes a deviation of nothing. A group with fewer than
    two applicable completions has nothing to compare either.

    Args:
        rewards: (prompts · group_size,), as for `group_advantages`.
        group_size: completions per prompt.
        applicable: (prompts · group_size,), False for completions to leave out; all count if None.

    Returns:
        (prompts,), bool.

    Raises:
        ValueError: for a shape that does not fit, or a reward that is not finite.
    """
    return _all_equal(*_groups(rewards, group_size, applicable)).squeeze(1)


def _groups(rewards: Tensor, group_size: int, applicable: Tensor | None) -> tuple[Tensor, Tensor]:
    """Checked rewards and whether they count: (prompts, completions) each; what does not count is 0."""
    if rewards.ndim != 1 or group_size < 1 or len(rewards) % group_size:
        raise ValueError(f"rewards {tuple(rewards.shape)} are no whole groups of {group_size} completions")
    if applicable is not None and applicable.shape != rewards.shape:
        raise ValueError(f"applicable is {tuple(applicable.shape)}, not {tuple(rewards.shape)} as rewards")
    rewards = rewards.detach() if rewards.is_floating_point() else rewards.float()
    counts = torch.ones_like(rewards, dtype=torch.bool) if applicable is None else applicable.bool()
    wrong = ~rewards.isfinite() & counts
    if bool(wrong.any()):
        at = wrong.nonzero().flatten().tolist()
        raise ValueError(f"rewards are not finite for completions {at[:8]} (of {len(at)}): check the reward function")
    return rewards.where(counts, 0.0).view(-1, group_size), counts.view(-1, group_size)


def _all_equal(rewards_PG: Tensor, counts_PG: Tensor) -> Tensor:
    highest_P1 = rewards_PG.masked_fill(~counts_PG, -torch.inf).amax(1, keepdim=True)
    lowest_P1 = rewards_PG.masked_fill(~counts_PG, torch.inf).amin(1, keepdim=True)
    return highest_P1 <= lowest_P1  # without any, −inf <= inf


def _mean(value_PG: Tensor, counts_PG: Tensor) -> Tensor:
    """The mean of each row's numbers that count, (prompts, 1); 0 without any."""
    return value_PG.where(counts_PG, 0.0).sum(1, keepdim=True) / counts_PG.sum(1, keepdim=True).clamp(min=1)


def _std(value_PG: Tensor, counts_PG: Tensor) -> Tensor:
    """The unbiased deviation of each row's numbers that count, (prompts, 1); 0 with fewer than two."""
    square_PG = (value_PG - _mean(value_PG, counts_PG)).square().where(counts_PG, 0.0)
    return (square_PG.sum(1, keepdim=True) / (counts_PG.sum(1, keepdim=True) - 1).clamp(min=1)).sqrt()
