"""How numbers with intervals look: cells of terminal tables, of Markdown tables, and plain JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from rich import box
from rich.table import Table

from erv_lightning.analysis import Estimate

UNDEFINED = "–"


class WithInterval(Protocol):
    """A number and its interval; NaN where it is undefined."""

    @property
    def value(self) -> float: ...  # noqa: D102

    @property
    def low(self) -> float: ...  # noqa: D102

    @property
    def high(self) -> float: ...  # noqa: D102


def number(value: float, spec: str = ".3f") -> str:
    """A formatted number, a dash where it is undefined."""
    return UNDEFINED if math.isnan(value) else format(value, spec)


def terminal(estimate: WithInterval, sign: str = "", mark: str = "") -> str:
    """Terminal: the interval below the value, without its leading zeros, for width."""
    low, high = (number(end, ".2f").replace("0.", ".", 1) for end in (estimate.low, estimate.high))
    return f"{number(estimate.value, sign + '.3f')}{mark}\n[dim]{low}{'…' if sign else '–'}{high}[/dim]"


def inline(estimate: WithInterval, sign: str = "", mark: str = "") -> str:
    """Markdown: the interval beside the value."""
    value, low, high = (number(x, sign + ".3f") for x in (estimate.value, estimate.low, estimate.high))
    return f"{value}{mark} [{low}, {high}]"


def plain(value: Any) -> Any:
    """Estimates, tuples and numbers as JSON types; null for NaN, which JSON does not know."""
    if isinstance(value, Estimate):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def table(title: str, first: str, titles: Sequence[str]) -> Table:
    """An empty terminal table: a column of names, then one for each title."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=0)
    made.add_column(first, overflow="fold")
    for name in titles:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def grid(first: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: a column of names, then one for each title."""
    head = [first, *(title.replace("|", "\\|") for title in titles)]
    lines = [head, ["---", *["---:"] * len(titles)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
