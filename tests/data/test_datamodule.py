from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from erv_lightning.data import clips as clips_module
from erv_lightning.data.clips import ClipBatch
from erv_lightning.data.datamodule import ClipDataModule, Sentence, labelled_sentences
from erv_lightning.data.media import ClipError
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.labels import DFEW, MAFW
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.text import split_sentences

MakeData = Callable[..., ClipDataModule]


@pytest.fixture
def data(make_data: MakeData, backbone: QwenOmniBackbone) -> ClipDataModule:
    made = make_data(batch_size=5, eval_batch_size=3)
    made.encoder = backbone
    return made


def ids(loader: Any) -> list[list[str]]:
    return [[sample.id for sample in batch.samples] for batch in loader]


# -- clips --------------------------------------------------------------------------------------------------------


def test_evaluation_reads_every_clip_once_and_in_order(data: ClipDataModule, clips: SyntheticClips) -> None:
    wanted = [sample.id for sample in clips.samples("val")]
    assert ids(data.val_dataloader()) == [wanted[:3], wanted[3:6], wanted[6:]]
    assert [one for batch in ids(data.test_dataloader()) for one in batch] == [s.id for s in clips.samples("test")]
    assert ids(data.predict_dataloader()) == ids(data.test_dataloader())


def test_training_is_shuffled_anew_each_epoch_in_whole_batches(data: ClipDataModule, clips: SyntheticClips) -> None:
    loader = data.train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epochs.append(ids(loader))
    known = {sample.id for sample in clips.samples("train")}
    for batches in epochs:
        assert [len(batch) for batch in batches] == [5] * 5  # 28 clips
        used = [one for batch in batches for one in batch]
        assert len(set(used)) == 25
        assert set(used) <= known
    assert epochs[0] != epochs[1]
    assert ids(data.train_dataloader()) == epochs[0]


def test_a_batch_holds_samples_and_the_prompts_that_belong_to_them(
    data: ClipDataModule, backbone: QwenOmniBackbone
) -> None:
    batch = next(iter(data.val_dataloader()))
    assert batch.prompts.ids == [sample.id for sample in batch.samples]
    assert batch.silent == []
    assert all("Which emotion" in backbone.tokenizer.decode(row) for row in batch.prompts.input_ids)
    moved = batch.to("meta")
    assert moved.prompts.input_ids.is_meta
    assert moved.samples == batch.samples


@pytest.mark.parametrize("settings", [{"num_workers": 1}, {"keep_in_memory": True}])
def test_neither_workers_nor_memory_change_what_is_read(
    settings: dict[str, Any], make_data: MakeData, backbone: QwenOmniBackbone
) -> None:
    found = []
    for options in ({}, settings):
        made = make_data(**options)
        made.encoder = backbone
        loader = made.val_dataloader()
        found.append([batch.prompts for _ in range(2) for batch in loader])
    for plain, other in zip(*found, strict=True):
        assert plain.ids == other.ids
        assert torch.equal(plain.input_ids, other.input_ids)
        assert all(torch.equal(plain.media[name], other.media[name]) for name in plain.media)


def test_clips_kept_in_memory_are_decoded_once(
    make_data: MakeData, backbone: QwenOmniBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    own = clips_module.load_clip
    monkeypatch.setattr(
        clips_module, "load_clip", lambda path, *how, **more: (decoded.append(path), own(path, *how, **more))[1]
    )
    for keep, times in ((True, 7), (False, 14)):
        decoded.clear()
        made = make_data(keep_in_memory=keep)
        made.encoder = backbone
        for _ in range(2):
            ids(made.val_dataloader())
        assert len(decoded) == times


def test_another_policy_reads_its_own_prompts(make_data: MakeData, backbone: QwenOmniBackbone) -> None:
    other = QwenOmniBackbone("tiny")
    other.processor.chat_template = (
        "{{ 'Look: <|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>' }}"
    )
    made = make_data(keep_in_memory=True)
    texts = []
    for encoder in (backbone, other):
        made.encoder = encoder
        texts.append(encoder.tokenizer.decode(next(iter(made.val_dataloader())).prompts.input_ids[0]))
    assert "Look:" not in texts[0]
    assert texts[1].startswith("Look:")


# -- clips that are silent or not there ---------------------------------------------------------------------------


def test_silent_clips_are_named_in_the_batch(
    make_data: MakeData, clips: SyntheticClips, listed: Any, mute_clip: Path, backbone: QwenOmniBackbone
) -> None:
    samples = clips.samples("val")[:3]
    samples[1] = dataclasses.replace(samples[1], clip=str(mute_clip))
    made = make_data(source=listed(val=samples))
    made.encoder = backbone
    (batch,) = made.val_dataloader()
    assert batch.silent == [samples[1].id]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("record", "named"), [("train.jsonl:12", "train.jsonl:12"), ("", "val-0001")])
def test_a_clip_that_is_not_there_is_named_with_its_record(
    record: str,
    named: str,
    workers: int,
    make_data: MakeData,
    clips: SyntheticClips,
    listed: Any,
    backbone: QwenOmniBackbone,
) -> None:
    samples = clips.samples("val")
    samples[1] = dataclasses.replace(samples[1], clip="gone.mp4", record=record)
    made = make_data(source=listed(val=samples), num_workers=workers)
    made.encoder = backbone
    with pytest.raises(ClipError, match=rf"'gone\.mp4' \(from {named}\) does not exist"):
        ids(made.val_dataloader())


# -- sentences ----------------------------------------------------------------------------------------------------


def test_labelled_sentences_are_those_of_the_explanations_in_order(clips: SyntheticClips) -> None:
    expected = []
    for sample in clips.samples("train"):
        for text, labels in zip(split_sentences(sample.explanation), sample.sentence_labels, strict=True):
            if labels is not None:
                expected.append(Sentence(text, labels))
    assert labelled_sentences(clips.samples("train")) == expected
    assert 0 < len(expected) < sum(len(sample.sentence_labels) for sample in clips.samples("train"))
    assert labelled_sentences(clips.samples("rl")) == []


def test_sentences_come_in_batches_without_a_policy_or_a_clip(make_data: MakeData) -> None:
    made = make_data(unit="sentences", batch_size=8, eval_batch_size=8, num_workers=2)
    evaluated = [sentence for batch in made.val_dataloader() for sentence in batch.sentences]
    assert evaluated == made.sentences("val")
    trained = list(made.train_dataloader())
    assert {len(batch) for batch in trained} == {8}
    assert trained[0].to("meta") is trained[0]


def test_sentence_labels_that_do_not_fit_name_the_record(clips: SyntheticClips) -> None:
    sample = dataclasses.replace(clips.samples("val")[0], explanation="One. Two.", record="val.jsonl:3")
    with pytest.raises(ValueError, match=r"val\.jsonl:3: 3 sentence labels for 2 sentences"):
        labelled_sentences([dataclasses.replace(sample, sentence_labels=(None, None, None))])
    with pytest.raises(ValueError, match=r"val\.jsonl:3: sentence labels \['gleeful'\] are not in 'dfew'"):
        labelled_sentences([dataclasses.replace(sample, sentence_labels=(("happy", "gleeful"), None))])


# -- what does not fit --------------------------------------------------------------------------------------------


def test_a_data_set_has_one_label_space_and_a_verifier_run_too(
    make_data: MakeData, clips: SyntheticClips, listed: Any
) -> None:
    assert make_data().label_space == DFEW
    samples = clips.samples("train")[:3]
    samples[1] = dataclasses.replace(samples[1], label_space="mafw", label="anger")
    with pytest.raises(ValueError, match=r"the data set 'synthetic' has the label spaces 'dfew' and 'mafw'"):
        make_data(source=listed(train=samples)).label_spaces()
    samples[1] = dataclasses.replace(samples[1], dataset="other")
    made = make_data(source=listed(train=samples))
    assert made.label_spaces() == {"synthetic": DFEW, "other": MAFW}
    with pytest.raises(ValueError, match=r"one label space a run, the samples have \['dfew', 'mafw'\]"):
        _ = made.label_space


def test_a_split_smaller_than_a_batch_is_an_error_in_training_only(
    make_data: MakeData, backbone: QwenOmniBackbone
) -> None:
    made = make_data(batch_size=29, eval_batch_size=29)
    made.encoder = backbone
    with pytest.raises(ValueError, match=r"'train' split gives 28 samples per process, fewer than one batch of 29"):
        made.train_dataloader()
    assert [len(batch) for batch in ids(made.val_dataloader())] == [7]


def test_clips_need_an_encoder(make_data: MakeData) -> None:
    with pytest.raises(ValueError, match="no policy has set an encoder: is this a verifier's config"):
        make_data().train_dataloader()


def test_memory_is_not_shared_with_workers(make_data: MakeData) -> None:
    with pytest.raises(ValueError, match=r"data\.keep_in_memory needs data\.num_workers 0"):
        make_data(keep_in_memory=True, num_workers=2)


def test_a_batch_is_moved_and_nothing_else(clips: SyntheticClips, prompts: Any) -> None:
    batch = ClipBatch(clips.samples("val")[:3], prompts, ["x"])
    assert batch.to("cpu").silent == ["x"]
