"""Agreement of judges: against scikit-learn, statsmodels and krippendorff, and worked examples of the literature."""

from __future__ import annotations

import warnings

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from erv_lightning.stats.agreement import (
    agreements,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
)


def once(statistic, rows: int) -> float:
    return float(statistic(np.ones((1, rows)))[0])


def random_readings(seed: int, rows: int = 40, judges: int = 3) -> np.ndarray:
    """Judges that often agree, and sometimes have no verdict."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=(rows, 1))
    said = np.where(rng.random((rows, judges)) < 0.6, truth, rng.integers(-1, 4, size=(rows, judges)))
    return said


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_values_are_those_of_the_libraries(seed):
    readings = random_readings(seed)
    a, b, _ = readings.T
    assert once(cohen_kappa(a, b), 40) == pytest.approx(cohen_kappa_score(a, b))
    table, _ = inter_rater.aggregate_raters(readings + 1)
    assert once(fleiss_kappa(readings), 40) == pytest.approx(inter_rater.fleiss_kappa(table))
    missing = np.where(readings < 0, np.nan, readings.astype(float))
    expected = krippendorff.alpha(reliability_data=missing.T, level_of_measurement="nominal")
    assert once(krippendorff_alpha(readings), 40) == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_weight_counts_a_row_as_often(seed):
    readings = random_readings(seed, rows=15)
    weight = np.random.default_rng(seed + 1).integers(4, size=15)
    repeated = np.repeat(readings, weight, axis=0)
    for statistic in (
        percent_agreement,
        fleiss_kappa,
        krippendorff_alpha,
        lambda one: cohen_kappa(one[:, 0], one[:, 1]),
    ):
        found = float(statistic(readings)(weight[None, :].astype(float))[0])
        assert found == pytest.approx(once(statistic(repeated), len(repeated)), nan_ok=True)


def test_fleiss_example_of_1971():
    # ten subjects, fourteen raters, five categories: κ = 0.210
    table = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    readings = np.array([np.repeat(range(5), counts) for counts in table])
    assert once(fleiss_kappa(readings), 10) == pytest.approx(0.210, abs=0.0005)


def test_krippendorffs_example_with_missing_values():
    # four observers, twelve units (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability): nominal α = 0.743
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, -1, -1, -1],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, -1, 3],
        [-1, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, -1],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, -1],
    ]
    assert once(krippendorff_alpha(np.array(observers).T), 12) == pytest.approx(0.743, abs=0.0005)


def test_cohens_kappa_by_hand():
    # 20 + 15 of 50 agree: p_o 0.7; p_e = 0.5·0.6 + 0.5·0.4 = 0.5; κ = 0.4
    a = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    b = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert once(cohen_kappa(a, b), 50) == pytest.approx(0.4)


def found(readings: np.ndarray, clusters: np.ndarray | None = None, **options: int):
    judges = [f"judge {i}" for i in range(readings.shape[1])]
    clusters = np.arange(len(readings)) if clusters is None else clusters
    return {one.name: one for one in agreements(judges, readings, clusters, **options)}


def test_every_pair_and_all_together_are_reported_with_intervals():
    three = found(random_readings(0), draws=500)
    assert list(three) == [
        *("equal: judge 0 and judge 1", "Cohen's κ: judge 0 and judge 1"),
        *("equal: judge 0 and judge 2", "Cohen's κ: judge 0 and judge 2"),
        *("equal: judge 1 and judge 2", "Cohen's κ: judge 1 and judge 2"),
        *("Fleiss' κ: all", "Krippendorff's α: all"),
    ]
    assert all(one.low < one.value < one.high for one in three.values())
    assert "Fleiss' κ: all" not in found(random_readings(0, judges=2), draws=10)


def test_judges_that_are_one_agree_fully_and_chance_is_about_zero():
    same = np.tile(np.random.default_rng(0).integers(-1, 4, size=(30, 1)), 3)
    assert all((one.value, one.low, one.high) == pytest.approx((1, 1, 1)) for one in found(same, draws=50).values())
    chance = found(np.random.default_rng(0).integers(4, size=(3000, 3)), draws=20)
    assert all(abs(one.value) < 0.05 for name, one in chance.items() if not name.startswith("equal"))


def test_copies_in_one_cluster_do_not_narrow_the_interval():
    readings = random_readings(1, rows=25)
    copied = np.repeat(readings, 8, axis=0)
    alone = found(readings, draws=800)["Krippendorff's α: all"]
    together = found(copied, np.repeat(np.arange(25), 8), draws=800)["Krippendorff's α: all"]
    apart = found(copied, draws=800)["Krippendorff's α: all"]
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.2)
    assert apart.high - apart.low < 0.6 * (alone.high - alone.low)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_explanations_and_judges_changes_no_value(seed):
    readings = random_readings(seed, rows=20)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(readings)[:, rng.permutation(3)]
    for statistic in (percent_agreement, fleiss_kappa, krippendorff_alpha):
        assert once(statistic(readings), 20) == pytest.approx(once(statistic(shuffled), 20), nan_ok=True)


def test_what_cannot_be_told_is_undefined_and_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_word = found(np.zeros((5, 3), dtype=int), draws=10)
        nothing = found(np.full((5, 3), -1), draws=10)
    assert one_word["equal: judge 0 and judge 1"].value == 1
    for undefined in (one_word["Fleiss' κ: all"], one_word["Krippendorff's α: all"], nothing["Krippendorff's α: all"]):
        assert np.isnan([undefined.value, undefined.low, undefined.high]).all()


def test_one_judge_or_no_explanation_is_refused():
    with pytest.raises(ValueError, match="needs two judges and a row"):
        agreements(["a"], np.zeros((3, 1), dtype=int), np.arange(3))
    with pytest.raises(ValueError, match="needs two judges and a row"):
        agreements(["a", "b"], np.zeros((0, 2), dtype=int), np.arange(0))
