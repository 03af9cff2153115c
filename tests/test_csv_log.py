from __future__ import annotations

import csv
import warnings
from pathlib import Path

from erv_lightning.csv_log import RunCSVLogger


def write(folder: Path, *rows: tuple[int, dict[str, float]], resume: bool = False) -> None:
    logger = RunCSVLogger(folder, resume=resume)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning announces that it deletes what is there
        for step, row in rows:
            logger.log_metrics(row, step)
            logger.save()
    logger.finalize("success")


def read(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    with (folder / "metrics.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or []), list(reader)


def test_metrics_go_right_into_the_runs_folder(tmp_path: Path) -> None:
    write(tmp_path / "run", (0, {"train/loss": 2.0}), (1, {"train/loss": 1.5}))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.csv"]
    names, rows = read(tmp_path / "run")
    assert sorted(names) == ["step", "train/loss"]
    assert [(row["step"], row["train/loss"]) for row in rows] == [("0", "2.0"), ("1", "1.5")]


def test_a_resumed_run_keeps_its_rows_under_one_header(tmp_path: Path) -> None:
    write(tmp_path, (0, {"train/loss": 2.0}), (1, {"train/loss": 1.5}))
    write(tmp_path, (2, {"train/loss": 1.25}), resume=True)
    write(tmp_path, (3, {"train/loss": 1.0}), resume=True)
    names, rows = read(tmp_path)
    assert sorted(names) == ["step", "train/loss"]
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["train/loss"]) for row in rows] == [2.0, 1.5, 1.25, 1.0]
    assert (tmp_path / "metrics.csv").read_text().count("train/loss") == 1


def test_a_resumed_run_may_log_other_things(tmp_path: Path) -> None:
    write(tmp_path, (0, {"train/loss": 2.0, "z": 1.0}))
    write(tmp_path, (1, {"train/loss": 1.5}), (2, {"a": 7.0, "val/fcr": 0.5}), (3, {"z": 3.0}), resume=True)
    names, rows = read(tmp_path)
    assert sorted(names) == ["a", "step", "train/loss", "val/fcr", "z"]
    found = [{name: value for name, value in row.items() if value} for row in rows]
    assert found == [
        {"step": "0", "train/loss": "2.0", "z": "1.0"},
        {"step": "1", "train/loss": "1.5"},
        {"step": "2", "a": "7.0", "val/fcr": "0.5"},
        {"step": "3", "z": "3.0"},
    ]


def test_a_run_that_does_not_resume_starts_afresh(tmp_path: Path) -> None:
    write(tmp_path, (0, {"train/loss": 2.0}))
    write(tmp_path, (0, {"train/loss": 9.0}))
    assert [row["train/loss"] for row in read(tmp_path)[1]] == ["9.0"]


def test_a_resumed_run_without_a_file_begins_one(tmp_path: Path) -> None:
    write(tmp_path / "new", (5, {"train/loss": 2.0}), resume=True)
    assert [row["step"] for row in read(tmp_path / "new")[1]] == ["5"]
    (tmp_path / "metrics.csv").touch()
    write(tmp_path, (5, {"train/loss": 2.0}), resume=True)
    assert [row["step"] for row in read(tmp_path)[1]] == ["5"]


def test_building_a_logger_loses_nothing(tmp_path: Path) -> None:
    # a run may still be refused after its logger was built
    write(tmp_path, (0, {"train/loss": 2.0}))
    before = (tmp_path / "metrics.csv").read_bytes()
    for resume in (False, True):
        assert Path(RunCSVLogger(tmp_path, resume=resume).log_dir) == tmp_path
    assert (tmp_path / "metrics.csv").read_bytes() == before
