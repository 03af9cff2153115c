"""The bootstrap: what is drawn, how often, and ratios of what was drawn. Knows no metric, no label and no file.

Shapes: N rows, U clusters, S seeds, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_PERCENTILES = (2.5, 97.5)  # of a 95 % interval
_CHUNK = 500  # draws held in memory at once


@dataclass(frozen=True)
class Design:
    """What is drawn.

    Attributes:
        clusters: (N,), the cluster of each row, 0 to U − 1. Its rows are drawn together.
        strata: (U,), the stratum of each cluster. From each as many clusters are drawn as it has.
    """

    clusters: Ints
    strata: Ints

    @property
    def stratified(self) -> bool:
        """Whether there is more than one stratum."""
        return bool((self.strata != self.strata[:1]).any())


def design(units: Sequence[str], labels: Sequence[int] | NDArray[Any], *, stratify: bool = True) -> Design:
    """Clusters by name, within classes where that can be.

    A cluster of several classes cannot be drawn within a class. If there is one, all are drawn without strata.

    Args:
        units: (N,), name of each row's cluster; numbered by first appearance.
        labels: (N,), class of each row.
        stratify: False draws without strata anyway.

    Raises:
        ValueError: no rows, or units and labels that differ in number.
    """
    if len(units) != len(labels) or not len(units):
        raise ValueError(
            f"one unit for each label is needed, and at least one: {len(units)} units, {len(labels)} labels"
        )
    clusters = pd.factorize(np.asarray(units, dtype=object))[0].astype(np.intp)
    label_N = np.asarray(labels, dtype=np.intp)
    strata = np.zeros(int(clusters.max()) + 1, dtype=np.intp)
    strata[clusters] = label_N
    if not stratify or (strata[clusters] != label_N).any():
        strata[:] = 0
    return Design(clusters, strata)


def weights(drawn: Design, draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each row is in each draw.

    Args:
        drawn: what.
        draws: how many draws, at least 1.
        rng: random state, which goes on.

    Yields:
        (≤ 500, N) whole numbers.
    """
    members = [np.flatnonzero(drawn.strata == stratum) for stratum in np.unique(drawn.strata)]
    count = len(drawn.strata)
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        often = np.zeros((size, count))
        for clusters in members:
            often[:, clusters] = _counts(len(clusters), size, rng)
        yield often[:, drawn.clusters]


def _counts(n: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each of n things is among n drawn with replacement: (draws, n)."""
    chosen = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n).astype(float)


def ratio(weight: Floats, numerator: Floats, denominator: Floats) -> Floats:
    """Weighted ratios, averaged over the classes that occur.

    Args:
        weight: (draws, N).
        numerator, denominator: (N, S, C), what each row adds.

    Returns:
        (draws, S); NaN where no class occurs, that is where every denominator is 0.
    """
    return mean_ratio(_sums(weight, numerator), _sums(weight, denominator))


def mean_ratio(top: Floats, bottom: Floats) -> Floats:
    """Ratios averaged over the classes that occur: (…, C) and (…, C) → (…); NaN where none does."""
    each = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    occurring = (bottom > 0).sum(axis=-1)
    undefined = np.full(top.shape[:-1], np.nan)
    mean: Floats = np.divide(each.sum(axis=-1), occurring, out=undefined, where=occurring > 0)
    return mean


def interval(draws: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap draws (draws,); undefined ones are left out, NaN if none is defined."""
    defined = draws[~np.isnan(draws)]
    low, high = np.percentile(defined, _PERCENTILES) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)


def _sums(weight: Floats, of: Floats) -> Floats:
    """(draws, N) × (N, S, C) → (draws, S, C)."""
    summed: Floats = (weight @ of.reshape(len(of), -1)).reshape(-1, *of.shape[1:])
    return summed
