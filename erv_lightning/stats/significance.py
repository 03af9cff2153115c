"""Is A better than B on the same rows? Tests over counts; knows no metric, no label and no file.

Shapes: N rows, U clusters, S seeds, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erv_lightning.stats.resampling import Floats, Ints, mean_ratio

_CHUNK = 500  # draws held in memory at once
_SAME = 1e-12  # statistics that differ by rounding alone count as equal


def mcnemar(a_right: NDArray[np.bool_], b_right: NDArray[np.bool_]) -> float:
    """p of McNemar's exact test, two-sided: of the rows where one alone is right, is A's share a half?

    Args:
        a_right, b_right: (N,), whether A and B are right on each row; rows are taken for independent.

    Returns:
        p; 1 where they never differ.
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    table = [[int((a_right == a)[b_right == b].sum()) for b in (True, False)] for a in (True, False)]
    if table[0][1] + table[1][0] == 0:
        return 1.0
    return float(min(1.0, test(table, exact=True).pvalue))


def paired_permutation(
    numerator_a: Floats,
    denominator_a: Floats,
    numerator_b: Floats,
    denominator_b: Floats,
    clusters: Ints,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> float:
    """p of a paired permutation test, two-sided, for the difference of a ratio statistic between A and B.

    Under the null hypothesis A and B are exchangeable within each cluster: each of the U clusters swaps all its rows,
    of all seeds, with probability 1/2. All 2^U swaps are tried where they are no more than `draws`. Otherwise
    p = (1 + #{|T*| ≥ |T|}) / (1 + draws) (Phipson & Smyth 2010, which never gives 0).
    A swap that leaves an arm without a defined statistic counts as extreme.

    Args:
        numerator_a, denominator_a, numerator_b, denominator_b: (N, S, C), what each row adds; the statistic of an arm
            is the mean over seeds of the ratios averaged over the classes that occur, see `resampling.ratio`. Arms of
            unequal numbers of seeds exchange the means of their counts over seeds.
        clusters: (N,), 0 to U − 1.
        draws: random swaps.
        seed: of the random state.

    Returns:
        p; NaN where the statistic of an arm is undefined.
    """
    counts = [_by_cluster(one, clusters) for one in (numerator_a, denominator_a, numerator_b, denominator_b)]
    if counts[0].shape != counts[2].shape:
        counts = [one.mean(axis=1, keepdims=True) for one in counts]
    observed = float(_statistic(np.zeros((1, len(counts[0]))), *counts)[0])
    if np.isnan(observed):
        return float("nan")
    exact = len(counts[0]) < 63 and 2 ** len(counts[0]) <= draws
    extreme, total = (0, 0) if exact else (1, 1)
    for swap in _all_swaps(len(counts[0])) if exact else _swaps(len(counts[0]), draws, seed):
        found = _statistic(swap, *counts)
        extreme += int((~(np.abs(found) < abs(observed) - _SAME)).sum())  # an undefined one counts as extreme
        total += len(found)
    return extreme / total


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted by Holm's method, which keeps the chance of any false claim among them at its level.

    NaN stays NaN and does not count among the tests.
    """
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p_values, dtype=float)
    defined = ~np.isnan(p)
    if defined.any():
        p[defined] = multipletests(p[defined], method="holm")[1]
    return [float(one) for one in p]


def _by_cluster(of: Floats, clusters: Ints) -> Floats:
    """Sums over the rows of each cluster: (N, S, C) → (U, S, C)."""
    sums = np.zeros((int(clusters.max()) + 1, *of.shape[1:]))
    np.add.at(sums, clusters, of)
    return sums


def _statistic(swap: Floats, top_a: Floats, bottom_a: Floats, top_b: Floats, bottom_b: Floats) -> Floats:
    """A minus B after swaps (draws, U) of zeros and ones: (draws,). Sums are linear in the swaps."""

    def swapped(a: Floats, b: Floats) -> tuple[Floats, Floats]:
        moved = np.tensordot(swap, b - a, axes=1)
        return a.sum(axis=0) + moved, b.sum(axis=0) - moved

    (new_top_a, new_top_b), (new_bottom_a, new_bottom_b) = swapped(top_a, top_b), swapped(bottom_a, bottom_b)
    # counts are multiples of a whole number's share: rounding must not make an empty class occur
    difference: Floats = mean_ratio(new_top_a, _cleaned(new_bottom_a)).mean(axis=1) - mean_ratio(
        new_top_b, _cleaned(new_bottom_b)
    ).mean(axis=1)
    return difference


def _cleaned(bottom: Any) -> Floats:
    return np.where(np.abs(bottom) < 1e-9, 0.0, bottom)


def _swaps(clusters: int, draws: int, seed: int) -> Iterator[Floats]:
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _CHUNK):
        yield rng.integers(2, size=(min(_CHUNK, draws - start), clusters)).astype(float)


def _all_swaps(clusters: int) -> Iterator[Floats]:
    every = np.arange(2**clusters)
    for start in range(0, len(every), _CHUNK):
        yield (every[start : start + _CHUNK, None] >> np.arange(clusters) & 1).astype(float)
