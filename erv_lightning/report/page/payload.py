"""What the page is told: the pieces that were loaded, put together as plain JSON types. Reads no files.

docs/report.md says what each part is. Ids are places in lists, so that thousands of rows stay small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from erv_lightning import __version__
from erv_lightning.labels import LabelSpace
from erv_lightning.report.charts import colours
from erv_lightning.report.colours import label_colours
from erv_lightning.report.page.clips import Clip
from erv_lightning.report.page.reading import PageRun, Record
from erv_lightning.report.page.rows import PREDICTION, ROLLOUT, Columns, Explanation
from erv_lightning.report.page.sections import Section
from erv_lightning.report.page.verdicts import Reader, own_key
from erv_lightning.results import judges_of


def judges_of_runs(runs: Sequence[PageRun]) -> list[str]:
    """Every judge that read anything in the runs; first those that read all tested clips, as `compare` has them."""
    frames = [run.predictions for run in runs if run.predictions is not None]
    common = [name for name in judges_of(frames[0]) if all(name in judges_of(one) for one in frames)] if frames else []
    names = dict.fromkeys(common)
    for frame in frames:
        names.update(dict.fromkeys(name for row in frame["judges"] for name in row))
    for run in runs:
        names.update(dict.fromkeys(name for row in run.rollouts for name in row["judges"]))
    return list(names)


def arm_names(runs: Sequence[PageRun]) -> list[str]:
    """The arms, tested ones first: their colours then are those of the figures of tests."""
    tested = [run.arm for run in runs if run.predictions is not None]
    return list(dict.fromkeys([*tested, *(run.arm for run in runs)]))


def columns_of(runs: Sequence[PageRun], judges: Sequence[str], readers: dict[str, Reader]) -> Columns:
    """All rows of the runs, rollouts in the order of training, then predictions.

    Args:
        runs: in the order of the page.
        judges: whose verdicts are kept.
        readers: who is to read the sentences that nobody has read, by the run's name.
    """
    columns = Columns(judges)
    for place, run in enumerate(runs):
        own = own_key(run)
        reader = readers[run.name].key if run.name in readers else ""
        for row in run.rollouts:
            columns.add(row, ROLLOUT, place, run.name, own, reader)
        for row in [] if run.predictions is None else records(run.predictions):
            columns.add(row, PREDICTION, place, run.name, own, reader)
    return columns


def records(predictions: pd.DataFrame) -> list[Record]:
    """The rows of a `predictions_table`."""
    return [{str(key): value for key, value in row.items()} for row in predictions.to_dict("records")]


def together(names: Iterable[str], runs: Sequence[PageRun]) -> str:
    """Names of runs in words; an arm all of whose runs are named stands for them."""
    named = set(names)
    whole = {run.arm for run in runs} - {run.arm for run in runs if run.name not in named}
    return ", ".join(dict.fromkeys(run.arm if run.arm in whole else run.name for run in runs if run.name in named))


def missing(runs: Sequence[PageRun]) -> list[str]:
    """What runs have not left, and the command that makes it."""
    notes = []
    for run in runs:
        if run.stage == "verifier":
            continue  # it answers no clips
        if run.predictions is None:
            notes.append(f"{run.name} was not tested: `python -m erv_lightning evaluate {run.path}` tests it.")
        if run.stage == "grpo" and not run.steps:
            notes.append(f"{run.name} has no rollouts.jsonl, which training by reward writes.")
        if run.curves is None:
            notes.append(f"{run.name} has no metrics.csv, which training writes: there are no curves of it.")
    return notes


def payload(
    *,
    title: str,
    command: str,
    made: datetime,
    notes: Sequence[str],
    runs: Sequence[PageRun],
    columns: Columns,
    clips: Sequence[Clip],
    sections: Sequence[Section],
) -> dict[str, Any]:
    """The page's data; docs/report.md has its parts.

    Args:
        title, command, made, notes: about the page.
        runs, columns: of `columns_of`.
        clips: in the order of ``columns.clips``.
        sections: in the order of the page.
    """
    arms = arm_names(runs)
    colour = colours(arms)
    datasets = {name: place for place, name in enumerate(columns.datasets)}
    places = {path: place for place, path in enumerate(columns.clips)}
    return {
        "version": __version__,
        "title": title,
        "made": made.isoformat(timespec="minutes"),
        "command": command,
        "notes": list(dict.fromkeys(notes)),
        "spaces": {space.name: _space(space) for space in columns.spaces.values()},
        "arms": [{"name": name, "colour": colour[name]} for name in arms],
        "runs": [
            {
                "name": run.name,
                "arm": arms.index(run.arm),
                "seed": run.seed,
                "stage": run.stage,
                "path": str(run.path),
            }
            for run in runs
        ],
        "sections": list(sections),
        "datasets": list(datasets),
        "judges": list(columns.judges),
        "clips": [{"path": clip.path, "src": clip.src, "why": clip.why} for clip in clips],
        "samples": [
            {
                "id": sample.id,
                "dataset": datasets[sample.dataset],
                "space": sample.space,
                "label": sample.label,
                "clip": places[sample.clip],
                "question": columns.questions.get(place, ""),
            }
            for place, sample in enumerate(columns.samples)
        ],
        "texts": list(columns.texts),
        "explanations": [_explanation(one) for one in columns.explanations.values()],
        "rows": {
            **columns.numbers,
            "judged": columns.judged,
            "reward": columns.reward,
            "advantage": columns.advantage,
            "parts": columns.parts,
        },
        "answers": list(columns.answers),
    }


def _space(space: LabelSpace) -> dict[str, Any]:
    return {"names": list(space.names), "neutral": space.neutral, "colours": label_colours(space)}


def _explanation(one: Explanation) -> dict[str, Any]:
    verdicts = [([], None)] * len(one.sentences) if one.verdicts is None else one.verdicts
    return {
        "text": one.text,
        "sentences": [
            {"text": text, "labels": labels, "p": p} for text, (labels, p) in zip(one.sentences, verdicts, strict=True)
        ],
    }
