"""A comparison of arms as terminal tables, Markdown and JSON. Reads and writes no files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from erv_lightning.analysis import METRICS, Arm, Estimate

Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """Everything the outputs say.

    Attributes:
        command: the shell command that made it.
        judge: whose reading of the explanations counted.
        datasets: the data sets of the clips.
        clips: number of clips, the unit of the bootstrap.
        draws: bootstrap draws.
        arms: in the order of the rows.
        estimates: metrics by arm name.
        differences: (arm, baseline, metrics of arm minus baseline), paired by clip.
    """

    command: str
    judge: str
    datasets: tuple[str, ...]
    clips: int
    draws: int
    arms: tuple[Arm, ...]
    estimates: dict[str, Estimates]
    differences: tuple[tuple[str, str, Estimates], ...]


def facts(comparison: Comparison) -> str:
    """What the numbers rest on, in two sentences."""
    counts = sorted({len(arm.runs) for arm in comparison.arms})
    many = " or ".join(map(str, counts))
    seeds = f"{many} seed{'' if counts == [1] else 's'} per arm"
    clips = f"{comparison.clips} test clips of {', '.join(comparison.datasets)}"
    return (
        f"{clips}, {seeds}, explanations read by the judge {comparison.judge}. Values are means over "
        f"seeds; 95 % intervals are percentile bootstraps over clips ({comparison.draws:,} draws, the same "
        "clips for all seeds and arms) and leave out the spread between seeds."
    )


def tables(comparison: Comparison) -> list[Table]:
    """The terminal's tables; 80 columns hold them for arm names of usual length."""
    metrics = _table("Metrics")
    for arm in comparison.arms:
        estimates = comparison.estimates[arm.name]
        metrics.add_row(f"[bold]{escape(arm.name)}", *(_cell(estimates[key], "") for key in METRICS))
        for seed, values in _seed_rows(arm, estimates):
            metrics.add_row(f"  {seed}", *values, style="dim")
    if not comparison.differences:
        return [metrics]
    differences = _table("Paired differences (bold: the interval leaves out 0)")
    for arm_name, baseline, estimates in comparison.differences:
        bold = ["[bold]" if estimates[key].low > 0 or estimates[key].high < 0 else "" for key in METRICS]
        cells = [mark + _cell(estimates[key], "+") for mark, key in zip(bold, METRICS, strict=True)]
        differences.add_row(f"{escape(arm_name)}\n− {escape(baseline)}", *cells)
    return [metrics, differences]


def markdown(comparison: Comparison, figure: str) -> str:
    """The comparison as a Markdown page that shows the image file `figure`."""
    metrics = []
    for arm in comparison.arms:
        estimates = comparison.estimates[arm.name]
        metrics.append([f"**{arm.name}**", *(_inline(estimates[key], "") for key in METRICS)])
        metrics += [[f"· {seed}", *values] for seed, values in _seed_rows(arm, estimates)]
    differences = [
        [f"{arm_name} − {baseline}", *(_inline(estimates[key], "+") for key in METRICS)]
        for arm_name, baseline, estimates in comparison.differences
    ]
    parts = [
        "# Comparison",
        facts(comparison),
        "With label y, answer ŷ and the emotion ê of the explanation: WAR = P(ŷ=y), UAR = mean recall per "
        "class, EEA = P(ê=y), EPC = P(ê=ŷ), FCR = P(ê=ŷ=y), FCR\\|ŷ=y = P(ê=y given ŷ=y). No valid answer "
        "counts as wrong.",
        _grid(metrics),
        *(["## Paired differences", _grid(differences)] if differences else []),
        f"![WAR, EEA, EPC and FCR on validation, and all metrics on the test clips]({figure})",
        "Above: validation during GRPO (thin lines: seeds; dashed: a policy trained without reward). "
        "Below: the test clips with 95 % intervals (dots: seeds).",
        f"Made with:\n\n```sh\n{comparison.command}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON types; null where a metric is undefined."""
    return {
        "command": comparison.command,
        "judge": comparison.judge,
        "datasets": list(comparison.datasets),
        "clips": comparison.clips,
        "draws": comparison.draws,
        "arms": [
            {
                "name": arm.name,
                "runs": [str(run) for run in arm.runs],
                "seeds": list(arm.seeds),
                "metrics": _plain(comparison.estimates[arm.name]),
            }
            for arm in comparison.arms
        ],
        "differences": [
            {"arm": arm_name, "baseline": baseline, "metrics": _plain(estimates)}
            for arm_name, baseline, estimates in comparison.differences
        ],
    }


def _plain(estimates: Estimates) -> dict[str, dict[str, Any]]:
    """Estimates as dictionaries without NaN, which JSON does not know."""

    def defined(value: Any) -> Any:
        if isinstance(value, tuple):
            return [defined(one) for one in value]
        return None if math.isnan(value) else value

    return {key: {k: defined(v) for k, v in asdict(one).items()} for key, one in estimates.items()}


def _seed_rows(arm: Arm, estimates: Estimates) -> list[tuple[str, list[str]]]:
    """Each seed's name and values; nothing for a single seed, whose values are the arm's."""
    if len(arm.seeds) < 2:
        return []
    return [(seed, [_number(estimates[key].seeds[i], ".3f") for key in METRICS]) for i, seed in enumerate(arm.seeds)]


def _number(value: float, spec: str) -> str:
    """A formatted number, a dash where it is undefined."""
    return "–" if math.isnan(value) else format(value, spec)


def _cell(estimate: Estimate, sign: str) -> str:
    """Terminal: the interval below the value, without its leading zeros, for width."""
    low, high = (_number(end, sign + ".2f").replace("0.", ".", 1) for end in (estimate.low, estimate.high))
    return f"{_number(estimate.value, sign + '.3f')}\n[dim]{low}{'…' if sign else '–'}{high}[/dim]"


def _inline(estimate: Estimate, sign: str) -> str:
    """Markdown: the interval beside the value."""
    value, low, high = (_number(x, sign + ".3f") for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _table(title: str) -> Table:
    """An empty terminal table with a column for every metric."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=0)
    table.add_column("arm", overflow="fold")
    for name in METRICS.values():
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _grid(rows: list[list[str]]) -> str:
    """A Markdown table with a column for every metric."""
    head = ["arm", *(title.replace("|", "\\|") for title in METRICS.values())]
    lines = [head, ["---", *["---:"] * len(METRICS)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
