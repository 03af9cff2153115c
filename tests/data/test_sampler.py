from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erv_lightning.data.sampler import EpochSampler


def indices(sampler: EpochSampler) -> list[int]:
    """The samples of the next pass."""
    return [draw.sample for draw in sampler]


SIZES, WORLDS, EPOCHS = st.integers(0, 40), st.integers(1, 7), st.integers(0, 5)


def ranks(size: int, world: int, epoch: int = 0, **settings: bool) -> list[list[int]]:
    """What each process gets in an epoch."""
    shares = []
    for rank in range(world):
        sampler = EpochSampler([1.0] * size, seed=3, rank=rank, world=world, **settings)
        sampler.set_epoch(epoch)
        shares.append(indices(sampler))
        assert len(sampler) == len(shares[-1])
    return shares


@given(SIZES, WORLDS, EPOCHS)
def test_in_training_ranks_are_equal_and_disjoint_and_leave_out_less_than_one_sample_each(
    size: int, world: int, epoch: int
) -> None:
    shares = ranks(size, world, epoch, shuffle=True, even=True)
    everything = [index for share in shares for index in share]
    assert {len(share) for share in shares} == {size // world}
    assert len(everything) == len(set(everything))
    assert set(everything) <= set(range(size))
    assert 0 <= size - len(everything) < world


@given(SIZES, WORLDS)
def test_in_evaluation_every_sample_comes_exactly_once_and_in_order(size: int, world: int) -> None:
    shares = ranks(size, world)
    assert sorted(index for share in shares for index in share) == list(range(size))
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(SIZES, WORLDS, EPOCHS)
def test_the_ranks_together_go_through_the_order_of_one_process(size: int, world: int, epoch: int) -> None:
    (alone,) = ranks(size, 1, epoch, shuffle=True)
    shares = ranks(size, world, epoch, shuffle=True)
    expected: list[list[int]] = [[] for _ in range(world)]
    for place, index in enumerate(alone):
        expected[place % world].append(index)
    assert shares == expected


def order(seed: int, epoch: int) -> list[int]:
    sampler = EpochSampler([1.0] * 50, seed=seed, shuffle=True)
    sampler.set_epoch(epoch)
    return indices(sampler)


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): order(seed, epoch) for seed in range(6) for epoch in range(6)}
    assert all(order(*pair) == found for pair, found in orders.items())
    # every pair has its own: seed 1 in epoch 0 is not seed 0 in epoch 1
    assert len({tuple(found) for found in orders.values()}) == 36


def test_going_back_to_an_epoch_gives_its_order_again() -> None:
    sampler = EpochSampler([1.0] * 20, shuffle=True)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first == list(sampler)


def test_the_samples_left_out_differ_between_epochs() -> None:
    left_out = set()
    for epoch in range(10):
        used = {index for share in ranks(10, 3, epoch, shuffle=True, even=True) for index in share}
        left_out |= set(range(10)) - used
    assert len(left_out) > 3


# -- weights ------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.3, 0.5, 1.0, 2.0, 2.5]), max_size=40), EPOCHS)
def test_an_epoch_draws_every_sample_as_often_as_its_weight_says(weights: list[float], epoch: int) -> None:
    sampler = EpochSampler(weights, seed=1, shuffle=True)
    sampler.set_epoch(epoch)
    drawn = indices(sampler)
    assert len(drawn) == len(sampler)
    for weight in set(weights):
        members = [index for index, own in enumerate(weights) if own == weight]
        times = [drawn.count(index) for index in members]
        assert sum(times) == round(weight * len(members))
        assert max(times) - min(times) <= 1


def test_a_weight_below_one_draws_other_samples_each_epoch() -> None:
    sampler = EpochSampler([0.5] * 20, shuffle=True)
    seen = []
    for epoch in range(12):
        sampler.set_epoch(epoch)
        seen.append(frozenset(indices(sampler)))
    assert {len(one) for one in seen} == {10}
    assert len(set(seen)) > 6
    assert frozenset.union(*seen) == frozenset(range(20))


def test_a_draw_knows_its_epoch() -> None:
    sampler = EpochSampler([1.0] * 3)
    sampler.set_epoch(4)
    assert [draw.epoch for draw in sampler] == [4, 4, 4]


# -- going on -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), WORLDS, st.integers(0, 12))
def test_a_pass_that_skips_is_the_rest_of_the_whole_pass_and_the_next_one_is_whole(
    size: int, world: int, skip: int
) -> None:
    for rank in range(world):
        whole = indices(EpochSampler([1.0] * size, shuffle=True, rank=rank, world=world))
        sampler = EpochSampler([1.0] * size, shuffle=True, rank=rank, world=world)
        sampler.skip = skip
        assert indices(sampler) == whole[skip:]
        assert indices(sampler) == whole
