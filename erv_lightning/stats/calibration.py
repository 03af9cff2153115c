"""Are probabilities as large as their labels are frequent? Temperature, thresholds, and curves. Knows no model.

Fit on validation, judge on test. Numbers are logits and 0/1 targets here; whose they are is not this file's business.

Shapes: N sentences, K labels, M predictions that are each right or wrong, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from erv_lightning.stats.resampling import Floats

Link = Literal["sigmoid", "softmax"]

COLDEST, HOTTEST = 0.01, 100.0
"""Bounds of a fitted temperature: where classes are separable, or logits say nothing, there is no best one."""

BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True)
class Reliability:
    """How often predictions come true, by how sure they are.

    Attributes:
        edges: (B + 1,), of the bins, 0 to 1. A bin holds its upper edge, the first one both.
        confidence: (B,), mean probability of the predictions in a bin, NaN in an empty one.
        frequency: (B,), share of them that are true, NaN in an empty one.
        count: (B,), how many they are.
    """

    edges: Floats
    confidence: Floats
    frequency: Floats
    count: NDArray[np.intp]

    @property
    def error(self) -> float:
        r"""The expected calibration error, Σ_b n_b / M · |frequency_b − confidence_b| (Guo et al. 2017, equation 3).

        NaN without predictions.
        """
        if not self.count.sum():
            return float("nan")
        gap = np.nan_to_num(np.abs(self.frequency - self.confidence))
        return float((self.count * gap).sum() / self.count.sum())


def probabilities(logits: Floats, link: Link, temperature: float = 1.0) -> Floats:
    """σ(z / T) of each output, or the softmax of z / T over each row: (N, K)."""
    z = np.asarray(logits, dtype=float) / temperature
    if link == "sigmoid":
        return np.exp(-np.logaddexp(0, -z))
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(z / z.sum(axis=1, keepdims=True))


def negative_log_likelihood(logits: Floats, targets: Floats, link: Link, temperature: float = 1.0) -> float:
    """Mean cross-entropy at a temperature, in nats.

    Args:
        logits: (N, K).
        targets: (N, K), 0 or 1. For ``softmax`` a sentence's labels share 1, and sentences without one do not count.
        link: ``sigmoid``, a mean over N·K outputs, or ``softmax``, one over sentences.
        temperature: above 0.

    Raises:
        ValueError: shapes that do not fit, or nothing that counts.
    """
    logits, targets = _counted(logits, targets, link)
    z = logits / temperature
    if link == "sigmoid":
        return float((np.logaddexp(0, z) - targets * z).mean())
    top = z.max(axis=1, keepdims=True)
    log_p = z - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    return float(-(targets * log_p).sum(axis=1).mean())


def fit_temperature(logits: Floats, targets: Floats, link: Link) -> float:
    """The temperature with the least `negative_log_likelihood` (Guo et al. 2017, section 4.2).

    The likelihood is convex in 1/T, so its slope is bisected.

    Args:
        logits: (N, K), of validation sentences.
        targets: (N, K), 0 or 1, see `negative_log_likelihood`.
        link: how logits become probabilities.

    Returns:
        `COLDEST` to `HOTTEST`.

    Raises:
        ValueError: shapes that do not fit, or nothing that counts.
    """
    logits, targets = _counted(logits, targets, link)
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)  # of the logarithm of 1/T
    for _ in range(60):
        middle = (low + high) / 2
        slope = (logits * (probabilities(logits, link, float(np.exp(-middle))) - targets)).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(np.clip(np.exp(-(low + high) / 2), COLDEST, HOTTEST))


def fit_calibration(logits: Floats, targets: Floats, link: Link) -> tuple[float, Floats]:
    """Temperature, and by label the threshold of the probabilities at that temperature, (K,).

    Args:
        logits: (N, K), of validation sentences.
        targets: (N, K), 0 or 1.
        link: how logits become probabilities.

    Raises:
        ValueError: nothing to fit on.
    """
    temperature = fit_temperature(logits, targets, link)
    return temperature, best_thresholds(probabilities(logits, link, temperature), targets)


def best_thresholds(probs: Floats, targets: Floats) -> Floats:
    """For each label, the threshold whose label set {p > t} has the highest F1.

    1/2 where none is better. Else a middle between neighbouring probabilities that occur, or 0; of equally good ones
    the nearest to 1/2, of two as near the lower. A label that never occurs keeps 1/2.

    Args:
        probs: (N, K), in [0, 1], of validation sentences.
        targets: (N, K), 0 or 1.

    Returns:
        (K,), in [0, 1].
    """
    return np.array([_best_threshold(p, t) for p, t in zip(np.asarray(probs).T, np.asarray(targets).T, strict=True)])


def predictions(probs: Floats, targets: Floats, link: Link) -> tuple[Floats, Floats]:
    """Probabilities and whether they came true, (M,) each, for `reliability`.

    ``sigmoid``: every output of every sentence is a prediction, M = N·K. ``softmax``: the likeliest label of each
    sentence that has a label is one; it is true where the sentence has it.
    """
    probs, targets = np.asarray(probs, dtype=float), np.asarray(targets, dtype=float)
    if link == "sigmoid":
        return probs.ravel(), targets.ravel()
    labelled = targets.sum(axis=1) > 0
    best = probs.argmax(axis=1, keepdims=True)
    confidence, true = (np.take_along_axis(of, best, axis=1)[labelled, 0] for of in (probs, targets))
    return confidence, true


def reliability(confidence: Floats, true: Floats, bins: int = BINS) -> Reliability:
    """The curve of a reliability diagram over bins of equal width; `Reliability.error` is the ECE.

    Args:
        confidence: (M,), in [0, 1].
        true: (M,), 0 or 1.
        bins: B, at least 1.

    Raises:
        ValueError: shapes or values that do not fit.
    """
    confidence, true = np.asarray(confidence, dtype=float), np.asarray(true, dtype=float)
    if bins < 1 or confidence.ndim != 1 or confidence.shape != true.shape:
        raise ValueError(f"reliability: {bins} bins of {confidence.shape} probabilities and {true.shape} outcomes")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("reliability: probabilities outside [0, 1], or NaN")
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0/0 in empty bins
        mean, frequency = (np.bincount(place, of, minlength=bins) / count for of in (confidence, true))
    return Reliability(edges, mean, frequency, count)


def precision_recall(scores: Floats, true: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision and recall of {score ≥ t} at every score t that occurs, the highest first: (precision, recall, t).

    Precision and recall are NaN where no row is true.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    scores, true = np.asarray(scores)[order], np.asarray(true, dtype=float)[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1) if len(scores) else np.zeros(0, dtype=int)
    hits = np.cumsum(true)[last]
    if not true.sum():
        return np.full(len(last), np.nan), np.full(len(last), np.nan), scores[last]
    return hits / (last + 1), hits / true.sum(), scores[last]


def average_precision(scores: Floats, true: Floats) -> float:
    """Σ_i (R_i − R_{i−1}) P_i over the points of `precision_recall`, without interpolation; NaN if no row is true."""
    precision, recall, _ = precision_recall(scores, true)
    return float((np.diff(recall, prepend=0) * precision).sum()) if np.asarray(true).sum() else float("nan")


def _best_threshold(p: Floats, true: Floats) -> float:
    if not true.sum():
        return 0.5
    values = np.unique(p)  # rising
    above = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2])  # the first: every sentence, but for p = 0
    said = p[None, :] > above[:, None]
    hits = (said & (true[None, :] > 0)).sum(axis=1)
    f1 = 2 * hits / (said.sum(axis=1) + true.sum())
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    # between two neighbours every threshold says the same: 1/2 where it lies there, as far as F1 alone can tell
    low = np.concatenate([[0.0], values[:-1]])[best]
    inside = np.flatnonzero((low <= 0.5) & (values[best] > 0.5))
    if len(inside):
        return 0.5
    return float(above[best][np.argmin(np.abs(above[best] - 0.5))])


def _counted(logits: Floats, targets: Floats, link: Link) -> tuple[Floats, Floats]:
    """Logits and targets of what counts; for ``softmax`` labelled rows, their targets shared."""
    logits, targets = np.asarray(logits, dtype=float), np.asarray(targets, dtype=float)
    if logits.ndim != 2 or logits.shape != targets.shape or link not in ("sigmoid", "softmax"):
        raise ValueError(f"calibration: {link!r} of logits {logits.shape} and targets {targets.shape}")
    if link == "softmax":
        labels = targets.sum(axis=1, keepdims=True)
        logits, targets = logits[labels[:, 0] > 0], (targets / np.maximum(labels, 1))[labels[:, 0] > 0]
    if not logits.size or not np.isfinite(logits).all():
        raise ValueError("calibration: there is no labelled sentence to fit on, or a logit is not finite")
    return logits, targets
