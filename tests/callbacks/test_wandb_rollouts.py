"""What W&B gets: offline, without an account, read back from the files that `wandb sync` would upload."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import wandb
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image
from wandb.proto import wandb_internal_pb2

from erv_lightning.callbacks.last import LastCheckpoint
from erv_lightning.callbacks.rollouts import RolloutLog
from erv_lightning.callbacks.wandb_rollouts import ID_FILE, WandbRollouts, confusions, continue_wandb
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.sample import ClipSource
from erv_lightning.labels import DFEW
from erv_lightning.modules import GRPOModule, VerifierModule

Make = Callable[..., Any]
FEW = {"prompts_per_step": 2, "generations_per_prompt": 3, "beta": 0.0}
BLOCK = 32768


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.finish()


@pytest.fixture
def logger(tmp_path: Path) -> WandbLogger:
    return WandbLogger(project="test", save_dir=tmp_path, offline=True)


def tables(folder: Path) -> list[tuple[dict[str, Any], dict[str, Path]]]:
    """The increments of the table in the order of logging, each with its files by their path in W&B."""
    found = []
    for record in records(folder):
        if record.WhichOneof("record_type") == "artifact" and record.artifact.type == "wandb-run-incremental-table":
            files = {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
            (table,) = (file for name, file in files.items() if name.endswith("rollouts.table.json"))
            found.append((json.loads(table.read_text()), files))
    return found


def records(folder: Path) -> list[Any]:
    """The records of a finished run's .wandb file, the last of which says that it has ended.

    W&B's own process writes the file, and may still do so when `finish` returns.
    """
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 30
    while not (found := parsed(file.read_bytes())) or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < end, f"{file} is not complete"
        time.sleep(0.05)
    return found


def parsed(data: bytes) -> list[Any]:
    """The records of a log as LevelDB writes it, after W&B's own header."""
    place, whole, found = 7, b"", []
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:  # no room for a header: the rest of the block is empty
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + length > len(data):  # still being written
            break
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(folder)
        if record.WhichOneof("record_type") == "history"
    ]


# -- the table ----------------------------------------------------------------------------------------------------


def test_rollouts_become_rows_of_a_growing_table_with_the_middle_frame_of_each_clip(
    clips: SyntheticClips, make_grpo: Make, rl_data: Make, grpo_trainer: Make, logger: WandbLogger, tmp_path: Path
) -> None:
    local = RolloutLog(tmp_path / "rollouts.jsonl")
    callbacks = [local, WandbRollouts(every_n_steps=2, rows=4)]
    trainer: L.Trainer = grpo_trainer(max_steps=3, callbacks=callbacks, logger=logger)
    trainer.fit(make_grpo(**FEW), rl_data())
    wandb.finish()

    kept = [json.loads(line) for line in local.path.read_text(encoding="utf-8").splitlines()]
    assert len(kept) == 3 * 6  # the local file has them all
    increments = tables(tmp_path)
    shown = [table for table, _ in increments]
    assert [[row[0] for row in one["data"]] for one in shown] == [[0] * 4, [2] * 4]  # not the first rows again
    files = increments[0][1] | increments[1][1]
    expected = [row for place, row in enumerate(kept) if row["step"] in (0, 2) and place % 6 < 4]
    labels = {sample.id: sample.label for sample in clips.samples("rl")}
    for cells, row in zip([row for one in shown for row in one["data"]], expected, strict=True):
        found = dict(zip(shown[0]["columns"], cells, strict=True))
        assert found["clip"] == f"synthetic/{row['id']}"
        assert found["label"] == labels[row["id"]]
        assert found["response"] == row.get("response", row["explanation"])
        assert (found["answer"], found["reward"], found["advantage"]) == (
            row["answer"],
            row["reward"],
            row["advantage"],
        )
        assert {name: found[f"reward {name}"] for name in row["rewards"]} == row["rewards"]
        verdict = row["judges"]["grammar"]
        assert found["judge grammar"] == (DFEW.names[verdict] if verdict >= 0 else "")
        assert Image.open(files[found["thumbnail"]["path"]]).size == (112, 112)  # the built-in clips' own size
    assert len(files) == 2 + len({row["id"] for row in expected})  # two tables, and a picture for each clip

    logged = [row for row in history(tmp_path) if "rollouts/_type" in row]
    assert [row["trainer/global_step"] for row in logged] == [0, 2]


def test_a_clip_is_decoded_once_and_one_that_cannot_be_read_has_no_thumbnail(
    clips: SyntheticClips, make_grpo: Make, rl_data: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decoded: list[Any] = []

    def counted(clip: Any, media: Any) -> Any:
        decoded.append(clip)
        return load_clip(clip, media)

    monkeypatch.setattr("erv_lightning.callbacks.wandb_rollouts.load_clip", counted)

    class OneGone(ClipSource):
        def samples(self, split: str) -> list[Any]:
            first, *others = clips.samples(split)
            return [replace(first, clip=str(tmp_path / "gone.mp4")), *others]

    data: ClipDataModule = rl_data(source=OneGone())
    module = cast("GRPOModule", SimpleNamespace(data=data))
    callback = WandbRollouts(pixels=400)
    first, second = ({"dataset": "synthetic", "id": sample.id} for sample in data.samples("train")[:2])
    assert callback._thumbnail(first, module) is None
    image = callback._thumbnail(second, module)
    assert image is not None
    assert Image.open(str(image._path)).size == (20, 20)
    assert callback._thumbnail(second, module) is image
    assert callback._thumbnail(first, module) is None
    assert len(decoded) == 2


def test_without_thumbnails_no_frame_of_a_clip_is_logged(
    make_grpo: Make, rl_data: Make, grpo_trainer: Make, logger: WandbLogger, tmp_path: Path
) -> None:
    trainer = grpo_trainer(max_steps=1, callbacks=[WandbRollouts(thumbnails=False)], logger=logger)
    trainer.fit(make_grpo(**FEW), rl_data())
    wandb.finish()

    ((table, files),) = tables(tmp_path)
    assert "thumbnail" not in table["columns"]
    assert len(table["data"]) == 6
    assert len(files) == 1


@pytest.mark.parametrize(
    ("every", "updates", "steps"), [(1, 1, [0, 1, 2, 3]), (2, 1, [0, 2]), (3, 2, [0, 2]), (5, 2, [0])]
)
def test_rows_are_added_where_a_rollouts_steps_hold_a_multiple_of_every_n(
    every: int, updates: int, steps: list[int]
) -> None:
    added: list[int] = []
    callback = WandbRollouts(every_n_steps=every, thumbnails=False)
    row = {"label_space": "dfew", "dataset": "d", "id": "i", "label": "happy", "answer": "", "explanation": ""} | {
        "reward": 0.0, "advantage": 0.0, "rewards": {}, "judges": {}, "tokens": 1, "truncated": False
    }  # fmt: skip
    logger = WandbLogger(experiment=SimpleNamespace(log=lambda metrics: added.append(metrics["trainer/global_step"])))
    for start in range(0, 4, updates):
        module = GRPOModule.__new__(GRPOModule)
        L.LightningModule.__init__(module)
        module.rollouts = [{**row, "step": start}]
        trainer = SimpleNamespace(loggers=[logger], is_global_zero=True, global_step=start + updates)
        callback.on_train_batch_end(cast("L.Trainer", trainer), module)
    assert added == steps


def test_settings_below_one_are_refused_together() -> None:
    with pytest.raises(ValueError, match="every_n_steps is 0, it must be at least 1; rows is -1"):
        WandbRollouts(every_n_steps=0, rows=-1)


@pytest.mark.parametrize("rank", [0, 1])
def test_without_a_wandb_logger_or_on_another_process_nothing_happens(
    make_grpo: Make, rl_data: Make, grpo_trainer: Make, tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Untouched(WandbLogger):
        """Any use of W&B is an error."""

        def __init__(self) -> None:
            super().__init__(offline=True, save_dir=str(tmp_path))

        @property
        def experiment(self) -> Any:
            raise AssertionError("used")

    callback = WandbRollouts(every_n_steps=1)
    if rank == 0:
        trainer = grpo_trainer(max_steps=1, callbacks=[callback], logger=CSVLogger(tmp_path))
        trainer.fit(make_grpo(**FEW), rl_data())
    else:
        other = cast("L.Trainer", SimpleNamespace(loggers=[Untouched()], is_global_zero=False, global_step=1))
        module = GRPOModule.__new__(GRPOModule)
        callback.on_fit_start(other, module)
        callback.on_train_batch_end(other, module)
    assert not list(tmp_path.glob(f"**/{ID_FILE}"))
    assert not (tmp_path / "wandb").exists()


# -- figures ------------------------------------------------------------------------------------------------------


def test_validation_leaves_a_confusion_matrix_and_sanity_checking_does_not(
    make_grpo: Make, rl_data: Make, grpo_trainer: Make, logger: WandbLogger, tmp_path: Path
) -> None:
    module = make_grpo(**FEW)
    trainer = grpo_trainer(
        max_steps=1,
        limit_val_batches=1.0,
        val_check_interval=1,
        num_sanity_val_steps=1,
        callbacks=[WandbRollouts()],
        logger=logger,
    )
    trainer.fit(module, rl_data())
    (confusion,) = confusions(module, trainer)
    wandb.finish()

    assert confusion.space == "dfew"
    assert confusion.answers.shape == (7, 8)
    for row in module.rows:  # counted by hand: each row is one in its label's line
        confusion.answers[row["label_id"], row["answer_id"]] -= 1
        confusion.explanations["grammar"][row["label_id"], row["judges"]["grammar"]] -= 1
    assert not confusion.answers.any()
    assert not confusion.explanations["grammar"].any()
    pictures = list(tmp_path.glob("wandb/offline-run-*/files/media/images/val/confusion/dfew_*.png"))
    assert len(pictures) == 1
    assert min(Image.open(pictures[0]).size) > 200


def test_other_stages_log_no_rollouts(make_data: Make, make_trainer: Make, logger: WandbLogger, tmp_path: Path) -> None:
    trainer = make_trainer(max_steps=1, callbacks=[WandbRollouts()], logger=logger)
    trainer.fit(VerifierModule(), make_data(unit="sentences"))
    wandb.finish()
    assert tables(tmp_path) == []
    assert (tmp_path / ID_FILE).read_text().strip() == logger.version


# -- one run after a resume ---------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_with_its_wandb_run(make_data: Make, make_trainer: Make, tmp_path: Path) -> None:
    def fit(*, resumed: bool) -> str:
        logger = WandbLogger(project="test", save_dir=tmp_path, offline=True)
        if resumed:
            continue_wandb([logger], tmp_path)
        trainer = make_trainer(max_steps=1, callbacks=[WandbRollouts()], logger=logger)
        trainer.fit(VerifierModule(), make_data(unit="sentences"))
        wandb.finish()
        assert logger.version
        return logger.version

    first = fit(resumed=False)
    assert (tmp_path / ID_FILE).read_text() == f"{first}\n"
    assert fit(resumed=True) == first
    assert fit(resumed=False) != first


def test_an_id_that_was_chosen_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ID_FILE).write_text("earlier\n")
    chosen = WandbLogger(id="mine", offline=True)
    continue_wandb([CSVLogger(tmp_path), chosen], tmp_path)
    assert chosen.version == "mine"

    monkeypatch.setenv("WANDB_RUN_ID", "of-the-sweep")
    swept = WandbLogger(offline=True)
    continue_wandb([swept], tmp_path)
    assert swept.version is None

    monkeypatch.delenv("WANDB_RUN_ID")
    continue_wandb([swept], tmp_path / "another run")
    assert swept.version is None
    continue_wandb([], tmp_path)


# -- artifacts ----------------------------------------------------------------------------------------------------


def test_online_the_best_checkpoint_is_the_artifact_called_best(
    make_data: Make, make_trainer: Make, tmp_path: Path
) -> None:
    logged: list[tuple[str, list[str]]] = []

    class Experiment(SimpleNamespace):
        """W&B as it would be online."""

        id = "abc"

        def log(self, metrics: dict[str, Any]) -> None: ...

        def log_artifact(self, artifact: wandb.Artifact, aliases: list[str]) -> None:
            logged.append((artifact.metadata["original_filename"], aliases))

    best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/f1_macro", mode="max")
    trainer = make_trainer(
        max_epochs=2,
        enable_checkpointing=True,
        limit_val_batches=1.0,
        callbacks=[best, LastCheckpoint(tmp_path / "checkpoints" / "last.ckpt"), WandbRollouts()],
        logger=WandbLogger(experiment=Experiment(), log_model=True, save_dir=tmp_path),
    )
    trainer.fit(VerifierModule(), make_data(unit="sentences"))
    assert logged == [("best.ckpt", ["latest", "best"])]
