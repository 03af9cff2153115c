"""Everything there is to say of one table of predictions: metrics with intervals, per class and data set, and counts.

Works on label ids that are there already: `erv_lightning.results` reads them, `erv_lightning.judges` read
explanations, `erv_lightning.report.evaluation` shows what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erv_lightning.analysis import DRAWS, Arm, Estimate, agreement_of, bootstrap, how_drawn
from erv_lightning.labels import get_label_space
from erv_lightning.stats.agreement import Agreement
from erv_lightning.tallies import OF_ANSWERS, OF_EXPLANATIONS, Ids, ids

Estimates = dict[str, Estimate]
CELLS = ((True, True), (True, False), (False, True), (False, False))
"""Answer right × explanation right, in the order of the tables."""


@dataclass(frozen=True)
class Group:
    """The metrics of some clips: all, those of a data set, or those of a class.

    Attributes:
        name: of the data set or class; "all".
        clips: how many rows.
        answers: the metrics that need no judge.
        judged: by judge, the metrics of explanations.
    """

    name: str
    clips: int
    answers: Estimates
    judged: dict[str, Estimates]

    def under(self, judge: str | None) -> Estimates:
        """All metrics as one judge reads the explanations; those of answers alone without one."""
        return self.answers | (self.judged[judge] if judge else {})


@dataclass(frozen=True)
class ClassGroup(Group):
    """The metrics of a class's clips; WAR and UAR are its recall.

    Attributes:
        precision: how many of the clips that are answered so are so; NaN where none is answered so.
        f1: 2·TP / (its clips + its answers).
    """

    precision: float = float("nan")
    f1: float = float("nan")


@dataclass(frozen=True)
class Confusion:
    """Counts of one label space: rows are true labels, columns what was said; the last column is none.

    Attributes:
        space: name of the label space.
        labels: its C labels.
        answers: (C, C + 1).
        explanations: (C, C + 1) by judge.
    """

    space: str
    labels: tuple[str, ...]
    answers: NDArray[np.intp]
    explanations: dict[str, NDArray[np.intp]]


@dataclass(frozen=True)
class Evaluation:
    """Everything the outputs say.

    Attributes:
        evaluated: what was evaluated, for people.
        command: the shell command that made it.
        judges: whose readings count; the first one's are the main numbers. May be empty.
        overall, datasets, classes: the metrics.
        cells: by judge, how many clips have a right or wrong answer × explanation, in the order of `CELLS`.
        malformed: share of responses that have not the form that R_format rewards; NaN where nobody says.
        confusions: one for each label space.
        agreement: of several judges.
        drawn: what the bootstrap draws, in words.
        draws: how often.
        release_compatible: whether it was counted as the paper's release does.
        notes: warnings, and what the judges report of themselves.
    """

    evaluated: str
    command: str
    judges: tuple[str, ...]
    overall: Group
    datasets: tuple[Group, ...]
    classes: tuple[ClassGroup, ...]
    cells: dict[str, tuple[int, ...]]
    malformed: float
    confusions: tuple[Confusion, ...]
    agreement: tuple[Agreement, ...]
    drawn: str
    draws: int
    release_compatible: bool
    notes: tuple[str, ...] = field(default=())

    @property
    def judge(self) -> str | None:
        """The judge of the main numbers, if there is one."""
        return self.judges[0] if self.judges else None


def evaluate(
    frame: pd.DataFrame,
    judges: Sequence[str],
    *,
    evaluated: str = "",
    command: str = "",
    draws: int = DRAWS,
    answered_only: bool = False,
    release_compatible: bool = False,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Measures a `predictions_table`.

    Args:
        frame: one row a clip.
        judges: names under the rows' ``judges`` whose readings count; the first is the main one.
        evaluated, command, notes: see `Evaluation`.
        draws: of the bootstrap.
        answered_only, release_compatible: see `erv_lightning.tallies.ids`.
    """
    rule = _Rule(tuple(judges), draws, {"answered_only": answered_only, "release_compatible": release_compatible})
    names = sorted(set(frame["dataset"]))
    overall = rule.group("all", frame)
    well_formed = frame["well_formed"] if "well_formed" in frame else pd.Series(dtype=object)
    return Evaluation(
        evaluated=evaluated,
        command=command,
        judges=tuple(judges),
        overall=overall,
        datasets=tuple(
            replace(overall, name=name) if len(names) == 1 else rule.group(name, frame[frame["dataset"] == name])
            for name in names
        ),
        classes=rule.classes(frame),
        cells={judge: _cells(rule.ids(frame, judge)) for judge in judges},
        malformed=float(1 - well_formed.astype(float).mean()),
        confusions=tuple(
            _confusion(str(name), frame[frame["label_space"] == name], rule) for name in pd.unique(frame["label_space"])
        ),
        agreement=tuple(agreement_of([frame], judges)),
        drawn=how_drawn(frame),
        draws=draws,
        release_compatible=release_compatible,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Rule:
    """How a table is counted, whatever part of it."""

    judges: tuple[str, ...]
    draws: int
    counting: dict[str, bool]

    def ids(self, frame: pd.DataFrame, judge: str | None) -> Ids:
        return ids(frame, judge, **self.counting)

    def _estimates(self, frame: pd.DataFrame, judge: str | None, metrics: Sequence[str]) -> Estimates:
        arm = Arm("", (), ("",), (frame,))
        sampling = bootstrap([arm], judge, draws=self.draws, metrics=metrics, **self.counting)
        return sampling[""].estimates()

    def group(self, name: str, frame: pd.DataFrame, answers: Sequence[str] = OF_ANSWERS) -> Group:
        """The metrics of some rows; of those that need no judge, the ones that are named."""
        judged = {judge: self._estimates(frame, judge, OF_EXPLANATIONS) for judge in self.judges}
        return Group(name, len(frame), self._estimates(frame, None, answers), judged)

    def classes(self, frame: pd.DataFrame) -> tuple[ClassGroup, ...]:
        """The classes that occur, in the order of their label spaces."""
        of = self.ids(frame, None)
        made = []
        for index, name in enumerate(of.classes):
            own = of.label == index
            if own.any():
                group = self.group(name, frame[own], ("war", "unparsable"))
                precision, f1 = _precision(own, of.answer == index)
                made.append(ClassGroup(**vars(group), precision=precision, f1=f1))
        return tuple(made)


def _precision(true: NDArray[np.bool_], said: NDArray[np.bool_]) -> tuple[float, float]:
    """Precision and F1 of a class from where it is true and where it is answered."""
    both = int((true & said).sum())
    return both / int(said.sum()) if said.any() else float("nan"), 2 * both / int(true.sum() + said.sum())


def _cells(of: Ids) -> tuple[int, ...]:
    """Counts in the order of `CELLS`."""
    assert of.explanation is not None
    answer, explanation = ((one == of.label) & (one >= 0) for one in (of.answer, of.explanation))
    return tuple(int(((answer == a) & (explanation == e)).sum()) for a, e in CELLS)


def _confusion(name: str, frame: pd.DataFrame, rule: _Rule) -> Confusion:
    labels = get_label_space(name).names
    of = rule.ids(frame, None)

    def count(said: NDArray[np.intp]) -> NDArray[np.intp]:
        counts = np.zeros((len(labels), len(labels) + 1), dtype=np.intp)
        labelled = of.label >= 0
        np.add.at(counts, (of.label[labelled], said[labelled]), 1)  # −1 is the last column
        return counts

    read = {judge: rule.ids(frame, judge).explanation for judge in rule.judges}
    return Confusion(
        name, labels, count(of.answer), {judge: count(one) for judge, one in read.items() if one is not None}
    )
