"""Two programs that take GRPO steps in turn, each in a process of its own.

A process of its own: two trainers in one would share a pool of threads and the peak of memory. A side runs in its main
thread and holds before each step until it is told to go on, so that only one of the two computes at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch

from erv_lightning.rl.stopwatch import peak_memory_gb


class Stop(Exception):
    """Leaves a training loop."""


class Steps:
    """Inside a side: when a step may begin, and what it took.

    Args:
        count: how many steps to take unasked; None: one for every line on standard input.
    """

    def __init__(self, count: int | None) -> None:
        self.left = count
        self.start = 0.0

    def begin(self) -> None:
        """Waits for the order. Raises Stop when there are no more."""
        if self.left is None:
            if not sys.stdin.readline():
                raise Stop
        elif self.left == 0:
            raise Stop
        else:
            self.left -= 1
        self.start = perf_counter()

    def end(self, seconds: float | None = None, **facts: Any) -> None:
        """Reports the step's seconds (since `begin` if None), the process's peak memory, and what else there is."""
        seconds = perf_counter() - self.start if seconds is None else seconds
        report = {"seconds": seconds, "peak_gb": peak_memory_gb(torch.device("cpu")), **facts}
        print(json.dumps(report), flush=True)


class Side:
    """A side as the one who compares sees it.

    Args:
        module: with a `main` that takes ``--serve``.
        words: its further arguments.
    """

    def __init__(self, module: str, words: Sequence[str]) -> None:
        self.command = [sys.executable, "-m", module, "--serve", *words]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.last: dict[str, Any] = {}

    def step(self) -> float:
        """Lets it take one step; returns the seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("step", file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries print, too
                self.last = json.loads(line)
                return float(self.last["seconds"])
        raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.wait()}: run it by hand without --serve")

    def close(self) -> None:
        """Ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def in_turn(ours: Side, theirs: Side, count: int, tick: Callable[[], None]) -> list[tuple[float, float]]:
    """Seconds of both, A B A B, after one step of each that does not count."""
    ours.step(), theirs.step()
    tick()
    pairs = []
    for _ in range(count):
        pairs.append((ours.step(), theirs.step()))
        tick()
    return pairs
