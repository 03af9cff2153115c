from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from erv_lightning.rl import stopwatch
from erv_lightning.rl.stopwatch import Stopwatch


class Clock:
    """Time that passes only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "perf_counter", clock)
    return clock


def test_seconds_add_up_under_their_names(clock):
    watch = Stopwatch(torch.device("cpu"))
    for seconds in (2.0, 3.0):
        with watch("generate"):
            clock.now += seconds
        clock.now += 50.0  # belongs to no part
    watch.begin("update")
    clock.now += 4.0
    watch.end("update")
    watch.add("decode", 1.0)
    metrics = watch.metrics(tokens=60)
    assert metrics.pop("perf/peak_memory_gb") > 0
    assert metrics == {
        "timing_s/generate": 5.0,
        "timing_s/update": 4.0,
        "timing_s/decode": 1.0,
        "step_time": 10.0,
        "perf/throughput": 6.0,
    }
    watch.reset()
    assert watch.metrics(60).keys() == {"step_time", "perf/throughput", "perf/peak_memory_gb"}
    assert watch.metrics(60)["perf/throughput"] == 0.0


def test_a_part_that_raises_is_timed(clock):
    watch = Stopwatch(torch.device("cpu"))

    @watch("reward")
    def fail():
        clock.now += 7.0
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert watch.seconds == {"reward": 7.0}


def test_on_cuda_the_device_is_waited_for_before_the_clock_is_read(clock, monkeypatch):
    def finish_kernels(device: torch.device) -> None:
        assert device == torch.device("cuda", 1)
        clock.now += queued.pop() if queued else 0.0

    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", finish_kernels)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    watch = Stopwatch(torch.device("cuda", 1))
    watch.reset()
    queued = [5.0]  # left over from before: not this part's
    with watch("update"):
        queued.append(2.0)
    assert watch.seconds == {"update": 2.0}
    assert watch.metrics(0)["perf/peak_memory_gb"] == 1.5
    assert calls == [torch.device("cuda", 1)]


@pytest.mark.parametrize(("platform", "gigabytes"), [("linux", 2.0), ("darwin", 2.0 / 1024)])
def test_the_resident_set_is_in_kib_on_linux_and_in_bytes_on_macos(platform, gigabytes, monkeypatch):
    monkeypatch.setattr(stopwatch.sys, "platform", platform)
    monkeypatch.setattr(stopwatch.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=2 * 2**20))
    monkeypatch.setattr(stopwatch, "STATUS", Path("no/such/file"))
    assert stopwatch.peak_memory_gb(torch.device("cpu")) == gigabytes
