"""What an update minimises, and how the numbers of its micro-batches come together. Knows no trainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from erv_lightning.rl.objectives import option_problems, policy_loss


@dataclass(frozen=True)
class Objective:
    """The policy's loss; see `erv_lightning.rl.objectives`.

    Attributes:
        loss_type: ``grpo`` (the paper's), ``dr_grpo``, ``dapo``, ``bnpo``, ``gspo`` or ``cispo``. All counts are those
            of the whole step, over micro-batches and processes, so `bnpo` here is `dapo`.
        kl: estimator of the KL term: ``k1``, ``k2``, ``k3`` (the paper's).
        epsilon_low, epsilon_high: how far the ratio may leave 1; unequal, DAPO's clip-higher.
        delta: dual clip, an upper bound of the ratio where the advantage is negative; none if null.
        mask_truncated: leave completions that hit the length limit out of the loss (DAPO's overlong filtering).
    """

    loss_type: str = "grpo"
    kl: str = "k3"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    mask_truncated: bool = False

    def __post_init__(self) -> None:
        if problems := option_problems(self.loss_type, self.kl, self.epsilon_low, self.epsilon_high, self.delta):
            raise ValueError("objective: " + "; ".join(problems))


@dataclass(frozen=True)
class StepCounts:
    """What a loss is divided by: counts of the whole step, all micro-batches and processes together.

    Attributes:
        completions: how many.
        tokens: of these, those that count.
        width: most tokens a completion may have.
    """

    completions: int
    tokens: int
    width: int

    def loss(
        self,
        objective: Objective,
        logp: Tensor,
        old_logp: Tensor,
        advantages: Tensor,
        mask: Tensor,
        ref_logp: Tensor | None,
        beta: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A micro-batch's share of the step's loss; the shares add up. Arguments as for `policy_loss`."""
        return policy_loss(
            logp,
            old_logp,
            advantages,
            mask,
            loss_type=objective.loss_type,
            ref_logp=ref_logp,
            beta=beta,
            kl=objective.kl,
            epsilon_low=objective.epsilon_low,
            epsilon_high=objective.epsilon_high,
            delta=objective.delta,
            num_tokens=self.tokens,
            num_completions=self.completions,
            width=self.width,
        )


def micro_batches(count: int, size: int | None) -> Iterator[range]:
    """Consecutive ranges of at most `size` that cover `count`; one range if None."""
    size = size or count
    return (range(start, min(start + size, count)) for start in range(0, count, size))


@dataclass
class TokenMeans:
    """Means over tokens, from means over the tokens of micro-batches."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    tokens: int = 0

    def add(self, means: dict[str, Tensor], tokens: int) -> None:
        """Takes in the means over so many further tokens."""
        for name, mean in means.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(mean)) + mean * tokens
        self.tokens += tokens

    def means(self) -> dict[str, float]:
        """The means over all tokens so far."""
        return {name: float(total) / max(1, self.tokens) for name, total in self.sums.items()}
