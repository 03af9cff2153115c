"""`python -m erv_lightning compare RUN …`: tested runs side by side, as tables and a figure."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from erv_lightning.analysis import DRAWS, Arm, load_arms, load_curves
from erv_lightning.commands.arguments import count
from erv_lightning.comparing import Comparison, compare
from erv_lightning.errors import one_line
from erv_lightning.report.comparison import disputed, facts, legend, markdown, tables, to_json
from erv_lightning.report.figures import comparison_figure

_PROGRAM = "python -m erv_lightning compare"


def main(argv: list[str]) -> int:
    """Compares the runs named in `argv`; returns the exit code, 2 (and one line on stderr) for bad input."""
    args = _parser().parse_args(argv)
    console = Console(highlight=False)
    try:
        with Console(stderr=True).status("computing intervals and tests"):
            comparison = compare(
                load_arms(args.runs, args.dataset),
                command=f"{_PROGRAM} {shlex.join(argv)}",
                judges=args.judge,
                baseline=args.baseline,
                draws=args.draws,
            )
        curves = _curves(comparison.arms, console)
        _write(comparison, curves, args.out)
    except (OSError, ValueError) as error:
        print(f"compare: {one_line(error)}", file=sys.stderr)
        return 2
    for table in tables(comparison):
        console.print(table)
    console.print(facts(comparison), style="dim", markup=False)
    if comparison.main.differences:
        console.print(legend(comparison), style="dim", markup=False)
    for line in disputed(comparison):
        console.print(line, style="yellow", markup=False)
    for name in ("comparison.md", "comparison.json", "comparison.png"):
        console.print(f"wrote {args.out / name}", markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    """The command line of `compare`."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Compares tested runs on the same clips: WAR, UAR, F1, EEA, EPC and FCR with 95 %% bootstrap "
        "intervals, and the differences between them with tests. Runs that differ only in a final -seedN are one arm.",
        epilog=f"example: {_PROGRAM} runs/sft/seed0 runs/grpo/accuracy-seed0 runs/grpo/erv-seed0",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="tested run folder; the rows keep this order")
    add(
        "--judge",
        action="append",
        default=[],
        metavar="NAME",
        help="whose reading of the explanations counts; several times for several (default: all that read every run)",
    )
    add("--dataset", metavar="NAME", help="count the clips of this data set only (default: all)")
    add(
        "--baseline",
        metavar="ARM",
        help="difference of every arm to this one, e.g. sft (default: of the last arm to every other)",
    )
    add("--out", type=Path, default=Path("runs/compare"), metavar="DIR", help="default: %(default)s")
    add("--draws", type=count, default=DRAWS, metavar="N", help="bootstrap draws (default: %(default)s)")
    return parser


def _curves(arms: Sequence[Arm], console: Console) -> dict[str, list[pd.DataFrame]]:
    """The training curves of each arm; a run without them is named and left out of the figure."""
    curves: dict[str, list[pd.DataFrame]] = {arm.name: [] for arm in arms}
    for arm in arms:
        for run in arm.runs:
            try:
                curves[arm.name].append(load_curves(run))
            except FileNotFoundError:
                console.print(f"{run} has no metrics.csv: the figure goes without its curve", markup=False)
    return curves


def _write(comparison: Comparison, curves: dict[str, list[pd.DataFrame]], out: Path) -> None:
    """Writes the three files."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.json").write_text(json.dumps(to_json(comparison), indent=2) + "\n", encoding="utf-8")
    (out / "comparison.md").write_text(markdown(comparison, "comparison.png"), encoding="utf-8")
    comparison_figure(comparison.main.estimates, curves).savefig(out / "comparison.png", dpi=160)
