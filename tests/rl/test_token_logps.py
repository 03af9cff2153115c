"""Token log-probabilities against torch's own log-softmax and autograd, in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from erv_lightning.rl.logprobs import token_logps

TOKENS, WIDTH, VOCABULARY = 23, 6, 17
UNSAYABLE = torch.tensor([0, 5, 16])

temperatures = pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
unsayables = pytest.mark.parametrize("unsayable", [None, UNSAYABLE], ids=["all sayable", "some unsayable"])


class Head(nn.Module):
    """A language model's last layer, all that `token_logps` uses of a backbone; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, VOCABULARY, dtype=torch.float64)
        self.model = SimpleNamespace(get_output_embeddings=lambda: self.linear)
        self.calls = 0

    def logits(self, states: Tensor) -> Tensor:
        self.calls += 1
        scores: Tensor = self.linear(3 * states)
        return scores


@pytest.fixture
def head() -> Any:
    return Head()


def states_and_targets(sayable_only: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    if sayable_only:
        targets = torch.where(torch.isin(targets, UNSAYABLE), 1, targets)
    return states, targets


def by_torch(head: Any, states: Tensor, targets: Tensor, temperature: float, unsayable: Tensor | None) -> Tensor:
    scores = head.linear(3 * states) / temperature
    if unsayable is not None:
        scores = scores.index_fill(-1, unsayable, -math.inf)
    return torch.log_softmax(scores, -1)[torch.arange(TOKENS), targets]


def gradients(head: Any, states: Tensor, logp: Tensor) -> list[Tensor]:
    """Of the states and of the head, for a loss that weighs every token otherwise."""
    weight = torch.linspace(-1, 2, TOKENS, dtype=torch.float64)
    return list(torch.autograd.grad(logp, [states, *head.linear.parameters()], weight))


@temperatures
@unsayables
@pytest.mark.parametrize("chunk", [1, 5, TOKENS, 1000], ids=lambda tokens: f"{tokens} tokens a chunk")
def test_values_and_gradients_are_those_of_log_softmax(
    head: Any, temperature: float, unsayable: Tensor | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erv_lightning.rl.logprobs.CHUNK_SCORES", chunk * VOCABULARY)
    states, targets = states_and_targets(sayable_only=True)
    logp, _ = token_logps(head, states, targets, temperature, unsayable, entropy=False)
    expected = by_torch(head, states, targets, temperature, unsayable)
    assert_close(logp, expected, atol=1e-13, rtol=1e-13)
    for found, theirs in zip(gradients(head, states, logp), gradients(head, states, expected), strict=True):
        assert found.any()
        assert_close(found, theirs, atol=1e-12, rtol=1e-12)


@temperatures
@pytest.mark.parametrize("chunk", [4, 1000])
def test_a_target_that_cannot_be_said_has_no_probability_and_a_finite_gradient(
    head: Any, temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erv_lightning.rl.logprobs.CHUNK_SCORES", chunk * VOCABULARY)
    states, targets = states_and_targets(sayable_only=False)
    logp, entropy = token_logps(head, states, targets, temperature, UNSAYABLE, entropy=True)
    silent = torch.isin(targets, UNSAYABLE)
    assert 0 < silent.sum() < TOKENS
    assert (logp[silent] == -math.inf).all()
    assert logp[~silent].isfinite().all()
    assert entropy.isfinite().all()
    expected = by_torch(head, states, targets, temperature, UNSAYABLE)
    for found, theirs in zip(gradients(head, states, logp), gradients(head, states, expected), strict=True):
        assert found.isfinite().all()
        assert_close(found, theirs, atol=1e-12, rtol=1e-12)


@temperatures
@unsayables
@pytest.mark.parametrize("chunk", [4, 1000])
def test_entropy_is_the_sum_by_hand_and_carries_no_gradient(
    head: Any, temperature: float, unsayable: Tensor | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erv_lightning.rl.logprobs.CHUNK_SCORES", chunk * VOCABULARY)
    states, targets = states_and_targets(sayable_only=True)
    logp, entropy = token_logps(head, states, targets, temperature, unsayable, entropy=True)
    assert logp.requires_grad
    assert not entropy.requires_grad
    for row, scores in enumerate((head.linear(3 * states) / temperature).tolist()):
        allowed = [score for token, score in enumerate(scores) if unsayable is None or token not in unsayable.tolist()]
        total = math.fsum(math.exp(score) for score in allowed)
        by_hand = -math.fsum(math.exp(score) / total * math.log(math.exp(score) / total) for score in allowed)
        assert float(entropy[row]) == pytest.approx(by_hand, abs=1e-12)


def test_entropy_is_zero_and_not_nan_where_one_token_has_all_the_probability(head: Any) -> None:
    with torch.no_grad():
        head.linear.bias[3] = 1e5
    states, targets = states_and_targets(sayable_only=True)
    logp, entropy = token_logps(head, states, targets, 1.0, UNSAYABLE, entropy=True)
    assert logp.isfinite().all()
    assert entropy.tolist() == pytest.approx([0.0] * TOKENS, abs=1e-9)


def test_scores_of_one_chunk_exist_at_a_time_and_are_worked_out_again_in_backward(
    head: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, targets = states_and_targets(sayable_only=True)

    def calls() -> tuple[int, int]:
        head.calls = 0
        logp, _ = token_logps(head, states, targets, 1.0, None, entropy=False)
        forward = head.calls
        logp.sum().backward()
        return forward, head.calls - forward

    assert calls() == (1, 0)  # all of them fit: kept
    monkeypatch.setattr("erv_lightning.rl.logprobs.CHUNK_SCORES", 5 * VOCABULARY + 1)
    assert calls() == (5, 5)  # 5 + 5 + 5 + 5 + 3 tokens
    monkeypatch.setattr("erv_lightning.rl.logprobs.CHUNK_SCORES", 1)
    assert calls() == (TOKENS, TOKENS)  # one token is the least


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shorter_floats_give_float32_log_probabilities_and_gradients_of_their_own_type(
    head: Any, dtype: torch.dtype
) -> None:
    states, targets = states_and_targets(sayable_only=True)
    expected = by_torch(head, states, targets, 0.7, UNSAYABLE)
    head.linear.to(dtype)
    short = states.detach().to(dtype).requires_grad_()
    logp, _ = token_logps(head, short, targets, 0.7, UNSAYABLE, entropy=False)
    assert logp.dtype == torch.float32
    assert_close(logp.double(), expected, atol=1e-5 if dtype == torch.float32 else 0.2, rtol=0)
    logp.sum().backward()
    assert short.grad is not None
    assert short.grad.dtype == head.linear.weight.grad.dtype == dtype
    assert short.grad.isfinite().all()
