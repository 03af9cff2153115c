"""Do judges agree? Agreement of their label ids, with intervals. Knows neither the judges nor what the ids mean.

The formulas are written over counts of rows, which are linear in how often a row is drawn, so that the bootstrap
computes all draws at once; scikit-learn, statsmodels and krippendorff, to which tests hold them, take one at a time.

Shapes: N rows, J judges, K values that occur.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from erv_lightning.stats.resampling import Floats, Ints, design, interval, weights

DRAWS = 2_000

# rows' counts and their weights → the statistic of every draw
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Agreement:
    """A measure of agreement with its 95 % interval; NaN where it is undefined.

    Attributes:
        name: the measure and whose agreement it is.
        value: at most 1, which is full agreement; 0 is chance, for all but percent agreement.
        low, high: percentile bootstrap over clusters of rows.
    """

    name: str
    value: float
    low: float
    high: float


def agreements(judges: Sequence[str], readings: Ints, clusters: Ints, *, draws: int = DRAWS) -> list[Agreement]:
    """Every measure there is for these judges.

    Percent agreement and Cohen's κ of each two, Fleiss' κ (of three or more) and Krippendorff's nominal α of all. No
    verdict, −1, is a value of its own in the first three, and a missing value in α.

    Args:
        judges: J names, at least two.
        readings: (N, J), ids, −1 for no verdict.
        clusters: (N,), 0 to U − 1: rows that are drawn together.
        draws: of the bootstrap.

    Raises:
        ValueError: fewer than two judges, or no rows.
    """
    if len(judges) < 2 or readings.shape[1:] != (len(judges),) or not len(readings):
        raise ValueError(
            f"agreement needs two judges and a row, got {len(judges)} judges and readings {readings.shape}"
        )
    found, units = [], clusters.astype(str).tolist()
    for a, b in combinations(range(len(judges)), 2):
        who = f"{judges[a]} and {judges[b]}"
        found.append(bootstrapped(f"equal: {who}", percent_agreement(readings[:, [a, b]]), units, draws))
        found.append(bootstrapped(f"Cohen's κ: {who}", cohen_kappa(readings[:, a], readings[:, b]), units, draws))
    if len(judges) > 2:
        found.append(bootstrapped("Fleiss' κ: all", fleiss_kappa(readings), units, draws))
    found.append(bootstrapped("Krippendorff's α: all", krippendorff_alpha(readings), units, draws))
    return found


def percent_agreement(readings: Ints) -> Statistic:
    """The share of pairs of judges that say the same of a row; a function of row weights, as all below."""
    counts_NK, judges = _counts(readings), readings.shape[1]
    equal_N = (counts_NK * (counts_NK - 1)).sum(axis=1) / (judges * (judges - 1))
    return lambda weight: _over(weight @ equal_N, weight.sum(axis=1))


def cohen_kappa(a: Ints, b: Ints) -> Statistic:
    """Cohen's κ = (p_o − p_e) / (1 − p_e) of two judges (Cohen 1960); −1 is a value like others.

    Args:
        a, b: (N,), ids.

    Returns:
        Row weights (draws, N) → (draws,); NaN where both always say the same one thing.
    """
    values = np.unique([a, b])
    said_a, said_b = ((one[:, None] == values).astype(float) for one in (a, b))

    def kappa(weight: Floats) -> Floats:
        n = weight.sum(axis=1)
        observed = _over(weight @ (a == b).astype(float), n)
        chance = _over(((weight @ said_a) * (weight @ said_b)).sum(axis=1), n**2)
        return _over(observed - chance, 1 - chance)

    return kappa


def fleiss_kappa(readings: Ints) -> Statistic:
    """Fleiss' κ of several judges (Fleiss 1971); −1 is a value like others.

    Args:
        readings: (N, J), ids.

    Returns:
        Row weights (draws, N) → (draws,); NaN where all always say the same one thing.
    """
    counts_NK, judges = _counts(readings), readings.shape[1]
    equal_N = (counts_NK * (counts_NK - 1)).sum(axis=1) / (judges * (judges - 1))

    def kappa(weight: Floats) -> Floats:
        n = weight.sum(axis=1)
        chance = (_over(weight @ counts_NK, judges * n[:, None]) ** 2).sum(axis=1)
        return _over(_over(weight @ equal_N, n) - chance, 1 - chance)

    return kappa


def krippendorff_alpha(readings: Ints) -> Statistic:
    """Krippendorff's α for nominal values (Krippendorff 2011); −1 is a missing value.

    With o_ck the coincidences of values, n_c their sums and n the number of values in rows that two judges or more have
    read: α = 1 − (n − 1)(n − Σ_c o_cc) / (n² − Σ_c n_c²).

    Args:
        readings: (N, J), ids, −1 where a judge has none.

    Returns:
        Row weights (draws, N) → (draws,); NaN where no row has two values, or all values are one.
    """
    counts_NK = _counts(readings, missing=-1)
    read_N = counts_NK.sum(axis=1)
    counts_NK = counts_NK * (read_N > 1)[:, None]
    same_N = (counts_NK * (counts_NK - 1)).sum(axis=1) / np.maximum(read_N - 1, 1)

    def alpha(weight: Floats) -> Floats:
        values = weight @ counts_NK  # n_c
        n = values.sum(axis=1)
        disagreement = _over((n - 1) * (n - weight @ same_N), n**2 - (values**2).sum(axis=1))
        return np.asarray(1 - disagreement, dtype=np.float64)

    return alpha


def _counts(readings: Ints, missing: int | None = None) -> Floats:
    """How many judges say each value of each row: (N, K)."""
    values = np.unique(readings)
    values = values[values != missing] if missing is not None else values
    counts: Floats = (readings[:, :, None] == values).sum(axis=1).astype(float)
    return counts


def _over(top: Floats, bottom: Floats) -> Floats:
    """Division with NaN for 0/0, and for a denominator that is 0 but for rounding."""
    undefined = np.full(np.broadcast(top, bottom).shape, np.nan)
    quotient: Floats = np.divide(top, bottom, out=undefined, where=np.abs(bottom) > 1e-12)
    return quotient


def bootstrapped(name: str, statistic: Statistic, units: Sequence[str] | NDArray[np.str_], draws: int) -> Agreement:
    """A statistic of rows with its 95 % percentile interval.

    Args:
        name: of the measure.
        statistic: of row weights, as the functions above give it.
        units: (N,), what each row belongs to and is drawn with: a clip, or a source.
        draws: of the bootstrap; undefined ones are left out.
    """
    drawn = design(list(units), np.zeros(len(units), dtype=np.intp), stratify=False)
    every = np.concatenate([statistic(weight) for weight in weights(drawn, draws, np.random.default_rng(0))])
    return Agreement(name, float(statistic(np.ones((1, len(units))))[0]), *interval(every))
