import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from erv_lightning.rl.advantages import SCALES, group_advantages, normalised_sum, zero_std_groups

every_scale = pytest.mark.parametrize("scale", SCALES)


def test_advantages_by_hand():
    # mean 1, unbiased variance (1 + 0 + 1) / 2
    advantages = group_advantages(tensor([0.0, 1.0, 2.0, 5.0, 5.0, 8.0]), 3)
    first, second = [-1 / 1.0001, 0.0, 1 / 1.0001], [-1, -1, 2]
    deviation = 3**0.5 + 1e-4
    assert advantages.tolist() == pytest.approx([*first, *(one / deviation for one in second)])


def by_loop(rewards, group_size, scale, eps, applicable):
    """The formula, group by group, on lists."""
    drawn = [one for one, counts in zip(rewards, applicable, strict=True) if counts]
    advantages = []
    for start in range(0, len(rewards), group_size):
        places = range(start, start + group_size)
        group = [rewards[i] for i in places if applicable[i]]
        if len(set(group)) < 2:
            advantages += [0.0] * group_size
            continue
        over = {"group": group, "batch": drawn, "none": None}[scale]
        divisor = 1.0 if over is None else statistics.stdev(over) + eps
        advantages += [(rewards[i] - statistics.fmean(group)) / divisor if applicable[i] else 0.0 for i in places]
    return advantages


values = st.sampled_from([0.0, 0.5, 1.0, 2.25, 1 / 3])


@every_scale
@settings(max_examples=60, deadline=None)
@given(
    group_size=st.integers(1, 5),
    prompts=st.integers(0, 4),
    data=st.data(),
    eps=st.sampled_from([1e-4, 0.5]),
)
def test_advantages_equal_the_formula_group_by_group(scale, group_size, prompts, data, eps):
    count = group_size * prompts
    rewards = data.draw(st.lists(values, min_size=count, max_size=count))
    applicable = data.draw(st.lists(st.sampled_from([True, True, False]), min_size=count, max_size=count))
    given_rewards = [one if counts else math.nan for one, counts in zip(rewards, applicable, strict=True)]
    advantages = group_advantages(
        tensor(given_rewards, dtype=torch.float64),
        group_size,
        scale=scale,
        eps=eps,
        applicable=tensor(applicable).bool(),
    )
    assert advantages.shape == (count,)
    expected = by_loop(rewards, group_size, scale, eps, applicable)
    assert advantages.tolist() == pytest.approx(expected, abs=1e-12, rel=1e-12)
    everything = group_advantages(tensor(rewards, dtype=torch.float64), group_size, scale=scale, eps=eps)
    expected = by_loop(rewards, group_size, scale, eps, [True] * count)
    assert everything.tolist() == pytest.approx(expected, abs=1e-12, rel=1e-12)


def test_a_completion_that_is_not_applicable_is_as_if_it_had_not_been_drawn():
    rewards, applicable = tensor([0.0, 9.0, 1.0, 2.0, 4.0, 5.0]), tensor([True, False, True, True, False, True])
    for scale in SCALES:
        advantages = group_advantages(rewards, 3, scale=scale, applicable=applicable)
        alone = group_advantages(rewards[applicable], 2, scale=scale)
        assert advantages[~applicable].tolist() == [0.0, 0.0]
        torch.testing.assert_close(advantages[applicable], alone)


@every_scale
def test_one_applicable_completion_has_nothing_to_be_compared_with(scale):
    applicable = tensor([False, True, False, True, True, True])
    advantages = group_advantages(tensor([0.0, 5.0, 1.0, 0.0, 1.0, 2.0]), 3, scale=scale, applicable=applicable)
    assert advantages[:3].tolist() == [0.0, 0.0, 0.0]
    assert advantages[3:].abs().max() > 0.1
    nothing = group_advantages(torch.ones(4), 2, scale=scale, applicable=torch.zeros(4, dtype=torch.bool))
    assert nothing.tolist() == [0.0] * 4


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


# -- groups without a difference ----------------------------------------------------------------------------------


def test_a_group_has_zero_std_by_equality_and_not_by_a_small_deviation():
    close = math.nextafter(0.1, 1.0)
    rewards = tensor([0.1, 0.1, 0.1, 0.1, 0.1, close, 0.0, 1.0, 0.0], dtype=torch.float64)
    assert zero_std_groups(rewards, 3).tolist() == [True, False, False]
    assert zero_std_groups(rewards, 1).all()
    assert zero_std_groups(torch.zeros(0), 3).shape == (0,)


def test_zero_std_looks_at_applicable_completions_alone():
    rewards = tensor([1.0, 1.0, 0.0, 0.0, 1.0, math.nan])
    applicable = tensor([True, True, False, True, False, False])
    assert zero_std_groups(rewards, 3, applicable).tolist() == [True, True]
    assert zero_std_groups(rewards[:3], 3).tolist() == [False]
    assert zero_std_groups(rewards, 2, tensor([True, True, True, True, True, False])).tolist() == [True, True, True]
    assert zero_std_groups(rewards, 3, torch.zeros(6, dtype=torch.bool)).tolist() == [True, True]


@settings(max_examples=60, deadline=None)
@given(group_size=st.integers(1, 4), prompts=st.integers(0, 4), data=st.data())
def test_without_advantage_are_the_zero_std_groups_and_no_other(group_size, prompts, data):
    count = group_size * prompts
    rewards = tensor(data.draw(st.lists(values, min_size=count, max_size=count)))
    applicable = tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count))).bool()
    advantages = group_advantages(rewards, group_size, applicable=applicable).view(-1, group_size)
    assert (advantages == 0).all(1).tolist() == zero_std_groups(rewards, group_size, applicable).tolist()


# -- each reward on its own scale ---------------------------------------------------------------------------------


def test_rewards_are_normalised_before_they_are_added_by_hand():
    parts = {"format": tensor([0.0, 1.0, 1.0, 1.0]), "length": tensor([10.0, 30.0, 70.0, 70.0])}
    # within each group of two: format ∓1/√2 and nothing, length ∓1/√2 and nothing (std = |difference| / √2)
    one = [0.5 / (0.5**0.5 + 1e-4), 10 / (200**0.5 + 1e-4)]
    total = 2 * one[0] + 0.5 * one[1]
    deviation = (2 * total**2 / 3) ** 0.5 + 1e-4
    advantages = normalised_sum(parts, {"format": 2.0, "length": 0.5}, 2)
    assert advantages.tolist() == pytest.approx([-total / deviation, total / deviation, 0.0, 0.0])
    assert advantages[2:].tolist() == [0.0, 0.0]


def normalised_by_loop(parts, weights, group_size, eps, applicable):
    """Every reward through the formula of one reward, then the sums against each other."""
    count = len(applicable)
    sums = [0.0] * count
    for name, part in parts.items():
        applies = [not math.isnan(one) and counts for one, counts in zip(part, applicable, strict=True)]
        for i, one in enumerate(by_loop(part, group_size, "group", eps, applies)):
            sums[i] += weights[name] * one
    counted = [i for i in range(count) if applicable[i] and not all(math.isnan(part[i]) for part in parts.values())]
    if len({sums[i] for i in counted}) < 2:
        return [0.0] * count
    mean, std = statistics.fmean(sums[i] for i in counted), statistics.stdev(sums[i] for i in counted)
    return [(sums[i] - mean) / (std + eps) if i in counted else 0.0 for i in range(count)]


@settings(max_examples=80, deadline=None)
@given(
    group_size=st.integers(1, 4),
    prompts=st.integers(0, 3),
    data=st.data(),
    eps=st.sampled_from([1e-4, 0.5]),
)
def test_the_normalised_sum_equals_its_definition(group_size, prompts, data, eps):
    count = group_size * prompts
    some = st.lists(values | st.just(math.nan), min_size=count, max_size=count)
    parts = {name: data.draw(some) for name in ("format", "mine", "other")}
    weights = {"format": 1.0, "mine": 0.5, "other": -0.25}
    applicable = data.draw(st.lists(st.sampled_from([True, True, False]), min_size=count, max_size=count))
    tensors = {name: tensor(part, dtype=torch.float64) for name, part in parts.items()}
    advantages = normalised_sum(tensors, weights, group_size, eps=eps, applicable=tensor(applicable).bool())
    expected = normalised_by_loop(parts, weights, group_size, eps, applicable)
    assert advantages.tolist() == pytest.approx(expected, abs=1e-11, rel=1e-11)
    everything = normalised_sum(tensors, weights, group_size, eps=eps)
    expected = normalised_by_loop(parts, weights, group_size, eps, [True] * count)
    assert everything.tolist() == pytest.approx(expected, abs=1e-11, rel=1e-11)


def test_a_group_in_which_no_reward_differs_has_exactly_no_advantage():
    parts = {"a": tensor([0.1] * 7 + [0.0, 1.0, 0.3] + [0.7] * 4), "b": tensor([1 / 3] * 14)}
    advantages = normalised_sum(parts, {"a": 1.0, "b": 3.0}, 7)
    assert advantages[:7].tolist() == [0.0] * 7
    assert advantages[7:].abs().min() > 0.1
    same = {"a": torch.full((6,), 0.1), "b": torch.full((6,), 0.7)}
    assert normalised_sum(same, {"a": 1.0, "b": 3.0}, 3).tolist() == [0.0] * 6


def test_rewards_that_cancel_leave_exactly_no_advantage():
    rewards = tensor([0.1, 0.7, 0.3, 0.9])
    assert normalised_sum({"a": rewards, "b": rewards}, {"a": 1.0, "b": -1.0}, 2).tolist() == [0.0] * 4


def test_the_scale_of_a_reward_does_not_change_the_normalised_sum():
    rewards = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = rewards.flip(0).square()
    weights = {"a": 1.0, "b": 1.0}
    advantages = normalised_sum({"a": rewards, "b": other}, weights, 4, eps=0.0)
    torch.testing.assert_close(normalised_sum({"a": 100 * rewards + 5, "b": other}, weights, 4, eps=0.0), advantages)


def test_an_infinite_reward_and_names_that_do_not_match_are_errors():
    with pytest.raises(ValueError, match=r"not finite for completions \[1\]"):
        normalised_sum({"a": tensor([0.0, math.inf])}, {"a": 1.0}, 2)
    with pytest.raises(ValueError, match=r"rewards \['a'\] but weights of \['a', 'b'\]"):
        normalised_sum({"a": torch.zeros(2)}, {"a": 1.0, "b": 1.0}, 2)
    with pytest.raises(ValueError, match=r"rewards \[\] but weights of \[\]"):
        normalised_sum({}, {}, 2)


# -- what does not fit --------------------------------------------------------------------------------------------


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


def test_rewards_need_not_be_finite_where_they_are_not_applicable():
    rewards, applicable = tensor([0.0, math.nan, 1.0, math.inf]), tensor([True, False, True, True])
    with pytest.raises(ValueError, match=r"not finite for completions \[3\] \(of 1\)"):
        group_advantages(rewards, 4, applicable=applicable)
    with pytest.raises(ValueError, match=r"applicable is \(3,\), not \(4,\) as rewards"):
        group_advantages(rewards, 4, applicable=applicable[:3])
