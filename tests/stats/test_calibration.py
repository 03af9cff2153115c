from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_recall_curve

from erv_lightning.stats.calibration import (
    COLDEST,
    HOTTEST,
    average_precision,
    best_thresholds,
    fit_temperature,
    negative_log_likelihood,
    precision_recall,
    predictions,
    probabilities,
    reliability,
)

RNG = np.random.default_rng(0)


def drawn(link: Any, temperature: float, count: int = 40_000) -> tuple[Any, Any]:
    """Logits that are `temperature` times as large as the ones that the labels were drawn from."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(count, 4)) * 2
    p = probabilities(z, link)
    if link == "sigmoid":
        return z * temperature, (rng.random(p.shape) < p).astype(float)
    label = (rng.random((count, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=3)
    return z * temperature, np.eye(4)[label]


# -- temperature --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found_again(link: Any, temperature: float) -> None:
    assert fit_temperature(*drawn(link, temperature), link) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_no_other_temperature_is_likelier(link: Any) -> None:
    logits, targets = drawn(link, 1.7, 300)
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, targets, link, math.exp(log_t)), bounds=(-4, 4), method="bounded"
    )
    assert fit_temperature(logits, targets, link) == pytest.approx(math.exp(found.x), rel=1e-3)


def test_the_likelihoods_are_scikit_learns() -> None:
    logits, targets = drawn("sigmoid", 1.0, 50)
    wanted = log_loss(targets.ravel(), probabilities(logits, "sigmoid", 2.0).ravel())
    assert negative_log_likelihood(logits, targets, "sigmoid", 2.0) == pytest.approx(wanted)
    logits, targets = drawn("softmax", 1.0, 50)
    wanted = log_loss(targets.argmax(axis=1), probabilities(logits, "softmax", 2.0), labels=range(4))
    assert negative_log_likelihood(logits, targets, "softmax", 2.0) == pytest.approx(wanted)


def test_several_labels_share_a_softmax_and_none_are_left_out() -> None:
    # softmax(ln 3, 0, 0) = (3/5, 1/5, 1/5)
    logits = [[math.log(3), 0.0, 0.0], [9.0, 0.0, 0.0]]
    wanted = -(math.log(3 / 5) + math.log(1 / 5)) / 2
    assert negative_log_likelihood(logits, [[1, 1, 0], [0, 0, 0]], "softmax") == pytest.approx(wanted)


def test_a_temperature_without_a_best_value_stops_at_its_bound() -> None:
    separable = ([[2.0, -2.0]], [[1, 0]])
    backwards = ([[2.0, -2.0]], [[0, 1]])
    for link in ("sigmoid", "softmax"):
        assert fit_temperature(*separable, link) == pytest.approx(COLDEST)
        assert fit_temperature(*backwards, link) == pytest.approx(HOTTEST)


def test_large_logits_do_not_overflow() -> None:
    for link in ("sigmoid", "softmax"):
        assert probabilities([[1e4, -1e4]], link).tolist() == [[1, 0]]
        assert negative_log_likelihood([[1e4, -1e4]], [[1, 0]], link) == 0


def test_nothing_to_fit_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no labelled sentence"):
        fit_temperature(np.zeros((2, 3)), np.zeros((2, 3)), "softmax")
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and targets \(2, 2\)"):
        fit_temperature(np.zeros((2, 3)), np.zeros((2, 2)), "sigmoid")


# -- thresholds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 3])  # with ties, and without
def test_no_other_threshold_has_a_higher_f1(digits: int) -> None:
    probs = RNG.random((60, 3)).round(digits)
    targets = (RNG.random((60, 3)) < probs * 0.6).astype(int)
    found = best_thresholds(probs, targets)
    for label in range(3):
        p, true = probs[:, label], targets[:, label]
        scores = [f1_score(true, p > t, zero_division=0) for t in np.linspace(0, 1, 2001)]
        assert f1_score(true, p > found[label]) == pytest.approx(max(scores))


def test_thresholds_by_hand() -> None:
    probs = np.array([[0.1, 0.2, 0.2, 0.9], [0.2, 0.9, 0.3, 0.6], [0.3, 0.8, 0.4, 0.4], [0.4, 0.1, 0.1, 0.3]])
    targets = np.array([[0, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1], [1, 0, 0, 0]])
    # between 0.2 and 0.3; 0.5 separates; never occurs; between 0.3 and 0.4
    assert best_thresholds(probs, targets).tolist() == pytest.approx([0.25, 0.5, 0.5, 0.35])


# -- ECE ----------------------------------------------------------------------------------------------------------


def test_the_calibration_error_by_hand() -> None:
    # five bins; (0, 0.2]: 0.1 and 0.2, one true; (0.6, 0.8]: 0.7 false; (0.8, 1]: 0.9 and 1.0, both true
    curve = reliability([0.1, 0.2, 0.7, 0.9, 1.0], [0, 1, 0, 1, 1], bins=5)
    assert curve.count.tolist() == [2, 0, 0, 1, 2]
    assert np.allclose(curve.confidence, [0.15, np.nan, np.nan, 0.7, 0.95], equal_nan=True)
    assert np.allclose(curve.frequency, [0.5, np.nan, np.nan, 0, 1], equal_nan=True)
    assert curve.error == pytest.approx((2 * 0.35 + 1 * 0.7 + 2 * 0.05) / 5)


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_the_true_temperature_all_but_removes_the_error(link: Any) -> None:
    logits, targets = drawn(link, 3.0)
    errors = [
        reliability(*predictions(probabilities(logits, link, temperature), targets, link)).error
        for temperature in (1.0, 3.0)
    ]
    assert errors[0] > 0.05
    assert errors[1] < 0.01


def test_a_softmax_predicts_its_likeliest_label_and_a_sigmoid_each() -> None:
    probs, targets = np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]), np.array([[1, 0], [1, 0], [0, 0]])
    confidence, true = predictions(probs, targets, "softmax")
    assert (confidence.tolist(), true.tolist()) == ([0.7, 0.6], [1, 0])
    confidence, true = predictions(probs, targets, "sigmoid")
    assert (confidence.tolist(), true.tolist()) == ([0.7, 0.3, 0.4, 0.6, 0.9, 0.1], [1, 0, 1, 0, 0, 0])


def test_no_predictions_have_no_error_and_impossible_ones_are_refused() -> None:
    assert math.isnan(reliability(np.zeros(0), np.zeros(0)).error)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        reliability([1.1], [1])
    with pytest.raises(ValueError, match="0 bins"):
        reliability([0.5], [1], bins=0)


# -- precision and recall -----------------------------------------------------------------------------------------


def test_precision_recall_and_average_precision_are_scikit_learns() -> None:
    scores, true = RNG.random(80).round(1), RNG.integers(0, 2, 80)
    precision, recall, at = precision_recall(scores, true)
    wanted = precision_recall_curve(true, scores)
    for ours, theirs in zip((precision, recall, at), wanted, strict=True):
        assert np.allclose(ours[::-1], theirs[: len(ours)])
    assert average_precision(scores, true) == pytest.approx(average_precision_score(true, scores))
    assert math.isnan(average_precision(scores, np.zeros(80)))
