"""What the readers share: tables of annotations, clips found by their stem, and all bad rows in one error."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from erv_lightning.data.sample import Sample
from erv_lightning.labels import LabelSpace

SHOWN = 10  # problems listed in one error

Row = tuple[str, dict[str, str]]  # where it stands, e.g. train.csv:12, and its cells by column


def first_existing(root: Path, names: Sequence[str], what: str) -> Path:
    """The first of several places, relative to `root`, where a data set's layouts put something.

    Raises:
        ValueError: none is there; lists them.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    raise ValueError(f"no {what} in {str(root)!r}: looked for {', '.join(names)}; check data.source.init_args.root")


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV file with a header; further columns are kept.

    Raises:
        ValueError: the file is missing, is not UTF-8, or lacks a column.
    """
    if not path.is_file():
        raise ValueError(f"no file {str(path)!r}: check data.source.init_args.root")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{str(path)!r} has no column {', '.join(missing)}, only {reader.fieldnames}")
            for row in reader:
                cells = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
                yield f"{path}:{reader.line_num}", cells
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text: save it as UTF-8") from error


_without_clips: ContextVar[bool] = ContextVar("without_clips", default=False)


@contextmanager
def annotations_only() -> Iterator[None]:
    """While it lasts, readers do without the clips: predictions are measured where only the annotations are at hand."""
    token = _without_clips.set(True)
    try:
        yield
    finally:
        _without_clips.reset(token)


class ClipFolder:
    """Clips of one folder by their stem, whatever their extension; the folder is listed once.

    Args:
        root: the data set's folder.
        names: where its layouts put the clips, relative to `root`; the first that exists is taken.

    Raises:
        ValueError: none of them exists, except within `annotations_only`.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        if _without_clips.get() and not any((root / name).exists() for name in names):
            self.path, self._found = root / names[0], dict[str, Path]()
            return
        self.path = first_existing(root, names, "folder of clips")
        paths = [path for path in sorted(self.path.iterdir()) if not path.name.startswith(".")]
        self._found = {**{path.stem: path for path in paths}, **{path.name: path for path in paths}}

    def find(self, name: str) -> str:
        """The path of a clip named with or without extension. One that is not there is found out when it is opened."""
        return str(self._found.get(name) or self._found.get(Path(name).stem) or self.path / name)


def collect(rows: Iterable[Row], make: Callable[[str, dict[str, str]], Sample | None]) -> list[Sample]:
    """A sample of each row, in order; rows for which `make` gives None are left out.

    Args:
        rows: see `csv_rows`.
        make: a sample from the row's place and cells; raises ValueError (or KeyError) for a bad row.

    Raises:
        ValueError: all bad rows at once, each with its place; an id that stands twice is one.
    """
    samples: dict[str, Sample] = {}
    problems = []
    for place, cells in rows:
        try:
            sample = make(place, cells)
            if sample is None:
                continue
            if sample.id in samples:
                raise ValueError(f"the id {sample.id!r} stands already at {samples[sample.id].record}")
            samples[sample.id] = sample
        except KeyError as error:
            problems.append(f"{place}: no {error}")
        except ValueError as error:
            problems.append(f"{place}: {error}")
    raise_problems(problems)
    return list(samples.values())


def raise_problems(problems: Sequence[str]) -> None:
    """Raises ValueError with the first few problems and the number of the others; nothing where there is none."""
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError("; ".join(problems[:SHOWN]) + more)


def known_label(space: LabelSpace, label: Any) -> str:
    """The space's own name for a label. Raises ValueError for another word."""
    index = space.id(str(label))
    if index < 0:
        raise ValueError(f"label {label!r} is not in the label space {space.name!r}: {', '.join(space.names)}")
    return space.names[index]


def first_known(space: LabelSpace, text: str) -> str:
    """The space's name for the first word of ``happy`` or ``[happy, excited]`` that it knows, "" if it knows none."""
    words = re.split(r"[,;/、，]", text.strip().strip("[]"))
    ids = (space.id(word.strip(" \"'")) for word in words)
    return next((space.names[index] for index in ids if index >= 0), "")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError for one that is missing, not UTF-8, or not JSON."""
    if not path.is_file():
        raise ValueError(f"no file {str(path)!r}: check data.source.init_args")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text: save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} is not JSON ({error}): is the file complete?") from error
