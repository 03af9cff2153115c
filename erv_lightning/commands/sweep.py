"""`python -m erv_lightning sweep -c FILE --local`: a W&B sweep file without an account."""

from __future__ import annotations

import argparse
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from erv_lightning.commands.arguments import count
from erv_lightning.errors import ConfigError
from erv_lightning.sweeping.engine import Engine
from erv_lightning.sweeping.place import find_place, runs_words
from erv_lightning.sweeping.runner import Runner
from erv_lightning.sweeping.spec import SweepFile, read_sweep
from erv_lightning.sweeping.trials import Ledger, Trial

_PROGRAM = "python -m erv_lightning sweep"


def main(argv: list[str]) -> int:
    """Runs or checks a sweep; returns the exit status: 0 done, 128 + signal ended from outside.

    Raises:
        ConfigError: a file, parameters or earlier runs with which no trial could do; said before any starts.
    """
    args = _parser().parse_args(argv)
    if not (args.local or args.check):
        raise ConfigError(
            f"give --local to run {args.config} here, without an account; on W&B: wandb sweep {args.config}, then "
            "sweeps/agent_per_gpu.sh SWEEP_ID (docs/sweeps.md)"
        )
    console = Console(highlight=False)
    sweep = read_sweep(args.config)
    engine = Engine(sweep, args.seed)
    limit = args.trials or sweep.run_cap
    if limit is None and sweep.method != "grid" and args.local:
        raise ConfigError(f"{args.config}: a {sweep.method} search has no end: give --trials, or run_cap in the file")
    first = engine.suggest([])
    if first is None:
        raise ConfigError(f"{args.config}: the grid is empty")
    place = find_place(sweep, first, args.runs)
    if args.check:
        console.print(f"{args.config} is in order; its first trial:", soft_wrap=True)
        console.print(shlex.join(sweep.command(first)), soft_wrap=True, markup=False)
        return 0
    ledger = Ledger(place.root / "sweeps" / sweep.path.stem, {**sweep.content, "seed": args.seed})

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    runner = Runner(sweep, engine, place, ledger, args.parallel, args.runs, say)
    try:
        with _sigterm_is_ctrl_c() as heard:
            try:
                runner.run(limit)
            except KeyboardInterrupt:
                heard.append(signal.SIGINT)
    finally:
        ledger.close()
        if runner.trials:
            console.print(_table(sweep, runner.trials))
            say(_summary(sweep, runner.trials, runner, args.runs))
    return 128 + heard[0] if heard else 0


def _parser() -> argparse.ArgumentParser:
    """The command line of `sweep`."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Runs a W&B sweep file without an account. A sweep that was ended goes on with the same command.",
        epilog=f"example: {_PROGRAM} -c sweeps/grpo_bayes.yaml --local --trials 10",
    )
    add = parser.add_argument
    add("-c", "--config", type=Path, required=True, metavar="FILE", help="sweep file, e.g. sweeps/grpo_bayes.yaml")
    add("--local", action="store_true", help="run the trials here, without W&B")
    add("--check", action="store_true", help="only check the file, and that the runs it builds on are there")
    add("--trials", type=count, metavar="N", help="how many in all (default: the file's run_cap; a grid: all)")
    add("--parallel", type=count, default=1, metavar="K", help="trials at a time, each with a GPU (default: 1)")
    add("--runs", type=Path, metavar="DIR", help="folder of the runs (default: the config's, runs)")
    add("--seed", type=int, default=0, help="of the search (default: 0)")
    return parser


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[list[int]]:
    """Within, SIGTERM ends as Ctrl-C does; gives the signals that were heard."""
    heard: list[int] = []

    def hear(signum: int, frame: FrameType | None) -> None:
        heard.append(signum)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGTERM, before)


# -- the end ------------------------------------------------------------------------------------------------------


def _ranked(sweep: SweepFile, trials: Sequence[Trial]) -> list[Trial]:
    """The trials that have a value, the best first."""
    valued = [(sweep.best(trial.values), trial) for trial in trials]
    pairs = [(value, trial) for value, trial in valued if value is not None and trial.state != "failed"]
    return [trial for _, trial in sorted(pairs, key=lambda pair: pair[0], reverse=sweep.maximize)]


def _table(sweep: SweepFile, trials: Sequence[Trial]) -> Table:
    """A row for each trial, the best first, those without a value last."""
    ranked = _ranked(sweep, trials)
    rest = [trial for trial in trials if trial not in ranked]
    table = Table(title=f"{sweep.path}: {sweep.method}, {sweep.metric}", title_justify="left")
    table.add_column("trial", no_wrap=True)
    for name in trials[0].params:
        table.add_column(name.removeprefix("model.init_args."), justify="right", overflow="fold")
    for name in ("best", "last", "values", "state"):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in [*ranked, *rest]:
        best = sweep.best(trial.values)
        cells = [_cell(value) for value in trial.params.values()]
        values = [_cell(best), _cell(trial.values[-1] if trial.values else None), str(len(trial.values))]
        table.add_row(
            trial.id.rpartition("-")[2], *cells, *values, trial.state, style="bold" if ranked[:1] == [trial] else None
        )
    return table


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _summary(sweep: SweepFile, trials: Sequence[Trial], runner: Runner, runs: Path | None) -> str:
    """The best trial and how to run it once more; what is still to be done."""
    lines = []
    ranked = _ranked(sweep, trials)
    if ranked:
        best = ranked[0]
        words = [*sweep.command(best.params), *runs_words(runs), f"--name={best.id}-again"]
        words = words[1:] if words[0] == "/usr/bin/env" else words
        lines += [
            f"best: {best.id}, {sweep.metric} {_cell(sweep.best(best.values))}, {runner.place.run(best.id).path}",
            f"again: WANDB_MODE=offline {shlex.join(words)}",
        ]
    else:
        lines.append(f"no trial has logged {sweep.metric} yet")
    if any(trial.state == "interrupted" for trial in trials):
        lines.append("the same command goes on with the interrupted trials")
    return "\n".join([*lines, f"trials: {runner.ledger.path}"])
