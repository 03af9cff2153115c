"""Tested runs against each other: every number that `compare` and `report` show, from tables that are already there.

`erv_lightning.analysis` computes them; `erv_lightning.report.comparison` shows them. Reads no files, draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erv_lightning.analysis import (
    Arm,
    Difference,
    Estimate,
    agreement_of,
    bootstrap,
    differences,
    how_drawn,
)
from erv_lightning.results import choose_judges
from erv_lightning.stats.agreement import Agreement

Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Reading:
    """All numbers as one judge reads the explanations.

    Attributes:
        judge: its name.
        estimates: metrics by arm name.
        differences: (arm, baseline, metrics of arm minus baseline), paired by clip.
    """

    judge: str
    estimates: dict[str, Estimates]
    differences: tuple[tuple[str, str, dict[str, Difference]], ...]


@dataclass(frozen=True)
class Comparison:
    """Everything the outputs say.

    Attributes:
        command: the shell command that made it.
        datasets: the data sets of the clips.
        clips: number of clips.
        drawn: what the bootstrap draws, in words.
        draws: bootstrap draws.
        arms: in the order of the rows.
        readings: one for each judge; the first one's are the main tables.
        agreement: of the judges, where there are several, over the explanations of all runs.
    """

    command: str
    datasets: tuple[str, ...]
    clips: int
    drawn: str
    draws: int
    arms: tuple[Arm, ...]
    readings: tuple[Reading, ...]
    agreement: tuple[Agreement, ...] = ()

    @property
    def main(self) -> Reading:
        """What the first judge read."""
        return self.readings[0]


def compare(
    arms: Sequence[Arm], *, command: str, judges: Sequence[str] = (), baseline: str | None = None, draws: int
) -> Comparison:
    """Computes all numbers.

    Args:
        arms: of `load_arms`, one or more.
        command: the shell command that asks for them.
        judges: whose readings of the explanations count; none named: all that read every run.
        baseline: the arm that every other is compared with; None: the last arm is compared with every other.
        draws: of the bootstrap.

    Raises:
        ValueError: no such baseline, a judge that did not read every run, or runs tested on different clips.
    """
    names = [arm.name for arm in arms]
    if baseline not in (None, *names):
        raise ValueError(f"no arm {baseline!r} to compare with; the arms are {', '.join(names)}")
    pairs = [(names[-1], other) for other in names[:-1]]
    if baseline is not None:
        pairs = [(name, baseline) for name in names if name != baseline]
    chosen = choose_judges(arms, judges)
    clips = arms[0].predictions[0]
    return Comparison(
        command=command,
        datasets=tuple(sorted(set(clips["dataset"]))),
        clips=len(clips.drop_duplicates(["dataset", "clip"])),
        drawn=how_drawn(clips),
        draws=draws,
        arms=tuple(arms),
        readings=tuple(_reading(arms, pairs, judge, draws) for judge in chosen),
        agreement=tuple(agreement_of([frame for arm in arms for frame in arm.predictions], chosen)),
    )


def _reading(arms: Sequence[Arm], pairs: Sequence[tuple[str, str]], judge: str, draws: int) -> Reading:
    samplings = bootstrap(arms, judge, draws=draws)
    return Reading(
        judge=judge,
        estimates={name: sampling.estimates() for name, sampling in samplings.items()},
        differences=tuple(differences(arms, pairs, judge, samplings)),
    )
