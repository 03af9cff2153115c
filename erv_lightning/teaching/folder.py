"""The folder of a data set of sentences: what may lie in it, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from erv_lightning.errors import ConfigError
from erv_lightning.report.cells import plain
from erv_lightning.teaching.build import Built
from erv_lightning.teaching.selection import PARTS

NUMBERS, CARD, LEDGERS = "card.json", "README.md", "labels"
_DATA = tuple(f"{part}.jsonl" for part in PARTS)


def check_folder(folder: Path) -> None:
    """Raises ValueError for a folder with anything that an earlier call has not written: nothing is overwritten."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is a file: name a folder with --to")
    there = {path.name for path in folder.iterdir() if not _unfinished(path)} if folder.is_dir() else set[str]()
    own = {LEDGERS, *((NUMBERS, CARD, *_DATA) if NUMBERS in there else ())}
    if others := sorted(there - own):
        raise ConfigError(f"{str(folder)!r} holds other things, e.g. {others[0]!r}: name a folder of its own with --to")


def write(folder: Path, built: Built, card: str) -> None:
    """Writes data, card and numbers. Each file appears whole, and all of them at one moment, as far as that goes."""
    texts = {NUMBERS: json.dumps(plain(built.numbers), ensure_ascii=False, indent=1) + "\n", CARD: card}
    texts |= {f"{part}.jsonl": _lines(rows) for part, rows in built.rows.items()}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, text in texts.items():
            _beside(folder / name).write_bytes(text.encode(errors="replace"))
        for name in texts:  # the numbers first: they tell the next call that the others are its own
            _beside(folder / name).replace(folder / name)
    finally:
        for name in texts:
            _beside(folder / name).unlink(missing_ok=True)
    for name in {*_DATA} - texts.keys():  # of an earlier call, which split otherwise
        (folder / name).unlink(missing_ok=True)


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _unfinished(path: Path) -> bool:
    return path.name in {_beside(Path(name)).name for name in (NUMBERS, CARD, *_DATA)}
