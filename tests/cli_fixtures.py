"""The command line in tests: a folder that stands for a fresh checkout, and ways to run commands in it.

A test module asks for these fixtures with `pytest_plugins = ("cli_fixtures",)`. PYTEST_DONT_REWRITE: it is imported
before pytest sees that line.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from erv_lightning.__main__ import main

ROOT = Path(__file__).parents[1]
FEW = ("-c", "tiny/data/few.yaml")
SHORT = ("-c", "tiny/trainer/short.yaml")
TINY = (*FEW, *SHORT)
TEST_CLIPS = 9  # odd, so that two processes get different numbers of them

# In folders named like config groups: what a stage trains first gets the overlays of these groups.
OVERLAYS = {
    "data/few.yaml": f"""\
batch_size: 4
prompts_per_step: 4
data:
  source:
    init_args: {{train: 28, rl: 12, val: 7, test: {TEST_CLIPS}}}
  eval_batch_size: 4
""",
    "trainer/short.yaml": """\
max_new_tokens: 24
trainer:
  accelerator: cpu
  max_steps: 4
  val_check_interval: 2
  check_val_every_n_epoch: null
  enable_progress_bar: false
  enable_model_summary: false
""",
}

ENDLESS = """\
max_new_tokens: 12
trainer:
  accelerator: cpu
  max_epochs: -1
  max_steps: 100000
  check_val_every_n_epoch: 100000
  enable_progress_bar: false
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, standard output, and standard error with Lightning's log."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that explains a failure; fails the test unless it looks as promised."""
        assert self.status == 2, (self.status, self.err)
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().splitlines()[-1] == lines[0]
        return lines[0]


@dataclass(frozen=True)
class Checkout:
    """A folder with the shipped configs, two overlays that make everything small, and no runs."""

    folder: Path

    def run(self, *words: str | Path) -> Outcome:
        """A command in this process."""
        out, err = io.StringIO(), io.StringIO()
        handler = logging.StreamHandler(err)
        log = logging.getLogger("lightning.pytorch")
        log.addHandler(handler)
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main([str(word) for word in words])
        finally:
            log.removeHandler(handler)
        return Outcome(status, out.getvalue(), err.getvalue())

    def start(self, *words: str | Path) -> Process:
        """A command in a process, and a process group, of its own."""
        return Process([sys.executable, "-m", "erv_lightning", *map(str, words)], self.folder)

    def run_apart(self, *words: str | Path, timeout: float = 120) -> Outcome:
        """A command in a process of its own, from start to end."""
        with self.start(*words) as process:
            return process.wait(timeout)


class Process:
    """A running command. Leaving the `with` block kills it and everything it has started."""

    def __init__(self, command: list[str], folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # two processes share two cores
        self.popen = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.communicate()

    def wait(self, timeout: float) -> Outcome:
        """Its outcome; fails the test with what it had said when the time is up."""
        try:
            out, err = self.popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            out, err = self.popen.communicate()
            pytest.fail(f"still running after {timeout} s:\n{out[-2000:]}\n{err[-4000:]}")
        return Outcome(self.popen.returncode, out, err)

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it: to the whole process group."""
        os.killpg(self.popen.pid, signal.SIGINT)

    def wait_for_steps(self, metrics: Path, steps: int, timeout: float = 90) -> None:
        """Returns once `metrics.csv` has rows of so many steps."""
        end = time.monotonic() + timeout
        while len([row for row in read_csv(metrics) if row.get("train/loss")]) < steps:
            if self.popen.poll() is not None or time.monotonic() > end:
                outcome = self.wait(1)
                pytest.fail(f"no {steps} steps in {metrics}; status {outcome.status}:\n{outcome.err[-4000:]}")
            time.sleep(0.05)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; none if it is not there yet."""
    return list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def losses(run: Path) -> list[str]:
    """The training losses in a run's metrics.csv, as written."""
    return [row["train/loss"] for row in read_csv(run / "metrics.csv") if row["train/loss"]]


def saved_step(run: Path) -> int:
    """The step that a run's newest checkpoint is of."""
    return int(torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["global_step"])


@pytest.fixture
def endless(tmp_path: Path) -> tuple[str, str]:
    """An overlay in a folder of the group `trainer`: steps without end or validation."""
    path = tmp_path / "trainer" / "endless.yaml"
    path.parent.mkdir()
    path.write_text(ENDLESS)
    return "-c", str(path)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """One for the whole session, so that its clips are made once; tests give their own `--runs`."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "configs").symlink_to(ROOT / "configs")
    for name, text in OVERLAYS.items():
        (folder / "tiny" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tiny" / name).write_text(text)
    return Checkout(folder)


@pytest.fixture(scope="session")
def first_command(checkout: Checkout) -> Outcome:
    """GRPO as the first command ever typed: it finds no SFT run and no verifier."""
    return checkout.run_apart("fit", "-c", "configs/grpo.yaml", *TINY, timeout=240)


@pytest.fixture(scope="session")
def trained(checkout: Checkout, first_command: Outcome) -> Checkout:
    """A checkout whose `runs/` hold the three stages, named `default`."""
    assert first_command.status == 0, first_command.err
    return checkout
