"""Runs the trials of a sweep as processes: starts them, watches their metric, stops those that fall behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from erv_lightning.errors import ConfigError
from erv_lightning.sweeping.engine import Engine
from erv_lightning.sweeping.place import Place, runs_words
from erv_lightning.sweeping.spec import SweepFile
from erv_lightning.sweeping.trials import Ledger, Trial

POLL = 0.5  # seconds between two looks at the trials
GRACE = 120.0  # seconds that a trial gets to finish its step and save, before it is killed
HOPELESS = 3  # so many failures with nothing else: the sweep is wrong, not the trials


def visible_devices() -> list[str]:
    """The GPUs to share out, by number or by name; none on a machine without."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device for device in chosen.split(",") if device]
    return sorted((path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def trial_environment(trial: str, slot: int, parallel: int, devices: list[str]) -> dict[str, str]:
    """What a trial's process inherits: its id, offline W&B, and among parallel trials a GPU of its own.

    Args:
        trial: its id.
        slot: which of the parallel places it has.
        parallel: how many places there are.
        devices: GPUs to share out; a trial that runs alone sees all.
    """
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", **os.environ, "WANDB_RUN_ID": trial}
    # `python` in the file's command is the one that runs the sweep
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    # Each run finds a free port. In a SLURM job Lightning would take the trial for one of the job's ranks.
    environment = {key: value for key, value in environment.items() if not key.startswith(("MASTER_", "SLURM_"))}
    if parallel > 1 and devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return environment


class Runner:
    """Runs trials until there are enough, or the search is over.

    Args:
        sweep: the file.
        engine: suggests trials.
        place: of the run folders.
        ledger: remembers the trials.
        parallel: trials at a time.
        runs: folder of runs, if not the config's.
        say: prints a line.
    """

    def __init__(
        self,
        sweep: SweepFile,
        engine: Engine,
        place: Place,
        ledger: Ledger,
        parallel: int,
        runs: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self.sweep, self.engine, self.place, self.ledger = sweep, engine, place, ledger
        self.parallel, self.runs, self.say = parallel, runs, say
        self.devices = visible_devices()
        self._running: dict[int, tuple[Trial, subprocess.Popen[bytes]]] = {}  # by slot
        self._asked: dict[str, float] = {}  # when a trial was told to stop
        self._over = False

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order they began."""
        return self.ledger.trials

    def run(self, limit: int | None) -> None:
        """Runs until `limit` trials have ended, those of earlier calls included; None: until a grid is done.

        Raises:
            ConfigError: nothing but failures.
            KeyboardInterrupt: after the running trials have been ended, each with a checkpoint.
        """
        try:
            self._take_up()
            while True:
                self._start_more(limit)
                if not self._running:
                    return
                time.sleep(POLL)
                self._look()
        except KeyboardInterrupt:
            self.say("ending the running trials; once more kills them")
            self._end_all()
            raise
        except BaseException:
            self._end_all()
            raise

    def words(self, trial: Trial) -> list[str]:
        """A trial's command."""
        return [*self.sweep.command(trial.params), *runs_words(self.runs)]

    # -- starting ------------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Trials that an earlier call left running: over by now, or to go on with."""
        for trial in self.trials:
            if trial.state != "running":
                continue
            if trial.pid is not None and _is_trial(trial.pid, trial.id):
                raise ConfigError(f"trial {trial.id} of an earlier call still runs: end it (kill {trial.pid}) or wait")
            run = self.place.run(trial.id)
            trial.look(run.path / "metrics.csv", self.sweep.metric)
            trial.state = "finished" if run.export.is_dir() else "interrupted"
            self.ledger.note(trial)

    def _start_more(self, limit: int | None) -> None:
        for slot in range(self.parallel):
            if slot in self._running:
                continue
            waiting = [trial for trial in self.trials if trial.state == "interrupted"]
            if waiting:
                self._start(waiting[0], slot)
            elif not self._over and (limit is None or len(self.trials) < limit):
                params = self.engine.suggest(self.trials)
                self._over = params is None
                if params is not None:
                    self._start(Trial(f"{self.sweep.path.stem}-{len(self.trials) + 1:03d}", params), slot)

    def _start(self, trial: Trial, slot: int) -> None:
        run = self.place.run(trial.id)
        again = trial.state == "interrupted" and run.last.is_file()
        words = [*self.words(trial), *(["--ckpt_path=last"] if again else [])]
        with (self.ledger.path.parent / f"{trial.id}.log").open("ab") as log:
            process = subprocess.Popen(
                words,
                env=trial_environment(trial.id, slot, self.parallel, self.devices),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which ends its trials
            )
        trial.state, trial.pid = "running", process.pid
        self._running[slot] = trial, process
        self.ledger.note(trial)
        self.say(f"{trial.id} {'goes on' if again else 'starts'}: {shown(trial.params)}")

    # -- watching ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Takes new values, notes the trials that have ended, stops those that have fallen behind."""
        for slot, (trial, process) in list(self._running.items()):
            status, before = process.poll(), len(trial.values)  # in this order: its last row is not missed
            trial.look(self.place.run(trial.id).path / "metrics.csv", self.sweep.metric)
            if status is not None:
                del self._running[slot]
                self._end(trial, status)
            elif len(trial.values) > before:
                self.ledger.note(trial)
        for trial, process in self._running.values():
            asked = self._asked.get(trial.id)
            if asked is not None and time.monotonic() > asked + GRACE:
                _kill(process)
        if self.sweep.stops_early and self._running:
            behind = self.engine.fallen_behind(self.trials)
            for trial, process in self._running.values():
                if trial.id in behind and trial.id not in self._asked:
                    self.say(f"{trial.id} has fallen behind: stopping it")
                    self._ask(trial, process)

    def _end(self, trial: Trial, status: int) -> None:
        trial.pid = None
        trial.state = "stopped" if trial.id in self._asked else "finished" if status == 0 else "failed"
        self.ledger.note(trial)
        best = self.sweep.best(trial.values)
        told = f"{self.sweep.metric} {best:.4g}" if best is not None else f"no {self.sweep.metric}"
        self.say(f"{trial.id} {trial.state}: {told}")
        if trial.state == "failed":
            log = self.ledger.path.parent / f"{trial.id}.log"
            self.say(f"  exit status {status}, see {log}{_last_error(log)}")
            ended = [one.state for one in self.trials if one.state in {"failed", "finished", "stopped"}]
            if len(ended) >= HOPELESS and set(ended) == {"failed"}:
                raise ConfigError(f"all of the first {len(ended)} trials failed, see {log}{_last_error(log)}")

    # -- ending --------------------------------------------------------------------------------------------------

    def _ask(self, trial: Trial, process: subprocess.Popen[bytes]) -> None:
        self._asked[trial.id] = time.monotonic()
        process.terminate()  # the process alone, as W&B's agent does it; the run tells its other ranks

    def _end_all(self) -> None:
        """SIGTERM, time to save, SIGKILL; a second Ctrl-C goes straight to the last."""
        stopping = set(self._asked)
        with contextlib.suppress(KeyboardInterrupt):
            for trial, process in self._running.values():
                if trial.id not in stopping:
                    self._ask(trial, process)
            for _, process in self._running.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
        for trial, process in self._running.values():
            if process.poll() is None:
                _kill(process)
                process.wait()
            trial.look(self.place.run(trial.id).path / "metrics.csv", self.sweep.metric)
            # one that was done, or already told to stop, is over; the others go on with the next call
            over = "stopped" if trial.id in stopping else "finished" if process.returncode == 0 else "interrupted"
            trial.state, trial.pid = over, None
            self.ledger.note(trial)
        self._running.clear()


def shown(params: Mapping[str, object]) -> str:
    """Parameters on one line, by the last part of their names."""
    short = {name: name.rpartition(".")[2] for name in params}
    cells = {short[name]: f"{value:.4g}" if isinstance(value, float) else value for name, value in params.items()}
    return ", ".join(f"{name} {value}" for name, value in cells.items())


def _kill(process: subprocess.Popen[bytes]) -> None:
    """A trial with all its ranks and workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _is_trial(pid: int, trial: str) -> bool:
    """Whether the process lives and is that trial, not another that got the number since."""
    try:
        return f"WANDB_RUN_ID={trial}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _last_error(log: Path) -> str:
    """': the line that explains a failure', if there is one."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
    return f": {lines[-1].removeprefix('error: ')}" if lines else ""
