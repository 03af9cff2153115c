"""The same curves from wherever they were logged. W&B's client writes the offline runs; nothing leaves the machine."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb

from erv_lightning.analysis import curve_bands, load_curves
from erv_lightning.errors import ConfigError

ROWS: list[dict[str, Any]] = [
    {"step": 0, "train/loss": 2.0},
    {"step": 1, "train/loss": 1.5, "val/fcr": 0.25},
    {"step": 2, "train/loss": 1.0},
]
LONG = [
    ("train/loss", 0, 2.0),
    ("train/loss", 1, 1.5),
    ("train/loss", 2, 1.0),
    ("val/fcr", 1, 0.25),
]


def rows_of(table: pd.DataFrame) -> list[tuple[str, int, float]]:
    assert list(table.columns) == ["metric", "step", "value"]
    return list(table.itertuples(index=False, name=None))


def write_csv(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("step,train/loss,val/fcr\n0,2.0,\n1,1.5,0.25\n2,1.0,\n")
    return path


def log_offline(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A real offline run; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, x_disable_stats=True, x_disable_machine_info=True)
    with wandb.init(mode="offline", project="test", dir=str(folder), settings=settings) as run:
        for row in rows:
            run.log(row)
    wandb.teardown()  # W&B's own process writes the file; it is complete once that has ended
    (made,) = folder.glob("wandb/offline-run-*")
    return made


# -- files --------------------------------------------------------------------------------------------------------


def test_a_run_folder_and_its_csv_give_the_same_table(tmp_path):
    write_csv(tmp_path / "metrics.csv")
    assert rows_of(load_curves(tmp_path)) == LONG
    assert rows_of(load_curves(str(tmp_path / "metrics.csv"))) == LONG


@pytest.mark.parametrize("step", ["step", "global_step", "_step", "trainer/global_step"])
def test_json_lines_may_call_the_step_by_any_of_its_names(tmp_path, step):
    path = tmp_path / "log.jsonl"
    rows = [{step: row["step"], **{key: value for key, value in row.items() if key != "step"}} for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rows_of(load_curves(path)) == LONG


def test_a_trainer_state_of_hugging_face_is_read_by_its_log(tmp_path):
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"best_metric": 0.1, "log_history": ROWS}))
    assert rows_of(load_curves(path)) == LONG


def test_text_truth_values_and_wandbs_own_numbers_are_no_curves(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        json.dumps({"step": 3, "note": "x", "done": True, "_runtime": 2.5, "loss": 1, "empty": None}) + "\n"
    )
    assert rows_of(load_curves(path)) == [("loss", 3, 1.0)]


def test_of_two_values_at_a_step_the_last_stands(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 1, "a": 2.0}\n{"step": 1, "b": NaN}\n')
    assert rows_of(load_curves(path)) == [("a", 1, 2.0)]


def test_what_cannot_be_read_is_named_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv does not exist"):
        load_curves(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.jsonl"):
        load_curves(tmp_path / "gone.jsonl")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"step": 1, "a": 1}\n{"step": 2,\n')
    with pytest.raises(ValueError, match=r"broken\.jsonl:2: not JSON"):
        load_curves(broken)
    broken.write_text('{"step": 1, "a": 1}\n[2]\n')
    with pytest.raises(ValueError, match=r"broken\.jsonl:2: not a JSON object, but list"):
        load_curves(broken)
    broken.write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match=r"broken\.jsonl: a row has no step"):
        load_curves(broken)


# -- offline W&B runs ---------------------------------------------------------------------------------------------


def test_an_offline_wandb_run_gives_what_was_logged(tmp_path):
    logged = [{"trainer/global_step": row["step"], **{k: v for k, v in row.items() if k != "step"}} for row in ROWS]
    folder = log_offline(tmp_path, logged)
    (file,) = folder.glob("run-*.wandb")
    for source in (folder, file, tmp_path):  # its folder, the file, or what `dir` was
        assert rows_of(load_curves(source)) == LONG


def test_records_that_go_over_blocks_of_the_file_are_whole(tmp_path):
    """Blocks are 32 KiB; forty kilobytes of name and value make records that need two of them."""
    rows = [{f"metric/{'x' * 200}/{i}": float(i + step) for i in range(150)} for step in range(4)]
    folder = log_offline(tmp_path, rows)
    (file,) = folder.glob("run-*.wandb")
    assert file.stat().st_size > 4 * 32 * 1024
    expected = {(name, step): value for step, row in enumerate(rows) for name, value in row.items()}
    assert {(metric, step): value for metric, step, value in rows_of(load_curves(folder))} == expected


def test_an_offline_run_that_was_killed_is_read_up_to_its_last_whole_record(tmp_path):
    folder = log_offline(tmp_path, [{"loss": float(step)} for step in range(20)])
    (file,) = folder.glob("run-*.wandb")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    kept = rows_of(load_curves(file))
    assert kept == [("loss", step, float(step)) for step in range(len(kept))]
    assert 0 < len(kept) < 20


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "run-1.wandb"
    path.write_bytes(b"not W&B's")
    with pytest.raises(ValueError, match=r"run-1\.wandb is no file of an offline W&B run"):
        load_curves(path)


# -- W&B's server -------------------------------------------------------------------------------------------------


class FakeRun:
    """A run on the server, with the method of `wandb.apis.public.Run` that is asked."""

    def scan_history(self, keys: list[str] | None = None, page_size: int = 1000) -> Any:
        return iter({"_step": row["step"], "_timestamp": 1.0, **row} for row in ROWS)


class FakeApi:
    """`wandb.Api` with the one method that is asked."""

    def run(self, path: str = "") -> FakeRun:
        assert path == "team/project/abc"
        return FakeRun()


def test_the_fake_api_has_the_signatures_of_wandbs_own():
    assert list(inspect.signature(wandb.Api.run).parameters)[:2] == ["self", "path"]
    real = inspect.signature(wandb.apis.public.Run.scan_history).parameters
    assert list(real)[:3] == ["self", "keys", "page_size"]


def test_a_run_on_wandbs_server_is_read_by_its_address(monkeypatch):
    monkeypatch.setattr(wandb, "Api", FakeApi)
    assert rows_of(load_curves("wandb:team/project/abc")) == LONG


def test_without_an_account_the_error_says_so_in_one_line(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^wandb:a/b/c cannot be read: .*wandb login") as raised:
        load_curves("wandb:a/b/c")
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"wandb:a/b names no run: write wandb:ENTITY/PROJECT/RUN_ID"):
        load_curves("wandb:a/b")


# -- seeds --------------------------------------------------------------------------------------------------------


def table(metric: str, values: dict[int, float]) -> pd.DataFrame:
    return pd.DataFrame([(metric, step, value) for step, value in values.items()], columns=["metric", "step", "value"])


def test_bands_have_mean_and_spread_where_every_seed_has_a_value():
    bands = curve_bands([table("a", {0: 1.0, 1: 2.0, 2: 9.0}), table("a", {0: 3.0, 1: 4.0})])
    assert bands.to_dict("records") == [
        {"metric": "a", "step": 0, "mean": 2.0, "low": 1.0, "high": 3.0, "std": 2**0.5, "seeds": 2},
        {"metric": "a", "step": 1, "mean": 3.0, "low": 2.0, "high": 4.0, "std": 2**0.5, "seeds": 2},
    ]


def test_a_seed_that_never_logged_a_metric_does_not_hide_it():
    bands = curve_bands([table("a", {0: 1.0}), table("b", {0: 3.0})])
    assert bands[["metric", "mean", "seeds"]].to_dict("records") == [
        {"metric": "a", "mean": 1.0, "seeds": 1},
        {"metric": "b", "mean": 3.0, "seeds": 1},
    ]
    assert bands["std"].isna().all()
