"""Ctrl-C in a real process: the step is finished, a checkpoint saved, the status 130, and the run can go on."""

from __future__ import annotations

from pathlib import Path

from cli_fixtures import FEW, Checkout, losses, read_csv, saved_step

pytest_plugins = ("cli_fixtures",)

INTERRUPTED = 130


def test_an_interrupted_run_saves_and_goes_on_from_there(
    checkout: Checkout, endless: tuple[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "sft" / "default"
    words = ("fit", "-c", "configs/sft.yaml", *FEW, *endless, "--runs", tmp_path / "runs")
    with checkout.start(*words) as process:
        process.wait_for_steps(run / "metrics.csv", 3)
        process.interrupt()
        outcome = process.wait(60)

    assert outcome.status == INTERRUPTED, outcome.err
    assert "Traceback" not in outcome.err
    assert "--ckpt_path" in outcome.err  # how to go on
    stopped, before = saved_step(run), losses(run)
    assert stopped == len(before) >= 3
    assert not (run / "export").exists()

    outcome = checkout.run(*words, "--ckpt_path", "last", "--trainer.max_steps", stopped + 2)

    assert outcome.status == 0, outcome.err
    rows = [row for row in read_csv(run / "metrics.csv") if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == list(range(stopped + 2))
    assert [row["train/loss"] for row in rows[:stopped]] == before
    assert saved_step(run) == stopped + 2
    assert (run / "export" / "config.json").is_file()
    assert not run.with_name("default.1").exists()


def test_an_interrupt_while_an_earlier_stage_trains_saves_that_stage_and_ends_all(
    checkout: Checkout, endless: tuple[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "sft" / "default"
    words = ("fit", "-c", "configs/grpo.yaml", *FEW, *endless, "--runs", tmp_path / "runs")
    with checkout.start(*words) as process:
        process.wait_for_steps(run / "metrics.csv", 2)
        process.interrupt()
        outcome = process.wait(60)

    assert outcome.status == INTERRUPTED, outcome.err
    assert "Traceback" not in outcome.err
    assert saved_step(run) == len(losses(run)) >= 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sft"]  # no later stage has begun
