"""How good a verifier is, from its logits: numbers as plain JSON, a Markdown page, figures. Reads and writes no files.

Shapes: N sentences, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from erv_lightning.report import robustness, teacher
from erv_lightning.report.cells import grid, number
from erv_lightning.report.figures import PALETTE
from erv_lightning.stats.calibration import (
    Link,
    average_precision,
    negative_log_likelihood,
    precision_recall,
    predictions,
    probabilities,
    reliability,
)
from erv_lightning.stats.resampling import Floats

CONFUSABLE = (("fear", "surprise"), ("anger", "disgust"))
"""Pairs of emotions that are easily taken for each other."""

PAPER_RULE = (0.1, 2)  # R_E's threshold and most labels, see `rl.reward_terms.ExplanationRule`
_SAID = ("first only", "second only", "both", "neither")

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """Sentences with what the verifier says of them.

    Attributes:
        logits: (N, K).
        targets: (N, K), 0 or 1.
    """

    logits: Floats
    targets: Floats


def assess(
    test: Scored,
    labels: Sequence[str],
    link: Link,
    *,
    pairs: Sequence[tuple[int, int]] = (),
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the logits of test sentences say.

    With ``softmax``, sentences without a label are left out.

    Args:
        test: the sentences.
        labels: K names.
        link: how logits become probabilities.
        pairs: ids of labels whose confusion is counted.
        calibration: ``temperature``, and ``thresholds`` by label, see `stats.calibration.fit_calibration`.

    Returns:
        JSON types, NaN where a number is undefined.
    """
    test = counting(test, link)
    probs, true = probabilities(test.logits, link), test.targets > 0
    said = _said(probs, link)
    report: dict[str, Any] = {"sentences": len(true), "labels": list(labels), "link": link}
    temperatures = {"raw": 1.0}
    if calibration is not None:
        report["calibration"] = dict(calibration)
        temperatures["calibrated"] = calibration["temperature"]
    decided = decisions(test, labels, link, calibration)
    report["f1"] = {rule: _f1(true, sets) for rule, sets in decided.items()}
    report["classes"] = {label: _class(true[:, k], said[:, k], probs[:, k]) for k, label in enumerate(labels)}
    report["confusion"] = [_pair(true, said, first, second, labels) for first, second in pairs]
    report["reliability"] = {name: _reliability(test, link, t) for name, t in temperatures.items()}
    report["pr_curves"] = {label: _curve(probs[:, k], true[:, k]) for k, label in enumerate(labels)}
    return report


def counting(test: Scored, link: Link) -> Scored:
    """The sentences that numbers are of: with ``softmax``, those that have a label."""
    if link == "sigmoid":
        return test
    labelled = test.targets.sum(axis=1) > 0
    return Scored(test.logits[labelled], test.targets[labelled])


def decisions(
    test: Scored, labels: Sequence[str], link: Link, calibration: Mapping[str, Any] | None = None
) -> dict[str, Bools]:
    """By rule, (N, K): the labels that the verifier gives each sentence. Arguments as of `assess`."""
    probs = probabilities(test.logits, link)
    first = "argmax" if link == "softmax" else "above 0.5"
    by_rule = {first: _said(probs, link), "paper: above 0.1, top 2": _paper_sets(probs)}
    if calibration is not None:
        at = np.array([calibration["thresholds"][label] for label in labels])
        by_rule["fitted thresholds"] = probabilities(test.logits, link, calibration["temperature"]) > at
    return by_rule


def _said(probs: Floats, link: Link) -> Bools:
    if link == "softmax":
        return np.asarray(np.arange(probs.shape[1]) == probs.argmax(axis=1)[:, None])
    return np.asarray(probs > 0.5)


def _paper_sets(probs: Floats) -> Bools:
    """R_E's label sets; `rl.rewards.label_sets` over arrays."""
    threshold, most = PAPER_RULE
    rank = np.argsort(np.argsort(-probs, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(((probs > threshold) & (rank < most)) | (rank == 0))


def _counts(true: Bools, said: Bools) -> tuple[float, float, float]:
    """Precision, recall and F1; NaN where 0/0, but F1 as in torchmetrics 0."""
    hits, said_so, are = float((true & said).sum()), float(said.sum()), float(true.sum())
    precision, recall = (hits / of if of else math.nan for of in (said_so, are))
    return precision, recall, 2 * hits / (said_so + are) if said_so + are else 0.0


def _f1(true: Bools, said: Bools) -> dict[str, float]:
    by_class = [_counts(true[:, k], said[:, k])[2] for k in range(true.shape[1])]
    return {"macro": float(np.mean(by_class)), "micro": _counts(true, said)[2]}


def _class(true: Bools, said: Bools, probs: Floats) -> dict[str, Any]:
    precision, recall, f1 = _counts(true, said)
    return {
        "sentences": int(true.sum()),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "average_precision": average_precision(probs, true.astype(float)),
    }


def _pair(true: Bools, said: Bools, first: int, second: int, labels: Sequence[str]) -> dict[str, Any]:
    """Of the sentences with one of the two labels and not the other: how many are said to have which."""
    a, b = said[:, first], said[:, second]
    answers = dict(zip(_SAID, (a & ~b, b & ~a, a & b, ~a & ~b), strict=True))
    counts = {}
    for one, other in ((first, second), (second, first)):
        rows = true[:, one] & ~true[:, other]
        counts[labels[one]] = {answer: int((rows & given).sum()) for answer, given in answers.items()}
    return {"pair": [labels[first], labels[second]], "said": counts}


def _reliability(test: Scored, link: Link, temperature: float) -> dict[str, Any]:
    curve = reliability(*predictions(probabilities(test.logits, link, temperature), test.targets, link))
    likelihood = negative_log_likelihood(test.logits, test.targets, link, temperature) if len(test.logits) else math.nan
    return {
        "temperature": temperature,
        "ece": curve.error,
        "nll": likelihood,
        "edges": curve.edges.tolist(),
        "confidence": curve.confidence.tolist(),
        "frequency": curve.frequency.tolist(),
        "count": curve.count.tolist(),
    }


def _curve(probs: Floats, true: Bools) -> dict[str, list[float]]:
    precision, recall, at = precision_recall(probs, true.astype(float))
    return {"precision": precision.tolist(), "recall": recall.tolist(), "probability": at.tolist()}


# -- what people read ---------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """A page that shows image files: `pictures` by ``pr``, ``reliability`` and ``robustness``."""
    rules = [[rule, *(number(f1[name]) for name in ("macro", "micro"))] for rule, f1 in report["f1"].items()]
    classes = [[name, str(of["sentences"]), *(number(of[key]) for key in _OF_CLASS)] for name, of in _rows(report)]
    parts = [
        "# Verifier",
        f"{report['sentences']} test sentences, {len(report['labels'])} labels of {report['space']}, {report['link']}.",
        grid("labels of a sentence", ["macro F1", "micro F1"], rules),
        "## Classes",
        f"Precision, recall and F1 by the first of these rules ({next(iter(report['f1']))}).",
        grid("", ["sentences", *_OF_CLASS.values()], classes),
        *(f"![{pictures[name]}]({pictures[name]})" for name in ("pr", "reliability") if name in pictures),
        "## Confusable pairs",
        "Sentences with one label of the pair and not the other, by what was said of the two.",
        *(_pair_table(one) for one in report["confusion"]),
        "## Calibration",
        _calibration(report),
    ]
    if "robustness" in report:
        parts += robustness.section(report["robustness"], pictures.get("robustness"))
    if "teacher" in report:
        parts += teacher.section(report["teacher"])
    if report.get("speed"):
        titles = ["sentences/s", "ms a batch, median", "ms, slowest tenth from", "batches"]
        keys = (("sentences_per_s", ".0f"), ("latency_ms_median", ".2f"), ("latency_ms_p90", ".2f"), ("batches", "d"))
        rows = [[str(one["batch"]), *(format(one[key], spec) for key, spec in keys)] for one in report["speed"]]
        parts += ["## Speed on the CPU", f"As measured on {report['machine']}.", grid("batch", titles, rows)]
    parts += [f"- {note}" for note in report.get("notes", [])]
    return "\n\n".join(parts) + "\n"


_OF_CLASS = {"precision": "precision", "recall": "recall", "f1": "F1", "average_precision": "AP"}


def _rows(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(report["classes"].items())


def _pair_table(one: Mapping[str, Any]) -> str:
    first, second = one["pair"]
    rows = [[truth, *(str(count) for count in said.values())] for truth, said in one["said"].items()]
    return grid("true", [f"{first} only", f"{second} only", "both", "neither"], rows)


def _calibration(report: Mapping[str, Any]) -> str:
    of = report["reliability"]
    rows = [[name, number(one["temperature"]), number(one["ece"]), number(one["nll"])] for name, one in of.items()]
    what = "each label of each sentence" if report["link"] == "sigmoid" else "the likeliest label of each sentence"
    text = f"ECE over {len(of['raw']['count'])} bins of equal width, of {what}"
    if "calibration" in report:
        text += f"; temperature and thresholds fitted on {report['validation_sentences']} validation sentences"
    text += ".\n\n"
    text += grid("probabilities", ["temperature", "ECE", "NLL"], rows)
    if "calibration" in report:
        fitted = [[name, number(at)] for name, at in report["calibration"]["thresholds"].items()]
        text += "\n\n" + grid("label", ["calibrated probability above which F1 is best on validation"], fitted)
    return text


def pr_figure(report: Mapping[str, Any]) -> Figure:
    """Precision over recall, a panel a label, with the average precision."""
    labels = report["labels"]
    columns = min(4, len(labels))
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.5 * rows), facecolor="white", layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, label in zip(panels, labels, strict=False):
        curve, of = report["pr_curves"][label], report["classes"][label]
        axes.step([0, *curve["recall"]], [*curve["precision"][:1], *curve["precision"]], color=PALETTE[2], where="pre")
        _dress(axes, f"{label}, AP {number(of['average_precision'], '.2f')} (n = {of['sentences']})")
    for axes in panels[len(labels) :]:
        axes.set_visible(False)
    figure.supxlabel("recall", fontsize=10)
    figure.supylabel("precision", fontsize=10)
    return figure


def reliability_figure(report: Mapping[str, Any]) -> Figure:
    """How often predictions come true over how sure they are, raw and calibrated; below, how many there are."""
    curves = report["reliability"]
    figure = Figure(figsize=(3.4 * len(curves), 4.4), facecolor="white", layout="constrained")
    panels = figure.subplots(2, len(curves), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for column, (name, one) in enumerate(curves.items()):
        above, below = panels[0, column], panels[1, column]
        above.plot([0, 1], [0, 1], color=PALETTE[0], linestyle="--", linewidth=1)
        above.plot(one["confidence"], one["frequency"], color=PALETTE[2], marker="o", markersize=4)
        _dress(above, f"{name}, T = {number(one['temperature'], '.2f')}, ECE {number(one['ece'])}")
        edges = np.array(one["edges"])
        below.bar(edges[:-1], one["count"], np.diff(edges), align="edge", color=PALETTE[5], edgecolor="white")
        below.spines[["top", "right"]].set_visible(False)
        below.set_xlabel("probability")
    panels[0, 0].set_ylabel("share that is true")
    panels[1, 0].set_ylabel("predictions")
    return figure


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.05)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
