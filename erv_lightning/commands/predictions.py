"""Where the predictions that `evaluate` measures come from: a run, a JSONL, or the files of the paper's release."""

from __future__ import annotations

import argparse
import inspect
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from erv_lightning import config_files
from erv_lightning.errors import ConfigError
from erv_lightning.judging import add_verdicts
from erv_lightning.labels import get_label_space
from erv_lightning.release import predictions, read_responses, read_verdicts
from erv_lightning.results import predictions_table, read_predictions

if TYPE_CHECKING:
    from erv_lightning.data.sample import ClipSource, Sample


@dataclass
class Found:
    """Predictions, from wherever they came.

    Attributes:
        what: they are, for people.
        frame: a `predictions_table`.
        out: where the results go unless the user says otherwise.
        file: predictions.jsonl that new verdicts are written back to; None where there is none of ours.
        given: judges whose verdicts the user gave beside the predictions.
        as_release: whether they are in the release's format and count as there: an explanation beside an invalid
            answer earns nothing.
        notes: warnings about them.
    """

    what: str
    frame: pd.DataFrame
    out: Path
    file: Path | None = None
    given: list[str] = field(default_factory=list)
    as_release: bool = False
    notes: list[str] = field(default_factory=list)


def from_run(args: argparse.Namespace) -> Found:
    """The predictions of a run, which is tested first where it has none, or where `args.again` asks for it."""
    run: Path = args.run
    config, path = run / "config.yaml", run / "predictions.jsonl"
    if not run.is_dir():
        raise FileNotFoundError(f"no run folder {run}")
    if args.again or not path.is_file():
        if config.is_file() and config_files.stage_of(config_files.read([str(config)])) == "verifier":
            raise ConfigError(
                f"{run} is a verifier and gives no predictions: see what fools it with --probe-verifier --verifier "
                f"{run / 'export'}"
            )
        if not config.is_file():
            raise FileNotFoundError(f"{config} does not exist: {run} is no run that could be tested")
        root = run.parent.parent if len(run.parts) > 2 else run.resolve().parents[1]
        words = ["test", "-c", str(config), "--runs", str(root), "--name", run.resolve().name]
        if status := subprocess.run([sys.executable, "-m", "erv_lightning", *words], check=False).returncode:
            if status == 130:
                raise KeyboardInterrupt
            raise ConfigError(
                f"the run could not be tested (exit status {status}): python -m erv_lightning {shlex.join(words)}"
            )
    return Found(str(run), read_predictions(path, args.dataset), run / "evaluation", path)


def from_file(args: argparse.Namespace) -> Found:
    """Predictions in a file of ours or of the release, told apart by how it begins."""
    path: Path = args.predictions
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}: correct --predictions")
    out = Path("runs/evaluate")
    if not _is_release(path):
        found = Found(str(path), read_predictions(path, args.dataset), out, given=_given(args.judge_file))
        if args.judge_file:
            _add_file(found, args.judge_file)
        return found
    samples = _samples(args)
    verdicts = read_verdicts(args.judge_file, samples[0].space) if args.judge_file else None
    rows, notes = predictions(read_responses(path), samples, verdicts, "".join(_given(args.judge_file)))
    frame = predictions_table(dict(enumerate(rows, start=1)), path)
    return Found(str(path), frame, out, given=_given(args.judge_file), as_release=True, notes=notes)


def _is_release(path: Path) -> bool:
    """Whether a file begins with an id and "|" rather than with a JSON object."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    return not first.lstrip().startswith("{")


def _given(judge_file: Path | None) -> list[str]:
    """What the verdicts of a judge file are filed under, if there is one."""
    return [judge_file.stem] if judge_file else []


def _add_file(found: Found, judge_file: Path) -> None:
    """Verdicts of a judge file beside rows of ours; one that is not there agrees with nothing."""
    spaces = sorted(set(found.frame["label_space"]))
    if len(spaces) > 1:
        raise ConfigError(
            f"{judge_file} speaks of one data set, the predictions of {', '.join(spaces)}: choose a --dataset"
        )
    verdicts = read_verdicts(judge_file, get_label_space(spaces[0]))
    ids = found.frame["id"].tolist()
    if unknown := sorted(set(verdicts) - set(ids)):
        raise ValueError(
            f"{judge_file}: {len(unknown)} of {len(verdicts)} ids are not in the predictions, e.g. {unknown[0]}"
        )
    if missing := sum(name not in verdicts for name in ids):
        found.notes.append(
            f"{missing} of {len(ids)} explanations have no verdict in {judge_file}, and agree with nothing"
        )
    add_verdicts(found.frame, judge_file.stem, [verdicts.get(name, -1) for name in ids])


def _samples(args: argparse.Namespace) -> list[Sample]:
    """What is annotated, which the release's files do not say. The clips themselves need not be there."""
    from erv_lightning.data.readers.files import annotations_only

    with annotations_only():
        return _source(args).samples(args.split)


def _source(args: argparse.Namespace) -> ClipSource:
    """The reader of the data set that the command line names."""
    from erv_lightning.data import readers

    if args.dataset is None or args.root is None:
        raise ConfigError(
            "the release's files hold no labels: give --dataset and --root, e.g. --dataset dfew --root data/dfew"
        )
    known = {name.lower(): getattr(readers, name) for name in readers.__all__}
    reader = known.get(args.dataset.lower())
    takes = set(inspect.signature(reader).parameters) if reader else set()
    if reader is None or "root" not in takes:
        raise ConfigError(f"no data set {args.dataset!r} that has a folder; known: {', '.join(sorted(known))}")
    settings: dict[str, Any] = {"root": args.root}
    if args.fold is not None:
        if "fold" not in takes:
            raise ConfigError(f"{args.dataset} has no folds: leave --fold out")
        settings["fold"] = args.fold
    source: ClipSource = reader(**settings)
    return source
