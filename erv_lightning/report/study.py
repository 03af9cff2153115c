"""A human study as terminal tables, Markdown and JSON. Reads and writes no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from erv_lightning.report import agreement, cells
from erv_lightning.study.agreement import Agreed
from erv_lightning.study.items import ARMS
from erv_lightning.study.numbers import OF_ARMS, Analysis, Signs

LIMITS = (
    "Raters judge the explanations of these clips; clips where an arm gave no explanation, or both gave the same, were "
    "not shown, so that the preference says nothing about them.",
    "The emotion that raters read is one choice of a list in a fixed order; a text that conveys two emotions counts as "
    "one.",
    "The test over answers takes every answer for independent, which answers of one rater or to one clip are not: the "
    "test over clips is the one to quote.",
    "With fewer than about ten raters, or twenty clips, the intervals are too narrow: a bootstrap cannot draw what it "
    "has not seen.",
)


def facts(analysis: Analysis) -> str:
    """What the numbers rest on."""
    time = "" if analysis.seconds != analysis.seconds else f" A page took {analysis.seconds:.0f} s (median)."
    return (
        f"{analysis.answers} answers of {analysis.raters} raters to {analysis.clips} clips. A is {analysis.arms[0]}, B "
        f"is {analysis.arms[1]}.{time} 95 % intervals are percentile bootstraps over clips and raters together "
        f"({analysis.draws:,} draws); those of agreement draw clips alone."
    )


def attention(analysis: Analysis) -> str:
    """Who failed attention checks."""
    if not analysis.failed:
        return "Nobody failed an attention check."
    failed = ", ".join(f"{one.rater} ({one.failed} of {one.checks})" for one in analysis.failed)
    out = ", ".join(one.rater for one in analysis.excluded) or "nobody"
    return (
        f"Attention checks were failed by {failed}. Left out, for failing more than {analysis.max_failed:.0%} of them: "
        f"{out}."
    )


def tables(analysis: Analysis) -> list[Table]:
    """The terminal's tables."""
    preference = cells.table("Which explanation fits the clip better", "", ("value",))
    for name, value in _preference(analysis):
        preference.add_row(name, value)
    arms = cells.table("What raters read in the explanations", "arm", list(OF_ARMS.values()))
    for name, values in _arms(analysis, cells.terminal):
        arms.add_row(escape(name), *values)
    agreed = cells.table("Agreement of the raters", "", ("value", "95 % interval"))
    for name, value, interval in _agreement(analysis):
        agreed.add_row(name, value, interval)
    judges = [agreement.table(analysis.judges)] if analysis.judges else []
    return [preference, arms, agreed, *judges]


def markdown(analysis: Analysis, command: str) -> str:
    """The analysis as a Markdown page."""
    parts = [
        "# Human study",
        facts(analysis),
        attention(analysis),
        "## Which explanation fits the clip better",
        cells.grid("", ["value"], _preference(analysis)),
        "## What raters read in the explanations",
        "EEA: the emotion that is read is the clip's label; EPC: it is the arm's own answer; FCR: both; unclear: none "
        "is read.",
        cells.grid("arm", list(OF_ARMS.values()), [[name, *values] for name, values in _arms(analysis, cells.inline)]),
        "## Agreement of the raters",
        cells.grid("", ["value", "95 % interval"], _agreement(analysis)),
        " ".join(_rows_used(one) for one in analysis.agreement),
    ]
    if analysis.judges:
        parts += ["## Agreement of judges with the raters' majority", agreement.markdown(analysis.judges)]
        parts += [f"{analysis.undecided} explanations without one most frequent reading are left out."]
    parts += ["## Limits", "\n".join(f"- {line}" for line in LIMITS), f"Made with:\n\n```sh\n{command}\n```"]
    return "\n\n".join(parts) + "\n"


def to_json(analysis: Analysis, command: str) -> dict[str, Any]:
    """The analysis as plain JSON types; null where a number is undefined."""
    found: dict[str, Any] = cells.plain({"command": command, **asdict(analysis), "limits": list(LIMITS)})
    return found


def _preference(analysis: Analysis) -> list[list[str]]:
    return [
        ["prefer B", cells.inline(analysis.preference)],
        ["prefer the left side (0.5: sides do not matter)", cells.inline(analysis.left)],
        ["majority of each clip, sign test", _signs(analysis.by_clip)],
        ["answers, binomial test", _signs(analysis.by_answer)],
    ]


def _signs(signs: Signs) -> str:
    even = f", even {signs.even}" if signs.even else ""
    return f"A {signs.a}, B {signs.b}{even}; p = {signs.p:.3g}"


def _arms(analysis: Analysis, form: Callable[..., str]) -> list[tuple[str, list[str]]]:
    rows = [
        (f"{arm.upper()}: {name}", [form(analysis.of_arms[arm][key]) for key in OF_ARMS])
        for arm, name in zip(ARMS, analysis.arms, strict=True)
    ]
    return [*rows, ("B − A", [form(analysis.differences[key], "+") for key in OF_ARMS])]


def _agreement(analysis: Analysis) -> list[list[str]]:
    return [
        [
            f"{agreed.question}: {one.name}",
            cells.number(one.value),
            f"[{cells.number(one.low)}, {cells.number(one.high)}]",
        ]
        for agreed in analysis.agreement
        for one in agreed.measures
    ]


def _rows_used(agreed: Agreed) -> str:
    """Which rows the measures are of."""
    if not agreed.each:
        return f"{agreed.question.capitalize()}: nothing was answered by two raters."
    return (
        f"{agreed.question.capitalize()}: percent agreement and Fleiss' κ over the {agreed.rows} of {agreed.of} that "
        f"{agreed.each} raters answered, Krippendorff's α over all that two or more did."
    )
