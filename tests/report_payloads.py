"""Payloads of run reports, made up for tests: small ones with everything in them, and large ones.

Knows nothing of browsers. `erv_lightning.report.page` makes the real ones.
"""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, field
from typing import Any

from erv_lightning.report.page.clips import Medium
from erv_lightning.report.page.write import render

NAMES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
COLOURS = ("#E69F00", "#56B4E9", "#999999", "#D55E00", "#F0E442", "#009E73", "#CC79A7")
GROUP = 4  # completions of a clip
STEPS = (0, 5, 10, 15)
HOSTILE = (
    "<script>alert(1)</script> A face beams.",
    '<img src=x onerror="alert(2)"> It beams.',
    "</script><script>alert(3)</script> <!-- It beams.",
    "The \u202esrorrim fo llah\u202c voice \u2067turns\u2069 around.",
)


@dataclass
class Report:
    """What a page is made of: the payload, and embedded clips by key."""

    payload: dict[str, Any]
    media: dict[str, bytes] = field(default_factory=dict)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The columns as rows, for tests that count by brute force."""
        columns = {name: column for name, column in self.payload["rows"].items() if name not in ("parts", "judged")}
        columns["judged"] = self.payload["rows"]["judged"][0]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def cell(self, row: dict[str, Any]) -> int:
        """0 right and coherent, 1 right only, 2 coherent only, 3 neither."""
        label = self.payload["samples"][row["sample"]]["label"]
        right = row["answer_id"] >= 0 and row["answer_id"] == label
        coherent = row["answer_id"] >= 0 and row["judged"] == row["answer_id"]
        return 2 * (not right) + (not coherent)


def assemble(report: Report) -> str:
    """The page as the writer makes it."""
    media = [Medium(int(key), "video/mp4", base64.b64encode(clip).decode()) for key, clip in report.media.items()]
    return render(report.payload, media)


def frame() -> dict[str, Any]:
    """A payload with runs and no rows."""
    runs = [
        (f"grpo/{arm}-seed{seed}", place, str(seed))
        for place, arm in enumerate(("accuracy", "explanation"))
        for seed in (0, 1)
    ]
    columns = ("kind", "run", "step", "sample", "completion", "text", "explanation", "answer", "answer_id")
    columns += ("well_formed", "tokens", "truncated", "reward", "advantage")
    return {
        "version": "0.1.0",
        "title": "Two rewards, two seeds",
        "made": "2026-11-26T08:00",
        "command": "python -m erv_lightning report runs/demo/grpo/accuracy-seed0 runs/demo/grpo/explanation-seed0",
        "notes": ["One run has no predictions. Make them: `python -m erv_lightning test runs/x`."],
        "spaces": {"dfew": {"names": list(NAMES), "neutral": 2, "colours": list(COLOURS)}},
        "arms": [{"name": "accuracy", "colour": "#808080"}, {"name": "explanation", "colour": "#E69F00"}],
        "runs": [
            {"name": name, "arm": arm, "seed": seed, "stage": "grpo", "path": f"runs/{name}"}
            for name, arm, seed in runs
        ],
        "sections": [],
        "datasets": ["synthetic", "stage"],
        "judges": ["grammar"],
        "clips": [],
        "samples": [],
        "texts": [],
        "explanations": [],
        "answers": ["", *NAMES],
        "rows": {**{name: [] for name in columns}, "judged": [[]], "parts": {"format": [], "accuracy": []}},
    }


def add_row(payload: dict[str, Any], **values: Any) -> None:
    """One response; what is not told is 0."""
    rows = payload["rows"]
    for name, column in rows.items():
        if name == "judged":
            column[0].append(values.get("judged", -1))
        elif name == "parts":
            for part, numbers in column.items():
                numbers.append(values.get("parts", {}).get(part))
        else:
            column.append(values.get(name, 0))


def add_text(payload: dict[str, Any], explanation: str, answer: int, verdicts: list[list[int]]) -> tuple[int, int]:
    """A response with its explanation, one sentence a line. Returns the places of both."""
    sentences = [
        {"text": text, "labels": labels, "p": 0.91 if labels else None}
        for text, labels in zip(explanation.splitlines(), verdicts, strict=True)
    ]
    whole = f"<think>{explanation}</think>\n<answer>{NAMES[answer] if answer >= 0 else ''}</answer>"
    payload["texts"].append(whole)
    payload["explanations"].append({"text": " ".join(explanation.splitlines()), "sentences": sentences})
    return len(payload["texts"]) - 1, len(payload["explanations"]) - 1


def figures() -> list[dict[str, Any]]:
    """A section of charts and a table."""
    line = {"type": "scatter", "x": [0, 5, 10], "y": [0.2, 0.5, 0.7], "name": "accuracy", "line": {"color": "#E69F00"}}
    grid = {"type": "heatmap", "z": [[3, 1], [0, 4]], "x": ["happy", "sad"], "y": ["happy", "sad"]}
    axis = {"title": {"text": "step"}}
    table = {
        "title": "Test",
        "columns": ["", "WAR", "EEA"],
        "caption": "95 % intervals.",
        "rows": [
            {"cells": ["accuracy", "0.71 [0.66, 0.75]", "0.40 [0.36, 0.45]"], "kind": "arm"},
            {"cells": ["seed 0", "0.70", "0.39"], "kind": "seed"},
            {"cells": ["explanation − accuracy", "+0.01 [−0.02, +0.04]", "+0.21 [+0.15, +0.27]"], "kind": "difference"},
        ],
    }
    drawn = [("curve", line, {"xaxis": axis, "title": {"text": "twice"}}), ("grid", grid, {"height": 300})]
    made = [
        {
            "id": name,
            "title": f"The {name}",
            "caption": "What it is.",
            "alt": f"A {name} that rises.",
            "plotly": {"data": [data], "layout": layout},
        }
        for name, data, layout in drawn
    ]
    empty = {"id": "none", "title": "Nothing", "caption": "", "alt": "Nothing.", "plotly": None}
    return [
        {"id": "curves", "title": "Curves", "text": "Over training.", "figures": [*made, empty], "tables": []},
        {"id": "comparison", "title": "Comparison", "text": "", "figures": [], "tables": [table]},
    ]


def small_report(clips: list[str], embedded: bytes) -> Report:
    """Two runs of each arm, 6 clips over 4 steps with 4 completions, 5 test predictions a run.

    Clips of the samples: 0 and 1 are files, 2 is missing, 3 is embedded, 4 cannot be played, 5 is not there.
    """
    payload = frame()
    payload["sections"] = figures()
    srcs = [*clips[:2], "clips/nowhere.mp4", "media:0", None, clips[0]]
    for place, src in enumerate(srcs):
        why = "" if src else "The clip is a folder of frames, which browsers do not play."
        payload["clips"].append({"path": src or "clips/frames", "src": src, "why": why})
        sample = {"id": f"clip-{place:02d}", "dataset": int(place == 5), "space": "dfew", "label": place, "clip": place}
        payload["samples"].append({**sample, "question": "Which emotion is the most obvious?"})
    rng = random.Random(0)
    for run in range(4):
        for step in STEPS:
            for sample in range(6):
                _add_group(payload, rng, run, step, sample)
        for sample in range(5):
            answer = rng.choice([sample, rng.randrange(7)])
            text, explanation = add_text(payload, f"A test of {run}.", answer, [[answer]])
            place = {"run": run, "step": -1, "sample": sample, "text": text, "explanation": explanation}
            verdict = {"answer": answer + 1, "answer_id": answer, "judged": rng.choice([answer, 2]), "well_formed": 1}
            add_row(payload, kind=1, tokens=-1, reward=None, advantage=None, **place, **verdict)
    return Report(payload, {"0": embedded})


def _add_group(payload: dict[str, Any], rng: random.Random, run: int, step: int, sample: int) -> None:
    answers = [rng.choice([sample, rng.randrange(7)]) for _ in range(GROUP)]
    rewards = [1.0 + (answer == sample) for answer in answers]
    mean = sum(rewards) / GROUP
    for completion, answer in enumerate(answers):
        third = next(one for one in range(7) if one not in (sample, answer, 2))
        words = f"Both of {run} {step}.\nIn label.\nIn answer.\nElsewhere.\nCalm.\nUnread."
        if completion < len(HOSTILE) and sample == 0:
            words = words.replace("Elsewhere.", HOSTILE[completion])
        verdicts = [[sample, answer], [sample], [answer], [third], [2], []]
        text, explanation = add_text(payload, words, answer, verdicts)
        place = {
            "run": run,
            "step": step,
            "sample": sample,
            "completion": completion,
            "text": text,
            "explanation": explanation,
        }
        parts = {"format": 1.0, "accuracy": float(answer == sample)}
        cut = {"well_formed": int(completion != 3), "truncated": int(completion == 3), "tokens": 40 + completion}
        judged = rng.choice([answer, 2, -1])
        reward = {"reward": rewards[completion], "advantage": rewards[completion] - mean}
        add_row(payload, answer=answer + 1, answer_id=answer, judged=judged, parts=parts, **place, **cut, **reward)


def big_report(rows: int) -> Report:
    """Many rollouts in groups of 4: 50 clips at ever further steps, every response of its own words."""
    payload = frame()
    payload["clips"] = [{"path": "clips/x.mp4", "src": None, "why": "No clip."}]
    payload["samples"] = [
        {"id": f"clip-{place}", "dataset": 0, "space": "dfew", "label": place % 7, "clip": 0, "question": ""}
        for place in range(50)
    ]
    rng = random.Random(1)
    for row in range(rows):
        group, completion = divmod(row, GROUP)
        step, sample = divmod(group, 50)
        answer = rng.randrange(7)
        text, explanation = add_text(payload, f"The face of response {row} is " + "calm " * 30, answer, [[answer]])
        place = {"step": step, "sample": sample, "completion": completion, "text": text, "explanation": explanation}
        verdict = {"answer": answer + 1, "answer_id": answer, "judged": rng.randrange(7), "reward": rng.random()}
        add_row(payload, advantage=0.0, well_formed=1, tokens=30, **place, **verdict)
    return Report(payload)
