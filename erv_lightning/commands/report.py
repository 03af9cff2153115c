"""`python -m erv_lightning report RUN …`: runs as one page for a browser, with every completion and its clip."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from erv_lightning.analysis import DRAWS
from erv_lightning.commands.arguments import count
from erv_lightning.comparing import Comparison, compare
from erv_lightning.errors import one_line
from erv_lightning.report.page import clips, payload, sections, verdicts
from erv_lightning.report.page.reading import PageRun, load_runs, tested_arms
from erv_lightning.report.page.rows import Columns
from erv_lightning.report.page.write import write_page
from erv_lightning.results import Arm

_PROGRAM = "python -m erv_lightning report"
_MEGABYTE = 1e6


def main(argv: list[str]) -> int:
    """Writes the page of the runs named in `argv`; returns the exit code, 2 (and one line on stderr) for bad input."""
    args = _parser().parse_args(argv)
    console = Console(highlight=False)
    try:
        notes = _write(args, f"{_PROGRAM} {shlex.join(argv)}")
    except (OSError, ValueError) as error:
        print(f"report: {one_line(error)}", file=sys.stderr)
        return 2
    for note in notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    size = args.out.stat().st_size / _MEGABYTE
    console.print(f"wrote {args.out} ({size:.1f} MB): open it with a double click", markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Writes one HTML page about runs: curves, comparison, confusions, and every completion with its "
        "clip, rewards and what the verifier reads in each sentence. It needs no network.",
        epilog=f"example: {_PROGRAM} runs/sft/default runs/grpo/default",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folder, also of a run that still goes on")
    add("--out", type=Path, default=Path("runs/report.html"), metavar="FILE", help="default: %(default)s")
    add(
        "--clips",
        choices=clips.WAYS,
        default="link",
        help="link to them where they lie; copy them into a folder beside the page; embed them in the page; or none "
        "(default: %(default)s)",
    )
    add(
        "--verifier",
        type=Path,
        metavar="DIR",
        help="reads the sentences that no run has read (default: each run's own, else another run's)",
    )
    add(
        "--judge",
        action="append",
        default=[],
        metavar="NAME",
        help="whose reading of the explanations counts; several times for several, the first is the main one (default: "
        "all)",
    )
    add("--dataset", metavar="NAME", help="show the clips of this data set only (default: all)")
    add("--every", type=count, default=1, metavar="N", help="show the rollouts of every N-th step (default: all)")
    add("--draws", type=count, default=DRAWS, metavar="N", help="bootstrap draws (default: %(default)s)")
    return parser


def _write(args: argparse.Namespace, command: str) -> list[str]:
    """Writes the page; returns what is missing from it."""
    if args.out.is_dir():
        raise ValueError(f"{args.out} is a folder: name the page, e.g. --out {args.out / 'report.html'}")
    # 1. What the runs left.
    with _working("reading the runs"):
        runs, notes = load_runs(args.runs, args.dataset, args.every)
    notes += payload.missing(runs)
    judges = _judges(runs, args.judge)
    readers = verdicts.choose(runs, args.verifier)
    with _working("putting rows together"):
        columns = payload.columns_of(runs, judges, readers)
    if columns.rebuilt:
        notes.append(f"{payload.together(columns.rebuilt, runs)}: {_REBUILT}")
    # 2. What nobody has read yet.
    notes += _read(columns, readers, runs)
    # 3. Figures and tables.
    with _working("computing intervals and tests"):
        shown = _sections(runs, judges, args, command, notes)
    # 4. The page.
    with _bar("clips") as told:
        placed, media = clips.place(list(columns.clips), args.clips, args.out, told)
    notes += _unplayed(placed, args.clips)
    data = payload.payload(
        title=f"Report of {', '.join(payload.arm_names(runs))}",
        command=command,
        made=datetime.now(),
        notes=notes,
        runs=runs,
        columns=columns,
        clips=placed,
        sections=shown,
    )
    with _working("writing the page"):
        write_page(data, media, args.out)
    return list(data["notes"])


_REBUILT = "rows hold no whole responses, as earlier versions wrote them; shown are explanation and answer."


def _judges(runs: Sequence[PageRun], wanted: Sequence[str]) -> list[str]:
    """The judges whose verdicts are shown, the main one first."""
    there = payload.judges_of_runs(runs)
    if strange := [name for name in wanted if name not in there]:
        raise ValueError(f"no judge {strange[0]!r} has read these runs, only {', '.join(there) or 'nobody'}")
    return list(dict.fromkeys(wanted)) or there


def _read(columns: Columns, readers: dict[str, verdicts.Reader], runs: Sequence[PageRun]) -> list[str]:
    """Has the sentences read that nobody has read; returns notes about the rest."""
    left = verdicts.unread(columns.explanations.values())
    with _bar("sentences read by the verifier") as told:
        notes = verdicts.read(left, readers.values(), told)
    if not readers:
        texts = f"{len(left):,} explanation{'' if len(left) == 1 else 's'}"
        return [f"No verifier has read the sentences of {texts}: name one with `--verifier DIR`."] if left else []
    used = {one.reader for one in left}
    borrowed: dict[str, list[str]] = {}
    for run in runs:
        reader = readers[run.name]
        if reader.key in used and reader.key != verdicts.own_key(run) and (run.rollouts or run.predictions is not None):
            borrowed.setdefault(reader.folder, []).append(run.name)
    return notes + [
        f"Sentences of {payload.together(names, runs)} were read by the verifier {folder}."
        for folder, names in borrowed.items()
    ]


def _sections(
    runs: Sequence[PageRun], judges: Sequence[str], args: argparse.Namespace, command: str, notes: list[str]
) -> list[sections.Section]:
    """All sections for which there is something to show."""
    names = payload.arm_names(runs)
    curves = {name: [run.curves for run in runs if run.arm == name and run.curves is not None] for name in names}
    made = sections.of_curves(curves, {run.arm: run.stage for run in runs})
    arms = tested_arms(runs)
    if not arms:
        return made
    comparison = _comparison(arms, args, command, notes)
    if comparison is not None:
        made.append(sections.of_comparison(comparison))
    read = [
        name for name in judges if all(name in row for arm in arms for one in arm.predictions for row in one["judges"])
    ]
    made.append(sections.of_confusions(arms, read))
    if read:
        try:
            made.append(sections.of_cells(arms, read[0], args.draws))
        except ValueError as error:
            notes.append(f"The four cells are not counted: {one_line(error)}.")
    return made


def _comparison(arms: Sequence[Arm], args: argparse.Namespace, command: str, notes: list[str]) -> Comparison | None:
    """What `compare` says of the tested runs; None, and a note, where they cannot be compared."""
    try:
        return compare(arms, command=command, judges=args.judge, draws=args.draws)
    except ValueError as error:
        notes.append(f"The tested runs are not compared: {one_line(error)}.")
        return None


def _unplayed(placed: Sequence[clips.Clip], way: str) -> list[str]:
    """A note for each reason why clips cannot be played; what is one clip's alone stands beside that clip."""
    if way == "none":
        return []
    reasons: dict[str, int] = {}
    for clip in placed:
        if clip.src is None:
            reason = clip.why.partition(" (")[0].partition(", and ")[0]
            reasons[reason] = reasons.get(reason, 0) + 1
    return [f"{number:,} of {len(placed):,} clips cannot be played: {why}." for why, number in reasons.items()]


# -- progress -----------------------------------------------------------------------------------------------------


@contextmanager
def _working(what: str) -> Iterator[None]:
    with Console(stderr=True).status(what):
        yield


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, for a terminal alone; it appears when it is first told something."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(what, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)
