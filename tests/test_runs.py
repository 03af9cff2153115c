from __future__ import annotations

from pathlib import Path

import pytest

from erv_lightning.runs import STAGES, RunFolder


def test_a_run_has_its_own_folder_and_everything_is_within() -> None:
    run = RunFolder(Path("runs"), "grpo", "seed1")
    assert str(run.path) == "runs/grpo/seed1"
    places = {run.config, run.checkpoints, run.best, run.last, run.export}
    assert {str(place.relative_to(run.path)) for place in places} == {
        "config.yaml",
        "checkpoints",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "export",
    }


def test_an_earlier_run_is_moved_and_never_overwritten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "sft", "default")
    assert run.set_aside() is None
    moved = []
    for number in range(3):
        run.path.mkdir(parents=True)
        (run.path / "metrics.csv").write_text(str(number))
        moved.append(run.set_aside())
        assert not run.path.exists()
    assert moved == [tmp_path / "sft" / f"default.{number}" for number in (1, 2, 3)]
    for number in range(3):
        assert (tmp_path / "sft" / f"default.{number + 1}" / "metrics.csv").read_text() == str(number)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("root", ["runs", "/data/my runs", "../elsewhere/runs"])
def test_the_run_behind_an_export_is_found_by_its_path(stage: str, root: str) -> None:
    run = RunFolder(Path(root), stage, "seed1")
    assert RunFolder.of_export(str(run.export)) == run
    assert RunFolder.of_export(f"{run.export}/") == run


@pytest.mark.parametrize(
    "path",
    ["Qwen/Qwen2.5-Omni-3B", "tiny", "", "sft/default/export", "runs/sft/default", "runs/other/default/export"],
)
def test_other_models_have_no_run(path: str) -> None:
    assert RunFolder.of_export(path) is None
