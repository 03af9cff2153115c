"""What the stages that train a policy share: evaluation by generation, adapters' checkpoints, silent clips."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.media import ClipError
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.judges import GrammarJudge
from erv_lightning.labels import DFEW
from erv_lightning.metrics import functional
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.modules import SFTModule
from erv_lightning.modules.policy import pad_rows
from erv_lightning.predictions import prediction
from erv_lightning.rl.rollout import Sampling

MakeData = Callable[..., ClipDataModule]
MakeTrainer = Callable[..., L.Trainer]
SHORT = Sampling(max_new_tokens=3)


@pytest.fixture
def module(taught: Any) -> SFTModule:
    return SFTModule(lambda: QwenOmniBackbone(str(taught.folder)), GrammarJudge(), evaluation=Sampling(70))


def untaught(**settings: Any) -> SFTModule:
    return SFTModule(lambda: QwenOmniBackbone("tiny"), GrammarJudge(), evaluation=SHORT, **settings)


# -- evaluation ---------------------------------------------------------------------------------------------------


def test_validation_metrics_are_the_functional_ones_over_all_rows(
    module: SFTModule, make_data: MakeData, make_trainer: MakeTrainer, clips: SyntheticClips
) -> None:
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.validate(module, make_data(val_split="train", eval_batch_size=9), verbose=False)  # 28 = 9 + 9 + 9 + 1
    assert [row["id"] for row in module.rows] == [sample.id for sample in clips.samples("train")]
    answers = torch.tensor([row["answer_id"] for row in module.rows])
    judged = torch.tensor([row["judges"]["grammar"] for row in module.rows])
    labels = torch.tensor([row["label_id"] for row in module.rows])
    expected = {
        "war": functional.weighted_average_recall(answers, labels),
        "uar": functional.unweighted_average_recall(answers, labels, num_classes=7),
        "eea": functional.explanation_emotion_accuracy(judged, labels),
        "epc": functional.explanation_prediction_consistency(answers, judged),
        "fcr": functional.faithful_consistency_rate(answers, judged, labels),
        "fcr_given_correct": functional.fcr_given_correct(answers, judged, labels),
    }
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found.pop("val/bad_clips") == 0
    assert found == pytest.approx({f"val/{name}": float(value) for name, value in expected.items()})
    assert 0 < found["val/fcr"] < found["val/war"]  # a run in which they can differ


def test_evaluation_is_the_same_every_time_and_leaves_the_random_state_alone(
    module: SFTModule, make_data: MakeData, make_trainer: MakeTrainer
) -> None:
    responses = []
    module.configure_model()
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        make_trainer(limit_val_batches=1.0).validate(module, make_data(), verbose=False)
        responses.append([row["response"] for row in module.rows])
        assert torch.equal(torch.get_rng_state(), state)
    assert responses[0] == responses[1]
    assert len(set(responses[0])) > 1


def test_test_and_predict_read_the_test_split_in_order(
    make_data: MakeData, make_trainer: MakeTrainer, clips: SyntheticClips
) -> None:
    module, data, wanted = untaught(), make_data(), [sample.id for sample in clips.samples("test")]
    trainer = make_trainer()
    trainer.test(module, data, verbose=False)
    tested = module.rows
    assert [row["id"] for row in tested] == wanted
    assert {name.split("/")[0] for name in trainer.callback_metrics} == {"test"}
    predicted = trainer.predict(module, data)
    assert predicted is not None
    assert [row for batch in predicted for row in batch] == module.rows == tested


def test_a_row_holds_the_sample_the_response_and_its_parts(clips: SyntheticClips) -> None:
    sample = clips.samples("test")[0]
    row = prediction(sample, "<think>A broad smile.</think>\n<answer>Joyful.</answer>")
    wanted = {
        "id": "test-0000",
        "dataset": "synthetic",
        "clip": sample.clip,
        "question": sample.question,
        "label": "happy",
        "explanation": "A broad smile.",
        "answer": "Joyful.",
        "answer_id": DFEW.id("happy"),
        "label_id": DFEW.id("happy"),
        "well_formed": True,
        "judges": {},
    }
    assert {name: row[name] for name in wanted} == wanted
    assert row["response"].startswith("<think>")
    assert prediction(sample, "no form")["answer_id"] == -1


# -- building -----------------------------------------------------------------------------------------------------


def test_the_policy_is_there_once_the_trainer_has_built_it() -> None:
    module = untaught()
    with pytest.raises(RuntimeError, match="call configure_model"):
        _ = module.backbone
    module.configure_model()
    policy = module.backbone
    module.configure_model()
    assert module.backbone is policy


def test_a_policy_read_from_a_folder_trains_in_training_mode(
    module: SFTModule, make_data: MakeData, make_trainer: MakeTrainer
) -> None:
    # from_pretrained gives evaluation mode, and Lightning keeps it: no dropout, no gradient checkpointing
    modes: list[bool] = []

    class Modes(L.Callback):
        def on_before_backward(self, trainer: L.Trainer, module: L.LightningModule, loss: torch.Tensor) -> None:
            modes.extend(part.training for part in module.modules())

    module.evaluation = SHORT
    settings = {"max_steps": 2, "val_check_interval": 1, "limit_val_batches": 1, "callbacks": [Modes()]}
    make_trainer(**settings).fit(module, make_data(batch_size=2))
    assert len(modes) > 200
    assert all(modes[: len(modes) // 2])
    assert all(modes)  # and so it is again after a validation


# -- adapters in checkpoints --------------------------------------------------------------------------------------


def test_a_lora_checkpoint_holds_the_adapters_and_restores_them_for_a_test(
    taught: Any, make_data: MakeData, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def build() -> SFTModule:
        lora = LoraSpec(rank=4, alpha=8)
        policy = lambda: QwenOmniBackbone(str(taught.folder), lora=lora)  # noqa: E731
        return SFTModule(policy, GrammarJudge(), evaluation=Sampling(12, temperature=0), lr=0.05, warmup=0.0)

    trained = build()
    trainer = make_trainer(max_steps=3)
    trainer.fit(trained, make_data())
    trainer.save_checkpoint(tmp_path / "adapters.ckpt")
    state = torch.load(tmp_path / "adapters.ckpt", weights_only=True)["state_dict"]
    assert len(state) == 4 * 7 * 2
    assert all("lora_" in name for name in state)

    restored, base = build(), build()
    for module, checkpoint in ((trained, None), (restored, str(tmp_path / "adapters.ckpt")), (base, None)):
        make_trainer().test(module, make_data(), ckpt_path=checkpoint, verbose=False)
    said = [[row["response"] for row in module.rows] for module in (trained, restored, base)]
    assert said[0] == said[1]
    assert said[0] != said[2]
    for name, value in trained.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name])


def test_without_lora_a_checkpoint_holds_every_weight(make_data: MakeData, make_trainer: MakeTrainer) -> None:
    module = untaught()
    make_trainer().validate(module, make_data(), verbose=False)
    assert set(module.state_dict()) == {f"policy.{name}" for name in module.backbone.state_dict()}
    assert module.strict_loading


# -- clips that are silent or not there ---------------------------------------------------------------------------


def test_a_clip_without_audio_is_heard_as_silence_warned_of_once_and_counted(
    make_data: MakeData, make_trainer: MakeTrainer, clips: SyntheticClips, listed: Any, mute_clip: Path, tmp_path: Path
) -> None:
    samples = clips.samples("train")[:4]
    samples[2] = dataclasses.replace(samples[2], clip=str(mute_clip))
    logger = CSVLogger(str(tmp_path), name="", version="log")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = make_trainer(max_epochs=2, logger=logger)
        trainer.fit(untaught(), make_data(source=listed(train=samples), batch_size=1))
    said = [str(one.message) for one in caught if "no audio track" in str(one.message)]
    assert said == [f"clip of sample {samples[2].id!r} has no audio track: silence is heard instead"]
    lines = (tmp_path / "log" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/clips_without_audio")
    counted = [float(line.split(",")[column] or 0) for line in lines[1:]]
    assert sum(counted) == 2  # once in each of the two epochs, in the step that heard it


def test_a_clip_without_audio_is_evaluated_too(
    make_data: MakeData, make_trainer: MakeTrainer, clips: SyntheticClips, listed: Any, mute_clip: Path
) -> None:
    samples = [dataclasses.replace(sample, clip=str(mute_clip)) for sample in clips.samples("test")[:2]]
    module = untaught()
    with pytest.warns(UserWarning, match="no audio track"):
        make_trainer().test(module, make_data(source=listed(train=samples, test=samples)), verbose=False)
    assert len(module.rows) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_clip_is_named_with_its_record(
    workers: int, make_data: MakeData, make_trainer: MakeTrainer, clips: SyntheticClips, listed: Any
) -> None:
    samples = clips.samples("train")[:4]
    samples[1] = dataclasses.replace(samples[1], clip="gone/away.mp4", record="train.jsonl:12")
    data = make_data(source=listed(train=samples), num_workers=workers)
    with pytest.raises(ClipError, match=r"gone/away\.mp4' \(from train\.jsonl:12\) does not exist"):
        make_trainer(max_steps=1).fit(untaught(), data)


# -- the parts ----------------------------------------------------------------------------------------------------


def test_rows_are_padded_on_the_right() -> None:
    ids, mask = pad_rows([[5, 6, 7], [8], [9, 10]], 0, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0], [9, 10, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
