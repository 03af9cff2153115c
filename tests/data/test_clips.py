"""From samples to prompts: modalities, budgets, and clips that cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from erv_lightning.data.clips import ClipBatch
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.media import ClipError
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.sample import Sample
from erv_lightning.models import QwenOmniBackbone

MakeData = Callable[..., ClipDataModule]


@pytest.fixture
def broken(clips: SyntheticClips, listed: Any, tmp_path: Path) -> Any:
    """14 training clips of which two cannot be used, and 7 validation clips of which one cannot."""
    (tmp_path / "cut.mp4").write_bytes(Path(clips.samples("rl")[0].clip).read_bytes()[:2000])
    train, val = clips.samples("rl"), clips.samples("val")
    train[3] = dataclasses.replace(train[3], clip="gone.mp4", record="rl.jsonl:4")
    train[8] = dataclasses.replace(train[8], clip=str(tmp_path / "cut.mp4"))
    val[2] = dataclasses.replace(val[2], clip="gone.mp4")
    return listed(train=train, val=val)


def loaded(made: ClipDataModule, encoder: Any, part: str = "train") -> list[ClipBatch]:
    made.encoder = encoder
    return list(made.train_dataloader() if part == "train" else made.val_dataloader())


# -- clips that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_clip_stops_the_run_unless_told_otherwise(
    make_data: MakeData, broken: Any, backbone: QwenOmniBackbone, workers: int
) -> None:
    with pytest.raises(ClipError):
        loaded(make_data(source=broken, num_workers=workers), backbone)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_skip_another_clip_stands_in_so_that_every_batch_is_whole(
    make_data: MakeData, broken: Any, backbone: QwenOmniBackbone, workers: int
) -> None:
    batches = loaded(make_data(source=broken, on_bad_clip="skip", batch_size=7, num_workers=workers), backbone)
    assert [len(batch.samples) for batch in batches] == [7, 7]
    bad = [one for batch in batches for one in batch.bad]
    assert {one.id for one in bad} == {"rl-0003", "rl-0008"}  # a stand-in may be bad too, and another be tried
    reasons = {one.id: one for one in bad}
    assert "'gone.mp4' (from rl.jsonl:4) does not exist" in reasons["rl-0003"].reason
    assert reasons["rl-0003"].record == "rl.jsonl:4"
    used = {sample.id for batch in batches for sample in batch.samples}
    assert used == {sample.id for sample in broken.samples("train")} - {"rl-0003", "rl-0008"}


def test_stand_ins_depend_on_seed_and_epoch_alone(make_data: MakeData, broken: Any, backbone: QwenOmniBackbone) -> None:
    found = []
    for seed, epoch, workers in ((0, 0, 0), (0, 0, 2), (0, 1, 0), (1, 0, 0)):
        made = make_data(source=broken, on_bad_clip="skip", batch_size=7, num_workers=workers, seed=seed)
        made.encoder = backbone
        loader = made.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found.append([sample.id for batch in loader for sample in batch.samples])
    assert found[0] == found[1]
    assert len({tuple(one) for one in found}) == 3


def test_a_stand_in_is_of_the_same_data_set(
    make_data: MakeData, clips: SyntheticClips, listed: Any, backbone: QwenOmniBackbone
) -> None:
    samples = [
        *(dataclasses.replace(one, dataset="other", clip="gone.mp4") for one in clips.samples("rl")[:3]),
        dataclasses.replace(clips.samples("rl")[3], dataset="other"),
        *clips.samples("val"),
    ]
    made = make_data(source=listed(train=samples), on_bad_clip="skip", batch_size=len(samples))
    (batch,) = loaded(made, backbone)
    assert [one.dataset for one in batch.samples].count("other") == 4


def test_in_evaluation_a_bad_clip_is_left_out_and_told(
    make_data: MakeData, broken: Any, backbone: QwenOmniBackbone
) -> None:
    batches = loaded(make_data(source=broken, on_bad_clip="skip", eval_batch_size=2), backbone, "val")
    assert [len(batch.samples) for batch in batches] == [2, 1, 2, 1]
    assert [one.id for batch in batches for one in batch.bad] == ["val-0002"]


def test_a_batch_of_bad_clips_alone_is_empty_in_evaluation_and_an_error_in_training(
    make_data: MakeData, clips: SyntheticClips, listed: Any, backbone: QwenOmniBackbone
) -> None:
    gone = [dataclasses.replace(sample, clip="gone.mp4") for sample in clips.samples("val")]
    made = make_data(source=listed(train=gone, val=gone), on_bad_clip="skip")
    batches = loaded(made, backbone, "val")
    assert [(batch.samples, batch.prompts, len(batch.bad)) for batch in batches] == [([], None, 4), ([], None, 3)]
    assert batches[0].to("meta").samples == []
    with pytest.raises(ClipError, match=r"none of 8 clips could be used; the last: .*gone\.mp4"):
        loaded(made, backbone)


# -- budgets ------------------------------------------------------------------------------------------------------


def test_a_prompt_over_budget_is_a_bad_clip_and_never_cut(
    make_data: MakeData, clips: SyntheticClips, listed: Any, backbone: QwenOmniBackbone
) -> None:
    samples = clips.samples("val")
    samples[1] = dataclasses.replace(samples[1], question="Why? " * 50)
    lengths = [
        int(batch.prompts.attention_mask.sum())
        for batch in loaded(make_data(source=listed(val=samples), eval_batch_size=1), backbone, "val")
    ]
    budget = max(lengths[:1] + lengths[2:])
    with pytest.raises(ClipError, match=rf"has {lengths[1]} tokens, more than data\.max_prompt_tokens {budget}"):
        loaded(make_data(source=listed(val=samples), max_prompt_tokens=budget), backbone, "val")
    made = make_data(source=listed(val=samples), max_prompt_tokens=budget, on_bad_clip="skip")
    assert [one.id for batch in loaded(made, backbone, "val") for one in batch.bad] == ["val-0001"]


# -- modalities ---------------------------------------------------------------------------------------------------


def spoken(clips: SyntheticClips, **changes: Any) -> list[Sample]:
    return [dataclasses.replace(sample, subtitle="I am fine.", **changes) for sample in clips.samples("val")]


@pytest.mark.parametrize(
    ("modalities", "media", "told"),
    [
        (["video", "audio"], {"pixel_values_videos", "input_features"}, False),
        (["video"], {"pixel_values_videos"}, False),
        (["audio"], {"input_features"}, False),
        (["video", "audio", "text"], {"pixel_values_videos", "input_features"}, True),
        (["text"], set(), True),
    ],
)
def test_a_policy_gets_the_modalities_that_were_asked_for(
    make_data: MakeData,
    clips: SyntheticClips,
    listed: Any,
    backbone: QwenOmniBackbone,
    modalities: list[str],
    media: set[str],
    told: bool,
) -> None:
    batch = loaded(make_data(source=listed(val=spoken(clips)), modalities=modalities), backbone, "val")[0]
    assert {"pixel_values_videos", "input_features"} & set(batch.prompts.media) == media
    text = backbone.tokenizer.decode(batch.prompts.input_ids[0])
    assert ("I am fine." in text) == told
    assert backbone.embed(batch.prompts).isfinite().all()
    assert batch.silent == []


def test_text_alone_opens_no_clip_and_needs_a_subtitle(
    make_data: MakeData, clips: SyntheticClips, listed: Any, backbone: QwenOmniBackbone
) -> None:
    samples = spoken(clips, clip="gone.mp4")
    assert loaded(make_data(source=listed(val=samples), modalities=["text"]), backbone, "val")
    samples[0] = dataclasses.replace(samples[0], subtitle="", record="val.jsonl:1")
    with pytest.raises(ClipError, match=r"val\.jsonl:1 has no subtitle"):
        loaded(make_data(source=listed(val=samples), modalities=["text"]), backbone, "val")


def test_settings_that_cannot_be_are_told_together() -> None:
    with pytest.raises(ValueError, match=r"data\.eval_batch_size is 0.*data\.modalities is empty.*data\.cache_gb is 0"):
        ClipDataModule(SyntheticClips(), eval_batch_size=0, modalities=[], cache_gb=0)


# -- augmentation -------------------------------------------------------------------------------------------------


class Darker(torch.nn.Module):
    """Takes a random amount of light."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return (frames.float() * torch.rand(())).to(torch.uint8)


def test_training_clips_are_augmented_by_epoch_and_sample_and_evaluated_ones_are_not(
    make_data: MakeData, clips: SyntheticClips, listed: Any, backbone: QwenOmniBackbone
) -> None:
    source = listed(train=clips.samples("val"), val=clips.samples("val"))

    def pixels(part: str, epoch: int = 0, workers: int = 0, **settings: Any) -> dict[str, torch.Tensor]:
        made = make_data(source=source, batch_size=1, eval_batch_size=1, num_workers=workers, **settings)
        made.encoder = backbone
        loader = made.train_dataloader() if part == "train" else made.val_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return {batch.samples[0].id: batch.prompts.media["pixel_values_videos"] for batch in loader}

    plain, bright = pixels("val"), pixels("val", video_transforms=[Darker()])
    assert all(torch.equal(plain[name], bright[name]) for name in plain)
    state = torch.get_rng_state()
    first = pixels("train", video_transforms=[Darker()], keep_in_memory=True)
    assert torch.equal(torch.get_rng_state(), state)
    again, later = (pixels("train", epoch, 2, video_transforms=[Darker()]) for epoch in (0, 1))
    for name in plain:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], later[name])
        assert not torch.equal(first[name], plain[name])
