"""Does a verifier say what its teacher says? Label sets and probabilities side by side: plain JSON and Markdown.

Shapes: N sentences, M of which have a teacher's probabilities, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erv_lightning.report.cells import grid, number
from erv_lightning.report.robustness import interval
from erv_lightning.robustness import share
from erv_lightning.stats.resampling import Floats
from erv_lightning.teaching.agreement import compare

Bools = NDArray[np.bool_]


def agreement(decisions: Mapping[str, Bools], true: Bools, labels: Sequence[str]) -> dict[str, Any]:
    """How far the verifier's label sets are those of the split.

    Args:
        decisions: by rule, (N, K), what the verifier says.
        true: (N, K), the labels of the split.
        labels: K names.

    Returns:
        For each rule the share of sentences with equal sets (``exact``), the mean ``jaccard`` index, 1 where both sets
        are empty, and Cohen's ``kappa`` of each label, NaN where both always say the same one thing.
    """
    found = {}
    given = _named(true, labels)
    for rule, said in decisions.items():
        both = compare(_named(said, labels), given, labels)
        exact = share(int((said == true).all(axis=1).sum()), len(true))
        found[rule] = {"exact": exact, "jaccard": both.jaccard, "kappa": dict(both.kappa)}
    return found


def _named(sets: Bools, labels: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(label for label, held in zip(labels, row, strict=True) if held) for row in sets]


def distance(probs: Floats, taught: Sequence[Sequence[float] | None]) -> dict[str, Any] | None:
    """How far the verifier's probabilities are from a teacher's, over all labels of the sentences that have them.

    Args:
        probs: (N, K), the verifier's.
        taught: (N,), the teacher's K of each sentence, or None.

    Returns:
        How many ``sentences``, ``mean_absolute_difference``, ``pearson`` and ``spearman`` correlation over M·K pairs,
        and the share whose likeliest label is the same (``same_likeliest``). None where no sentence has any.
    """
    rows = [row for row, one in enumerate(taught) if one is not None]
    if not rows:
        return None
    own, other = np.asarray(probs)[rows], np.array([taught[row] for row in rows], dtype=float)
    own_ranks, other_ranks = (np.asarray(pd.Series(x.ravel()).rank(), dtype=float) for x in (own, other))
    return {
        "sentences": len(rows),
        "mean_absolute_difference": float(np.abs(own - other).mean()),
        "pearson": _correlation(own.ravel(), other.ravel()),
        "spearman": _correlation(own_ranks, other_ranks),
        "same_likeliest": share(int((own.argmax(axis=1) == other.argmax(axis=1)).sum()), len(rows)),
    }


def _correlation(a: Floats, b: Floats) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def section(of: Mapping[str, Any]) -> list[str]:
    """Markdown: ``labels`` as `agreement` gives them, ``probabilities`` as `distance` does."""
    rules = of["labels"]
    rows = [[rule, interval(one["exact"]), number(one["jaccard"])] for rule, one in rules.items()]
    names = next(iter(rules.values()))["kappa"]
    kappas = [[name, *(number(one["kappa"][name]) for one in rules.values())] for name in names]
    return [
        "## Agreement with the teacher",
        "The labels of the split are the teacher's where `verifier build-data` made the data; elsewhere this is "
        "agreement with whoever labelled it. *Equal sets*: all labels of a sentence are the same, with the 95 % "
        "interval (Wilson). *Jaccard*: labels in common over labels of either, on average. Both: good is near 1.",
        grid("labels of a sentence", ["equal sets", "Jaccard"], rows),
        "Cohen's κ, label by label: agreement beyond chance; 1 is full, 0 is chance, and above 0.8 is commonly called "
        "almost perfect, below 0.6 at best moderate (Landis and Koch 1977).",
        grid("label", list(rules), kappas),
        _distance(of["probabilities"]),
    ]


def _distance(of: Mapping[str, Any] | None) -> str:
    if of is None:
        return "No test sentence has a teacher's probabilities: labels are all there is to compare."
    cells = [number(of[key]) for key in ("mean_absolute_difference", "pearson", "spearman")]
    titles = ["sentences", "mean absolute difference (good: near 0)", "Pearson (near 1)", "Spearman (near 1)"]
    row = ["all labels", str(of["sentences"]), *cells, interval(of["same_likeliest"])]
    return "Probabilities, as they are before calibration:\n\n" + grid(
        "probabilities", [*titles, "same likeliest label (near 1)"], [row]
    )
