"""Curves of runs, wherever they were logged: `metrics.csv`, JSON lines, an offline W&B run, W&B's server.

All become one long table with the columns ``metric``, ``step``, ``value``. Knows no metric by name, and draws nothing.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from erv_lightning.errors import ConfigError, one_line
from erv_lightning.wandb_files import WandbFileError, history

Answer = TypeVar("Answer")

_COLUMNS = ["metric", "step", "value"]
_STEPS = ("step", "trainer/global_step", "global_step", "_step")
"""What a row may call its step, the first that it has: ours, Lightning's on W&B, others', W&B's count of calls."""


def load_curves(source: Path | str) -> pd.DataFrame:
    """Reads what a run logged, without its empty cells.

    Args:
        source: one of

            - a run folder: its ``metrics.csv``, else its ``metrics.jsonl``, else the offline W&B run in it;
            - a ``.csv`` file, a ``.jsonl`` file (an object a line), or a ``.json`` file (a list of objects, or Hugging
              Face's ``trainer_state.json``), whose rows have ``step``, ``global_step`` or ``_step``;
            - a ``run-*.wandb`` file, or the folder ``wandb/offline-run-*`` that it lies in;
            - ``wandb:ENTITY/PROJECT/RUN_ID``: a run on W&B's server, where there is an account.

    Returns:
        Columns ``metric``, ``step``, ``value``, sorted; of several values at one step the last stands. Names that hold
        no number are left out, and so are those that begin with ``_``, which are W&B's own.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it cannot be read, or it has no steps.
        ConfigError: W&B has no account, no such run, or does not answer.
    """
    if isinstance(source, str) and source.startswith("wandb:"):
        return _from_server(source.removeprefix("wandb:"))
    path = _file(Path(source))
    if path.suffix == ".csv":
        return _from_csv(path)
    if path.suffix == ".wandb":
        try:
            return _long(history(path), str(path))
        except WandbFileError as error:
            raise ValueError(str(error)) from None
    return _long(_json_rows(path), str(path))


def curve_bands(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean and spread over seeds, at the steps that every seed has which has the metric at all.

    Args:
        tables: a `load_curves` table for each seed.

    Returns:
        Columns ``metric``, ``step``, ``mean``, ``low`` (the lowest seed), ``high`` (the highest), ``std`` (n − 1; NaN
        for one seed), ``seeds``.
    """
    every = pd.concat([table.assign(seed=seed) for seed, table in enumerate(tables)], ignore_index=True)
    having = every.groupby("metric")["seed"].nunique()
    bands = (
        every.groupby(["metric", "step"])["value"]
        .agg(mean="mean", low="min", high="max", std="std", seeds="count")
        .reset_index()
    )
    return bands[bands["seeds"] == bands["metric"].map(having)].reset_index(drop=True)


# -- files --------------------------------------------------------------------------------------------------------


def _file(path: Path) -> Path:
    """The file that a run folder keeps its curves in."""
    if path.is_file():
        return path
    offline = sorted(path.glob("run-*.wandb")) or sorted(path.glob("wandb/*run-*/run-*.wandb"))
    for found in (path / "metrics.csv", path / "metrics.jsonl", *offline[-1:]):
        if found.is_file():
            return found
    if path.suffix:
        raise FileNotFoundError(f"no file {path}")
    raise FileNotFoundError(f"{path / 'metrics.csv'} does not exist; training writes it")


def _from_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    step = next((name for name in _STEPS if name in table), None)
    if step is None:
        raise ValueError(f"{path}: no column step")
    long = table.melt(id_vars=step, var_name="metric", value_name="value").rename(columns={step: "step"})
    long["value"] = pd.to_numeric(long["value"], errors="coerce")
    return _tidy(long)


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of JSON lines, of a list, or of the log in a `trainer_state.json`."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        content = _parsed(text, str(path))
        rows = content.get("log_history") if isinstance(content, dict) else content
        if not isinstance(rows, list):
            raise ValueError(f"{path}: neither a list of objects nor a trainer_state.json")
        placed = [(row, str(path)) for row in rows]
    else:
        numbered = [(f"{path}:{i}", line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
        placed = [(_parsed(line, place), place) for place, line in numbered]
    for row, place in placed:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: not a JSON object, but {type(row).__name__}")
        yield row


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON: {error.msg}") from None


# -- W&B's server -------------------------------------------------------------------------------------------------


def _from_server(run: str) -> pd.DataFrame:
    """The whole history, not W&B's sample of it."""
    if run.count("/") != 2:
        raise ValueError(f"wandb:{run} names no run: write wandb:ENTITY/PROJECT/RUN_ID, as in the run's address")
    return _long(ask_wandb(lambda api: list(api.run(run).scan_history()), f"wandb:{run}"), f"wandb:{run}")


def ask_wandb(question: Callable[[Any], Answer], what: str) -> Answer:
    """The answer of W&B's server.

    Args:
        question: what to ask a `wandb.Api`.
        what: is asked for, for messages.

    Raises:
        ConfigError: there is no account, no network, or no such thing.
    """
    import wandb

    try:
        return question(wandb.Api())
    except (wandb.errors.Error, ValueError, OSError, EOFError) as error:
        advice = "is it there, is there a network, and an account (wandb login)?"
        raise ConfigError(f"{what} cannot be read: {one_line(error)}; {advice}") from error


# -- one table ----------------------------------------------------------------------------------------------------


def _long(rows: Iterable[Mapping[str, Any]], place: str) -> pd.DataFrame:
    """Rows of names and values as the long table."""
    found: list[tuple[str, int, float]] = []
    for row in rows:
        step = next((row[name] for name in _STEPS if row.get(name) is not None), None)
        if step is None:
            raise ValueError(f"{place}: a row has no step: one of {', '.join(_STEPS)}")
        found += [
            (name, int(step), float(value))
            for name, value in row.items()
            if name not in _STEPS and not name.startswith("_") and _is_number(value)
        ]
    return _tidy(pd.DataFrame(found, columns=_COLUMNS))


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _tidy(long: pd.DataFrame) -> pd.DataFrame:
    kept = long.dropna().drop_duplicates(["metric", "step"], keep="last")
    return kept[_COLUMNS].sort_values(["metric", "step"], ignore_index=True)
