"""Do teachers agree? Their label sets side by side, and beside the labels of the clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from erv_lightning.stats.agreement import cohen_kappa

Labels = frozenset[str]


@dataclass(frozen=True)
class Comparison:
    """How far two raters give the same sentences the same labels.

    Attributes:
        sentences: N, that both rated.
        exact: share with equal label sets; NaN without sentences.
        jaccard: mean of |A ∩ B| / |A ∪ B|, 1 where both sets are empty.
        kappa: Cohen's κ of each label, held or not; NaN where both always say the same one thing.
    """

    sentences: int
    exact: float
    jaccard: float
    kappa: Mapping[str, float]


def compare(a: Sequence[Labels], b: Sequence[Labels], names: Sequence[str]) -> Comparison:
    """Two raters' label sets of the same N sentences.

    Args:
        a, b: (N,) each; an empty set, no label, is a verdict like others.
        names: of the labels.
    """
    pairs = list(zip(a, b, strict=True))
    if not pairs:
        return Comparison(0, math.nan, math.nan, dict.fromkeys(names, math.nan))
    jaccard = [len(one & other) / len(one | other) if one | other else 1.0 for one, other in pairs]
    every = np.ones((1, len(pairs)))
    kappa = {
        name: float(cohen_kappa(np.array([name in one for one in a]), np.array([name in one for one in b]))(every)[0])
        for name in names
    }
    exact = sum(one == other for one, other in pairs) / len(pairs)
    return Comparison(len(pairs), exact, sum(jaccard) / len(pairs), kappa)


def holding(sets: Sequence[Labels], labels: Sequence[str], names: Sequence[str]) -> tuple[int, float]:
    """How often a sentence's label set holds its clip's label.

    Args:
        sets: (N,); sentences without a label do not count.
        labels: (N,), of the clips; those that are not among `names` do not count.
        names: of the labels.

    Returns:
        How many sentences count, and the share of them that hold it; NaN where none counts.
    """
    held = [label in one for one, label in zip(sets, labels, strict=True) if one and label in names]
    return len(held), sum(held) / len(held) if held else math.nan
