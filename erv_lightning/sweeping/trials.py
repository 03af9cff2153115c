"""The trials of a sweep and the file that remembers them, `sweep.jsonl`. Knows nothing of the search."""

from __future__ import annotations

import csv
import fcntl
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from erv_lightning.errors import ConfigError

ENDED = ("finished", "stopped", "failed")


@dataclass(eq=False)
class Trial:
    """One trial.

    Attributes:
        id: its name within the sweep, and WANDB_RUN_ID.
        params: by name on the command line.
        state: running, interrupted (goes on with the next call), finished, stopped (by `early_terminate`) or failed.
        values: the metric at each validation so far.
        pid: of its process.
    """

    id: str
    params: dict[str, Any]
    state: str = "running"
    values: list[float] = field(default_factory=list)
    pid: int | None = None

    def look(self, metrics: Path, name: str) -> None:
        """Takes new values from the run's metrics.csv; a file that is being rewritten never takes any away."""
        values = read_values(metrics, name)
        if len(values) >= len(self.values):
            self.values = values


def read_values(metrics: Path, name: str) -> list[float]:
    """The finite values of a column, from whole lines only."""
    try:
        lines = metrics.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    cells = [row.get(name) for row in csv.DictReader(line for line in lines if line.endswith("\n"))]
    return [value for value in (_number(cell) for cell in cells if cell) if math.isfinite(value)]


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


class Ledger:
    """`sweep.jsonl`: the sweep's own content first, then a row whenever a trial changes; the last of each counts.

    Args:
        folder: where it stands; made if need be.
        content: of the sweep file, with the seed.

    Raises:
        ConfigError: another process runs this sweep, or the file is of another sweep.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "sweep.jsonl"
        self._file: IO[str] = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigError(f"{self.path}: another process runs this sweep; wait for it, or give --runs") from error
        self.trials: list[Trial] = []
        rows = self._rows()
        if not rows:
            self._write({"sweep": dict(content)})
        elif rows[0].get("sweep") != json.loads(json.dumps(content)):
            self._file.close()
            raise ConfigError(
                f"{self.path} was begun with another sweep file or seed: move {folder} away, or give other --runs"
            )
        known = {row["id"]: Trial(**row) for row in rows[1:]}
        self.trials = list(known.values())

    def _rows(self) -> list[dict[str, Any]]:
        """What stands there; half a line that a kill has left is removed."""
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self._file.truncate(len(whole.encode()))
        return [json.loads(line) for line in whole.splitlines()]

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def note(self, trial: Trial) -> None:
        """Remembers a trial as it is now."""
        if trial not in self.trials:
            self.trials.append(trial)
        self._write(asdict(trial))

    def close(self) -> None:
        """Lets others have it."""
        self._file.close()
