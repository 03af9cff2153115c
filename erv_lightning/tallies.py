"""What each clip adds to every metric: pairs of counts whose weighted sums a bootstrap divides. Label ids in, no torch.

`erv_lightning.metrics` computes the same metrics batch by batch; here a clip keeps its own counts, so that clips can be
drawn, swapped and left out. A test holds the two together.

Shapes: N rows, C classes of all label spaces of a table together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erv_lightning.labels import get_label_space

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

METRICS = {
    "war": "WAR",
    "uar": "UAR",
    "f1": "F1",
    "eea": "EEA",
    "epc": "EPC",
    "fcr": "FCR",
    "fcr_given_correct": "FCR|ŷ=y",
}
"""Key and title of every metric, in the order of the tables."""

OF_ANSWERS = ("war", "uar", "f1", "unparsable")
"""What needs no judge."""

OF_EXPLANATIONS = tuple(key for key in METRICS if key not in OF_ANSWERS)
"""What a judge is needed for."""

DEFINITIONS = (
    "With label y, answer ŷ and the emotion ê of the explanation: WAR = P(ŷ=y), UAR = mean recall per class, F1 = mean "
    "F1 per class, EEA = P(ê=y), EPC = P(ê=ŷ), FCR = P(ê=ŷ=y), FCR|ŷ=y = P(ê=y given ŷ=y). No valid answer counts as "
    "wrong."
)

# In this data set the paper's release leaves clips without a valid answer out of their class's total (method.md).
_QUIRK = "mafw"


@dataclass(frozen=True)
class Ids:
    """The ids of a table of predictions. Those of different label spaces never meet.

    Attributes:
        label, answer: (N,), positions in `classes`; −1 for none.
        explanation: (N,), what a judge read in the explanation, −1 for nothing; None without a judge.
        classes: the labels of all spaces of the table, ``happy``, or ``mafw/happiness`` where there are several.
        excused: (N,), whether a missing answer is left out of its class's total.
    """

    label: Ints
    answer: Ints
    explanation: Ints | None
    classes: tuple[str, ...]
    excused: NDArray[np.bool_]


def ids(
    frame: pd.DataFrame, judge: str | None = None, *, answered_only: bool = False, release_compatible: bool = False
) -> Ids:
    """The ids of a `load_predictions` table.

    Args:
        frame: its rows name their label space.
        judge: whose reading of the explanations counts; None for none.
        answered_only: an explanation beside an invalid answer earns nothing, as in the paper's release.
        release_compatible: in MAFW a clip without a valid answer is left out of its class's total, as there; it raises
            UAR.
    """
    spaces = [get_label_space(name) for name in pd.unique(frame["label_space"])]
    starts = dict(zip([space.name for space in spaces], np.cumsum([0, *(len(s.names) for s in spaces)]), strict=False))
    start_N = frame["label_space"].str.lower().map(starts).to_numpy(dtype=np.intp)

    def placed(values: Any) -> Ints:
        found = np.asarray(values, dtype=np.intp)
        return np.where(found >= 0, found + start_N, -1)

    answer = placed(frame["answer_id"])
    explanation = None if judge is None else placed([row[judge] for row in frame["judges"]])
    if explanation is not None and answered_only:
        explanation = np.where(answer >= 0, explanation, -1)
    several = len(spaces) > 1
    return Ids(
        label=placed(frame["label_id"]),
        answer=answer,
        explanation=explanation,
        classes=tuple(f"{space.name}/{name}" if several else name for space in spaces for name in space.names),
        excused=(answer < 0) & (frame["label_space"] == _QUIRK).to_numpy() & release_compatible,
    )


def tallies(of: Ids) -> dict[str, tuple[Floats, Floats]]:
    """What each row adds to the numerator and the denominator of every metric, both (N, classes).

    UAR and F1 have C classes, a ratio for each and then the mean over those that occur; elsewhere classes = 1. F1 of a
    class is 2·TP / (clips of it + answers of it), so that a class that is answered and never true counts as 0, as in
    scikit-learn and torchmetrics. Metrics of explanations are missing where there is no judge.
    """
    everyone = np.ones((len(of.label), 1))
    right = _agree(of.answer, of.label)
    classes = np.arange(len(of.classes))
    true_NC, said_NC = ((each[:, None] == classes).astype(float) for each in (of.label, of.answer))
    found = {
        "war": (right, everyone),
        "uar": (right * true_NC, true_NC * ~of.excused[:, None]),
        "f1": (2 * right * true_NC, true_NC + said_NC),
        "unparsable": ((of.answer < 0).astype(float)[:, None], everyone),
    }
    if of.explanation is None:
        return found
    faithful = right * _agree(of.explanation, of.label)
    return found | {
        "eea": (_agree(of.explanation, of.label), everyone),
        "epc": (_agree(of.explanation, of.answer), everyone),
        "fcr": (faithful, everyone),
        "fcr_given_correct": (faithful, right),
    }


def _agree(a: Ints, b: Ints) -> Floats:
    """Where two ids agree, as (N, 1) zeros and ones; −1 agrees with nothing."""
    agree: Floats = ((a == b) & (a >= 0)).astype(float)
    return agree[:, None]
