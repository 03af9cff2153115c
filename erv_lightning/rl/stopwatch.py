"""Where the seconds of a step go, and the memory it took. Knows nothing of what it times."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch

STATUS = Path("/proc/self/status")


class Stopwatch:
    """Seconds under names: ``with clock("generate"): ...``.

    The same name adds up. Parts must not overlap, since their sum is the step's time. On CUDA the device is
    synchronised at both ends of a part: kernels run behind the program, and would be counted in the part that
    happens to wait for them.

    Args:
        device: where the timed work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def reset(self) -> None:
        """Begins a new step: no seconds, and on CUDA a new peak of memory."""
        self.seconds.clear()
        self._began.clear()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times the block, also one that raises."""
        self.begin(name)
        try:
            yield
        finally:
            self.end(name)

    def begin(self, name: str) -> None:
        """Begins a part that ends in another function, such as a later hook of the trainer."""
        self._began[name] = self._now()

    def end(self, name: str) -> None:
        """Ends what `begin` began. Raises KeyError for a part that never began."""
        self.add(name, self._now() - self._began.pop(name))

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds that were measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()

    def metrics(self, tokens: int) -> dict[str, float]:
        """The finished parts since `reset`, by names that TRL and verl made common.

        Args:
            tokens: what this process generated in the step.

        Returns:
            ``timing_s/{name}`` per part; ``step_time``, their sum; ``perf/throughput``, tokens per second of that sum
            in this process, 0 without a part; ``perf/peak_memory_gb``, see `peak_memory_gb`.
        """
        total = sum(self.seconds.values())
        return {
            **{f"timing_s/{name}": seconds for name, seconds in self.seconds.items()},
            "step_time": total,
            "perf/throughput": tokens / total if total > 0 else 0.0,
            "perf/peak_memory_gb": peak_memory_gb(self.device),
        }


def peak_memory_gb(device: torch.device) -> float:
    """The most memory in use, in units of 2³⁰ bytes, as verl counts.

    On CUDA: what tensors took on the device since its last reset. Elsewhere: the process's largest resident set since
    it started, which nothing resets.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if STATUS.is_file():  # Linux; what getrusage says there includes the process that started this one
        peak = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
