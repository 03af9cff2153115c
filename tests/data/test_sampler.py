from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erv_lightning.data.sampler import EpochSampler

SIZES, WORLDS, EPOCHS = st.integers(0, 40), st.integers(1, 7), st.integers(0, 5)


def ranks(size: int, world: int, epoch: int = 0, **settings: bool) -> list[list[int]]:
    """What each process gets in an epoch."""
    shares = []
    for rank in range(world):
        sampler = EpochSampler(size, seed=3, rank=rank, world=world, **settings)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
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
    sampler = EpochSampler(50, seed=seed, shuffle=True)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): order(seed, epoch) for seed in range(6) for epoch in range(6)}
    assert all(order(*pair) == found for pair, found in orders.items())
    # every pair has its own: seed 1 in epoch 0 is not seed 0 in epoch 1
    assert len({tuple(found) for found in orders.values()}) == 36


def test_going_back_to_an_epoch_gives_its_order_again() -> None:
    sampler = EpochSampler(20, shuffle=True)
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
