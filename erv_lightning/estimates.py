"""Metrics of tested runs with intervals and tests: label ids in, numbers out. No drawing, no torch, no files.

Clips are drawn within their class, whole sources (a video, a speaker) where the data names them, and the same for all
seeds and arms. Where an arm has several seeds, seeds are drawn too: an interval tells how far a number depends on both.
`erv_lightning.results` reads the runs, `erv_lightning.tallies` defines the metrics, `erv_lightning.stats` draws and
tests.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erv_lightning.results import Arm
from erv_lightning.stats.agreement import Agreement, agreements
from erv_lightning.stats.resampling import Design, design, interval, ratio, weights
from erv_lightning.stats.significance import holm, mcnemar, paired_permutation
from erv_lightning.tallies import METRICS, Floats, ids, tallies

Tally = tuple[Floats, Floats]
"""What each row adds to a metric's numerator and denominator, both (rows, seeds, classes)."""

DRAWS = 10_000
"""Bootstrap draws behind an interval."""

SWAPS = 10_000
"""Random swaps behind a permutation test: fewer could not show a p that stays below 5 % after Holm."""

LEVEL = 0.05
"""A difference is called significant where its p, adjusted by Holm's method, is below."""

OF_CLIPS = ("war", "eea", "epc", "fcr")
"""Metrics that are right or wrong on each clip, which McNemar's test asks for."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; all NaN where the metric is undefined (no right answer for `FCR|ŷ=y`).

    Attributes:
        value: the mean over seeds.
        low, high: the interval over seeds and clips together; over clips where there is one seed.
        seeds: each seed's own value, in the arm's order.
        std: standard deviation between seeds (n − 1); NaN for one seed.
        clips: the interval over clips alone, as if these seeds were all there could be.
    """

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]
    std: float
    clips: tuple[float, float]


@dataclass(frozen=True)
class Sampling:
    """The bootstrap of one arm.

    Attributes:
        seeds: names of the seeds.
        values: per metric each seed's value (seeds,).
        draws: per metric the mean over drawn seeds on every draw of clips (draws,); NaN where undefined.
        clip_draws: the same with the seeds as they are.
    """

    seeds: tuple[str, ...]
    values: dict[str, Floats]
    draws: dict[str, Floats]
    clip_draws: dict[str, Floats]

    def estimates(self) -> dict[str, Estimate]:
        """Every metric with its interval."""
        return {key: _estimate(self.values[key], self.draws[key], self.clip_draws[key]) for key in self.values}


@dataclass(frozen=True)
class Difference:
    """Arm A minus arm B in one metric, on the same clips.

    Attributes:
        estimate: the difference; its `seeds` are seed by seed, empty where the arms have other seeds.
        p: of a paired permutation test over clips, or over sources where the data names them.
        p_holm: p adjusted for all tests of the table by Holm's method.
        mcnemar: p of McNemar's exact test for each seed that both arms have; empty where the metric is none of
            `OF_CLIPS`. It takes clips for independent, also where they share a source.
    """

    estimate: Estimate
    p: float
    p_holm: float
    mcnemar: tuple[float, ...]

    @property
    def significant(self) -> bool:
        """Below 5 % after Holm, and the interval over seeds and clips leaves out 0."""
        return self.p_holm < LEVEL and (self.estimate.low > 0 or self.estimate.high < 0)


def bootstrap(
    arms: Sequence[Arm],
    judge: str | None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    **counting: bool,
) -> dict[str, Sampling]:
    """Resamples the clips, the same for every arm and seed, and computes each metric on every draw.

    Args:
        arms: tested on the same clips.
        judge: whose reading of the explanation, ê, counts; None: metrics of answers alone.
        draws: bootstrap draws, at least 1.
        seed: of the generator; the same seed gives the same numbers.
        metrics: keys of those that are wanted; None: all.
        counting: ``answered_only`` and ``release_compatible``, see `erv_lightning.tallies.ids`.

    Returns:
        By arm name, every metric of `erv_lightning.tallies.tallies`. −1 equals nothing, not even −1.

    Raises:
        ValueError: the arms were tested on different clips.
    """
    check_same_clips(arms)
    counts = {arm.name: stacked_tallies(arm, judge, **counting) for arm in arms}
    if metrics is not None:
        counts = {name: {key: of[key] for key in metrics} for name, of in counts.items()}
    return resample(arms, counts, draws=draws, seed=seed)


def resample(
    arms: Sequence[Arm], counts: Mapping[str, Mapping[str, Tally]], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Sampling]:
    """The bootstrap of any counts of clips; `bootstrap` takes those of the metrics.

    Args:
        arms: tested on the same clips.
        counts: by arm name and metric.
        draws, seed: see `bootstrap`.
    """
    drawn = clip_design(arms[0].predictions[0])
    resampled: dict[str, dict[str, list[Floats]]] = {name: {key: [] for key in of} for name, of in counts.items()}
    for weight in weights(drawn, draws, np.random.default_rng(seed)):
        for name, of in counts.items():
            for key, (numerator, denominator) in of.items():
                resampled[name][key].append(ratio(weight, numerator, denominator))
    once = np.ones((1, len(drawn.clusters)))
    return {
        arm.name: _sampling(
            arm.seeds,
            {key: ratio(once, *of)[0] for key, of in counts[arm.name].items()},
            {key: np.concatenate(parts) for key, parts in resampled[arm.name].items()},
            seed,
        )
        for arm in arms
    }


def _sampling(seeds: tuple[str, ...], values: dict[str, Floats], draws: Mapping[str, Floats], seed: int) -> Sampling:
    """Draws seeds beside the clips. Arms of the same seeds draw the same ones, so that their differences are paired."""
    rng = np.random.default_rng([seed, zlib.crc32(",".join(seeds).encode())])
    count = len(next(iter(draws.values())))
    chosen = rng.integers(len(seeds), size=(count, len(seeds)))
    return Sampling(
        seeds=seeds,
        values=values,
        draws={key: np.take_along_axis(of, chosen, axis=1).mean(axis=1) for key, of in draws.items()},
        clip_draws={key: of.mean(axis=1) for key, of in draws.items()},
    )


def differences(
    arms: Sequence[Arm],
    pairs: Sequence[tuple[str, str]],
    judge: str,
    samplings: Mapping[str, Sampling],
    *,
    seed: int = 0,
) -> list[tuple[str, str, dict[str, Difference]]]:
    """For each pair of arm names, the first minus the second: intervals, p, and p after Holm over all of them.

    Args:
        arms: those of the `bootstrap` call.
        pairs: names of arms.
        judge: whose reading of the explanations counts.
        samplings: what `bootstrap` gave.
        seed: of the generator.
    """
    by_name = {arm.name: arm for arm in arms}
    counts = {name: stacked_tallies(by_name[name], judge) for name in {name for pair in pairs for name in pair}}
    clusters = clip_design(arms[0].predictions[0]).clusters
    tests = {
        (a, b, key): paired_permutation(*counts[a][key], *counts[b][key], clusters, draws=SWAPS, seed=seed)
        for a, b in pairs
        for key in METRICS
    }
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [
        (
            a,
            b,
            {
                key: Difference(
                    difference(samplings[a], samplings[b], key),
                    tests[a, b, key],
                    adjusted[a, b, key],
                    _mcnemar(by_name[a], by_name[b], counts[a][key][0], counts[b][key][0], key),
                )
                for key in METRICS
            },
        )
        for a, b in pairs
    ]


def difference(arm: Sampling, baseline: Sampling, key: str) -> Estimate:
    """`arm` minus `baseline` in one metric; draw by draw clips, and seeds that both have, are the same."""
    value = float(arm.values[key].mean() - baseline.values[key].mean())
    seeds = arm.values[key] - baseline.values[key] if arm.seeds == baseline.seeds else np.empty(0)
    return _estimate(seeds, arm.draws[key] - baseline.draws[key], arm.clip_draws[key] - baseline.clip_draws[key], value)


def _mcnemar(a: Arm, b: Arm, right_a: Floats, right_b: Floats, key: str) -> tuple[float, ...]:
    """The exact test of each seed that both arms have; the numerators are (rows, seeds, 1) zeros and ones."""
    if key not in OF_CLIPS:
        return ()
    return tuple(
        mcnemar(right_a[:, a.seeds.index(seed), 0] > 0, right_b[:, b.seeds.index(seed), 0] > 0)
        for seed in a.seeds
        if seed in b.seeds
    )


def _estimate(seeds: Floats, draws: Floats, clip_draws: Floats, value: float | None = None) -> Estimate:
    """Percentile intervals around a value, by default the mean over seeds; undefined draws are left out."""
    low, high = interval(draws)
    return Estimate(
        value=float(seeds.mean()) if value is None else value,
        low=low,
        high=high,
        seeds=tuple(seeds.tolist()),
        std=float(seeds.std(ddof=1)) if len(seeds) > 1 else float("nan"),
        clips=interval(clip_draws),
    )


def clip_design(frame: pd.DataFrame, *, stratify: bool = True) -> Design:
    """What is drawn from a table of predictions: its sources where it names them, else its clips, within classes."""
    # by first appearance, so that a data folder at another path changes no draw
    return design(clip_units(frame), ids(frame).label, stratify=stratify)


def clip_units(frame: pd.DataFrame, clip: str = "clip") -> list[str]:
    """What each row is drawn with: its source where that is named, else its clip.

    Args:
        frame: with ``dataset`` and, where it is known, ``source``.
        clip: the column that tells clips apart.
    """
    source = frame["source"] if "source" in frame else pd.Series("", index=frame.index)
    named: pd.Series[str] = frame["dataset"] + "/source/" + source
    return named.where(source != "", frame["dataset"] + "/clip/" + frame[clip]).tolist()


def how_drawn(frame: pd.DataFrame) -> str:
    """What the draws of a table take together, in words."""
    drawn = clip_design(frame)
    sources = int((frame["source"] != "").sum()) if "source" in frame else 0
    what = f"{drawn.clusters.max() + 1} sources" if sources == len(frame) else "clips"
    if 0 < sources < len(frame):
        what = "clips, and sources where they are named"
    return what + (" within their class" if drawn.stratified else "")


def agreement_of(frames: Sequence[pd.DataFrame], judges: Sequence[str]) -> list[Agreement]:
    """How far judges agree on all explanations of the tables together; nothing for a single judge.

    Percent agreement, Cohen's κ of every two judges, Fleiss' κ and Krippendorff's α of all, each with the interval over
    clips (or sources). No verdict is a label of its own in κ, and a missing value in α.
    """
    if len(judges) < 2:
        return []
    every = pd.concat(frames, ignore_index=True)
    readings = np.stack([_reading_ids(every, judge) for judge in judges], axis=1)
    return agreements(judges, readings, clip_design(every, stratify=False).clusters)


def _reading_ids(frame: pd.DataFrame, judge: str) -> NDArray[np.intp]:
    explanation = ids(frame, judge).explanation
    assert explanation is not None  # there is a judge
    return explanation


def check_same_clips(arms: Sequence[Arm]) -> pd.DataFrame:
    """The first run's table, after checking that all runs have the same rows.

    Raises:
        ValueError: rows or their labels differ between runs.
    """
    frames = [frame for arm in arms for frame in arm.predictions]
    first = frames[0]
    rows = _labels(first)
    for frame in frames[1:]:
        others = _labels(frame)
        differing = [key for key in {**rows, **others} if rows.get(key) != others.get(key)]
        if differing:
            paths = f"{first.attrs['path']} and {frame.attrs['path']}"
            raise ValueError(
                f"{paths} were tested on different clips or labels: {len(differing)} differ, e.g. "
                f"{'/'.join(differing[0])}"
            )
    return first


def _labels(frame: pd.DataFrame) -> dict[tuple[str, str], tuple[str, int]]:
    """What each clip, (data set, id), is labelled."""
    columns = (frame[name] for name in ("dataset", "id", "label_space", "label_id"))
    return {(dataset, name): (space, label) for dataset, name, space, label in zip(*columns, strict=True)}


def stacked_tallies(arm: Arm, judge: str | None, **counting: bool) -> dict[str, Tally]:
    """Per metric the tallies of all seeds side by side, numerator and denominator (rows, seeds, classes)."""
    each = [tallies(ids(frame, judge, **counting)) for frame in arm.predictions]
    return {key: _side_by_side([of[key] for of in each]) for key in each[0]}


def _side_by_side(parts: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> tuple[Floats, Floats]:
    return np.stack([n for n, _ in parts], axis=1), np.stack([d for _, d in parts], axis=1)
