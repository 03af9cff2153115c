"""How far judges agree, as a terminal table, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from erv_lightning.report import cells
from erv_lightning.stats.agreement import Agreement

_TITLES = ("value", "95 % interval")


def table(agreement: Sequence[Agreement]) -> Table:
    """The terminal's table."""
    made = cells.table("Agreement of the judges", "", _TITLES)
    for name, value, interval in _rows(agreement):
        made.add_row(name, value, interval)
    return made


def markdown(agreement: Sequence[Agreement]) -> str:
    """A Markdown table."""
    return cells.grid("", _TITLES, _rows(agreement))


def to_json(agreement: Sequence[Agreement]) -> dict[str, Any]:
    """Name → value, low, high; null where undefined."""
    return {one.name: cells.plain({"value": one.value, "low": one.low, "high": one.high}) for one in agreement}


def _rows(agreement: Sequence[Agreement]) -> list[list[str]]:
    return [
        [one.name, cells.number(one.value), f"[{cells.number(one.low)}, {cells.number(one.high)}]"] for one in agreement
    ]
