"""`python -m erv_lightning evaluate …`: a run, or a file of predictions, measured in every way there is."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from erv_lightning.analysis import DRAWS
from erv_lightning.commands.arguments import count
from erv_lightning.commands.predictions import Found, from_file, from_run
from erv_lightning.errors import ConfigError
from erv_lightning.evaluation import Evaluation, evaluate
from erv_lightning.release import write_responses, write_verdicts
from erv_lightning.report.confusion import confusion_figure
from erv_lightning.report.evaluation import facts, markdown, tables, to_json
from erv_lightning.results import judges_of

_PROGRAM = "python -m erv_lightning evaluate"
_JUDGES = (
    "grammar, verifier:FOLDER, classifier:FOLDER, nli:FOLDER, chat:MODEL, or a file such as configs/judge/chat.yaml"
)


def main(argv: list[str]) -> int:
    """Evaluates; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.probe_verifier:
        from erv_lightning.commands.probe import probe

        return probe(args, f"{_PROGRAM} {shlex.join(argv)}")
    if (args.run is None) == (args.predictions is None):
        raise ConfigError("name what to evaluate: a run folder, or --predictions FILE")
    console = Console(highlight=False)
    found = from_run(args) if args.run else from_file(args)
    judges = _judge(found, args.judge, console)
    with Console(stderr=True).status("computing intervals"):
        evaluation = evaluate(
            found.frame,
            judges,
            evaluated=found.what,
            command=f"{_PROGRAM} {shlex.join(argv)}",
            draws=args.draws,
            answered_only=found.as_release or args.release_compatible,
            release_compatible=args.release_compatible,
            notes=found.notes,
        )
    for table in tables(evaluation):
        console.print(table)
    console.print(facts(evaluation), style="dim", markup=False)
    for note in evaluation.notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    out = args.out or found.out
    for path in [*_write(evaluation, out, args.json), *_write_release(evaluation, found, out, console)]:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Measures a run on its test split, or predictions in a file: WAR, UAR, F1, EEA, EPC and FCR with "
        "95 %% bootstrap intervals, per class and data set, under one judge of explanations or several.",
        epilog=f"examples: {_PROGRAM} runs/grpo/default; {_PROGRAM} --predictions dfew.txt --judge-file dfew.json "
        "--dataset dfew --root data/dfew --fold 5 --split test",
    )
    add = parser.add_argument
    add(
        "run",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="run folder, e.g. runs/grpo/default; tested first if it is not yet",
    )
    add("--again", action="store_true", help="test the run again, even where it has predictions")
    add("--predictions", type=Path, metavar="FILE", help="predictions.jsonl, or text as the paper's release has it")
    add("--judge-file", type=Path, metavar="FILE", help="verdicts on them, JSON as the paper's release has it")
    add("--dataset", metavar="NAME", help="data set of the release's files, e.g. dfew; of others, the clips to count")
    add("--root", metavar="DIR", help="its folder; the labels are read from its annotations")
    add("--fold", type=int, metavar="K", help="its fold (default: the reader's)")
    add("--split", default="test", metavar="NAME", help="its split (default: %(default)s)")
    add(
        "--judge",
        action="append",
        default=[],
        metavar="JUDGE",
        help=f"who reads the explanations; several times for several: {_JUDGES}; or a name whose verdicts are there "
        "already. NAME= before it files its verdicts under another name",
    )
    add(
        "--release-compatible",
        action="store_true",
        help="count as the paper's release: explanations beside an invalid answer earn nothing, and in MAFW clips "
        "without a valid answer are left out of their class, which raises UAR",
    )
    add("--draws", type=count, default=DRAWS, metavar="N", help="bootstrap draws (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the numbers there too, as JSON")
    add("--out", type=Path, metavar="DIR", help="of all results (default: RUN/evaluation, or runs/evaluate)")
    add(
        "--probe-verifier",
        action="store_true",
        help="instead: can a verifier or judge be fooled by gamed explanations?",
    )
    add(
        "--verifier",
        metavar="FOLDER",
        help="with --probe-verifier: the reward's verifier (default: runs/verifier/default)",
    )
    add("--label-space", default="dfew", metavar="NAME", help="with --probe-verifier (default: %(default)s)")
    return parser


# -- judges --------------------------------------------------------------------------------------------------------


def _judge(found: Found, wanted: Sequence[str], console: Console) -> list[str]:
    """The judges that count: those given and wanted, which read what they have not read before; else all there are."""
    there = judges_of(found.frame)
    if not wanted:
        return there
    names = [*found.given, *(spec if spec in there else _read(found, spec, console) for spec in wanted)]
    return list(dict.fromkeys(names))


def _read(found: Found, spec: str, console: Console) -> str:
    """Lets a judge read all explanations; returns its name."""
    from erv_lightning.judges.spec import make_judge, told_by
    from erv_lightning.judging import read_table, save_verdicts

    judge = make_judge(spec)
    if judge.name in judges_of(found.frame):
        console.print(f"{judge.name} has read these explanations before: its verdicts are replaced", markup=False)
    read_table(found.frame, judge)
    if found.file is not None:
        save_verdicts(found.frame, found.file)
    if told := told_by(judge):
        found.notes.append(told)
    return judge.name


# -- results -------------------------------------------------------------------------------------------------------


def _write(evaluation: Evaluation, out: Path, json_file: Path | None) -> list[Path]:
    """Writes numbers, page and pictures; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(to_json(evaluation), indent=2, ensure_ascii=False) + "\n"
    written = [out / "evaluation.json", *([json_file] if json_file else [])]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(numbers, encoding="utf-8")
    pictures = [out / f"confusion_{confusion.space}.png" for confusion in evaluation.confusions]
    for path, confusion in zip(pictures, evaluation.confusions, strict=True):
        confusion_figure(confusion).savefig(path, dpi=160)
    page = out / "evaluation.md"
    page.write_text(markdown(evaluation, [path.name for path in pictures]), encoding="utf-8")
    return [*written, page, *pictures]


def _write_release(evaluation: Evaluation, found: Found, out: Path, console: Console) -> list[Path]:
    """The predictions as the paper's release has them, a text for each data set, a JSON for each judge of it."""
    written = []
    for dataset, part in found.frame.groupby("dataset"):
        rows = cast("list[dict[str, Any]]", part.to_dict("records"))
        try:
            write_responses(rows, out / f"release_{dataset}.txt")
        except ValueError as error:
            console.print(
                f"{dataset} was not written as the paper's release has it: {error}", style="dim", markup=False
            )
            continue
        written.append(out / f"release_{dataset}.txt")
        for judge in evaluation.judges:
            written.append(out / f"release_{dataset}_{re.sub(r'[^A-Za-z0-9_.-]', '_', judge)}.json")
            write_verdicts(rows, judge, written[-1])
    return written
