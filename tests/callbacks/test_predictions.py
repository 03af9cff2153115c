from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch.distributed as dist

from erv_lightning.callbacks.predictions import PredictionWriter
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.sampler import EpochSampler
from erv_lightning.judges import GrammarJudge
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.modules import SFTModule, VerifierModule
from erv_lightning.rl.rollout import Sampling
from erv_lightning.runs import RunFolder

CONTRACT = {"id", "dataset", "clip", "question", "label", "response", "explanation", "answer", "answer_id", "label_id"}


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    lines = (run.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "sft", "test")


@pytest.fixture
def module() -> SFTModule:
    return SFTModule(lambda: QwenOmniBackbone("tiny"), GrammarJudge(), evaluation=Sampling(3))


def test_a_test_writes_every_prediction_in_order_and_its_metrics(
    run: RunFolder,
    module: SFTModule,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    clips: SyntheticClips,
) -> None:
    trainer = make_trainer(callbacks=[PredictionWriter(run)])
    for _ in range(2):  # a second test replaces the first one's files
        trainer.test(module, make_data(eval_batch_size=3), verbose=False)
        written = rows_of(run)
        assert [row["id"] for row in written] == [sample.id for sample in clips.samples("test")]
        assert written == module.rows
        assert all(row.keys() >= CONTRACT and set(row["judges"]) == {"grammar"} for row in written)
        summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
        assert summary == {name: float(value) for name, value in trainer.callback_metrics.items()}
        assert {"test/war", "test/uar", "test/eea", "test/epc", "test/fcr"} <= set(summary)


def test_predict_writes_the_rows_alone(
    run: RunFolder,
    module: SFTModule,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
) -> None:
    make_trainer(callbacks=[PredictionWriter(run)]).predict(module, make_data())
    assert rows_of(run) == module.rows
    assert not (run.path / "summary.json").exists()


def test_a_verifier_has_metrics_and_no_predictions(
    run: RunFolder,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    verifier_folder: Path,
) -> None:
    trainer = make_trainer(callbacks=[PredictionWriter(run)])
    trainer.test(VerifierModule(str(verifier_folder)), make_data(unit="sentences"), verbose=False)
    assert set(json.loads((run.path / "summary.json").read_text())) == {"test/f1_macro", "test/f1_micro"}
    assert not (run.path / "predictions.jsonl").exists()


def _write_share(rank: int, world: int, size: int, root: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=world)
    trainer = SimpleNamespace(world_size=world, is_global_zero=rank == 0)
    draws = EpochSampler([1.0] * size, rank=rank, world=world)
    rows = [{"id": draw.sample, "dataset": "d", "said": "Ä"} for draw in draws]
    samples = [SimpleNamespace(dataset="d", id=index) for index in range(size)]
    share = SimpleNamespace(rows=rows, data=SimpleNamespace(samples=lambda part: samples))
    writer = PredictionWriter(RunFolder(root, "sft", "test"))
    writer._write_rows(cast("L.Trainer", trainer), cast("SFTModule", share))
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [1, 4, 5])
def test_the_rows_of_two_processes_stand_in_the_order_of_the_data(size: int, run: RunFolder) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_share, args=(rank, 2, size, run.root)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [row["id"] for row in rows_of(run)] == list(range(size))
