"""`python -m erv_lightning verifier build-data …`: explanations become sentences for the verifier to learn from."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from erv_lightning import config_files
from erv_lightning.commands.arguments import count
from erv_lightning.errors import ConfigError
from erv_lightning.labels import get_label_space

if TYPE_CHECKING:
    from erv_lightning.data.sample import Sample
    from erv_lightning.teaching.teachers import Teacher, Told

_PROGRAM = "python -m erv_lightning verifier"


def main(argv: list[str]) -> int:
    """Runs the sub-verb; what argparse does not know goes to the config parser. Returns the exit code."""
    args, rest = _parser().parse_known_args(argv)
    space = get_label_space(args.label_space)
    paths = config_files.paths_in(rest)
    if rest and not paths:
        raise ConfigError(f"unknown word {rest[0]!r}: settings need a config, -c configs/verifier.yaml; see --help")
    if not paths and not args.predictions:
        raise ConfigError("no explanations: give configs as for fit, -c FILE …, or --predictions FILE, or both")
    files = config_files.read(paths)  # before the heavy imports
    from erv_lightning.teaching.build import Plan, build
    from erv_lightning.teaching.card import card, how_to_train
    from erv_lightning.teaching.folder import LEDGERS, check_folder, write
    from erv_lightning.teaching.report import facts, tables
    from erv_lightning.teaching.teachers import Rule, make_teachers

    folder: Path = args.to
    check_folder(folder)
    plan = Plan(space, tuple(args.fractions), args.seed, args.per_label, args.limit)
    teachers = make_teachers(args.teacher, space, Rule(args.threshold, args.max_labels), folder / LEDGERS)
    samples = _samples(args, rest, files)
    try:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            built = build(samples, teachers, plan, lambda name, total: _bar(progress, name, total))
    except KeyboardInterrupt:
        _report(teachers)
        print(f"interrupted: what came is kept in {folder / LEDGERS}; the same command goes on", file=sys.stderr)
        return 130
    except Exception:
        _report(teachers)
        raise
    _report(teachers)
    write(folder, built, card(built.numbers, f"{_PROGRAM} {shlex.join(argv)}", shlex.quote(str(folder))))
    console = Console(highlight=False)
    for table in tables(built.numbers):
        console.print(table)
    for line in facts(built.numbers):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"wrote {folder}: {', '.join(built.rows)}, and its card", markup=False, soft_wrap=True)
    console.print(f"train on it: {how_to_train(shlex.quote(str(folder)))}", markup=False, soft_wrap=True)
    return 0


def _report(teachers: Sequence[Teacher]) -> None:
    """What they have to say of their work, also where it ended early: it may have cost something."""
    for line in filter(None, (teacher.report() for teacher in teachers)):
        print(line, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Makes what the verifier learns from.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="what", required=True)
    add = verbs.add_parser(
        "build-data",
        help="sentences of explanations, labelled by a teacher",
        description="Cuts explanations into sentences, has a teacher label them, and writes train, val and test with a "
        "card. Configs and settings as for fit; the clips need not be there. Run again, it asks for no sentence twice.",
        epilog=f"example: {_PROGRAM} build-data -c configs/verifier.yaml -c configs/data/emer.yaml --teacher "
        "chat:gpt-4.1-mini --teacher nli:FOLDER --to data/sentences",
        allow_abbrev=False,
    ).add_argument
    add("--predictions", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help="predictions.jsonl")
    add(
        "--split",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="of the config's data (default: those that training and validation use; explanations of test clips must "
        "not train the reward that is measured on them)",
    )
    add(
        "--teacher",
        action="append",
        default=[],
        metavar="TEACHER",
        help="who labels: a judge, see evaluate --help, or labels, or clip; further ones are only compared with it",
    )
    add("--label-space", default="dfew", metavar="NAME", help="labels that count (default: %(default)s)")
    add("--to", type=Path, required=True, metavar="DIR", help="of the data set")
    add("--threshold", type=float, default=0.1, help="least probability of a label (default: %(default)s, the paper's)")
    add("--max-labels", type=int, default=2, metavar="N", help="of one sentence (default: %(default)s, the paper's)")
    add("--per-label", type=_limit, metavar="N", help="most training sentences that hold a label; 0: all (default: the "
        "median over the labels)")  # fmt: skip
    add("--fractions", type=float, nargs=3, default=(0.8, 0.1, 0.1), metavar=("TRAIN", "VAL", "TEST"),
        help="of the clips (default: 0.8 0.1 0.1)")  # fmt: skip
    add("--seed", type=int, default=0, help="of splits and balance (default: %(default)s)")
    add("--limit", type=count, metavar="N", help="label only the first N sentences, for a trial")
    return parser


def _limit(text: str) -> int:
    """A whole number from 0 on."""
    return 0 if text == "0" else count(text)


def _bar(progress: Progress, name: str, total: int) -> Told:
    """A bar for a teacher; returns what moves it."""
    task = progress.add_task(f"{name}:".replace("[", "\\["), total=total)
    return lambda done: progress.advance(task, done)


def _samples(args: argparse.Namespace, rest: list[str], files: Sequence[config_files.ConfigFile]) -> list[Sample]:
    """The explanations of the config's splits, then those of the predictions."""
    from erv_lightning.teaching.sentences import from_predictions

    samples = _configured(rest, list(files), args.split) if files else []
    return samples + from_predictions(args.predictions)


def _configured(rest: list[str], files: list[config_files.ConfigFile], splits: Sequence[str] | None) -> list[Sample]:
    config_files.stage_of(files)
    from erv_lightning.configured import read
    from erv_lightning.data.readers.files import annotations_only

    with annotations_only():
        data = read(rest, files).data
        try:
            names = splits or (data.splits["train"], data.splits["val"])
            found = [data.source.samples(name) for name in dict.fromkeys(names)]
        except ValueError as error:
            advice = "" if splits else "; or name the splits to read: --split train"
            raise ValueError(f"{error}{advice}") from error
    return [sample for split in found for sample in split if sample.explanation.strip()]
