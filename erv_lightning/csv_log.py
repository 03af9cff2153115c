"""metrics.csv in the run's own folder, continued when a run is resumed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


class RunCSVLogger(CSVLogger):
    """Lightning's CSV logger without its version folders.

    Args:
        folder: the run's folder; `metrics.csv` goes right into it.
        resume: keep the rows that are already there. Lightning's own logger deletes them.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        super().__init__(str(folder), name="", version="", flush_logs_every_n_steps=1)
        self._kept = self._read(folder / "metrics.csv") if resume else None
        self._last = ""

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return self.root_dir

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Adds a row, but none that repeats the last: a step's row is written early where the run ends with it."""
        row = f"{step} {sorted((name, float(value)) for name, value in metrics.items())}"
        if row != self._last:
            self._last = row
            super().log_metrics(metrics, step)

    @property
    def experiment(self) -> ExperimentWriter:
        """The writer; earlier rows are put back the first time."""
        writer: ExperimentWriter = super().experiment
        if self._kept is not None and isinstance(writer, ExperimentWriter):  # a dummy on other ranks
            kept, self._kept = self._kept, None
            keys, text = kept
            Path(writer.metrics_file_path).write_text(text)
            writer.metrics_keys = keys
        return writer

    @staticmethod
    def _read(path: Path) -> tuple[list[str], str] | None:
        if not path.is_file():
            return None
        text = path.read_text()
        return next(csv.reader(text.splitlines()), []), text
