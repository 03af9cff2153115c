"""Micro-batches: which rows they take, and that what they add up to is the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from erv_lightning.rl.objectives import LOSS_TYPES, policy_loss
from erv_lightning.rl.update import Objective, StepCounts, TokenMeans, micro_batches


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("size", [None, 1, 2, 3, 7, 100])
def test_micro_batches_cover_everything_once_and_in_order(count: int, size: int | None) -> None:
    pieces = list(micro_batches(count, size))
    assert [index for piece in pieces for index in piece] == list(range(count))
    assert all(len(piece) == min(size or count, count) for piece in pieces[:-1])
    assert 1 <= len(pieces[-1]) <= (size or count)


def rollout(completions: int = 7, width: int = 5) -> tuple[dict[str, Tensor], Tensor]:
    """Arguments of `policy_loss`, and the log-probabilities that have a gradient, in float64."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(completions, width, generator=generator, dtype=torch.float64)

    logp = noise().requires_grad_()
    lengths = torch.tensor([5, 1, 3, 0, 2, 5, 4])[:completions]
    given = {
        "old_logp": logp.detach() + 0.3 * noise(),
        "advantages": noise()[:, 0],
        "mask": torch.arange(width) < lengths[:, None],
        "ref_logp": logp.detach() + 0.3 * noise(),
    }
    return given, logp


@pytest.mark.parametrize("kind", LOSS_TYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_of_micro_batches_add_up_to_the_loss_and_gradient_of_the_whole(kind: str, size: int) -> None:
    given, logp = rollout()
    options: dict[str, Any] = {"kl": "k2", "epsilon_low": 0.1, "epsilon_high": 0.3, "delta": 1.5}
    objective = Objective(loss_type=kind, **options)
    counts = StepCounts(completions=7, tokens=int(given["mask"].sum()), width=9)
    total, means = torch.zeros((), dtype=torch.float64), TokenMeans()
    for piece in micro_batches(7, size):
        rows = {name: value[piece.start : piece.stop] for name, value in given.items()}
        share, stats = counts.loss(objective, logp[piece.start : piece.stop], beta=0.2, **rows)  # type: ignore[arg-type]
        means.add(stats, int(rows["mask"].sum()))
        total = total + share
    expected, stats = policy_loss(logp, **given, loss_type=kind, beta=0.2, width=9, **options)
    assert_close(total, expected)
    assert_close(*(torch.autograd.grad(loss, logp)[0] for loss in (total, expected)))
    assert means.means() == pytest.approx({name: float(value) for name, value in stats.items()})


def test_means_over_tokens_come_from_means_of_different_weight() -> None:
    means = TokenMeans()
    for value, tokens in ((1.0, 2), (4.0, 1), (100.0, 0)):
        means.add({"entropy": torch.tensor(value)}, tokens)
    assert means.means() == {"entropy": 2.0}
    assert TokenMeans().means() == {}


def test_an_objective_names_everything_that_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match=r"^objective: .*'ppo'.*grpo, dr_grpo.*; .*'k9'.*; .*epsilon_low.*; .*delta"):
        Objective(loss_type="ppo", kl="k9", epsilon_low=2.0, delta=1.0)
