"""An evaluation as terminal tables, Markdown and JSON. Reads and writes no files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from erv_lightning.analysis import Estimate
from erv_lightning.evaluation import CELLS, ClassGroup, Confusion, Evaluation, Group
from erv_lightning.report import agreement
from erv_lightning.report.cells import grid, inline, number, plain, table, terminal
from erv_lightning.tallies import DEFINITIONS, METRICS, OF_EXPLANATIONS

OF_CLASS = {
    "war": "recall",
    "eea": "EEA",
    "epc": "EPC",
    "fcr": "FCR",
    "fcr_given_correct": METRICS["fcr_given_correct"],
}
WORDS = {True: "right", False: "wrong"}


def facts(evaluation: Evaluation) -> str:
    """What the numbers rest on."""
    of = evaluation.overall
    who = f"explanations read by {', '.join(evaluation.judges)}" if evaluation.judges else "explanations read by nobody"
    malformed = "" if math.isnan(evaluation.malformed) else f", {evaluation.malformed:.1%} not well formed"
    as_release = "; counted as the paper's release does" if evaluation.release_compatible else ""
    return (
        f"{evaluation.evaluated}: {of.clips} clips of {', '.join(one.name for one in evaluation.datasets)}, {who}; "
        f"{of.answers['unparsable'].value:.1%} without a valid answer{malformed}{as_release}. 95 % intervals are "
        f"percentile bootstraps over {evaluation.drawn} ({evaluation.draws:,} draws)."
    )


def tables(evaluation: Evaluation) -> list[Table]:
    """The terminal's tables."""
    metrics = table("Metrics", "", list(METRICS.values()))
    for name, cells in _metric_rows(evaluation, terminal):
        metrics.add_row(f"[bold]{escape(name)}", *cells)
    classes = table("Classes", "", ["clips", "F1", *OF_CLASS.values()])
    for name, cells in _class_rows(evaluation, terminal):
        classes.add_row(escape(name), *cells)
    made = [metrics, classes]
    if evaluation.judges:
        four = table("Answer × explanation, clips", "", [f"{a} × {e}" for a, e in _cell_names()])
        for name, cells in _cell_rows(evaluation):
            four.add_row(escape(name), *cells)
        made.append(four)
    return made + ([agreement.table(evaluation.agreement)] if evaluation.agreement else [])


def markdown(evaluation: Evaluation, pictures: Sequence[str]) -> str:
    """A page that shows the image files `pictures`."""
    parts = [
        "# Evaluation",
        facts(evaluation),
        DEFINITIONS.replace("|", "\\|"),
        grid("", list(METRICS.values()), [[name, *cells] for name, cells in _metric_rows(evaluation, inline)]),
        "## Classes",
        grid(
            "", ["clips", "F1", *OF_CLASS.values()], [[name, *cells] for name, cells in _class_rows(evaluation, inline)]
        ),
    ]
    if evaluation.judges:
        titles = [f"answer {a}, explanation {e}" for a, e in _cell_names()]
        parts += [
            "## Answer × explanation",
            grid("judge", titles, [[n, *cells] for n, cells in _cell_rows(evaluation)]),
        ]
    if evaluation.agreement:
        parts += ["## Agreement of the judges", agreement.markdown(evaluation.agreement)]
    parts += ["## Confusion", *(f"![true labels against what was said]({picture})" for picture in pictures)]
    parts += [f"- {note}" for note in evaluation.notes]
    parts.append(f"Made with:\n\n```sh\n{evaluation.command}\n```")
    return "\n\n".join(parts) + "\n"


def _metric_rows(evaluation: Evaluation, form: Callable[[Estimate], str]) -> list[tuple[str, list[str]]]:
    """All clips under each judge, then each of several data sets under the main one."""
    rows = []
    for place, judge in enumerate(evaluation.judges or (None,)):
        name = f"all, {judge}" if len(evaluation.judges) > 1 else "all"
        estimates = evaluation.overall.under(judge)
        shown = [key for key in METRICS if key in estimates and (not place or key in OF_EXPLANATIONS)]
        rows.append((name, [form(estimates[key]) if key in shown else "" for key in METRICS]))
    for group in evaluation.datasets if len(evaluation.datasets) > 1 else ():
        estimates = group.under(evaluation.judge)
        rows.append((group.name, [form(estimates[key]) if key in estimates else "" for key in METRICS]))
    return rows


def _class_rows(evaluation: Evaluation, form: Callable[[Estimate], str]) -> list[tuple[str, list[str]]]:
    rows = []
    for group in evaluation.classes:
        estimates = group.under(evaluation.judge)
        cells = [form(estimates[key]) if key in estimates else "" for key in OF_CLASS]
        rows.append((group.name, [str(group.clips), number(group.f1), *cells]))
    return rows


def _cell_names() -> list[tuple[str, str]]:
    return [(WORDS[answer], WORDS[explanation]) for answer, explanation in CELLS]


def _cell_rows(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    clips = max(1, evaluation.overall.clips)
    return [
        (judge, [f"{count} ({count / clips:.1%})" for count in counts]) for judge, counts in evaluation.cells.items()
    ]


# -- JSON ----------------------------------------------------------------------------------------------------------


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Plain JSON types. Metrics are fractions under their own names; null where undefined or unjudged."""
    judge = evaluation.judge
    return {
        "evaluated": evaluation.evaluated,
        "command": evaluation.command,
        "clips": evaluation.overall.clips,
        "judge": judge,
        **_flat(evaluation.overall, judge),
        "malformed": plain(evaluation.malformed),
        "cells": _cells_json(evaluation, judge) if judge else None,
        "classes": {group.name: _class_json(group, judge) for group in evaluation.classes},
        "datasets": {group.name: {"clips": group.clips, **_flat(group, judge)} for group in evaluation.datasets},
        "judges": {
            name: {**_flat(evaluation.overall, name, OF_EXPLANATIONS), "cells": _cells_json(evaluation, name)}
            for name in evaluation.judges
        },
        "agreement": agreement.to_json(evaluation.agreement),
        "confusion": {one.space: _confusion_json(one) for one in evaluation.confusions},
        "drawn": evaluation.drawn,
        "draws": evaluation.draws,
        "release_compatible": evaluation.release_compatible,
        "notes": list(evaluation.notes),
    }


def _flat(group: Group, judge: str | None, keys: Sequence[str] = (*METRICS, "unparsable")) -> dict[str, Any]:
    estimates = group.under(judge)
    there = {key: estimates[key] for key in keys if key in estimates}
    return {
        **{key: plain(there[key].value) if key in there else None for key in keys},
        "intervals": {key: plain([one.low, one.high]) for key, one in there.items()},
    }


def _class_json(group: ClassGroup, judge: str | None) -> dict[str, Any]:
    keys = ("war", *OF_EXPLANATIONS, "unparsable")
    found = _flat(group, judge, keys)
    found["recall"], found["intervals"]["recall"] = found.pop("war"), found["intervals"].pop("war")
    return {"clips": group.clips, "precision": plain(group.precision), "f1": group.f1, **found}


def _cells_json(evaluation: Evaluation, judge: str) -> dict[str, dict[str, float]]:
    clips = max(1, evaluation.overall.clips)
    return {
        f"answer_{answer}_explanation_{explanation}": {"clips": count, "share": count / clips}
        for (answer, explanation), count in zip(_cell_names(), evaluation.cells[judge], strict=True)
    }


def _confusion_json(confusion: Confusion) -> dict[str, Any]:
    return {
        "labels": list(confusion.labels),
        "said": [*confusion.labels, None],
        "answers": confusion.answers.tolist(),
        "explanations": {judge: counts.tolist() for judge, counts in confusion.explanations.items()},
    }
