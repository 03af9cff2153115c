"""A verdict on an explanation, coloured on a terminal or as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from erv_lightning.explaining import Verdict
from erv_lightning.labels import LabelSpace
from erv_lightning.report.colours import label_colour

BAR = 10  # widest bar, in characters
SHOWN = 0.1  # labels below this probability are left out, but for the likeliest


def rendered(verdict: Verdict, space: LabelSpace) -> RenderableType:
    """Each sentence in the colour of its likeliest label, with its label set and the probabilities behind it."""
    if not verdict.sentences:
        return Text("no sentence to read", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column("sentence", ratio=3)
    table.add_column("conveys", no_wrap=True)
    table.add_column("probabilities", no_wrap=True)
    for sentence in verdict.sentences:
        first = next(iter(sentence.probs))
        conveys = Text(" + ".join(sentence.labels), style=f"bold {_colour(first, space)}")
        table.add_row(Text(sentence.text, style=_colour(first, space)), conveys, _bars(sentence.probs, space))
    whole = Text("as a whole: ", style="dim").append(verdict.label, style=f"bold {_colour(verdict.label, space)}")
    whole.append(f" ({verdict.probs[verdict.label]:.2f})", style="dim")
    parts: list[RenderableType] = [table, whole]
    if verdict.rewards:
        paid = ", ".join(f"{name} {value:.2f}" for name, value in verdict.rewards.items())
        parts.append(Text(f"rewards: {paid}", style="dim"))
    return Group(*parts)


def _bars(probs: dict[str, float], space: LabelSpace) -> Text:
    text = Text()
    for place, (name, value) in enumerate(probs.items()):
        if place and value < SHOWN:
            break
        text.append("\n" if place else "")
        text.append("█" * max(1, round(BAR * value)), style=_colour(name, space)).append(f" {value:.2f} {name}")
    return text


def _colour(name: str, space: LabelSpace) -> str:
    return label_colour(space.id(name), space)


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Plain JSON types."""
    return asdict(verdict)
