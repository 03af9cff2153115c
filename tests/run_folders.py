"""Run folders written by hand, for tests of what reads them. Knows no trainer and no model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]


def rollout(step: int, name: str = "a", completion: int = 0, **changes: Any) -> Row:
    """A row of rollouts.jsonl: a happy clip, answered so, with one sentence that was read so."""
    row = {
        "step": step,
        "id": name,
        "dataset": "synthetic",
        "label_space": "dfew",
        "clip": f"clips/{name}.mp4",
        "label": "happy",
        "completion": completion,
        "response": "<think>He smiles.</think>\n<answer>happy</answer>",
        "explanation": "He smiles.",
        "answer": "happy",
        "answer_id": 0,
        "label_id": 0,
        "well_formed": True,
        "tokens": 12,
        "truncated": False,
        "sentences": [{"labels": [0], "p": 0.75}],
        "judges": {"grammar": 0},
        "reward": 2.0,
        "rewards": {"format": 1.0, "accuracy": 1.0},
        "advantage": 0.5,
    }
    return row | changes


def prediction(name: str = "a", **changes: Any) -> Row:
    """A row of predictions.jsonl about the same."""
    row = {
        "id": name,
        "dataset": "synthetic",
        "clip": f"clips/{name}.mp4",
        "source": "",
        "question": "Which emotion?",
        "label": "happy",
        "label_space": "dfew",
        "response": "<think>He smiles.</think>\n<answer>happy</answer>",
        "explanation": "He smiles.",
        "answer": "happy",
        "answer_id": 0,
        "label_id": 0,
        "well_formed": True,
        "judges": {"grammar": 0},
    }
    return row | changes


def write_run(
    folder: Path,
    *,
    rollouts: Sequence[Row] = (),
    predictions: Sequence[Row] = (),
    curves: Mapping[str, Sequence[float]] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder with what is given; curves by metric, a value for each step from 0."""
    folder.mkdir(parents=True)
    for name, rows in (("rollouts.jsonl", rollouts), ("predictions.jsonl", predictions)):
        if rows:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (folder / name).write_text("".join(lines), encoding="utf-8")
    if curves is not None:
        steps = zip(*curves.values(), strict=True)
        lines = [f"{step},{','.join(map(str, values))}" for step, values in enumerate(steps)]
        (folder / "metrics.csv").write_text("\n".join([f"step,{','.join(curves)}", *lines]) + "\n")
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    return folder
