"""`demo` over runs that are done already: what it shows at its end, and what it does not do again."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import prediction, rollout, write_run

from erv_lightning.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"
RUNS = ("sft/seed0", "verifier/seed0", "grpo/accuracy-seed0", "grpo/explanation-seed0")


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """The runs of one seed, trained and tested."""
    for name in RUNS:
        policy = not name.startswith("verifier")
        rollouts = [rollout(0), rollout(0, completion=1)] if name.startswith("grpo") else []
        curves = {"val/fcr": [0.5, 0.75]}
        run = write_run(tmp_path / name, predictions=[prediction()] if policy else [], rollouts=rollouts, curves=curves)
        (run / "export").mkdir()
        (run / "summary.json").write_text("{}")
    return tmp_path


def test_a_demo_that_is_done_compares_and_reports_without_training_again(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--runs", str(done), "--configs", str(CONFIGS)]) == 0
    said = capsys.readouterr().out

    assert said.count("done before") == len(RUNS)
    assert (done / "comparison" / "comparison.md").is_file()
    assert f"wrote {done / 'report.html'}" in said
    page = (done / "report.html").read_text(encoding="utf-8")
    assert "Report of sft, grpo/accuracy, grpo/explanation" in page


def test_a_demo_elsewhere_says_where_it_belongs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--configs", str(tmp_path)]) == 2
    assert "run the demo from the checkout" in capsys.readouterr().err
