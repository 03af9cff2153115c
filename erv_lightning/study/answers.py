"""Answers as a table, from a study's file or from the CSV that it was exported to. Knows no statistics.

One row an answer, attention checks among them. Raters are called R1, R2, …: no token and no code is in the table.

| column | what it is |
|---|---|
| `rater`, `position` | who, and on which of their pages, from 0 |
| `clip`, `dataset`, `id`, `source`, `label_space`, `label` | the study's number of the clip, and what it is |
| `arm_a`, `arm_b` | names of the two files of predictions |
| `left` | which arm stood on the left, `a` or `b` |
| `conveyed_a`, `conveyed_b` | the emotion that the rater found in each explanation, or `unclear` |
| `preferred` | which fits the clip better: `a`, `b` or `tie` |
| `answer_a`, `answer_b` | what the arms answered, "" for none |
| `asked`, `passed` | of an attention check, what it asked for and whether that was done (`yes`, `no`); "" elsewhere |
| `seconds`, `watched` | how long the page was open, how much of the clip was played, as the browser told; or "" |
| `given_at`, `answered_at` | UTC |
| `comment` | text |
| `judge_a:NAME`, `judge_b:NAME` | what a judge read in each explanation, "" for nothing |
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from erv_lightning.study.assignment import passed
from erv_lightning.study.forms import TIE
from erv_lightning.study.items import ARMS, Item
from erv_lightning.study.store import Store, read_item

UNCLEAR = "unclear"
YES, NO = "yes", "no"

_NEEDED = [
    *("rater", "dataset", "id", "label_space", "label", "arm_a", "arm_b", "left"),
    *("conveyed_a", "conveyed_b", "preferred", "answer_a", "answer_b", "passed", "seconds", "comment"),
]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet compute a cell


def answers_of(store: Store) -> pd.DataFrame:
    """All answers of a study, in the order of raters and of their pages; text in every column.

    Raises:
        ValueError: there are none yet.
    """
    items = {
        row["number"]: read_item(row["content"], bool(row["is_check"])) for row in store.rows("SELECT * FROM items")
    }
    found = store.rows("SELECT * FROM assignments WHERE answered_at IS NOT NULL ORDER BY rater, position")
    if not found:
        raise ValueError(f"{store.path} has no answers yet")
    frame = pd.DataFrame([_row(row, items[row["item"]], store.plan.arms) for row in found])
    return frame.astype(object).where(frame.notna(), "").astype(str)


def _row(row: sqlite3.Row, item: Item, arms: tuple[str, str]) -> dict[str, Any]:
    a, b = ("left", "right") if row["a_left"] else ("right", "left")
    preferred = {a: "a", b: "b", TIE: TIE}[row["preferred"]]
    check = row["check_label"]
    right = "" if check is None else (YES if passed(check, row[a], preferred) else NO)
    judged = {
        f"judge_{arm}:{name}": _name(item, value, "")
        for arm, told in (("a", item.a), ("b", item.b))
        for name, value in told.judges.items()
    }
    return {
        "rater": f"R{row['rater']}",
        "position": row["position"],
        "clip": row["item"],
        "dataset": item.dataset,
        "id": item.id,
        "source": item.source,
        "label_space": item.label_space,
        "label": _name(item, item.label_id, ""),
        "arm_a": arms[0],
        "arm_b": arms[1],
        "left": "a" if row["a_left"] else "b",
        "conveyed_a": _name(item, row[a], UNCLEAR),
        "conveyed_b": _name(item, row[b], UNCLEAR),
        "preferred": preferred,
        "answer_a": _name(item, item.a.answer_id, ""),
        "answer_b": _name(item, item.b.answer_id, ""),
        "asked": "" if check is None else _name(item, check, ""),
        "passed": right,
        "seconds": row["seconds"],
        "watched": row["watched"],
        "given_at": _time(row["given_at"]),
        "answered_at": _time(row["answered_at"]),
        "comment": row["comment"],
        **judged,
    }


def _name(item: Item, label: int, none: str) -> str:
    return item.labels[label] if label >= 0 else none


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes the table; a comment that a spreadsheet would compute gets an apostrophe before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    safe = ["'" + text if text.startswith(_FORMULA) else text for text in frame["comment"]]
    frame.assign(comment=safe).to_csv(path, index=False, quoting=csv.QUOTE_MINIMAL, encoding="utf-8")


def read_csv(path: Path) -> pd.DataFrame:
    """Reads what `write_csv` wrote.

    Raises:
        ValueError: columns are missing, a value is none of those above, or there are no answers.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    missing = [name for name in _NEEDED if name not in frame]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}: it is not what study export writes")
    allowed: Mapping[str, tuple[str, ...]] = {
        "left": ARMS,
        "preferred": (*ARMS, TIE),
        "passed": (YES, NO, ""),
    }
    for name, values in allowed.items():
        wrong = frame.index[~frame[name].isin(values)]
        if len(wrong):
            found = frame.at[wrong[0], name]
            raise ValueError(f"{path}:{wrong[0] + 2}: {name} is {found!r}, allowed is one of {', '.join(values)}")
    if frame.empty:
        raise ValueError(f"{path} has no answers")
    return frame


def load_answers(path: Path) -> pd.DataFrame:
    """The answers of a study's file, or of a CSV, told apart by how the file begins.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither, or holds no answers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no study {path}: name the file of study serve --db, or an exported CSV")
    with path.open("rb") as file:
        is_database = file.read(16).startswith(b"SQLite format 3")
    return answers_of(Store(path)) if is_database else read_csv(path)
