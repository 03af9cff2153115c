"""Clips in LitData shards: written once, read in order, and a run over them goes on where it stopped."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.encode import write_mp4
from erv_lightning.data.media import MediaSettings, load_clip
from erv_lightning.data.readers import MixedClips, ShardedClips, SyntheticClips
from erv_lightning.data.sampler import EpochSampler
from erv_lightning.data.shards import write_shards
from erv_lightning.models import QwenOmniBackbone

try:
    import litdata  # noqa: F401
except ImportError:
    if not os.environ.get("CI"):
        pytest.skip("litdata is not installed", allow_module_level=True)

SETTINGS = MediaSettings(num_frames=4, frame_size=(56, 56))


@pytest.fixture(scope="module")
def shards(clips: SyntheticClips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 training clips in shards of a few each, and 7 validation clips."""
    folder = tmp_path_factory.mktemp("corpus") / "shards"
    size = os.path.getsize(clips.samples("train")[0].clip)
    from erv_lightning.data import shards as module

    megabyte, module.MEGABYTE = module.MEGABYTE, 4 * size
    try:
        write_shards({split: clips.samples(split) for split in ("train", "val")}, folder, 1)
    finally:
        module.MEGABYTE = megabyte
    return folder


def test_samples_and_clips_come_back_in_order(shards: Path, clips: SyntheticClips) -> None:
    source = ShardedClips(str(shards))
    for split in ("train", "val"):
        read, written = source.samples(split), clips.samples(split)
        assert [dataclasses.replace(one, clip="") for one in read] == [
            dataclasses.replace(one, clip="") for one in written
        ]
        for one, other in zip(read, written, strict=True):
            content, sound = source.media(one)
            assert content == Path(other.clip).read_bytes()
            assert sound == b""
    blocks = source.blocks("train")
    assert sum(blocks) == 28
    assert len(blocks) > 3


def test_a_folder_of_frames_and_a_separate_sound_come_back_too(
    tmp_path: Path, clips: SyntheticClips, ramp_clip: Path
) -> None:
    from torchvision.io import write_png

    clip = load_clip(ramp_clip, MediaSettings(num_frames=12))
    assert clip.frames is not None
    (tmp_path / "frames").mkdir()
    for index, frame in enumerate(clip.frames):
        write_png(frame, str(tmp_path / "frames" / f"{index}.png"))
    sample = dataclasses.replace(clips.samples("val")[0], clip=str(tmp_path / "frames"), audio=str(ramp_clip))
    write_shards({"train": [sample]}, tmp_path / "out")
    source = ShardedClips(str(tmp_path / "out"))
    content, sound = source.media(source.samples("train")[0])
    read, whole = load_clip(content, SETTINGS, audio=sound), load_clip(sample.clip, SETTINGS, audio=sample.audio)
    assert read.frames is not None
    assert whole.frames is not None
    assert torch.equal(read.frames, whole.frames)
    assert read.audio is not None
    assert whole.audio is not None
    assert torch.equal(read.audio, whole.audio)
    assert read.audio.abs().max() > 0.1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_over_shards_gives_the_batches_of_the_files(
    shards: Path, make_data: Callable[..., ClipDataModule], backbone: QwenOmniBackbone, workers: int
) -> None:
    batches = []
    for source in ({}, {"source": ShardedClips(str(shards)), "num_workers": workers}):
        made = make_data(**source)
        made.encoder = backbone
        batches.append(list(made.val_dataloader()))
    for one, other in zip(*batches, strict=True):
        assert [sample.id for sample in one.samples] == [sample.id for sample in other.samples]
        assert torch.equal(one.prompts.media["pixel_values_videos"], other.prompts.media["pixel_values_videos"])
        assert torch.equal(one.prompts.media["input_features"], other.prompts.media["input_features"])


def test_shards_that_have_to_be_fetched_come_through_a_cache_that_is_smaller(
    shards: Path, tmp_path: Path, clips: SyntheticClips
) -> None:
    size = os.path.getsize(clips.samples("train")[0].clip)
    source = ShardedClips(f"local:{shards}", cache_dir=str(tmp_path), cache_gb=8 * size / 1e9)
    written = clips.samples("train")
    read = source.samples("train")
    for index in (0, 27, 13, 5, 0):
        assert source.media(read[index])[0] == Path(written[index].clip).read_bytes()


def test_what_cannot_be_written_is_named_before_anything_is(tmp_path: Path, clips: SyntheticClips) -> None:
    samples = clips.samples("val")
    samples[1] = dataclasses.replace(samples[1], clip="gone.mp4", record="val.jsonl:2")
    samples[4] = dataclasses.replace(samples[4], audio="gone.wav")
    with pytest.raises(ValueError, match=r"no samples; val\.jsonl:2: 'gone\.mp4' does not exist; .*'gone\.wav'"):
        write_shards({"val": samples, "test": []}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists: name another folder"):
        write_shards({"val": clips.samples("val")}, tmp_path / "out")


def test_an_interrupted_writing_leaves_nothing_that_reads_as_complete(tmp_path: Path, clips: SyntheticClips) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards({"val": clips.samples("val")}, tmp_path / "out", done=stop)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"no shards of the split 'val' in .*check data\.source\.init_args\.root"):
        ShardedClips(str(tmp_path / "out")).samples("val")


def test_a_mixture_asks_the_source_that_a_sample_is_from(shards: Path, clips: SyntheticClips, listed: Any) -> None:
    other = [dataclasses.replace(one, dataset="files") for one in clips.samples("train")[:3]]
    mixed = MixedClips([ShardedClips(str(shards)), listed(train=other)])
    samples = mixed.samples("train")
    assert mixed.media(samples[0])[0] == Path(clips.samples("train")[0].clip).read_bytes()
    assert mixed.media(samples[-1]) == (other[-1].clip, "")
    blocks = mixed.blocks("train")
    assert blocks is not None
    assert sum(blocks) == len(samples) == 31
    assert blocks[-3:] == [1, 1, 1]


# -- the order ----------------------------------------------------------------------------------------------------


def orders(blocks: list[int], world: int, epoch: int = 0) -> list[list[int]]:
    shares = []
    for rank in range(world):
        sampler = EpochSampler(
            [1.0] * sum(blocks), seed=1, shuffle=True, rank=rank, world=world, even=True, blocks=blocks
        )
        sampler.set_epoch(epoch)
        shares.append([draw.sample for draw in sampler])
        assert len(shares[-1]) == len(sampler) == sum(blocks) // world
    return shares


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_blocks_of_an_epoch_and_read_few_at_a_time(world: int) -> None:
    blocks = [10] * 40
    shares = orders(blocks, world)
    everything = [index for share in shares for index in share]
    assert len(everything) == len(set(everything)) >= 400 - world
    for share in shares:
        assert len({index // 10 for index in share}) <= 40 / world + 16  # two windows are shared
        for start in range(0, len(share) - 80, 10):
            assert len({index // 10 for index in share[start : start + 10]}) <= 16
    assert shares[0] != sorted(shares[0])
    assert shares == orders(blocks, world)
    assert shares != orders(blocks, world, epoch=1)


def test_blocks_that_do_not_hold_all_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks hold 3 samples of 4"):
        EpochSampler([1.0] * 4, blocks=[3])


# -- going on in the middle of an epoch ---------------------------------------------------------------------------


class Seen(L.LightningModule):
    """Remembers the clips of each step."""

    def __init__(self, backbone: QwenOmniBackbone) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.encoder, self.ids = [backbone], list[list[str]]()

    def setup(self, stage: str) -> None:
        self.trainer.datamodule.encoder = self.encoder[0]  # type: ignore[attr-defined]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.ids.append([sample.id for sample in batch.samples])
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["files", "shards"])
@pytest.mark.parametrize("stop", [3, 7, 10])
def test_a_run_resumed_in_the_middle_of_an_epoch_sees_the_clips_that_it_would_have_seen(
    shards: Path,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    backbone: QwenOmniBackbone,
    tmp_path: Path,
    kind: str,
    workers: int,
    stop: int,
) -> None:
    def fit(steps: int, ckpt_path: str | None = None) -> list[list[str]]:
        source = {"source": ShardedClips(str(shards))} if kind == "shards" else {}
        keep = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=stop, save_top_k=-1)
        module = Seen(backbone)
        trainer = make_trainer(max_steps=steps, enable_checkpointing=True, callbacks=[keep])
        trainer.fit(module, make_data(num_workers=workers, **source), ckpt_path=ckpt_path, weights_only=True)
        return module.ids

    whole = fit(17)  # 28 clips in batches of 4: two epochs and a half
    for file in tmp_path.glob("*.ckpt"):
        file.unlink()
    begun = fit(stop)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    assert begun + fit(17, str(checkpoint)) == whole


def test_one_clip_larger_than_a_shard_is_written_all_the_same(tmp_path: Path, clips: SyntheticClips) -> None:
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 255, (30, 480, 640, 3)).astype(np.uint8)
    write_mp4(tmp_path / "large.mp4", noise, None, 10, 16000)
    assert os.path.getsize(tmp_path / "large.mp4") > 1_000_000
    samples = [dataclasses.replace(clips.samples("val")[0], clip=str(tmp_path / "large.mp4")), clips.samples("val")[1]]
    write_shards({"val": samples}, tmp_path / "out", shard_mb=1)
    source = ShardedClips(str(tmp_path / "out"))
    assert [len(source.media(one)[0]) for one in source.samples("val")] == [
        os.path.getsize(one.clip) for one in samples
    ]
