"""Splits by clip and balance by label, by hand and as properties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erv_lightning.teaching.selection import balanced, check_fractions, groups, parts_of
from erv_lightning.teaching.sentences import Mention

SHARES = (0.8, 0.1, 0.1)
A, B, C = ("a",), ("b",), ("c",)


def at(clip: str, path: str = "", source: str = "", dataset: str = "d") -> Mention:
    return Mention(f"{dataset}/{clip}/1", "…", dataset, path, source, "")


# -- groups --------------------------------------------------------------------------------------------------------


def test_a_group_is_a_source_or_else_a_clip_of_a_data_set() -> None:
    found = groups(
        [at("1", source="x"), at("2", source="x"), at("3"), at("3", dataset="e"), at("4", source="x", dataset="e")]
    )
    assert found == ["source/d/x", "source/d/x", "clip/d/3", "clip/e/3", "source/e/x"]


def test_clips_that_share_a_file_or_an_id_are_one_group() -> None:
    found = groups([at("1", "v/1.mp4"), at("2", "v/1.mp4"), at("2", "elsewhere/1.mp4"), at("9", "v/9.mp4")])
    assert found == ["clip/d/1", "clip/d/1", "clip/d/1", "clip/d/9"]


def test_a_clip_found_a_second_time_without_its_source_stays_with_its_source() -> None:
    assert groups([at("1", "v/1.mp4"), at("7", source="x"), at("1", source="x")]) == ["source/d/x"] * 3


def test_a_group_is_called_the_same_wherever_its_clips_lie() -> None:
    assert groups([at("1", "/here/1.mp4")]) == groups([at("1", "there/1.mp4")]) == groups([at("1")])


# -- splits --------------------------------------------------------------------------------------------------------


def test_splits_have_their_shares_on_average_and_depend_on_the_seed() -> None:
    names = [f"clip/{number}" for number in range(4000)]
    first, second = (Counter(parts_of(names, SHARES, seed)) for seed in (0, 1))

    assert first["train"] == pytest.approx(3200, abs=100)
    assert first["val"] == pytest.approx(400, abs=80)
    assert parts_of(names, SHARES, 0) != parts_of(names, SHARES, 1)
    assert second["train"] == pytest.approx(3200, abs=100)


@given(st.lists(st.text(max_size=8), unique=True), st.lists(st.text(max_size=8)), st.integers(0, 9))
def test_a_clip_stays_in_its_split_when_data_are_added(names: list[str], added: list[str], seed: int) -> None:
    assert parts_of([*added, *names], SHARES, seed)[len(added) :] == parts_of(names, SHARES, seed)


def test_a_share_of_0_is_no_split() -> None:
    assert {*parts_of([str(i) for i in range(500)], (0.9, 0.1, 0.0), 0)} == {"train", "val"}


@pytest.mark.parametrize(
    "shares", [(0.8, 0.1), (0.8, 0.1, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0, 1)]
)
def test_shares_that_are_none_are_refused(shares: Sequence[float]) -> None:
    with pytest.raises(ValueError, match=r"--fractions .* that add up to 1: 0\.8 0\.1 0\.1"):
        check_fractions(shares)


# -- balance -------------------------------------------------------------------------------------------------------


def test_each_label_keeps_at_most_the_median() -> None:
    labels = {"1": A, "2": A, "3": A, "4": A, "5": A, "6": B, "7": B, "8": B, "9": C}
    kept, limit = balanced(labels, None, 0)

    assert limit == 3  # of 5, 3 and 1
    assert Counter(label for name in kept for label in labels[name]) == {"a": 3, "b": 3, "c": 1}
    assert kept == sorted(kept)  # in their order


def test_the_median_of_two_labels_is_cut_to_a_whole_number() -> None:
    assert balanced({"1": A, "2": A, "3": A, "4": A, "5": B}, None, 0)[1] == 2


def test_rare_labels_are_filled_first_so_that_frequent_ones_cannot_crowd_them_out() -> None:
    labels = {"1": A, "2": A, "3": A, "4": ("a", "b"), "5": ("a", "c")}
    for seed in range(20):
        kept, limit = balanced(labels, 2, seed)
        assert (kept, limit) == (["4", "5"], 2)  # b and c have one sentence each, which fill a


def test_a_sentence_whose_other_label_is_full_gives_way_to_one_with_room() -> None:
    labels = {"1": ("a", "b"), "2": ("a", "b"), "3": ("b", "c"), "4": B, "5": B, "6": C, "7": C, "8": C}
    for seed in range(20):
        kept, _ = balanced(labels, 2, seed)
        counts = Counter(label for name in kept for label in labels[name])
        assert {*kept} == {"1", "2"} | ({*kept} & {"6", "7", "8"})  # a fills b: no room for 3, 4 and 5
        assert counts == {"a": 2, "b": 2, "c": 2}


def test_which_sentences_stay_depends_on_the_seed_and_0_keeps_all() -> None:
    labels = {str(number): A for number in range(50)}
    assert balanced(labels, 5, 0)[0] == balanced(labels, 5, 0)[0] != balanced(labels, 5, 1)[0]
    assert balanced(labels, 0, 0) == (list(labels), 0)
    assert balanced({}, None, 0) == ([], 0)


@settings(max_examples=60)
@given(
    st.lists(st.sets(st.sampled_from("abcd"), min_size=1, max_size=3), max_size=30),
    st.integers(1, 8) | st.none(),
    st.integers(0, 5),
)
def test_no_label_exceeds_the_limit_and_what_is_left_out_had_no_room(
    sets: list[set[str]], per_label: int | None, seed: int
) -> None:
    labels = {str(number): tuple(sorted(one)) for number, one in enumerate(sets)}
    kept, limit = balanced(labels, per_label, seed)
    counts = Counter(label for name in kept for label in labels[name])

    assert all(count <= limit for count in counts.values())
    assert all(any(counts[label] == limit for label in labels[name]) for name in labels.keys() - kept)
