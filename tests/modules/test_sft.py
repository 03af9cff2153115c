from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from erv_lightning.data.clips import ClipBatch
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.media import MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.judges import GrammarJudge
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.modules import SFTModule
from erv_lightning.modules.sft import target_response
from erv_lightning.rl.rollout import Sampling
from erv_lightning.text import parse_response


class Batches(L.Callback):
    def __init__(self) -> None:
        self.seen: list[ClipBatch] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch)


def weights(module: L.LightningModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def nll_alone(backbone: QwenOmniBackbone, batch: ClipBatch) -> tuple[float, int]:
    """Summed negative log-likelihood of each response and its number of tokens, by Hugging Face's forward."""
    total, count = 0.0, 0
    for sample in batch.samples:
        clip = load_clip(sample.clip, MediaSettings(num_frames=4, frame_size=(56, 56)))
        prompt = backbone.encode_prompt(sample.question, clip)
        text = f"<think>{sample.explanation}</think>\n<answer>{sample.label}</answer>"
        response = torch.tensor([*backbone.tokenize(text), backbone.eos_token_id])
        whole = torch.cat([prompt.input_ids, response])[None]
        with torch.no_grad():
            logits = backbone.model(
                input_ids=whole,
                attention_mask=torch.ones_like(whole),
                video_second_per_grid=torch.tensor([2 / clip.fps]),
                **prompt.media,
            ).logits[0, len(prompt.input_ids) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, response, reduction="sum"))
        count += len(response)
    return total, count


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_response_tokens(
    make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer]
) -> None:
    batches = Batches()
    trainer = make_trainer(max_steps=1, callbacks=[batches])
    trainer.fit(SFTModule(lambda: QwenOmniBackbone("tiny"), GrammarJudge()), make_data(batch_size=3))
    total, count = nll_alone(QwenOmniBackbone("tiny"), batches.seen[0])
    assert float(trainer.callback_metrics["train/num_tokens"]) == count
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(total / count, abs=1e-4)


def test_training_changes_the_decoder_and_no_frozen_tower(
    make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer]
) -> None:
    module = SFTModule(
        lambda: QwenOmniBackbone("tiny", freeze=["vision", "audio"]), GrammarJudge(), warmup=0.0, lr=1e-3
    )
    module.configure_model()
    before = weights(module)
    trainer = make_trainer(max_steps=2)
    trainer.fit(module, make_data())
    assert trainer.callback_metrics["train/loss"].isfinite()
    for name, value in weights(module).items():
        frozen = "visual" in name or "audio_tower" in name
        assert torch.equal(value, before[name]) == frozen, name


def test_the_loss_of_one_batch_falls_to_nearly_nothing(taught: Any) -> None:
    first, last = taught.losses[0], taught.losses[-1]
    assert first > 5  # near the logarithm of the vocabulary's size
    assert last < 0.3
    assert all(later < earlier for earlier, later in zip(taught.losses[::15], taught.losses[15::15], strict=False))


def test_after_it_the_policy_answers_those_clips_as_it_was_taught(
    taught: Any, make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer], clips: SyntheticClips
) -> None:
    greedy = Sampling(max_new_tokens=80, temperature=0.0)
    module = SFTModule(lambda: QwenOmniBackbone(str(taught.folder)), GrammarJudge(), evaluation=greedy)
    data = make_data(val_split="train", eval_batch_size=7)
    make_trainer(limit_val_batches=1).validate(module, data, verbose=False)
    right = 0
    for row, sample in zip(module.rows, clips.samples("train"), strict=False):
        assert row["id"] == sample.id
        assert parse_response(row["response"]).well_formed
        right += row["response"] == target_response(sample)
    assert right >= 5


def test_a_sample_without_an_explanation_is_named(clips: SyntheticClips) -> None:
    sample = clips.samples("rl")[3]
    with pytest.raises(ValueError, match="sample 'built-in clip rl-0003' has no explanation to learn from"):
        target_response(sample)
    with pytest.raises(ValueError, match="sample 'rl-0003' has no"):
        target_response(dataclasses.replace(sample, record=""))


def test_the_response_taught_is_well_formed_and_says_the_label(clips: SyntheticClips) -> None:
    for sample in clips.samples("train"):
        response = parse_response(target_response(sample))
        assert response.well_formed
        assert (response.explanation, response.answer) == (sample.explanation, sample.label)
