"""What `erv_lightning.robustness` found, for people: a section of a Markdown page, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from erv_lightning.analysis import LEVEL
from erv_lightning.probes import FOOLED
from erv_lightning.report.cells import grid, number
from erv_lightning.report.figures import PALETTE

BAG = 0.9
"""Of the share before shuffling: from here on the page says that word order is not read."""

_GOOD = {"stay": "as before", "go": "near 0", "open": "below before"}
_WIDTH = 70  # of an example


def interval(share: Mapping[str, float]) -> str:
    """A share with its 95 % interval."""
    value, low, high = (number(share[key], ".2f") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def section(of: Mapping[str, Any], picture: str | None = None) -> list[str]:
    """Markdown.

    Args:
        of: as `robustness.robustness` gives it, and ``novelty`` as `robustness.by_novelty` does.
        picture: file name of `robustness_figure`.
    """
    return [
        "## Robustness",
        f"{of['sentences']} of the {of['distinct_sentences']} different labelled test sentences, drawn with seed "
        f"{of['seed']}, were changed and read again. *Kept* is the share whose label set by the paper's rule (above "
        "0.1, top 2, else the likeliest) still holds a true label, with its 95 % interval (Wilson); *before* is that "
        "of the same sentences unchanged. *Mean p* is the mean probability of true labels. Neutral sentences are not "
        "denied.",
        grid("change", _TITLES, [_row(one) for one in of["perturbations"]]),
        f"In words; a difference is one where McNemar's test, adjusted for all rows (Holm), has p < {LEVEL}:",
        "\n".join(f"- {line}" for line in verdicts(of["perturbations"])),
        *([f"![{picture}]({picture})"] if picture else []),
        "### Sentences that training did not have",
        "Macro-F1 by the first rule of the page's first table, over labels that are said or true, with the 95 % "
        "interval of a bootstrap over different sentences. Good: *not in training* close to *in training*; a gap is "
        "what was learned by heart.",
        _novelty(of["novelty"]),
        "### Emotions without a label",
        "Honest sentences of emotions that the label space lacks. Good: seldom an emotion above 0.5, or one that comes "
        "close in meaning. The paper's rule asks for 0.1 only, and where nothing is above, it takes the likeliest.",
        _unknown(of["unknown"]),
        "### Other label spaces",
        "Honest sentences of each label that some output stands for: is the likeliest label right? Good is near 1. "
        "They are those of the built-in grammar, of which a verifier of the built-in clips has learned some by heart, "
        "and a few for other emotions.",
        _spaces(of["spaces"]),
    ]


_TITLES = ("kind", "sentences", "before", "kept", "mean p", "good")


def _row(one: Mapping[str, Any]) -> list[str]:
    p = " → ".join(number(one["probability"][when], ".2f") for when in ("before", "after"))
    example = f": “{_example(one['example'][1])}”" if one["example"] else ""
    shares = [number(one["before"]["value"], ".2f"), interval(one["kept"])]
    name = f"**{one['name']}**, {one['what']}{example}"
    return [name, one["kind"], str(one["sentences"]), *shares, p, _GOOD[one["wanted"]]]


def _example(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1].rstrip() + "…"


def verdicts(perturbations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each change that there were sentences for."""
    return [f"{one['name']}: {_verdict(one)}" for one in perturbations if one["sentences"]]


def _verdict(one: Mapping[str, Any]) -> str:
    before, kept = one["before"]["value"], one["kept"]["value"]
    shares = f"{100 * kept:.0f} % hold a true label, {100 * before:.0f} % before"
    if one["wanted"] == "go":
        heard = "the label is heard although it is denied" if kept >= FOOLED else "the denial is heard"
        return f"{100 * kept:.0f} % still hold the denied label: {heard}."
    if one["kind"] == "word order":
        return f"{shares}: " + ("it reads a bag of words." if kept >= BAG * before else "the order of words counts.")
    if one["wanted"] == "open":
        return f"{shares}: so much of the emotion does it find in this part."
    if one["p"] >= LEVEL:
        return f"{shares}: no clear difference."
    return f"{shares}: " + ("this change confuses it." if kept < before else "better than before.")


def _novelty(of: Mapping[str, Any] | None) -> str:
    if of is None:
        return "The training sentences are not at hand."
    names = {"seen": "in training", "unseen": "not in training"}
    rows = [[names[name], str(one["sentences"]), str(one["distinct"]), interval(one["f1"])] for name, one in of.items()]
    return grid("test sentences", ["sentences", "different ones", "macro F1"], rows)


def _unknown(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "The label space has all emotions that there are honest sentences for."
    made = [
        [
            one["emotion"],
            str(one["sentences"]),
            interval(one["above_half"]),
            interval(one["above_paper"]),
            f"{one['taken_for']} ({one['times']})",
        ]
        for one in rows
    ]
    return grid("emotion", ["sentences", "an emotion above 0.5", "above 0.1", "mostly taken for"], made)


def _spaces(rows: Sequence[Mapping[str, Any]]) -> str:
    made = []
    for one in rows:
        labels = ", ".join(f"{label} {number(of['right']['value'], '.2f')}" for label, of in one["labels"].items())
        missing = ", ".join(one["missing"]) or "–"
        made.append([", ".join(one["spaces"]), str(one["sentences"]), interval(one["right"]), labels, missing])
    return grid("label spaces", ["sentences", "right", "by label", "labels without an output"], made)


def robustness_figure(of: Mapping[str, Any]) -> Figure:
    """A bar for each change: the share kept, with its interval, and a line at the share before."""
    rows = [one for one in of["perturbations"] if one["sentences"]]
    colors = {"go": PALETTE[6], "stay": PALETTE[2], "open": PALETTE[0]}
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(rows)), facecolor="white", layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(rows):
        kept = one["kept"]
        error = [[kept["value"] - kept["low"]], [kept["high"] - kept["value"]]]
        axes.barh(place, kept["value"], 0.7, color=colors[one["wanted"]], xerr=error, ecolor="#333333", capsize=2)
        axes.plot([one["before"]["value"]] * 2, [place - 0.45, place + 0.45], color="black", linewidth=2)
    axes.set_yticks(range(len(rows)), [one["name"] for one in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("share of sentences with a true label; black line: before the change")
    axes.spines[["top", "right"]].set_visible(False)
    for wanted, meaning in (("stay", "labels should stay"), ("go", "should go"), ("open", "depends")):
        axes.bar(0, 0, color=colors[wanted], label=meaning)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure
