"""Tests of differences: against scipy, against loops, against numbers by hand, and how often they cry wolf."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from erv_lightning.stats.significance import holm, mcnemar, paired_permutation


def column(values) -> np.ndarray:
    """(rows,) → (rows, one seed, one class)."""
    return np.asarray(values, dtype=float).reshape(-1, 1, 1)


def p_of_means(a, b, clusters=None, **options) -> float:
    ones = np.ones((len(a), 1, 1))
    clusters = np.arange(len(a)) if clusters is None else np.asarray(clusters)
    return paired_permutation(column(a), ones, column(b), ones, clusters, **options)


# -- McNemar -------------------------------------------------------------------------------------------------------


def test_mcnemar_is_a_binomial_test_of_the_rows_that_differ():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.random((2, 40)) < 0.6
        only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
        assert mcnemar(a, b) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_mcnemar_by_hand():
    a = np.array([True] * 5 + [True])
    b = np.array([False] * 5 + [True])
    assert mcnemar(a, b) == pytest.approx(2 / 2**5)


def test_arms_that_never_differ_are_not_told_apart():
    same = np.array([True, False, True])
    assert mcnemar(same, same) == 1.0
    assert p_of_means(same, same) == 1.0


# -- permutation ---------------------------------------------------------------------------------------------------


def test_all_swaps_of_a_small_sample_give_scipys_exact_p():
    rng = np.random.default_rng(1)
    for n in (4, 7, 10):
        a, b = rng.integers(2, size=(2, n)).astype(float)
        oracle = stats.permutation_test(
            (a, b), lambda x, y: x.mean() - y.mean(), permutation_type="samples", n_resamples=np.inf
        ).pvalue
        # scipy doubles the smaller tail; for a symmetric distribution both are the same
        assert p_of_means(a, b) == pytest.approx(oracle, abs=1e-9)


def test_random_swaps_come_near_the_exact_p():
    rng = np.random.default_rng(2)
    a = (rng.random(12) < 0.8).astype(float)
    b = (rng.random(12) < 0.4).astype(float)
    exact = p_of_means(a, b, draws=5000)  # 2^12 = 4096: all of them
    random = p_of_means(a, b, draws=4000)
    assert random == pytest.approx(exact, abs=0.03)
    assert random != exact


def by_loop(top_a, bottom_a, top_b, bottom_b, clusters) -> float:
    """Every swap of clusters, seed by seed and class by class."""

    def arm(top, bottom):
        seeds = []
        for s in range(top.shape[1]):
            each = [
                top[:, s, c].sum() / bottom[:, s, c].sum() for c in range(top.shape[2]) if bottom[:, s, c].sum() > 0
            ]
            seeds.append(np.mean(each))
        return np.mean(seeds)

    found = []
    for swap in product([False, True], repeat=int(clusters.max()) + 1):
        mask = np.array(swap)[clusters][:, None, None]
        a = arm(np.where(mask, top_b, top_a), np.where(mask, bottom_b, bottom_a))
        b = arm(np.where(mask, top_a, top_b), np.where(mask, bottom_a, bottom_b))
        found.append(a - b)
    return float(np.mean(np.abs(found) >= abs(found[0]) - 1e-12))


def test_class_ratios_of_several_seeds_and_clusters_equal_a_loop():
    rng = np.random.default_rng(3)
    clusters = np.array([0, 0, 1, 2, 3, 3, 4, 5])
    classes = np.eye(2)[[0, 0, 1, 1, 0, 0, 1, 0]][:, None, :].repeat(2, axis=1)
    top_a, top_b = (classes * rng.integers(2, size=(8, 2, 1)) for _ in range(2))
    expected = by_loop(top_a, classes, top_b, classes, clusters)
    assert paired_permutation(top_a, classes, top_b, classes, clusters) == pytest.approx(expected)


def test_denominators_that_differ_between_the_arms_are_swapped_too():
    rng = np.random.default_rng(4)
    bottoms = rng.integers(2, size=(2, 7, 1, 1)).astype(float)
    bottoms[:, 0] = 1
    tops = bottoms * rng.integers(2, size=(2, 7, 1, 1))
    clusters = np.arange(7)
    arms = (tops[0], bottoms[0], tops[1], bottoms[1])
    undefined = [
        swap
        for swap in product([0, 1], repeat=7)
        if any(sum(bottoms[s ^ a, i, 0, 0] for i, s in enumerate(swap)) == 0 for a in (0, 1))
    ]
    assert not undefined  # else the loop divides by 0
    assert paired_permutation(*arms, clusters) == pytest.approx(by_loop(*arms, clusters))


def test_copies_of_a_clip_in_one_cluster_are_no_further_evidence():
    rng = np.random.default_rng(5)
    a, b = rng.random((2, 30)) < np.array([[0.7], [0.5]])
    once = p_of_means(a, b, draws=2000)
    copied = p_of_means(np.repeat(a, 10), np.repeat(b, 10), np.repeat(np.arange(30), 10), draws=2000)
    assert copied == pytest.approx(once, abs=0.02)
    assert p_of_means(np.repeat(a, 10), np.repeat(b, 10), draws=2000) < once / 5


def test_no_effect_is_called_significant_about_once_in_twenty():
    found = []
    for seed in range(200):
        a, b = np.random.default_rng(seed).random((2, 40)) < 0.6
        found.append(p_of_means(a, b, draws=300, seed=seed))
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.09


def test_a_real_effect_is_found():
    rng = np.random.default_rng(6)
    a, b = rng.random((2, 200)) < np.array([[0.8], [0.5]])
    assert p_of_means(a, b, draws=1000) < 0.002


def test_arms_of_unequal_seeds_exchange_their_means():
    rng = np.random.default_rng(7)
    a = (rng.random((50, 3, 1)) < 0.8).astype(float)
    b = (rng.random((50, 1, 1)) < 0.5).astype(float)
    found = paired_permutation(a, np.ones_like(a), b, np.ones_like(b), np.arange(50), draws=500)
    mean = paired_permutation(a.mean(1, keepdims=True), np.ones_like(b), b, np.ones_like(b), np.arange(50), draws=500)
    assert found == mean < 0.05


def test_an_undefined_statistic_has_no_p():
    zeros, ones = np.zeros((3, 1, 1)), np.ones((3, 1, 1))
    assert np.isnan(paired_permutation(zeros, zeros, ones, ones, np.arange(3)))


# -- Holm ----------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    # sorted: 0.01 · 4, 0.02 · 3, max(0.03 · 2, 0.06), max(0.5 · 1, 0.06)
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])


def test_an_undefined_p_stays_so_and_does_not_count():
    adjusted = holm([0.03, float("nan"), 0.01])
    assert adjusted[::2] == pytest.approx([0.03, 0.02])
    assert np.isnan(adjusted[1])
    assert holm([]) == []
