import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from erv_lightning.rl.advantages import SCALES, group_advantages

every_scale = pytest.mark.parametrize("scale", SCALES)


def test_advantages_by_hand():
    # mean 1, unbiased variance (1 + 0 + 1) / 2
    advantages = group_advantages(tensor([0.0, 1.0, 2.0, 5.0, 5.0, 8.0]), 3)
    first, second = [-1 / 1.0001, 0.0, 1 / 1.0001], [-1, -1, 2]
    deviation = 3**0.5 + 1e-4
    assert advantages.tolist() == pytest.approx([*first, *(one / deviation for one in second)])


def by_loop(rewards, group_size, scale, eps):
    groups = [rewards[start : start + group_size] for start in range(0, len(rewards), group_size)]
    advantages = []
    for group in groups:
        if len(set(group)) == 1:
            advantages += [0.0] * group_size
            continue
        over = {"group": group, "batch": rewards, "none": None}[scale]
        divisor = 1.0 if over is None else statistics.stdev(over) + eps
        advantages += [(one - statistics.fmean(group)) / divisor for one in group]
    return advantages


@every_scale
@settings(max_examples=40, deadline=None)
@given(
    group_size=st.integers(1, 5),
    prompts=st.integers(0, 4),
    data=st.data(),
    eps=st.sampled_from([1e-4, 0.5]),
)
def test_advantages_equal_the_formula_group_by_group(scale, group_size, prompts, data, eps):
    count = group_size * prompts
    rewards = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.25]), min_size=count, max_size=count))
    advantages = group_advantages(torch.tensor(rewards), group_size, scale=scale, eps=eps)
    assert advantages.shape == (count,)
    assert advantages.tolist() == pytest.approx(by_loop(rewards, group_size, scale, eps), abs=1e-5)


@every_scale
@pytest.mark.parametrize("value", [0.1, 1 / 3, 2.7182817])
def test_a_group_of_equal_rewards_has_exactly_no_advantage(scale, value):
    rewards = tensor([value] * 7 + [0.0, 1.0] * 3 + [0.5])
    advantages = group_advantages(rewards, 7, scale=scale)
    assert advantages[:7].tolist() == [0.0] * 7
    assert advantages[7:13].abs().min() > 0.1


@every_scale
@pytest.mark.filterwarnings("error")
def test_a_group_of_one_and_an_empty_batch_have_no_advantage(scale):
    assert group_advantages(tensor([1.0, 3.0]), 1, scale=scale).tolist() == [0.0, 0.0]
    assert group_advantages(torch.zeros(0), 4, scale=scale).shape == (0,)


def test_integer_rewards_are_taken_and_nothing_flows_back():
    assert group_advantages(tensor([0, 2]), 2, scale="none").tolist() == [-1.0, 1.0]
    assert not group_advantages(tensor([0.0, 2.0], requires_grad=True), 2).requires_grad


@pytest.mark.parametrize(
    ("rewards", "group_size", "scale", "message"),
    [
        ([0.0, 1.0], 2, "std", "'std'; known: group, batch, none"),
        ([0.0, 1.0, 2.0], 2, "group", r"\(3,\) are no whole groups of 2"),
        ([[0.0, 1.0]], 2, "group", r"\(1, 2\) are no whole groups"),
        ([0.0, 1.0], 0, "group", "groups of 0"),
        ([0.0, float("nan")], 2, "group", r"not finite for completions \[1\]"),
        ([float("inf"), 0.0], 2, "none", r"not finite for completions \[0\]"),
    ],
)
def test_what_does_not_fit_is_an_error(rewards, group_size, scale, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(tensor(rewards), group_size, scale=scale)
