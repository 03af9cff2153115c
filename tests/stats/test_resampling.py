"""The bootstrap's draws: what comes together, how often, and what is divided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from erv_lightning.stats.resampling import design, mean_ratio, ratio, weights


def draw(units: list[str], labels: list[int], draws: int = 300, **options: bool) -> np.ndarray:
    return np.concatenate(list(weights(design(units, labels, **options), draws, np.random.default_rng(0))))


def test_each_draw_takes_as_many_clusters_of_a_class_as_there_are():
    labels = [0, 0, 0, 1, 1, 2]
    drawn = draw([f"clip {i}" for i in range(6)], labels)
    for label, count in ((0, 3), (1, 2), (2, 1)):
        assert (drawn[:, np.array(labels) == label].sum(axis=1) == count).all()
    assert len(np.unique(drawn, axis=0)) > 10


def test_rows_of_a_cluster_come_together():
    drawn = draw(["a", "b", "a", "c"], [0, 0, 0, 0])
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_clusters_of_several_classes_are_drawn_without_strata():
    mixed = design(["a", "a", "b", "c"], [0, 1, 0, 1])
    assert not mixed.stratified
    assert design(["a", "b"], [0, 1]).stratified
    assert not design(["a", "b"], [0, 1], stratify=False).stratified
    assert not design(["a", "b"], [3, 3]).stratified


def test_clusters_are_numbered_by_first_appearance_so_that_names_change_no_draw():
    a, b = (draw(names, [0, 0, 1, 1, 1]) for names in (list("vwxyz"), list("edcba")))
    np.testing.assert_array_equal(a, b)


def test_how_often_a_row_is_drawn_is_binomial():
    drawn = draw([str(i) for i in range(5)], [0] * 5, draws=4000)
    seen = np.bincount(drawn[:, 0].astype(int), minlength=6)
    expected = stats.binom.pmf(range(6), 5, 1 / 5) * 4000
    assert stats.chisquare([*seen[:4], seen[4:].sum()], [*expected[:4], expected[4:].sum()]).pvalue > 0.001


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_ratio_equals_a_loop_over_draws_seeds_and_classes(seed):
    rng = np.random.default_rng(seed)
    weight = rng.integers(3, size=(4, 6)).astype(float)
    numerator, denominator = rng.integers(2, size=(2, 6, 3, 2)).astype(float)
    found = ratio(weight, numerator, denominator)
    for d in range(4):
        for s in range(3):
            tops = [sum(weight[d, n] * numerator[n, s, c] for n in range(6)) for c in range(2)]
            bottoms = [sum(weight[d, n] * denominator[n, s, c] for n in range(6)) for c in range(2)]
            each = [top / bottom for top, bottom in zip(tops, bottoms, strict=True) if bottom > 0]
            expected = sum(each) / len(each) if each else np.nan
            assert found[d, s] == pytest.approx(expected, nan_ok=True)


def test_a_class_that_does_not_occur_is_left_out_and_none_is_undefined():
    np.testing.assert_array_equal(
        mean_ratio(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[2.0, 0.0], [0, 0]])), [0.5, np.nan]
    )


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="at least one: 0 units, 0 labels"):
        design([], [])
    with pytest.raises(ValueError, match="2 units, 1 labels"):
        design(["a", "b"], [0])
