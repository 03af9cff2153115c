"""Compares tested runs: label ids in, metrics with intervals out. No drawing, no torch.

Every interval is a percentile bootstrap over clips, with the same resampled clips for all seeds and arms: it
tells how far the number depends on the clips that happened to be tested. It says nothing of the spread
between seeds, which is why each seed's own value stands beside it. `erv_lightning.results` reads the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erv_lightning.labels import get_label_space
from erv_lightning.results import Arm, load_arms, load_curves, load_predictions

__all__ = [
    "METRICS",
    "Arm",
    "Estimate",
    "Sampling",
    "bootstrap",
    "load_arms",
    "load_curves",
    "load_predictions",
    "paired_difference",
]

Floats = NDArray[np.float64]

METRICS = {
    "war": "WAR",
    "uar": "UAR",
    "eea": "EEA",
    "epc": "EPC",
    "fcr": "FCR",
    "fcr_given_correct": "FCR|ŷ=y",
}
"""Key and title of every metric, in the order of the tables."""

DRAWS = 10_000
"""Bootstrap draws behind an interval."""

_LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
_CHUNK = 500  # draws held in memory at once


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; all NaN where the metric is undefined (no right answer for `FCR|ŷ=y`).

    Attributes:
        value: the mean over seeds.
        low: lower end of the interval.
        high: upper end of the interval.
        seeds: each seed's own value, in the arm's order.
    """

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Sampling:
    """The bootstrap of one arm.

    Attributes:
        seeds: names of the seeds.
        values: per metric each seed's value (seeds,).
        draws: per metric the mean over seeds on every draw of clips (draws,); NaN where undefined.
    """

    seeds: tuple[str, ...]
    values: dict[str, Floats]
    draws: dict[str, Floats]

    def estimates(self) -> dict[str, Estimate]:
        """Every metric with its interval."""
        return {key: _estimate(self.values[key], self.draws[key]) for key in METRICS}


def bootstrap(arms: Sequence[Arm], judge: str, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Sampling]:
    """Resamples the clips, the same for every arm and seed, and computes each metric on every draw.

    Args:
        arms: tested on the same clips.
        judge: whose reading of the explanation, ê, counts.
        draws: bootstrap draws, at least 1.
        seed: of the generator; the same seed gives the same numbers.

    Returns:
        By arm name. With label y, answer ŷ and the emotion ê that the judge reads in the explanation, over
        all clips (ERV, arXiv 2510.23506; FCR is inferred, hence its conditional form too): WAR = P(ŷ=y),
        UAR = mean recall over the classes that occur, EEA = P(ê=y), EPC = P(ê=ŷ), FCR = P(ê=ŷ=y),
        fcr_given_correct = P(ê=y | ŷ=y). −1 equals nothing, not even −1.

    Raises:
        ValueError: the arms were tested on different clips, or the clips have more than one label space.
    """
    clips = _same_clips(arms)
    tallies = {arm.name: _tallies(arm, judge) for arm in arms}
    resampled: dict[str, dict[str, list[Floats]]] = {arm.name: {key: [] for key in METRICS} for arm in arms}
    for weights in _weights(clips, draws, np.random.default_rng(seed)):
        for name, tally in tallies.items():
            for key, counts in tally.items():
                resampled[name][key].append(_values(weights, *counts).mean(axis=1))
    once = np.ones((1, len(clips)))
    return {
        arm.name: Sampling(
            seeds=arm.seeds,
            values={key: _values(once, *counts)[0] for key, counts in tallies[arm.name].items()},
            draws={key: np.concatenate(parts) for key, parts in resampled[arm.name].items()},
        )
        for arm in arms
    }


def paired_difference(arm: Sampling, baseline: Sampling) -> dict[str, Estimate]:
    """`arm` minus `baseline` on the same clips, with its interval.

    Args:
        arm: of one `bootstrap` call.
        baseline: of the same call, so that draw by draw the clips are the same.

    Returns:
        Per metric; `seeds` holds the differences seed by seed, empty where the two arms have other seeds.
    """
    differences = {}
    for key in METRICS:
        value = arm.values[key].mean() - baseline.values[key].mean()
        seeds = arm.values[key] - baseline.values[key] if arm.seeds == baseline.seeds else np.empty(0)
        differences[key] = _estimate(seeds, arm.draws[key] - baseline.draws[key], float(value))
    return differences


def _estimate(seeds: Floats, draws: Floats, value: float | None = None) -> Estimate:
    """Percentile interval around a value, by default the mean over seeds; undefined draws are left out."""
    defined = draws[~np.isnan(draws)]
    low, high = np.percentile(defined, _LEVEL) if len(defined) else (np.nan, np.nan)
    return Estimate(float(seeds.mean()) if value is None else value, float(low), float(high), tuple(seeds.tolist()))


def _same_clips(arms: Sequence[Arm]) -> NDArray[np.intp]:
    """The clip's number of every row (rows,), after checking that all runs have the same rows.

    Raises:
        ValueError: rows or their labels differ between runs, or their label spaces among each other.
    """
    frames = [frame for arm in arms for frame in arm.predictions]
    first = frames[0]
    spaces = sorted(set(first["label_space"]))
    if len(spaces) > 1:
        datasets = ", ".join(sorted(set(first["dataset"])))
        path = first.attrs["path"]
        raise ValueError(f"{path} mixes the label spaces {', '.join(spaces)}; choose a --dataset of {datasets}")
    rows = dict(zip(zip(first["dataset"], first["id"], strict=True), first["label_id"], strict=True))
    for frame in frames[1:]:
        others = dict(zip(zip(frame["dataset"], frame["id"], strict=True), frame["label_id"], strict=True))
        differing = [key for key in {**rows, **others} if rows.get(key) != others.get(key)]
        if differing or set(frame["label_space"]) != set(spaces):
            example = f", e.g. {'/'.join(differing[0])}" if differing else " in their label space"
            paths = f"{first.attrs['path']} and {frame.attrs['path']}"
            raise ValueError(f"{paths} were tested on different clips or labels: {len(differing)} differ{example}")
    # by first appearance, so that a data folder at another path changes no draw
    return pd.factorize(first["clip"])[0]


def _tallies(arm: Arm, judge: str) -> dict[str, tuple[Floats, Floats]]:
    """Per metric what each row adds to numerator and denominator, both (rows, seeds, classes).

    Only UAR has classes (a ratio for each, then their mean); elsewhere classes = 1.
    """
    parts: dict[str, list[tuple[Floats, Floats]]] = {key: [] for key in METRICS}
    for frame in arm.predictions:
        size = len(get_label_space(frame["label_space"].iloc[0]).names)
        label = frame["label_id"].to_numpy()
        answer = frame["answer_id"].to_numpy()
        judged = np.array([row[judge] for row in frame["judges"]])
        right = _equal(answer, label)
        faithful = right * _equal(judged, label)
        of_class = (label[:, None] == np.arange(size)).astype(float)  # (rows, classes)
        everyone = np.ones((len(label), 1))
        parts["war"].append((right, everyone))
        parts["uar"].append((right * of_class, of_class))
        parts["eea"].append((_equal(judged, label), everyone))
        parts["epc"].append((_equal(judged, answer), everyone))
        parts["fcr"].append((faithful, everyone))
        parts["fcr_given_correct"].append((faithful, right))
    return {key: (_stack([n for n, _ in of]), _stack([d for _, d in of])) for key, of in parts.items()}


def _stack(parts: list[Floats]) -> Floats:
    """Seeds side by side: seeds × (rows, classes) → (rows, seeds, classes)."""
    return np.stack(parts, axis=1)


def _equal(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Where two label ids agree, as (rows, 1) zeros and ones; −1 agrees with nothing."""
    agree: Floats = ((a == b) & (a >= 0)).astype(float)
    return agree[:, None]


def _weights(clips: NDArray[np.intp], draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each row is in each draw, (≤ chunk, rows) at a time; the rows of a clip come together."""
    n = int(clips.max()) + 1
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        yield counts[:, clips].astype(float)


def _values(weights: Floats, numerator: Floats, denominator: Floats) -> Floats:
    """Weighted ratios, averaged over the classes that occur, as (draws, seeds); NaN where none occurs.

    weights is (draws, rows), numerator and denominator are (rows, seeds, classes).
    """
    rows, seeds, classes = numerator.shape
    top = (weights @ numerator.reshape(rows, -1)).reshape(-1, seeds, classes)
    bottom = (weights @ denominator.reshape(rows, -1)).reshape(-1, seeds, classes)
    ratio = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    occurring = (bottom > 0).sum(axis=2)
    undefined = np.full((len(weights), seeds), np.nan)
    values: Floats = np.divide(ratio.sum(axis=2), occurring, out=undefined, where=occurring > 0)
    return values
