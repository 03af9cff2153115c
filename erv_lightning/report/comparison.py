"""A comparison of arms as terminal tables, Markdown and JSON. Reads and writes no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from erv_lightning.analysis import METRICS, SWAPS, Arm, Difference
from erv_lightning.comparing import Comparison, Estimates, Reading
from erv_lightning.report import agreement
from erv_lightning.report.cells import grid, inline, number, plain, table, terminal
from erv_lightning.tallies import DEFINITIONS, OF_EXPLANATIONS

STAR = "*"  # significant


@dataclass(frozen=True)
class Row:
    """A row of a table that shows an arm, one of its seeds, or a difference between arms; `cells` are its numbers."""

    kind: Literal["arm", "seed", "difference"]
    name: str
    cells: tuple[str, ...]


def facts(comparison: Comparison) -> str:
    """What the numbers rest on."""
    counts = sorted({len(arm.runs) for arm in comparison.arms})
    seeds = f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'} per arm"
    clips = f"{comparison.clips} test clips of {', '.join(comparison.datasets)}"
    several = counts != [1]
    values = "Values are means over seeds; " if several else ""
    over = f"seeds and {comparison.drawn} together" if several else comparison.drawn
    return (
        f"{clips}, {seeds}, explanations read by the judge {comparison.main.judge}. {values}95 % intervals are "
        f"percentile bootstraps over {over} ({comparison.draws:,} draws, the same for all arms)."
    )


def legend(comparison: Comparison) -> str:
    """What the star means."""
    tests = len(METRICS) * len(comparison.main.differences)
    return (
        f"{STAR} significant at 5 %: paired permutation test over the clips ({SWAPS:,} swaps), p adjusted "
        f"for the {tests} tests of the table by Holm's method, and the interval leaves out 0."
    )


def disputed(comparison: Comparison) -> list[str]:
    """A line for every difference that is significant under some judges and not under others, or turns its sign."""
    lines = []
    for place, (arm, baseline, _) in enumerate(comparison.main.differences):
        for key in OF_EXPLANATIONS:
            under = [(reading.judge, reading.differences[place][2][key]) for reading in comparison.readings]
            claims = {(one.significant, one.significant and one.estimate.value > 0) for _, one in under}
            if len(claims) > 1:
                told = ", ".join(f"{_signed(one)} under {judge}" for judge, one in under)
                lines.append(f"{METRICS[key]} of {arm} − {baseline} depends on the judge: {told}")
    return lines


def tables(comparison: Comparison) -> list[Table]:
    """The terminal's tables; 80 columns hold them for arm names of usual length."""
    made = []
    for place, reading in enumerate(comparison.readings):
        keys = OF_EXPLANATIONS if place else tuple(METRICS)
        under = f" under the judge {reading.judge}" if len(comparison.readings) > 1 else ""
        made.append(_metrics(comparison.arms, reading, keys, f"Metrics{under}"))
        if reading.differences:
            made.append(_differences(reading, keys, f"Paired differences{under} ({STAR} significant at 5 %)"))
    return made + ([agreement.table(comparison.agreement)] if comparison.agreement else [])


def _metrics(arms: Sequence[Arm], reading: Reading, keys: Sequence[str], title: str) -> Table:
    made = table(title, "arm", [METRICS[key] for key in keys])
    for arm in arms:
        estimates = reading.estimates[arm.name]
        made.add_row(f"[bold]{escape(arm.name)}", *(terminal(estimates[key]) for key in keys))
        for seed, values in _seed_rows(arm, estimates, keys):
            made.add_row(f"  {seed}", *values, style="dim")
    return made


def _differences(reading: Reading, keys: Sequence[str], title: str) -> Table:
    made = table(title, "arm", [METRICS[key] for key in keys])
    for arm, baseline, found in reading.differences:
        cells = [_starred(found[key], terminal, "[bold]") for key in keys]
        made.add_row(f"{escape(arm)}\n− {escape(baseline)}", *cells)
    return made


def _starred(one: Difference, form: Any, emphasis: str = "") -> str:
    return (emphasis if one.significant else "") + str(form(one.estimate, "+", STAR if one.significant else ""))


def _signed(one: Difference) -> str:
    return f"{one.estimate.value:+.3f}{STAR if one.significant else ''}"


def markdown(comparison: Comparison, figure: str) -> str:
    """The comparison as a Markdown page that shows the image file `figure`."""
    parts = ["# Comparison", facts(comparison), DEFINITIONS.replace("|", "\\|")]
    for place, reading in enumerate(comparison.readings):
        keys = OF_EXPLANATIONS if place else tuple(METRICS)
        if place:
            parts.append(f"## Under the judge {reading.judge}")
        parts.append(_markdown_metrics(comparison.arms, reading, keys))
        if reading.differences:
            parts += [f"##{'#' * bool(place)} Paired differences", _markdown_differences(reading, keys)]
    if comparison.main.differences:
        parts.append(legend(comparison).replace("*", "\\*", 1))
    if comparison.agreement:
        parts += ["## Agreement of the judges", agreement.markdown(comparison.agreement)]
        parts += [f"- {line}" for line in disputed(comparison)]
    parts += [
        f"![WAR, EEA, EPC and FCR on validation, and all metrics on the test clips]({figure})",
        "Above: validation during GRPO (thin lines: seeds; dashed: a policy trained without reward). "
        "Below: the test clips with 95 % intervals (dots: seeds).",
        f"Made with:\n\n```sh\n{comparison.command}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def metric_rows(arms: Sequence[Arm], reading: Reading, keys: Sequence[str]) -> list[Row]:
    """Each arm's metrics with their intervals, and below them its seeds' where there are several."""
    rows = []
    for arm in arms:
        estimates = reading.estimates[arm.name]
        rows.append(Row("arm", arm.name, tuple(inline(estimates[key]) for key in keys)))
        rows += [Row("seed", seed, tuple(values)) for seed, values in _seed_rows(arm, estimates, keys)]
    return rows


def difference_rows(reading: Reading, keys: Sequence[str]) -> list[Row]:
    """Each difference with its interval, starred where it is significant."""
    return [
        Row("difference", f"{arm} − {baseline}", tuple(_starred(found[key], inline) for key in keys))
        for arm, baseline, found in reading.differences
    ]


def _markdown_metrics(arms: Sequence[Arm], reading: Reading, keys: Sequence[str]) -> str:
    rows = [
        [f"**{row.name}**" if row.kind == "arm" else f"· {row.name}", *row.cells]
        for row in metric_rows(arms, reading, keys)
    ]
    return grid("arm", [METRICS[key] for key in keys], rows)


def _markdown_differences(reading: Reading, keys: Sequence[str]) -> str:
    rows = [[row.name, *(cell.replace("*", "\\*") for cell in row.cells)] for row in difference_rows(reading, keys)]
    return grid("arm", [METRICS[key] for key in keys], rows)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON types; null where a metric is undefined."""
    main, *others = (_reading_json(comparison.arms, reading) for reading in comparison.readings)
    return {
        "command": comparison.command,
        "judge": comparison.main.judge,
        "datasets": list(comparison.datasets),
        "clips": comparison.clips,
        "drawn": comparison.drawn,
        "draws": comparison.draws,
        **main,
        "other_judges": {reading.judge: other for reading, other in zip(comparison.readings[1:], others, strict=True)},
        "agreement": agreement.to_json(comparison.agreement),
        "disputed": disputed(comparison),
    }


def _reading_json(arms: Sequence[Arm], reading: Reading) -> dict[str, Any]:
    return {
        "arms": [
            {
                "name": arm.name,
                "runs": [str(run) for run in arm.runs],
                "seeds": list(arm.seeds),
                "metrics": {key: plain(reading.estimates[arm.name][key]) for key in METRICS},
            }
            for arm in arms
        ],
        "differences": [
            {"arm": arm, "baseline": baseline, "metrics": {key: _difference_json(found[key]) for key in METRICS}}
            for arm, baseline, found in reading.differences
        ],
    }


def _difference_json(one: Difference) -> dict[str, Any]:
    tests = {"p": one.p, "p_holm": one.p_holm, "significant": one.significant, "mcnemar": one.mcnemar}
    return {**plain(one.estimate), **plain(tests)}


def _seed_rows(arm: Arm, estimates: Estimates, keys: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each seed's name and values, and their spread; nothing for a single seed, whose values are the arm's."""
    if len(arm.seeds) < 2:
        return []
    rows = [(seed, [number(estimates[key].seeds[i]) for key in keys]) for i, seed in enumerate(arm.seeds)]
    return [*rows, ("± std", [number(estimates[key].std) for key in keys])]
