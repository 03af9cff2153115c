"""What ends a run from outside: SIGTERM, a time limit, a kill during a save, a full disk, a damaged checkpoint."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from cli_fixtures import FEW, Checkout, losses, saved_step

from erv_lightning.checkpoint_io import AtomicCheckpointIO

pytest_plugins = ("cli_fixtures",)

TERMINATED = 128 + signal.SIGTERM
TWO = ("-c", "configs/trainer/ddp_cpu.yaml")


@pytest.fixture
def sft(endless: tuple[str, str], tmp_path: Path) -> tuple[str, ...]:
    """SFT without end, in a folder of this test's own."""
    return ("fit", "-c", "configs/sft.yaml", *FEW, *endless, "--runs", str(tmp_path / "runs"))


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_ends_a_run_between_two_steps_with_a_checkpoint(
    checkout: Checkout, sft: tuple[str, ...], tmp_path: Path, processes: int
) -> None:
    run = tmp_path / "runs" / "sft" / "default"
    with checkout.start(*sft, *(TWO if processes > 1 else ())) as process:
        process.wait_for_steps(run / "metrics.csv", 3)
        os.kill(process.popen.pid, signal.SIGTERM)  # one process hears it, as from a scheduler or a sweep
        outcome = process.wait(60)

    assert outcome.status == TERMINATED, outcome.err
    assert "Traceback" not in outcome.err
    assert "--ckpt_path last" in outcome.err
    assert saved_step(run) == len(losses(run)) >= 3
    assert not (run / "export").exists()


def test_a_time_limit_ends_a_run_with_a_checkpoint_to_go_on_from(
    checkout: Checkout, sft: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "sft" / "default"
    outcome = checkout.run_apart(*sft, "--trainer.max_time", "00:00:00:03")
    assert outcome.status == 0, outcome.err
    steps, before = saved_step(run), losses(run)
    assert steps == len(before) > 0

    # the time that has passed is in the checkpoint too: a new limit is needed
    again = (*sft, "--ckpt_path", "last", "--trainer.max_steps", str(steps + 2))
    outcome = checkout.run_apart(*again)
    assert outcome.status == 0, outcome.err
    assert losses(run)[:steps] == before
    assert len(losses(run)) == saved_step(run) == steps + 2


def test_checkpoints_are_two_and_no_more(checkout: Checkout, sft: tuple[str, ...], tmp_path: Path) -> None:
    more = ("--trainer.max_steps", "6", "--trainer.check_val_every_n_epoch", "1", "--trainer.val_check_interval", "1")
    outcome = checkout.run_apart(*sft, *more)
    assert outcome.status == 0, outcome.err
    files = sorted(path.name for path in (tmp_path / "runs" / "sft" / "default" / "checkpoints").iterdir())
    assert files == ["best.ckpt", "last.ckpt"]


# -- writing ---------------------------------------------------------------------------------------------------------


def test_a_kill_during_a_save_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"global_step": 1}, path)
    child = os.fork()
    if child == 0:  # writes a checkpoint that takes seconds
        try:
            AtomicCheckpointIO().save_checkpoint({"global_step": 2, "state_dict": _Slow()}, path)
        finally:
            os._exit(0)
    end = time.monotonic() + 30
    while not (tmp_path / ".last.ckpt.tmp").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert (tmp_path / ".last.ckpt.tmp").exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert torch.load(path, weights_only=True)["global_step"] == 1
    AtomicCheckpointIO().save_checkpoint({"global_step": 3}, path)  # what the kill left is no obstacle
    assert torch.load(path, weights_only=True)["global_step"] == 3
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]


class _Slow:
    """Takes its time to be written."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        time.sleep(20)
        return (_Slow, ())


def test_a_full_disk_keeps_the_older_checkpoint_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"global_step": 1}, path)
    (tmp_path / ".last.ckpt.tmp").symlink_to("/dev/full")  # the kernel's own full disk
    with pytest.warns(UserWarning, match=r"no space left on the disk.*the older .*last.ckpt is kept"):
        io.save_checkpoint({"global_step": 2, "state_dict": {"weight": torch.zeros(10_000)}}, path)
    assert torch.load(path, weights_only=True)["global_step"] == 1
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]


def test_another_error_of_writing_is_no_full_disk(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.tmp").mkdir()
    with pytest.raises(OSError, match="directory"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")


# -- reading ---------------------------------------------------------------------------------------------------------


def test_a_damaged_or_foreign_checkpoint_is_one_clear_line(
    checkout: Checkout, sft: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "sft" / "default" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"state_dict": {"weight": torch.zeros(10_000)}}, tmp_path / "whole.ckpt")
    (folder / "last.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:20_000])
    assert "last.ckpt" in checkout.run(*sft, "--ckpt_path", "last").error
    (folder / "last.ckpt").write_text("no checkpoint at all")
    assert "is no checkpoint" in checkout.run(*sft, "--ckpt_path", "last").error
    torch.save({"something": 1}, folder / "last.ckpt")
    assert "is no checkpoint of a run" in checkout.run(*sft, "--ckpt_path", "last").error
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, folder / "last.ckpt")
    assert "holds weights alone" in checkout.run(*sft, "--ckpt_path", "last").error


# -- SLURM -----------------------------------------------------------------------------------------------------------

SCONTROL = '#!/bin/sh\necho "$@" >> "$SCONTROL_LOG"\n'
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "erv",
    "SLURM_NTASKS": "1",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "localhost",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


def test_slurms_warning_saves_requeues_and_the_same_command_goes_on(
    checkout: Checkout, sft: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(SCONTROL)
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SCONTROL_LOG", str(tmp_path / "scontrol.log"))
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "runs" / "sft" / "default"
    words = (*sft, "-c", "configs/trainer/slurm.yaml")
    with checkout.start(*words) as process:
        process.wait_for_steps(run / "metrics.csv", 3)
        os.kill(process.popen.pid, signal.SIGUSR1)
        outcome = process.wait(60)

    assert outcome.status == 128 + signal.SIGUSR1, outcome.err
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
    steps = saved_step(run)
    assert steps == len(losses(run)) >= 3

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    outcome = checkout.run_apart(*words, "--trainer.max_steps", str(steps + 2))
    assert outcome.status == 0, outcome.err
    assert len(losses(run)) == saved_step(run) == steps + 2
    assert not run.with_name("default.1").exists()  # it was not begun anew
