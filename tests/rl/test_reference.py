"""The weights that the policy has left behind: put in its place for a forward, and following it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import PromptBatch
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.reference import KeptWeights


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def moved(policy: nn.Module) -> list[Tensor]:
    """Gives the policy other weights, and returns a copy of them."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter.dtype))
    return [parameter.detach().clone() for parameter in policy.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_inside_the_policy_is_the_reference_and_afterwards_bit_for_bit_itself(dtype: torch.dtype) -> None:
    policy, x = network(dtype=dtype), torch.randn(4, 5).to(dtype)
    start = policy(x)
    reference, held = KeptWeights(policy.parameters()), [id(parameter) for parameter in policy.parameters()]
    now = moved(policy)
    there = policy(x)
    for _ in range(3):
        with reference.in_place(), torch.no_grad():
            assert torch.equal(policy(x), start)
        assert all(torch.equal(*pair) for pair in zip(policy.parameters(), now, strict=True))
        assert torch.equal(policy(x), there)
    assert [id(parameter) for parameter in policy.parameters()] == held  # optimisers still hold these


def test_an_error_inside_leaves_the_policy_itself() -> None:
    policy = network()
    reference = KeptWeights(policy.parameters())
    now = moved(policy)
    with pytest.raises(RuntimeError, match="inside"), reference.in_place():
        raise RuntimeError("inside")
    assert all(torch.equal(*pair) for pair in zip(policy.parameters(), now, strict=True))


def test_what_does_not_train_is_not_kept_and_not_exchanged() -> None:
    policy = network()
    policy[0].requires_grad_(False)
    reference = KeptWeights(parameter for parameter in policy.parameters() if parameter.requires_grad)
    assert len(reference.kept) == 2
    with torch.no_grad():
        policy[0].weight.add_(1.0)
    frozen = policy[0].weight.clone()
    with reference.in_place():
        assert torch.equal(policy[0].weight, frozen)


def test_an_optimiser_goes_on_as_if_nothing_had_been_exchanged() -> None:
    def trained(exchange: bool) -> list[Tensor]:
        policy, x = network(), torch.linspace(-1, 1, 20).view(4, 5)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
        reference = KeptWeights(policy.parameters())
        for _ in range(3):
            if exchange:
                with reference.in_place(), torch.no_grad():
                    policy(x)
            optimizer.zero_grad()
            policy(x).square().sum().backward()
            optimizer.step()
        return list(policy.parameters())

    assert all(torch.equal(*pair) for pair in zip(trained(True), trained(False), strict=True))


def test_following_is_a_moving_average_worked_out_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    reference = KeptWeights([weight])
    for now, expected in (([2.0, 0.0], [1.25, -1.5]), ([2.25, 0.5], [1.5, -1.0])):  # a quarter of the way each time
        weight.data = torch.tensor(now)
        reference.follow(0.75)
        assert reference.kept[0].tolist() == expected
        assert weight.tolist() == now
    assert not reference.kept[0].requires_grad


def test_what_is_kept_can_be_saved_and_taken_over(tmp_path: Any) -> None:
    policy = network()
    reference = KeptWeights(policy.parameters())
    moved(policy)
    reference.follow(0.5)
    torch.save(reference.state_dict(), tmp_path / "reference.pt")
    other = KeptWeights(network(seed=1).parameters())
    other.load_state_dict(torch.load(tmp_path / "reference.pt", weights_only=True))
    assert all(torch.equal(*pair) for pair in zip(other.kept, reference.kept, strict=True))
    reference.follow(0.5)
    assert not torch.equal(other.kept[0], reference.kept[0])  # not the same memory


def test_a_models_forward_inside_is_that_of_the_model_as_it_was(prompts: PromptBatch) -> None:
    def logps(backbone: QwenOmniBackbone) -> Tensor:
        ids, mask = torch.arange(300, 312).view(3, 4), torch.ones(3, 4, dtype=torch.bool)
        with torch.no_grad():
            return completion_logps(backbone, backbone.embed(prompts), prompts, ids, mask)[0]

    start, policy = (QwenOmniBackbone("tiny", freeze=["vision"]).eval() for _ in range(2))
    reference = KeptWeights(policy.trainable())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    with reference.in_place():
        assert torch.equal(logps(policy), logps(start))
    assert not torch.equal(logps(policy), logps(start))


def test_in_bfloat16_many_small_steps_add_up() -> None:
    policy = network(dtype=torch.bfloat16)
    reference = KeptWeights(policy.parameters())
    start = [kept.clone() for kept in reference.kept]
    now = moved(policy)
    for _ in range(700):  # each far below what bfloat16 can tell apart
        reference.follow(0.999)
    covered = 1 - 0.999**700
    for kept, before, after in zip(reference.kept, start, now, strict=True):
        expected = before.float() + covered * (after.float() - before.float())
        torch.testing.assert_close(kept.float(), expected, atol=0.01, rtol=0.01)
    other = KeptWeights(network(dtype=torch.bfloat16).parameters())
    other.load_state_dict([one.clone() for one in reference.state_dict()])
    assert all(torch.equal(*pair) for pair in zip(other.kept, reference.kept, strict=True))
    assert all(one.dtype == torch.float32 for one in other.state_dict())
