"""Reads the predictions that runs left in their folders, and sees which runs belong together.

Runs that differ only in a final ``-seedN`` are one *arm*, an experiment repeated. What they logged is read by
`erv_lightning.curves`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from erv_lightning.labels import get_label_space

_COLUMNS = ("id", "dataset", "clip", "label_space", "label_id", "answer_id")


@dataclass(frozen=True)
class Arm:
    """An experiment: the runs that differ only in their seed.

    Attributes:
        name: ``<stage>/<run name without -seedN>``, or the stage alone where the run is called ``seedN``.
        runs: the run folders.
        seeds: the runs' names within the arm, e.g. ``seed0``; "" for a run without a seed in its name.
        predictions: one `load_predictions` table per run.
    """

    name: str
    runs: tuple[Path, ...]
    seeds: tuple[str, ...]
    predictions: tuple[pd.DataFrame, ...]


def split_seed(name: str) -> tuple[str, str]:
    """Splits a run's name into arm and seed: erv-seed1 → (erv, seed1), seed1 → ("", seed1)."""
    found = re.fullmatch(r"(?:(.+)-)?(seed\d+)", name)
    return (found[1] or "", found[2]) if found else (name, "")


def load_arms(runs: Sequence[Path], dataset: str | None = None) -> list[Arm]:
    """Loads runs and groups them into arms, both in the order given.

    Args:
        runs: run folders.
        dataset: keep the clips of this data set only.

    Raises:
        FileNotFoundError: a run folder or its predictions do not exist.
        ValueError: a run is given twice, or its predictions cannot be read.
    """
    return [
        Arm(
            name=name,
            runs=tuple(members),
            seeds=tuple(split_seed(run.resolve().name)[1] for run in members),
            predictions=tuple(load_predictions(run, dataset) for run in members),
        )
        for name, members in group_runs(runs).items()
    ]


def group_runs(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Run folders by the name of their arm, see `Arm`; arms and runs in the order given.

    Raises:
        ValueError: a run is given twice.
    """
    groups: dict[Path, list[Path]] = {}
    for run in runs:
        resolved = run.resolve()
        group = groups.setdefault(resolved.parent / split_seed(resolved.name)[0], [])
        if resolved in (other.resolve() for other in group):
            raise ValueError(f"{run} is given twice")
        group.append(run)
    short = {arm: _arm_name(arm, members) for arm, members in groups.items()}
    names = list(short.values())
    # two trees of runs may hold the same stage and name: then only the whole path tells them apart
    return {short[arm] if names.count(short[arm]) == 1 else str(arm): members for arm, members in groups.items()}


def _arm_name(arm: Path, members: list[Path]) -> str:
    """The stage and what is left of the run's name without its seed."""
    stage = members[0].resolve().parent
    return stage.name if arm == stage else f"{stage.name}/{arm.name}"


def load_predictions(run: Path, dataset: str | None = None) -> pd.DataFrame:
    """Reads ``predictions.jsonl`` of a tested run, sorted by data set and id.

    Args:
        run: run folder.
        dataset: keep the clips of this data set only.

    Returns:
        One row per clip with the columns of the file (`answer_id` and `label_id` are −1 for none); the index
        is the line number in the file, ``attrs["path"]`` the file.

    Raises:
        FileNotFoundError: the folder or the file does not exist.
        ValueError: a line is malformed (named by its number), a clip stands there twice, or no row is left.
    """
    path = run / "predictions.jsonl"
    if not run.is_dir():
        raise FileNotFoundError(f"no run folder {run}")
    if not path.is_file():
        stage, name = run.resolve().parent.name, run.resolve().name
        command = f"python -m erv_lightning test -c configs/{stage}.yaml --name {name}"
        raise FileNotFoundError(f"{path} does not exist; make it with: {command}")
    return read_predictions(path, dataset)


def read_predictions(path: Path, dataset: str | None = None) -> pd.DataFrame:
    """Reads a predictions JSONL; see `load_predictions`."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        rows = {i: parse_prediction(line, f"{path}:{i}") for i, line in enumerate(lines, start=1) if line.strip()}
    return predictions_table(rows, path, dataset)


def predictions_table(rows: Mapping[int, dict[str, Any]], path: Path, dataset: str | None = None) -> pd.DataFrame:
    """Rows by their number as a table, sorted by data set and id; see `load_predictions`.

    Args:
        rows: in the layout of predictions.jsonl.
        path: the file that they come from, for messages.
        dataset: keep the clips of this data set only.
    """
    kept = {i: row for i, row in rows.items() if dataset in (None, row["dataset"])}
    if not kept:
        there = ", ".join(sorted({row["dataset"] for row in rows.values()}))
        only = f"has no clip of data set {dataset!r}, only of {there}" if rows else "is empty"
        raise ValueError(f"{path} {only}")
    frame = pd.DataFrame(list(kept.values()), index=pd.Index(list(kept), name="line"))
    twice = frame.index[frame.duplicated(["dataset", "id"])]
    if len(twice):
        raise ValueError(f"{path}:{twice[0]}: the clip {frame.at[twice[0], 'id']!r} was already predicted above")
    frame = frame.sort_values(["dataset", "id"])
    frame.attrs["path"] = str(path)
    return frame


def parse_prediction(line: str, place: str) -> dict[str, Any]:
    """Parses and checks one line of a predictions file.

    Args:
        line: a JSON object.
        place: file and line number, for messages.

    Raises:
        ValueError: it is none, or lacks a column, or has an id that is not in its label space.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not a JSON object: {error.msg}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not a JSON object, but {type(row).__name__}")
    missing = [key for key in _COLUMNS if key not in row]
    if missing:
        raise ValueError(f"{place}: no {', '.join(missing)}")
    row = {**row, "id": str(row["id"]), "source": str(row.get("source") or ""), "judges": row.get("judges") or {}}
    if not isinstance(row["judges"], dict):
        raise ValueError(f"{place}: judges is not an object of judge name → label id")
    try:
        size = len(get_label_space(row["label_space"]).names)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place}: {error}") from None
    ids = {"label_id": row["label_id"], "answer_id": row["answer_id"], **row["judges"]}
    for key, value in ids.items():
        if type(value) is not int or not -1 <= value < size:
            raise ValueError(f"{place}: {key} is {value!r}, allowed is -1 to {size - 1} in {row['label_space']}")
    return row


def judges_of(frame: pd.DataFrame) -> list[str]:
    """The judges that have read every explanation of a table, in the order of its first row."""
    return [name for name in frame["judges"].iloc[0] if all(name in row for row in frame["judges"])]


def choose_judges(arms: Sequence[Arm], wanted: Sequence[str] = ()) -> list[str]:
    """The judges whose readings count: those named, or all that have read every prediction of every run.

    Raises:
        ValueError: a run lacks a judge that is named, or none is named and the runs have none in common.
    """
    frames = [frame for arm in arms for frame in arm.predictions]
    for frame in frames:
        there = judges_of(frame)
        if missing := [name for name in wanted if name not in there]:
            raise ValueError(
                f"{frame.attrs['path']} has no judge {missing[0]!r} on every line; it has "
                f"{', '.join(there) or 'no judge'}"
            )
    common = [name for name in judges_of(frames[0]) if all(name in judges_of(frame) for frame in frames)]
    if not wanted and not common:
        raise ValueError("the runs have no judge in common: let one read them all, evaluate RUN --judge NAME")
    return list(dict.fromkeys(wanted)) or common
