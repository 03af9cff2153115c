"""Verdicts of judges beside predictions: lets a judge read a table's explanations, and keeps what it read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from erv_lightning.judges.protocol import Judge, judge_each
from erv_lightning.labels import get_label_space


def read_table(frame: pd.DataFrame, judge: Judge) -> None:
    """Lets a judge read all explanations of a `predictions_table`, and files its verdicts in the rows' ``judges``.

    Raises:
        ValueError: the table holds no explanations.
    """
    if "explanation" not in frame:
        raise ValueError(f"{frame.attrs['path']} holds no explanations, which {judge.name} is to read")
    texts = frame["explanation"].fillna("").tolist()
    read = judge_each(judge, texts, [get_label_space(name) for name in frame["label_space"]])
    add_verdicts(frame, judge.name, read)


def add_verdicts(frame: pd.DataFrame, judge: str, verdicts: list[int]) -> None:
    """Files verdicts, one a row, under a judge's name; earlier ones of that name are replaced."""
    rows = [{**row, judge: label} for row, label in zip(frame["judges"], verdicts, strict=True)]
    frame["judges"] = pd.Series(rows, index=frame.index, dtype=object)


def save_verdicts(frame: pd.DataFrame, path: Path) -> None:
    """Writes the verdicts of a `read_predictions` table back to its file. Rows that it left out stay as they are.

    The file is replaced as a whole or not at all.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, judged in zip(frame.index, frame["judges"], strict=True):  # the index is the line number
        lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), "judges": judged}, ensure_ascii=False)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text("\n".join(lines), encoding="utf-8")
    unfinished.replace(path)
