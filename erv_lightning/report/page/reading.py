"""Reads what runs left, as far as it is there: settings, curves, predictions, rollouts. Also of runs still going on.

A file that a killed or running process has not finished ends within a line: that line is left out, with a note. Every
other line that cannot be read is an error that names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from erv_lightning.curves import load_curves
from erv_lightning.results import Arm, group_runs, parse_prediction, predictions_table, split_seed

MOST = 100_000
"""Rollouts that a page holds; of more only those of every so many steps."""

MOST_BYTES = 300 * 10**6
"""Of the lines of these rollouts. A browser's longest string, which the page's data is for a moment, has 500 MB."""

Record = dict[str, Any]

Line = tuple[int | None, int]  # its step, if it tells it at once, and its length in bytes

_STEP = re.compile(rb'\{"step": (\d+)[,}]')  # as our writer begins a row: most rows need no parsing to be counted


@dataclass(frozen=True)
class PageRun:
    """A run as far as it is there.

    Attributes:
        path: its folder.
        name: of stage and run, e.g. ``grpo/explanation-seed0``; the folder's path where two are called so.
        arm, seed: as `erv_lightning.results.Arm` has them.
        stage: of its config, else the folder's.
        settings: its resolved config; empty without one.
        curves: a `load_curves` table, None without metrics.csv.
        predictions: a `predictions_table`, None if it was not tested.
        rollouts: its checked rows that the page shows, each with its ``place``, file and line.
        steps: how many training steps have rollouts, shown or not.
    """

    path: Path
    name: str
    arm: str
    seed: str
    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: pd.DataFrame | None = None
    predictions: pd.DataFrame | None = None
    rollouts: Sequence[Record] = ()
    steps: int = 0

    def setting(self, *keys: str) -> Any:
        """A setting below others, e.g. ``("model", "init_args", "verifier")``; None where it is not there."""
        found: Any = self.settings
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def load_runs(
    folders: Sequence[Path], dataset: str | None = None, every: int = 1, most: int = MOST
) -> tuple[list[PageRun], list[str]]:
    """Loads runs, in the order given.

    Args:
        folders: run folders.
        dataset: keep the clips of this data set only.
        every: keep the rollouts of every so many steps, from a run's first.
        most: rollouts of all runs together; where there are more, `every` grows.

    Returns:
        The runs, and notes on what was left out.

    Raises:
        FileNotFoundError: there is no such folder, or it holds nothing to show.
        ValueError: a run is given twice, a line is malformed (named by file and number), or a data set is not there.
    """
    notes: list[str] = []
    named = _named(folders)
    lines = {folder: _steps(folder / "rollouts.jsonl") for folder, *_ in named}
    shown = {folder: _every(of, every) for folder, of in lines.items()}
    wanted = [size for folder, of in lines.items() for step, size in of if step is None or step in shown[folder]]
    if every > 1:
        notes.append(f"Rollouts of one step in {every} are shown, as `--every {every}` has it.")
    too_many = max(-(-len(wanted) // most), -(-sum(wanted) // MOST_BYTES))
    if too_many > 1:
        thinned = every * too_many
        shown = {folder: _every(of, thinned) for folder, of in lines.items()}
        notes.append(
            f"There are {len(wanted):,} rollouts ({sum(wanted) / 1e6:,.0f} MB), more than the {most:,} "
            f"({MOST_BYTES / 1e6:,.0f} MB) that stay fluent: shown is one step in {thinned}. Give fewer runs to see "
            "more of each."
        )
    runs = [_load(*each, dataset, lines[each[0]], shown[each[0]], notes) for each in named]
    if dataset is not None and not any(run.rollouts or run.predictions is not None for run in runs):
        raise ValueError(f"no run has a clip of data set {dataset!r}: correct --dataset")
    return runs, notes


def tested_arms(runs: Sequence[PageRun]) -> list[Arm]:
    """The arms of the runs that have predictions, in the order of the runs."""
    groups: dict[str, list[PageRun]] = {}
    for run in runs:
        if run.predictions is not None:
            groups.setdefault(run.arm, []).append(run)
    return [
        Arm(
            name,
            tuple(run.path for run in members),
            tuple(run.seed for run in members),
            tuple(run.predictions for run in members if run.predictions is not None),
        )
        for name, members in groups.items()
    ]


def _named(folders: Sequence[Path]) -> list[tuple[Path, str, str, str]]:
    """Each folder with the names of run, arm and seed; two trees may hold the same names, then the path tells."""
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise FileNotFoundError(f"no run folder {missing[0]}")
    arms = {folder: arm for arm, members in group_runs(folders).items() for folder in members}
    short = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    return [
        (folder, name if short.count(name) == 1 else str(folder), arms[folder], split_seed(folder.resolve().name)[1])
        for folder, name in zip(folders, short, strict=True)
    ]


def _load(
    folder: Path,
    name: str,
    arm: str,
    seed: str,
    dataset: str | None,
    lines: Sequence[Line],
    shown: set[int],
    notes: list[str],
) -> PageRun:
    settings = _settings(folder / "config.yaml")
    curves, predictions = _curves(folder), _predictions(folder / "predictions.jsonl", dataset, notes)
    if curves is None and predictions is None and not lines:
        raise FileNotFoundError(
            f"{folder} holds nothing to show: no metrics.csv, rollouts.jsonl or predictions.jsonl; name a run folder"
        )
    rows = [_rollout(*found) for found in _lines(folder / "rollouts.jsonl", notes, lines, shown)] if lines else []
    return PageRun(
        path=folder,
        name=name,
        arm=arm,
        seed=seed,
        stage=str(settings.get("stage") or folder.resolve().parent.name),
        settings=settings,
        curves=curves,
        predictions=predictions,
        rollouts=[row for row in rows if dataset in (None, row["dataset"])],
        steps=len({step for step, _ in lines} - {None}),
    )


def _curves(folder: Path) -> pd.DataFrame | None:
    metrics = folder / "metrics.csv"
    if metrics.is_file() and not metrics.stat().st_size:
        return None  # the run has only begun
    try:
        return load_curves(folder)
    except FileNotFoundError:
        return None


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: no settings in it")
    return content


def _predictions(path: Path, dataset: str | None, notes: list[str]) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    rows = {number: _checked(line, place) for number, line, place in _lines(path, notes)}
    return predictions_table(rows, path, dataset) if rows else None


# -- lines --------------------------------------------------------------------------------------------------------


def _steps(path: Path) -> list[Line]:
    """Step and length of each line; None for the step of one that does not tell it at once. Nothing without a file."""
    if not path.is_file():
        return []
    with path.open("rb") as lines:
        return [(_step(line), len(line)) for line in lines]


def _step(line: bytes) -> int | None:
    found = _STEP.match(line)
    if found:
        return int(found[1])
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None  # the line is read, and told what is wrong with it, later
    return step if type(step) is int else None


def _every(lines: Sequence[Line], every: int) -> set[int]:
    """Every so many of the steps, from the first."""
    return set(sorted({step for step, _ in lines if step is not None})[::every])


def _lines(
    path: Path, notes: list[str], known: Sequence[Line] = (), shown: set[int] | None = None
) -> Iterator[tuple[int, str, str]]:
    """Number, text and place of the lines that count; a last one that was never finished is left out with a note."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if shown is not None:
                # a run that goes on may have written more since its steps were looked at
                if number > len(known):
                    return
                step = known[number - 1][0]
                if step is not None and step not in shown:
                    continue
            text = line.decode("utf-8", errors="replace")
            if not line.endswith(b"\n") and not _is_json(text):
                notes.append(f"{path}:{number} is not finished, as a killed or running process leaves it: left out.")
                continue
            yield number, text, f"{path}:{number}"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _checked(line: str, place: str) -> Record:
    """A row with what both files must have, and its place."""
    row = parse_prediction(line, place)
    if wrong := [key for key in ("dataset", "clip") if not isinstance(row[key], str)]:
        raise ValueError(f"{place}: {wrong[0]} is {row[wrong[0]]!r}, not text")
    return {**row, "place": place}


def _rollout(number: int, line: str, place: str) -> Record:
    """A checked row of rollouts.jsonl."""
    row = _checked(line, place)
    wrong = [key for key in ("step", "completion") if type(row.get(key)) is not int or row[key] < 0]
    if wrong:
        raise ValueError(f"{place}: {wrong[0]} is {row.get(wrong[0])!r}, not a whole number from 0 on")
    rewards = row.get("rewards") or {}
    if not isinstance(rewards, dict):
        raise ValueError(f"{place}: rewards is not an object of reward name → number")
    numbers = {"reward": row.get("reward"), "advantage": row.get("advantage"), **rewards}
    for key, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{place}: {key} is {value!r}, not a number or null")
    if row.get("sentences") is not None and not _are_verdicts(row["sentences"]):
        raise ValueError(f"{place}: sentences is not a list of objects with labels and p")
    return row


def _are_verdicts(sentences: Any) -> bool:
    return isinstance(sentences, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("labels"), list)
        and all(type(label) is int for label in one["labels"])
        for one in sentences
    )
