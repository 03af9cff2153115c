"""The policy's loss from log-probabilities and advantages: the GRPO family, token by token.

Purely tensors: nothing here knows a model, a reward or a process group. With r = exp(logp − old_logp), a
token's loss is −min(r·A, clip(r, 1−ε_low, 1+ε_high)·A) + β·KL. The loss types then are

- ``grpo`` (arXiv 2402.03300): mean over the tokens of a completion, then over the completions. One without a
  valid token adds 0 and still counts as a completion.
- ``dr_grpo`` (arXiv 2503.20783): sum / (completions × width), where the width is T unless the caller names one.
- ``dapo`` (arXiv 2503.14476), ``bnpo``: sum / number of tokens. They differ in what the caller gives: for
  ``dapo`` the count over all ranks and accumulated batches, for ``bnpo`` nothing, which means the valid
  tokens of this call.
- ``gspo`` (arXiv 2507.18071): r = exp(mean of the completion's log-ratios), one for all its tokens, with its
  gradient; averaged as ``grpo``.
- ``cispo`` (arXiv 2506.13585): −min(r, 1+ε_high)·A·logp, without gradient through r; averaged as ``dapo``. It
  has no lower bound and takes no notice of ``delta``.

A batch may be cut into micro-batches of completions: where each call is given the counts of the whole batch
(``num_tokens``, ``num_completions``, ``width``), the losses and gradients of the parts add up to the whole's.

Shapes: G completions, T tokens; 1 broadcasts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo")
"""The losses of `policy_loss`; described at the top of this module."""

KL_ESTIMATORS = ("k1", "k2", "k3")
"""The estimators of KL(policy ‖ reference); see `token_kl`."""

# exp(80) is finite in float32 and bfloat16. A ratio that large is clipped, or the run is lost anyway; but an
# infinite one would turn the zero gradient of the clipped branch into nan.
_MAX_LOG_RATIO = 80.0


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    loss_type: str,
    ref_logp: Tensor | None = None,
    beta: float = 0.0,
    kl: str = "k3",
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    delta: float | None = None,
    num_tokens: int | Tensor | None = None,
    num_completions: int | Tensor | None = None,
    width: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise and what to log beside it.

    Positions outside the mask contribute nothing, to the loss or to a gradient, even where they hold nan or
    inf; without any valid token the loss is 0 and its gradients are zeros.

    Args:
        logp: (completions, tokens), log-probabilities under the policy, with gradient; float32 or better.
        old_logp: (completions, tokens), under the policy that sampled; ``logp.detach()`` for one on-policy
            update.
        advantages: (completions,).
        mask: (completions, tokens), non-zero at the tokens that count.
        loss_type: one of `LOSS_TYPES`, described at the top of this module.
        ref_logp: (completions, tokens), under the reference; needed where β > 0, else only logged.
        beta: weight β of the KL term.
        kl: one of `KL_ESTIMATORS`.
        epsilon_low: how far r may fall below 1.
        epsilon_high: how far r may rise above 1; more than ``epsilon_low``, it is DAPO's clip-higher.
        delta: dual clip, as TRL's ``delta`` (INTELLECT-2, arXiv 2505.07291): the unclipped r becomes min(r,
            delta). It bounds the loss of tokens with a negative advantage, which ε_high leaves unbounded, and
            those with a positive one do not feel it. At least 1 + ε_high.
        num_tokens: what ``dapo``, ``bnpo`` and ``cispo`` divide by; the mask's own count if None.
        num_completions: what ``grpo``, ``gspo`` and ``dr_grpo`` divide by: the count over all micro-batches and
            ranks; this call's own if None.
        width: tokens per completion that ``dr_grpo`` divides by, such as the most that sampling allows, so that
            the loss does not depend on the longest completion of a micro-batch; T if None.

    Returns:
        The loss, a scalar, and detached scalars, each a mean over the call's valid tokens, so that those of
        micro-batches combine in the weights ``mask.sum()``: ``ratio_mean``;
        ``clip_ratio/low_mean`` and ``clip_ratio/high_mean``, the shares held by the lower (A < 0) and the
        upper bound (A > 0; ``cispo``: any A); ``clip_ratio/region_mean``, either; and with ``ref_logp``,
        ``kl`` (always k3).

    Raises:
        ValueError: naming every option that is out of range and every shape that does not fit.
    """
    _check_call(option_problems(loss_type, kl, epsilon_low, epsilon_high, delta), ref_logp, beta, width)
    _check_shapes(logp, advantages, {"old_logp": old_logp, "mask": mask, "ref_logp": ref_logp})
    mask_GT, advantages_G1 = mask.bool(), advantages.detach().unsqueeze(1)
    # where, not a product: 0 · nan is nan, in the backward pass too
    logp_GT = torch.where(mask_GT, logp, 0.0)
    ratio_GT = _ratio(logp_GT, torch.where(mask_GT, old_logp.detach(), 0.0), mask_GT, loss_type)
    if loss_type == "cispo":
        loss_GT = -ratio_GT.detach().clamp(max=1 + epsilon_high) * advantages_G1 * logp_GT
    else:
        loss_GT = _clipped_surrogate(ratio_GT, advantages_G1, epsilon_low, epsilon_high, delta)

    stats = _ratio_stats(ratio_GT.detach(), advantages_G1, mask_GT, epsilon_low, epsilon_high, loss_type)
    if ref_logp is not None:
        ref_logp_GT = torch.where(mask_GT, ref_logp.detach(), 0.0)
        stats["kl"] = _token_mean(token_kl(logp_GT.detach(), ref_logp_GT, "k3"), mask_GT)
        if beta:
            loss_GT = loss_GT + beta * token_kl(logp_GT, ref_logp_GT, kl)
    loss_GT = torch.where(mask_GT, loss_GT, 0.0)
    return _normalise(loss_GT, mask_GT, loss_type, num_tokens, num_completions, width), stats


def token_kl(logp_GT: Tensor, ref_logp_GT: Tensor, kl: str) -> Tensor:
    """Estimates KL(policy ‖ reference) at each sampled token (Schulman, "Approximating KL divergence").

    With Δ = ref_logp − logp: ``k1`` = −Δ, ``k2`` = Δ²/2, ``k3`` = exp(Δ) − Δ − 1, the paper's. Against single
    tokens that blow up, Δ is clamped to ±20 and the estimate to ±10 (as NeMo-RL and verl do); no gradient
    comes from beyond. The importance ratio of the loss is not touched by these clamps.

    Args:
        logp_GT: (completions, tokens), under the policy.
        ref_logp_GT: (completions, tokens), under the reference.
        kl: one of `KL_ESTIMATORS`.

    Returns:
        (completions, tokens).
    """
    delta_GT = (ref_logp_GT - logp_GT).clamp(-20.0, 20.0)
    if kl == "k1":
        estimate_GT = -delta_GT
    elif kl == "k2":
        estimate_GT = delta_GT.square() / 2
    else:
        estimate_GT = delta_GT.exp() - delta_GT - 1
    return estimate_GT.clamp(-10.0, 10.0)


def _ratio(logp_GT: Tensor, old_logp_GT: Tensor, mask_GT: Tensor, loss_type: str) -> Tensor:
    log_ratio_GT = logp_GT - old_logp_GT
    if loss_type == "gspo":
        log_ratio_GT = _completion_mean(log_ratio_GT, mask_GT).unsqueeze(1).expand_as(logp_GT)
    return log_ratio_GT.clamp(max=_MAX_LOG_RATIO).exp()


def _clipped_surrogate(
    ratio_GT: Tensor, advantages_G1: Tensor, epsilon_low: float, epsilon_high: float, delta: float | None
) -> Tensor:
    clipped_GT = ratio_GT.clamp(1 - epsilon_low, 1 + epsilon_high)
    bounded_GT = ratio_GT if delta is None else ratio_GT.clamp(max=delta)
    return -torch.minimum(bounded_GT * advantages_G1, clipped_GT * advantages_G1)


def _ratio_stats(
    ratio_GT: Tensor,
    advantages_G1: Tensor,
    mask_GT: Tensor,
    epsilon_low: float,
    epsilon_high: float,
    loss_type: str,
) -> dict[str, Tensor]:
    low_GT = (ratio_GT < 1 - epsilon_low) & (advantages_G1 < 0)
    high_GT = ratio_GT > 1 + epsilon_high
    if loss_type == "cispo":
        low_GT = torch.zeros_like(low_GT)
    else:
        high_GT = high_GT & (advantages_G1 > 0)
    return {
        "ratio_mean": _token_mean(ratio_GT, mask_GT),
        "clip_ratio/low_mean": _token_mean(low_GT.to(ratio_GT.dtype), mask_GT),
        "clip_ratio/high_mean": _token_mean(high_GT.to(ratio_GT.dtype), mask_GT),
        "clip_ratio/region_mean": _token_mean((low_GT | high_GT).to(ratio_GT.dtype), mask_GT),
    }


def _normalise(
    loss_GT: Tensor,
    mask_GT: Tensor,
    loss_type: str,
    num_tokens: int | Tensor | None,
    num_completions: int | Tensor | None,
    width: int | None,
) -> Tensor:
    """The scalar loss of a token loss that is zero outside the mask."""
    if loss_type in ("grpo", "gspo"):
        total, count = _completion_mean(loss_GT, mask_GT).sum(), _given(num_completions, len(loss_GT))
    elif loss_type == "dr_grpo":
        total, count = loss_GT.sum(), _given(num_completions, len(loss_GT)) * _given(width, loss_GT.shape[1])
    else:
        total, count = loss_GT.sum(), _given(num_tokens, mask_GT.sum())
    return total / torch.as_tensor(count, device=total.device).clamp(min=1)


def _given(count: int | Tensor | None, own: int | Tensor) -> int | Tensor:
    return own if count is None else count


def _completion_mean(value_GT: Tensor, mask_GT: Tensor) -> Tensor:
    """The mean of each completion's valid tokens, 0 without any; `value_GT` is zero outside the mask."""
    return value_GT.sum(dim=1) / mask_GT.sum(dim=1).clamp(min=1)


def _token_mean(value_GT: Tensor, mask_GT: Tensor) -> Tensor:
    return torch.where(mask_GT, value_GT, 0.0).sum() / mask_GT.sum().clamp(min=1)


def option_problems(loss_type: str, kl: str, epsilon_low: float, epsilon_high: float, delta: float | None) -> list[str]:
    """What is wrong with options of `policy_loss`, one line each; nothing if all is well."""
    problems = []
    if loss_type not in LOSS_TYPES:
        problems.append(f"unknown loss_type {loss_type!r}; known: {', '.join(LOSS_TYPES)}")
    if kl not in KL_ESTIMATORS:
        problems.append(f"unknown kl {kl!r}; known: {', '.join(KL_ESTIMATORS)}")
    if not 0 <= epsilon_low <= 1 or epsilon_high < 0:
        problems.append(f"needed: 0 <= epsilon_low <= 1, epsilon_high >= 0; got {epsilon_low}, {epsilon_high}")
    if delta is not None and delta < 1 + epsilon_high:
        problems.append(f"delta must be at least 1 + epsilon_high = {1 + epsilon_high}, got {delta}")
    return problems


def _check_call(problems: list[str], ref_logp: Tensor | None, beta: float, width: int | None) -> None:
    if beta < 0:
        problems.append(f"beta must not be negative, got {beta}")
    if beta > 0 and ref_logp is None:
        problems.append(f"beta = {beta} needs ref_logp, the reference's log-probabilities")
    if width is not None and width < 1:
        problems.append(f"width must be at least 1, got {width}")
    if problems:
        raise ValueError("policy_loss: " + "; ".join(problems))


def _check_shapes(logp: Tensor, advantages: Tensor, others: Mapping[str, Tensor | None]) -> None:
    if logp.ndim != 2:
        raise ValueError(f"policy_loss: logp must be (completions, tokens), got {tuple(logp.shape)}")
    problems = [
        f"{name} is {tuple(value.shape)}, not {tuple(logp.shape)} as logp"
        for name, value in others.items()
        if value is not None and value.shape != logp.shape
    ]
    if advantages.shape != logp.shape[:1]:
        problems.append(f"advantages is {tuple(advantages.shape)}, not ({len(logp)},), one per completion")
    if problems:
        raise ValueError("policy_loss: " + "; ".join(problems))
