"""Does an explanation say what the model answers, and is that true? A closer look at the arms. No drawing.

Four cells: the answer ŷ is the label y (*right*) or not (*wrong*); the emotion ê that a judge reads in the explanation
is the answer (*coherent*) or not (*incoherent*). "Right, coherent" is what FCR counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erv_lightning.estimates import (
    DRAWS,
    SWAPS,
    Tally,
    agreement_of,
    check_same_clips,
    clip_design,
    difference,
    resample,
    stacked_tallies,
)
from erv_lightning.labels import get_label_space
from erv_lightning.results import Arm
from erv_lightning.stats.significance import holm, paired_permutation
from erv_lightning.tallies import Ids, ids

if TYPE_CHECKING:
    from erv_lightning.judges.protocol import Judge

CELLS = ("right, coherent", "right, incoherent", "wrong, coherent", "wrong, incoherent")
"""Answer against the label, explanation against the answer."""

Change = Literal["gained", "lost", "repaired", "undone"]

OF_CLASSES = ("war", "eea", "epc", "fcr", "fcr_given_correct")
"""Metrics that a class has alone; WAR of a class is its recall."""


def cells_of(frame: pd.DataFrame, judge: str) -> NDArray[np.intp]:
    """The cell of each row, as its place in `CELLS`.

    Args:
        frame: a `load_predictions` table.
        judge: whose reading of the explanations counts.
    """
    of = ids(frame, judge)
    right = (of.answer == of.label) & (of.answer >= 0)
    coherent = (of.explanation == of.answer) & (of.answer >= 0)
    return np.where(right, 0, 2) + np.where(coherent, 0, 1)


def four_cells(arm: Arm, judge: str, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """How an arm's responses fall into the four cells.

    Args:
        arm: its runs.
        judge: whose reading of the explanations counts.
        draws, seed: of the bootstrap.

    Returns:
        A row for each of `CELLS`: ``cell``, ``clips`` (responses of all seeds together), ``share`` in [0, 1] (the mean
        over seeds), ``low`` and ``high`` (its 95 % interval), ``seeds`` (the share of each).
    """
    cell_NS = np.stack([cells_of(frame, judge) for frame in arm.predictions], axis=1)
    counts = {name: _share(cell_NS == place) for place, name in enumerate(CELLS)}
    found = resample([arm], {arm.name: counts}, draws=draws, seed=seed)[arm.name].estimates()
    return pd.DataFrame(
        {
            "cell": CELLS,
            "clips": [int((cell_NS == place).sum()) for place in range(len(CELLS))],
            "share": [found[name].value for name in CELLS],
            "low": [found[name].low for name in CELLS],
            "high": [found[name].high for name in CELLS],
            "seeds": [found[name].seeds for name in CELLS],
        }
    )


def _share(hit_NS: NDArray[np.bool_]) -> Tally:
    """The tally of a share of all rows."""
    return hit_NS.astype(float)[:, :, None], np.ones((*hit_NS.shape, 1))


def class_gains(
    arm: Arm, baseline: Arm, judge: str, metric: str = "fcr", *, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """What an arm gains over a baseline on the clips of each class, paired by clip.

    Args:
        arm, baseline: tested on the same clips.
        judge: whose reading of the explanations counts.
        metric: one of `OF_CLASSES`.
        draws, seed: of the bootstrap and the permutation tests.

    Returns:
        A row for each class that occurs, in the order of the label space: ``label``, ``clips``, ``baseline``, ``arm``
        and ``gain`` (means over seeds), ``low`` and ``high`` (the gain's 95 % interval), ``p_holm`` (of paired
        permutation tests, adjusted for all classes by Holm's method).

    Raises:
        ValueError: another metric, or arms that were tested on different clips.
    """
    if metric not in OF_CLASSES:
        raise ValueError(f"{metric!r} is no metric of a single class; choose one of {', '.join(OF_CLASSES)}")
    frame = check_same_clips([arm, baseline])
    classes = _classes(ids(frame))
    counts = {one.name: _by_class(stacked_tallies(one, judge)[metric], classes) for one in (arm, baseline)}
    sampled = resample([arm, baseline], counts, draws=draws, seed=seed)
    clusters = clip_design(frame).clusters
    p = [
        paired_permutation(*counts[arm.name][name], *counts[baseline.name][name], clusters, draws=SWAPS, seed=seed)
        for name in classes
    ]
    rows = []
    for (name, own), adjusted in zip(classes.items(), holm(p), strict=True):
        gain = difference(sampled[arm.name], sampled[baseline.name], name)
        means = {
            key: float(sampled[one.name].values[name].mean()) for key, one in (("baseline", baseline), ("arm", arm))
        }
        rows.append(
            {"label": name, "clips": int(own.sum()), **means, "gain": gain.value, "low": gain.low, "high": gain.high}
            | {"p_holm": adjusted}
        )
    return pd.DataFrame(rows)


def _classes(of: Ids) -> dict[str, NDArray[np.bool_]]:
    """Of each class that occurs, which rows are its."""
    own = {name: of.label == place for place, name in enumerate(of.classes)}
    return {name: rows for name, rows in own.items() if rows.any()}


def _by_class(tally: Tally, classes: dict[str, NDArray[np.bool_]]) -> dict[str, Tally]:
    """A metric's tally for each class: rows of other classes add nothing."""
    numerator, denominator = tally
    return {name: (numerator * own[:, None, None], denominator * own[:, None, None]) for name, own in classes.items()}


# -- single clips -------------------------------------------------------------------------------------------------


def before_after(
    baseline: Arm, arm: Arm, judge: str, n: int = 3, kind: Change = "repaired", *, seed: int = 0
) -> pd.DataFrame:
    """Clips that an arm treats otherwise than a baseline: the same clip before and after.

    The choice is no one's taste: clips in the order of their ids, one of each class in turn.

    Args:
        baseline, arm: tested on the same clips.
        judge: whose reading of the explanations counts.
        n: clips, at most.
        kind: ``repaired``: the answer right both times, the explanation incoherent → coherent; ``undone``: the
            other way round; ``gained``: any other cell → right and coherent; ``lost``: the other way round.
        seed: which of the arm's runs, by its place; the baseline's run of the same seed is taken, else its first.

    Returns:
        A row a clip: ``id``, ``dataset``, ``clip``, ``label``, and ``answer``, ``read`` (the emotion that the judge
        reads, "" for none), ``explanation`` of each, as ``before_…`` and ``after_…``. ``attrs["found"]`` tells how many
        such clips there are.

    Raises:
        ValueError: an unknown kind, or arms that were tested on different clips.
    """
    if kind not in _CHANGES:
        raise ValueError(f"{kind!r} is no kind of change; choose one of {', '.join(_CHANGES)}")
    check_same_clips([baseline, arm])
    name = arm.seeds[seed]
    before = baseline.predictions[baseline.seeds.index(name) if name in baseline.seeds else 0]
    after = arm.predictions[seed]
    was, became = _CHANGES[kind]
    changed = np.isin(cells_of(before, judge), was) & np.isin(cells_of(after, judge), became)
    chosen = _in_turn(np.flatnonzero(changed), ids(after).label)[:n]
    made = after.iloc[chosen][["id", "dataset", "clip"]].reset_index(drop=True)
    made["label"] = [_name(row, row["label_id"]) for _, row in after.iloc[chosen].iterrows()]
    for which, frame in (("before", before), ("after", after)):
        rows = [row for _, row in frame.iloc[chosen].iterrows()]
        made[f"{which}_answer"] = [_name(row, row["answer_id"]) for row in rows]
        made[f"{which}_read"] = [_name(row, row["judges"][judge]) for row in rows]
        made[f"{which}_explanation"] = [row.get("explanation", "") for row in rows]
    made.attrs["found"] = int(changed.sum())
    return made


_ANY = (0, 1, 2, 3)
_CHANGES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "gained": (_ANY[1:], (0,)),
    "lost": ((0,), _ANY[1:]),
    "repaired": ((1,), (0,)),
    "undone": ((0,), (1,)),
}


def _in_turn(rows: NDArray[np.intp], labels: NDArray[np.intp]) -> list[int]:
    """Rows reordered: the first of each class, then the second of each, and so on."""
    order = pd.DataFrame({"row": rows, "label": labels[rows]})
    order["turn"] = order.groupby("label").cumcount()
    return [int(row) for row in order.sort_values(["turn", "label"])["row"]]


def _name(row: pd.Series, label: int) -> str:
    return get_label_space(row["label_space"]).names[label] if label >= 0 else ""


# -- verifier and judges ------------------------------------------------------------------------------------------


def verifier_against_judges(arms: Sequence[Arm], verifier: Judge, judges: Sequence[str]) -> pd.DataFrame:
    """Does the reward's verifier read the explanations as the judges do? Arm by arm.

    Where it agrees less with them on the arm that it rewarded than on others, the policy may have learnt to please it.

    Args:
        arms: their explanations are read; the tables stay as they are.
        verifier: reads each whole explanation, e.g. a `erv_lightning.judges.VerifierJudge` of a verifier's export.
        judges: whose verdicts are there already.

    Returns:
        A row for each arm and measure: ``arm``, ``measure`` (``equal: …``, the share of equal readings, and Cohen's κ,
        of which 0 is chance and 1 is full agreement), ``value``, ``low``, ``high`` (95 % interval). Measures of judges
        among each other are left out.
    """
    from erv_lightning.judging import read_table

    rows = []
    for arm in arms:
        frames = [frame.copy() for frame in arm.predictions]
        for frame in frames:
            read_table(frame, verifier)
        rows += [
            {"arm": arm.name, "measure": one.name, "value": one.value, "low": one.low, "high": one.high}
            for judge in judges
            for one in agreement_of(frames, [verifier.name, judge])
            if not one.name.startswith("Krippendorff")
        ]
    return pd.DataFrame(rows)
