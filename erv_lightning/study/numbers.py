"""What the answers of a study say: preference, the emotions that were read, agreement. Tables in, numbers out.

Intervals draw clips and raters both (the pigeonhole bootstrap of Owen 2007): an answer is in a draw as often as its
clip times as often as its rater. Clips of one source are drawn together. Agreement draws clips alone.

Shapes: N answers, M measures, J raters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from erv_lightning.estimates import clip_units
from erv_lightning.stats.agreement import Agreement
from erv_lightning.stats.resampling import Floats, design, ratio, weights
from erv_lightning.study.agreement import Agreed, majorities, of_explanations, of_judges, of_raters
from erv_lightning.study.answers import NO, UNCLEAR, YES
from erv_lightning.study.forms import TIE
from erv_lightning.study.intervals import Number
from erv_lightning.study.items import ARMS

DRAWS = 10_000
"""Bootstrap draws behind an interval."""

MAX_FAILED = 0.5
"""A rater who fails a larger share of their attention checks is left out."""

OF_ARMS = {"eea": "EEA", "epc": "EPC", "fcr": "FCR", "unclear": "unclear"}
"""What is counted of each arm: key and title."""


@dataclass(frozen=True)
class Failed:
    """A rater's attention checks.

    Attributes:
        rater: who.
        failed, checks: how many of how many were not answered as asked.
    """

    rater: str
    failed: int
    checks: int


@dataclass(frozen=True)
class Signs:
    """An exact two-sided test of one half.

    Attributes:
        a, b: how often each arm was preferred.
        even: how often neither.
        p: of the binomial test over a + b; 1 where both are 0.
    """

    a: int
    b: int
    even: int
    p: float


@dataclass(frozen=True)
class Analysis:
    """Everything the outputs say.

    Attributes:
        arms: names of A and B.
        raters, clips, answers: how many count; attention checks are no answers.
        failed: everyone who failed a check; excluded: those of them who do not count.
        max_failed: the share of checks that may fail.
        preference: the share that prefers B, a tie as one half.
        by_clip: what the majority of each clip prefers; by_answer: the same for single answers.
        left: the share that prefers what stands on the left, a tie as one half: 0.5 where sides do not matter.
        of_arms: by arm "a", "b", the measures of `OF_ARMS`; differences: B minus A.
        agreement: on each question.
        judges: of each judge with the raters' majority.
        undecided: explanations without one reading that is the most frequent, which `judges` leave out.
        seconds: median time on a page; NaN where no browser told.
        draws: of the bootstrap.
    """

    arms: tuple[str, str]
    raters: int
    clips: int
    answers: int
    failed: tuple[Failed, ...]
    excluded: tuple[Failed, ...]
    max_failed: float
    preference: Number
    by_clip: Signs
    by_answer: Signs
    left: Number
    of_arms: dict[str, dict[str, Number]]
    differences: dict[str, Number]
    agreement: tuple[Agreed, ...]
    judges: tuple[Agreement, ...]
    undecided: int
    seconds: float
    draws: int


def analyse(frame: pd.DataFrame, *, max_failed: float = MAX_FAILED, draws: int = DRAWS, seed: int = 0) -> Analysis:
    """Counts a table of answers, see `erv_lightning.study.answers`.

    Args:
        frame: one row an answer.
        max_failed: raters who fail a larger share of their attention checks are left out; 1 keeps everyone.
        draws: of the bootstrap, at least 1.
        seed: of the bootstrap.

    Raises:
        ValueError: no answer is left.
    """
    failed = failed_checks(frame)
    excluded = tuple(one for one in failed if one.failed > max_failed * one.checks)
    kept = frame[(frame["passed"] == "") & ~frame["rater"].isin([one.rater for one in excluded])]
    if kept.empty:
        raise ValueError(
            f"no answers are left: {len(excluded)} raters failed more than {max_failed:.0%} of their attention checks "
            "(--max-failed 1 keeps everyone)"
        )
    kept = kept.reset_index(drop=True)
    values, sampled = _sampled(kept, draws, seed)
    found = {name: Number.of(value, drawn) for name, value, drawn in zip(_NAMES, values, sampled.T, strict=True)}
    readings = of_explanations(kept)
    majority = majorities(readings)
    return Analysis(
        arms=(str(kept["arm_a"].iloc[0]), str(kept["arm_b"].iloc[0])),
        raters=kept["rater"].nunique(),
        clips=len(kept.drop_duplicates(["dataset", "id"])),
        answers=len(kept),
        failed=failed,
        excluded=excluded,
        max_failed=max_failed,
        preference=found["preference"],
        by_clip=_by_clip(kept),
        by_answer=_signs(list(kept["preferred"])),
        left=found["left"],
        of_arms={arm: {key: found[f"{key}_{arm}"] for key in OF_ARMS} for arm in ARMS},
        differences={key: _difference(key, values, sampled) for key in OF_ARMS},
        agreement=of_raters(kept, readings, draws),
        judges=of_judges(readings, majority, draws),
        undecided=len(readings.drop_duplicates("row")) - len(majority),
        seconds=float(pd.to_numeric(kept["seconds"], errors="coerce").median()),
        draws=draws,
    )


def failed_checks(frame: pd.DataFrame) -> tuple[Failed, ...]:
    """Everyone who failed an attention check, in the order of the table."""
    checks = frame[frame["passed"].isin([YES, NO])]
    each = [
        Failed(str(rater), int((own["passed"] == NO).sum()), len(own))
        for rater, own in checks.groupby("rater", sort=False)
    ]
    return tuple(one for one in each if one.failed)


# -- shares -----------------------------------------------------------------------------------------------------------

_NAMES = ("preference", "left", *(f"{key}_{arm}" for arm in ARMS for key in OF_ARMS))


def _measures(frame: pd.DataFrame) -> Floats:
    """(N, M): what each answer adds to each measure, in the order of `_NAMES`."""
    for_b = frame["preferred"].map({"a": 0.0, TIE: 0.5, "b": 1.0})
    columns = [for_b, for_b.where(frame["left"] == "b", 1 - for_b)]
    for arm in ARMS:
        conveyed, answer = frame[f"conveyed_{arm}"], frame[f"answer_{arm}"]
        said = conveyed != UNCLEAR
        true, own = said & (conveyed == frame["label"]), said & (conveyed == answer)
        columns += [one.astype(float) for one in (true, own, true & own, ~said)]
    return np.stack([column.to_numpy(dtype=np.float64) for column in columns], axis=1)


def _sampled(frame: pd.DataFrame, draws: int, seed: int) -> tuple[Floats, Floats]:
    """Every measure as it is (M,), and on every draw of clips and raters (draws, M)."""
    measures = _measures(frame)[:, :, None]
    everyone = np.ones_like(measures)
    whole = np.zeros(len(frame), dtype=np.intp)
    clips = design(clip_units(frame, "id"), whole, stratify=False)
    raters = design(frame["rater"].tolist(), whole, stratify=False)
    both = zip(
        weights(clips, draws, np.random.default_rng([seed, 0])),
        weights(raters, draws, np.random.default_rng([seed, 1])),
        strict=True,
    )
    sampled = np.concatenate([ratio(clip * rater, measures, everyone) for clip, rater in both])
    return ratio(np.ones((1, len(frame))), measures, everyone)[0], sampled


def _difference(key: str, values: Floats, sampled: Floats) -> Number:
    a, b = (_NAMES.index(f"{key}_{arm}") for arm in ARMS)
    return Number.of(values[b] - values[a], sampled[:, b] - sampled[:, a])


# -- tests ------------------------------------------------------------------------------------------------------------


def _signs(preferred: Sequence[str]) -> Signs:
    from statsmodels.stats.proportion import binom_test

    votes = Counter(preferred)
    a, b = votes["a"], votes["b"]
    p = float(min(1.0, binom_test(b, a + b, 0.5))) if a + b else 1.0
    return Signs(a, b, len(preferred) - a - b, p)


def _by_clip(frame: pd.DataFrame) -> Signs:
    """The sign test: what most raters of a clip prefer is one vote."""
    votes = []
    for _, own in frame.groupby(["dataset", "id"], sort=False):
        a, b = (int((own["preferred"] == arm).sum()) for arm in ARMS)
        votes.append("a" if a > b else "b" if b > a else TIE)
    return _signs(votes)
