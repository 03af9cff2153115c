"""Do raters agree, with each other and with the judges? Tables of answers in, measures out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erv_lightning.estimates import clip_units
from erv_lightning.stats.agreement import (
    Agreement,
    bootstrapped,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
)
from erv_lightning.stats.resampling import Ints
from erv_lightning.study.answers import UNCLEAR
from erv_lightning.study.items import ARMS


@dataclass(frozen=True)
class Agreed:
    """How far raters agree on one question.

    Attributes:
        question: in words.
        measures: percent agreement and Fleiss' κ, over rows that `each` raters answered, and Krippendorff's α over all.
        each: how many raters a row of the first two has; 0 where no row has two.
        rows: how many rows these are.
        of: how many rows there are.
    """

    question: str
    measures: tuple[Agreement, ...]
    each: int
    rows: int
    of: int


def of_explanations(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an answer and explanation: `row` (the explanation), `rater`, `read`, `unit`, and what judges read."""
    judges = [name for name in _judges(frame, "a") if name in _judges(frame, "b")]
    parts = []
    for arm in ARMS:
        row = frame["dataset"] + "/" + frame["id"] + "/" + arm
        read = _named(frame, f"conveyed_{arm}")
        part = pd.DataFrame({"row": row, "rater": frame["rater"], "unit": clip_units(frame, "id"), "read": read})
        parts.append(part.assign(**{f"judge:{name}": _named(frame, f"judge_{arm}:{name}") for name in judges}))
    return pd.concat(parts, ignore_index=True)


def _judges(frame: pd.DataFrame, arm: str) -> list[str]:
    start = f"judge_{arm}:"
    return [str(name).removeprefix(start) for name in frame.columns if str(name).startswith(start)]


def _named(frame: pd.DataFrame, column: str) -> pd.Series[str]:
    """Labels with their space before them, so that those of two spaces never meet; nothing read is one of them."""
    return frame["label_space"] + "/" + frame[column].replace("", UNCLEAR)


def of_raters(frame: pd.DataFrame, readings: pd.DataFrame, draws: int) -> tuple[Agreed, ...]:
    """Agreement of the raters on both questions.

    Args:
        frame: answers.
        readings: of the same, see `of_explanations`.
        draws: of the bootstrap.
    """
    clips = frame["dataset"] + "/" + frame["id"]
    preferences = pd.DataFrame(
        {"row": clips, "rater": frame["rater"], "unit": clip_units(frame, "id"), "read": frame["preferred"]}
    )
    return (
        _agreed("which explanation fits better", preferences, draws),
        _agreed("which emotion an explanation conveys", readings, draws),
    )


def _agreed(question: str, readings: pd.DataFrame, draws: int) -> Agreed:
    """Agreement of raters on rows (clips or explanations), each of which some of them have read."""
    table, units = _matrix(readings)
    count = (table >= 0).sum(axis=1)
    usual = Counter(count[count > 1].tolist())
    each = max(usual, key=lambda size: (usual[size] * size, size)) if usual else 0
    full = count == each
    measures = []
    if each:
        # Fleiss' κ asks for the same number of raters on every row, not for the same raters.
        compact = np.array([row[row >= 0] for row in table[full]])
        measures.append(bootstrapped("equal", percent_agreement(compact), units[full], draws))
        measures.append(bootstrapped("Fleiss' κ", fleiss_kappa(compact), units[full], draws))
        measures.append(bootstrapped("Krippendorff's α", krippendorff_alpha(table), units, draws))
    return Agreed(question, tuple(measures), each, int(full.sum()) if each else 0, len(table))


def _matrix(readings: pd.DataFrame) -> tuple[Ints, NDArray[np.str_]]:
    """(rows, J) codes of what was read, −1 where a rater has not read the row; and the unit of every row."""
    rows, names = pd.factorize(readings["row"])
    raters, people = pd.factorize(readings["rater"])
    table = np.full((len(names), len(people)), -1, dtype=np.intp)
    table[rows, raters] = pd.factorize(readings["read"])[0]
    return table, readings.drop_duplicates("row")["unit"].to_numpy(dtype=np.str_)


def majorities(readings: pd.DataFrame) -> pd.DataFrame:
    """The first row of every explanation with what most raters read in it, `most`; without those that are split."""
    most: dict[str, str] = {}
    for row, own in readings.groupby("row", sort=False):
        first, *others = Counter(own["read"]).most_common(2)
        if not others or others[0][1] < first[1]:
            most[str(row)] = first[0]
    kept = readings.drop_duplicates("row")
    kept = kept[kept["row"].isin(list(most))]
    return kept.assign(most=kept["row"].map(most))


def of_judges(readings: pd.DataFrame, majority: pd.DataFrame, draws: int) -> tuple[Agreement, ...]:
    """Percent agreement and Cohen's κ of each judge with the raters' majority."""
    found: list[Agreement] = []
    units = majority["unit"].to_numpy(dtype=np.str_)
    for column in (name for name in readings.columns if str(name).startswith("judge:")):
        if majority.empty:
            continue
        judge = str(column).removeprefix("judge:")
        codes = pd.factorize(pd.concat([majority["most"], majority[column]]))[0].reshape(2, -1)
        found.append(bootstrapped(f"equal: raters and {judge}", percent_agreement(codes.T), units, draws))
        found.append(bootstrapped(f"Cohen's κ: raters and {judge}", cohen_kappa(codes[0], codes[1]), units, draws))
    return tuple(found)
