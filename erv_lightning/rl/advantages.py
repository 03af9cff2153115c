"""From rewards to advantages: each completion against the others of its prompt.

Shapes: P prompts, G completions of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = ("group", "batch", "none")
"""What `group_advantages` divides by; see there."""


def group_advantages(rewards: Tensor, group_size: int, *, scale: str = "group", eps: float = 1e-4) -> Tensor:
    r"""The advantage of each completion over its group (GRPO, arXiv 2402.03300).

    .. math::
        A_i = (R_i - \mathrm{mean}(R_{group})) / (\mathrm{std} + eps)

    with the unbiased standard deviation. Rewards that are all equal have the advantage 0 exactly, whatever
    rounding would have made of them; so has every completion where a group is one completion.

    Args:
        rewards: (prompts · group_size,), the completions of a prompt side by side, finite.
        group_size: completions per prompt.
        scale: ``group``: the deviation within the group (the paper's); ``batch``: of all rewards given here;
            ``none``: no division (Dr. GRPO, arXiv 2503.20783).
        eps: added to the deviation.

    Returns:
        (prompts · group_size,), floating point, detached.

    Raises:
        ValueError: for an unknown scale, a shape that does not fit, or a reward that is not finite.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown advantage scale {scale!r}; known: {', '.join(SCALES)}")
    if rewards.ndim != 1 or group_size < 1 or len(rewards) % group_size:
        raise ValueError(f"rewards {tuple(rewards.shape)} are no whole groups of {group_size} completions")
    rewards = rewards.detach() if rewards.is_floating_point() else rewards.float()
    if not bool(rewards.isfinite().all()):
        at = (~rewards.isfinite()).nonzero().flatten().tolist()
        raise ValueError(f"rewards are not finite for completions {at[:8]} (of {len(at)}): check the reward function")
    if group_size == 1 or not len(rewards):
        return torch.zeros_like(rewards)

    rewards_PG = rewards.view(-1, group_size)
    advantages_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    if scale == "group":
        advantages_PG = advantages_PG / (rewards_PG.std(dim=1, keepdim=True) + eps)
    elif scale == "batch":
        advantages_PG = advantages_PG / (rewards_PG.std() + eps)
    # the mean of equal numbers may differ from them in the last bit
    equal_P1 = (rewards_PG == rewards_PG[:, :1]).all(dim=1, keepdim=True)
    return advantages_PG.masked_fill(equal_P1, 0.0).flatten()
