"""Who sees what: balanced for every clip and every rater, in any order of raters."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from erv_lightning.study.assignment import Load, check_positions, choose, instruction, passed


def simulate(clips: int, per_item: int, per_rater: int, seed: int) -> dict[int, list[tuple[int, bool]]]:
    """Raters who come and answer in random order until nobody is needed: rater → (clip, A on the left)."""
    rng = random.Random(seed)
    given: Counter[int] = Counter()
    lean: Counter[int] = Counter()
    seen: dict[int, list[tuple[int, bool]]] = {}
    waiting = list(range(-(-clips * per_item // per_rater) + per_item))
    while waiting:
        rater = rng.choice(waiting)
        own = seen.setdefault(rater, [])
        loads = [Load(clip, given[clip], lean[clip]) for clip in range(clips) if clip not in [one for one, _ in own]]
        choice = choose(loads, sum(2 * left - 1 for _, left in own), per_item, rng) if len(own) < per_rater else None
        if choice is None:
            waiting.remove(rater)
            continue
        own.append((choice.item, choice.a_left))
        given[choice.item] += 1
        lean[choice.item] += 2 * choice.a_left - 1
    return seen


studies = given(
    clips=st.integers(1, 24), per_item=st.integers(1, 6), per_rater=st.integers(1, 24), seed=st.integers(0, 99)
)


@studies
@settings(max_examples=60, deadline=None)
def test_no_rater_sees_a_clip_twice_and_every_clip_gets_its_raters(
    clips: int, per_item: int, per_rater: int, seed: int
) -> None:
    per_rater = min(per_rater, clips)
    seen = simulate(clips, per_item, per_rater, seed)
    given = Counter(clip for own in seen.values() for clip, _ in own)
    assert all(len({clip for clip, _ in own}) == len(own) <= per_rater for own in seen.values())
    assert set(given.values()) == {per_item}
    assert len(given) == clips


@studies
@settings(max_examples=60, deadline=None)
def test_each_arm_stands_on_the_left_as_often_as_on_the_right(
    clips: int, per_item: int, per_rater: int, seed: int
) -> None:
    seen = simulate(clips, per_item, min(per_rater, clips), seed)
    lean: Counter[int] = Counter()
    for own in seen.values():
        for clip, left in own:
            lean[clip] += 2 * left - 1
    assert all(abs(value) <= 1 for value in lean.values())  # odd numbers cannot be halved


def test_sides_are_even_for_raters_too() -> None:
    leans = [
        abs(sum(2 * left - 1 for _, left in own))
        for seed in range(20)
        for own in simulate(clips=40, per_item=4, per_rater=10, seed=seed).values()
        if len(own) == 10
    ]
    assert sum(leans) / len(leans) < 1.0  # a coin for each page gives 2.5
    assert max(leans) <= 6


def test_the_clip_that_is_taken_least_comes_first() -> None:
    loads = [Load(0, 2, 0), Load(1, 0, 0), Load(2, 1, 1)]
    picked = {choose(loads, 0, 3, random.Random(seed)) for seed in range(20)}
    assert {choice.item for choice in picked if choice} == {1}
    assert {choice.a_left for choice in picked if choice} == {True, False}


def test_nothing_is_given_where_all_clips_are_taken() -> None:
    assert choose([Load(0, 3, 1), Load(1, 3, -1)], 0, 3, random.Random(0)) is None
    assert choose([], 0, 3, random.Random(0)) is None


@given(clips=st.integers(1, 30), checks=st.integers(0, 5), seed=st.integers(0, 99))
def test_checks_stand_anywhere_but_first(clips: int, checks: int, seed: int) -> None:
    if checks > clips + checks - 1:
        return
    positions = check_positions(clips, checks, random.Random(seed))
    assert len(set(positions)) == checks
    assert all(1 <= position < clips + checks for position in positions)


def test_a_check_is_passed_by_doing_what_it_says() -> None:
    assert "“fear”" in instruction("fear")
    assert passed(6, 6, "b")
    assert not passed(6, 6, "a")
    assert not passed(6, 6, "tie")
    assert not passed(6, 5, "b")
