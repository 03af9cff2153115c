"""What `data check` found, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

BAR = 24  # widest bar, in characters
HISTOGRAMS = {"duration": "duration, s", "prompt_tokens": "prompt, tokens", "media_tokens": "media, tokens"}


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Counts, published numbers, clips, then warnings and problems, which come last to be seen."""
    for split, part in report["splits"].items():
        for dataset, counts in part["datasets"].items():
            console.print(
                f"{split}: {dataset}, {counts['samples']} samples", style="bold", markup=False, soft_wrap=True
            )
            console.print(_labels(counts))
        _print_clips(split, part["clips"], console)
    if report["published"]:
        console.print(_published(report["published"]))
    for line in report["warnings"]:
        console.print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)
    for line in report["problems"]:
        console.print(f"problem: {line}", style="red", markup=False, soft_wrap=True)
    if not report["problems"]:
        console.print("nothing here would break a run", style="green")


def _labels(counts: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column("label")
    table.add_column("clips", justify="right")
    table.add_column("")
    most = max(counts["labels"].values(), default=0) or 1
    for name, count in counts["labels"].items():
        table.add_row(name, str(count), "█" * round(BAR * count / most))
    table.caption = f"explanations {counts['explanations']}, labelled sentences {counts['labelled_sentences']}"
    return table


def _print_clips(split: str, clips: Mapping[str, Any], console: Console) -> None:
    if not clips["checked"]:
        return
    counts = {key: len(clips[key]) for key in ("missing", "unreadable", "without_audio", "over_budget")}
    told = ", ".join(f"{count} {key.replace('_', ' ')}" for key, count in counts.items())
    console.print(f"{split}: {clips['checked']} clips looked at: {told}", markup=False, soft_wrap=True)
    for one in clips["unreadable"][:BAR]:
        console.print(f"  {one['reason']}", markup=False, soft_wrap=True)
    for one in clips["missing"][:BAR]:
        console.print(f"  missing: {one['clip']} ({one['record'] or one['id']})", markup=False, soft_wrap=True)
    sizes = ", ".join(f"{size} ({count})" for size, count in list(clips["resolution"].items())[:8])
    console.print(f"  resolution: {sizes}", markup=False)
    for key, title in HISTOGRAMS.items():
        values = clips[key]
        if values and values["min"] == values["max"]:
            console.print(f"  {title}: {values['min']:g} each, sum {values['total']:g}", markup=False)
        elif values:
            span = f"from {values['min']:g} to {values['max']:g}, median {values['median']:g}"
            console.print(f"  {title}: {span}, sum {values['total']:g}", markup=False, soft_wrap=True)
            console.print(_histogram(values))


def _histogram(values: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2))
    most = max(values["counts"])
    for low, high, count in zip(values["edges"], values["edges"][1:], values["counts"], strict=False):
        table.add_row(f"{low:g} – {high:g}", str(count), "█" * round(BAR * count / most))
    return table


def _published(rows: list[Mapping[str, Any]]) -> Table:
    table = Table(title="beside what the authors report", title_justify="left")
    for name in ("data set", "splits", "label"):
        table.add_column(name)
    for name in ("here", "published"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row["dataset"], " + ".join(row["splits"]), "all", str(row["found"]), str(row["published"]))
        for label, count in row["labels"].items():
            table.add_row("", "", label, str(count["found"]), str(count["published"]))
    return table
