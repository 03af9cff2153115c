"""The search: W&B's own engine (package `sweeps`), which suggests trials and stops those that fall behind.

It knows nothing about processes or files. Numbers are drawn from the sweep's seed and the trial's number alone, so that
a sweep that was cut off draws what it would have drawn.
"""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from erv_lightning.errors import ConfigError
from erv_lightning.sweeping.spec import SweepFile
from erv_lightning.sweeping.trials import Trial

NEEDED = "pip install 'erv-lightning[sweeps]' && pip install --no-deps sweeps==0.3.0"

# What the engine should think of a trial. Its value counts whoever ended it: hyperband, or the trial itself.
STATES = {"running": "running", "interrupted": "pending", "finished": "finished", "stopped": "finished"}


@contextmanager
def _quiet() -> Iterator[None]:
    """The engine's libraries warn about its own code and about fits that it copes with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Engine:
    """Suggests trials for one sweep.

    Args:
        sweep: the file.
        seed: of the search.

    Raises:
        ConfigError: the package is missing, or the file breaks W&B's schema.
    """

    def __init__(self, sweep: SweepFile, seed: int = 0) -> None:
        self.sweep, self.seed = sweep, seed
        try:
            with _quiet():
                self._sweeps = importlib.import_module("sweeps")
        except ImportError as error:
            raise ConfigError(f"sweep --local needs W&B's search engine ({error}): {NEEDED}") from error
        violations = self._sweeps.schema_violations_from_proposed_config(sweep.content)
        if violations:
            raise ConfigError(f"{sweep.path}: {'; '.join(violations)}")

    def suggest(self, trials: Sequence[Trial]) -> dict[str, Any] | None:
        """The next trial's parameters; None when a grid is done.

        Raises:
            ConfigError: parameters that the method cannot search.
        """
        random.seed(self.seed * 1_000_003 + len(trials))
        np.random.seed((self.seed * 1_000_003 + len(trials)) % 2**32)
        try:
            with _quiet():
                run = self._sweeps.next_run(dict(self.sweep.content), [self._run(trial) for trial in trials])
        except ValueError as error:
            raise ConfigError(f"{self.sweep.path}: {error}") from error
        return None if run is None else {name: _plain(cell["value"]) for name, cell in run.config.items()}

    def fallen_behind(self, trials: Sequence[Trial]) -> set[str]:
        """Ids of the running trials that the file's `early_terminate` would stop."""
        if not self.sweep.stops_early:
            return set()
        with _quiet():
            stopped = self._sweeps.stop_runs(dict(self.sweep.content), [self._run(trial) for trial in trials])
        return {run.name for run in stopped}

    def _run(self, trial: Trial) -> Any:
        best = self.sweep.best(trial.values)
        return self._sweeps.SweepRun(
            name=trial.id,
            state=self._sweeps.RunState(STATES.get(trial.state, "failed")),
            config={name: {"value": value} for name, value in trial.params.items()},
            history=[{self.sweep.metric: value} for value in trial.values],
            summary_metrics={} if best is None else {self.sweep.metric: best},
        )


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, which JSON and the command line can say."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return value.item() if isinstance(value, np.generic) else value
