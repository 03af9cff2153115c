"""Prompts are what Hugging Face's processor makes, for any clip and with any part of it switched off."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    Qwen2_5OmniConfig,
    Qwen2_5OmniProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from erv_lightning.data.media import Clip
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import Backbone, PromptBatch, PromptFeatures
from erv_lightning.models.qwen_prompts import QwenOmniPrompts
from erv_lightning.rl.logprobs import attention_mask

QUESTION = "Which emotion is the most obvious to you in this clip, and why?"
QUESTIONS = [QUESTION, "Why?", "", " Two\n\nlines,  <think>tags</think> and <|im_end|> \u00e9\U0001f600"]
SWITCHES = {"both": (True, True), "video": (True, False), "audio": (False, True), "text": (False, False)}
# Frames, height, width, samples of audio
CLIPS = [
    (4, 56, 56, 16000),
    (8, 224, 224, 48000),
    (7, 230, 310, 47999),
    (1, 90, 60, 16001),
    (3, 60, 400, 321),
    (5, 448, 336, 31999),
    (2, 28, 28, 40000),  # longer than the built-in model's window: it is cut
]


def make_clip(frames: int = 4, height: int = 56, width: int = 56, samples: int = 16000, seed: int = 0) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (frames, 3, height, width), generator=generator, dtype=torch.uint8)
    wave = 0.1 * torch.randn(samples, generator=generator)
    return Clip(pictures, wave, 16000, frames / (samples / 16000), True, samples / 16000, (height, width))


def switched(clip: Clip, which: str) -> Clip:
    video, audio = SWITCHES[which]
    return dataclasses.replace(clip, frames=clip.frames if video else None, audio=clip.audio if audio else None)


def plain(processor: Any, question: str, clip: Clip, mixed: bool = False) -> dict[str, Tensor]:
    """The processor's own call, as its documentation has it."""
    media: dict[str, Any] = {}
    content: list[dict[str, str]] = []
    if clip.frames is not None:
        size = dict(processor.video_processor.size)
        media["videos"] = [clip.frames]
        media["videos_kwargs"] = {"do_sample_frames": False, "fps": clip.fps, "size": size}
        content.append({"type": "video"})
    if clip.audio is not None:
        media["audio"] = [clip.audio.numpy()]
        if mixed:
            media |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
        else:
            content.append({"type": "audio"})
    content.append({"type": "text", "text": question})
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(processor(text=text, return_tensors="pt", **media))


def own(backbone: QwenOmniBackbone, batch: PromptBatch) -> Tensor:
    states = backbone.hidden(backbone.embed(batch), batch.position_ids, attention_mask(batch.attention_mask))
    return backbone.logits(states)


@pytest.fixture(scope="module")
def released(backbone: QwenOmniBackbone) -> QwenOmniPrompts:
    """The front ends of the released models, with the built-in tokenizer: 128 bins in 300 s, pictures as they are."""
    theirs = backbone.processor
    processor = Qwen2_5OmniProcessor(
        image_processor=theirs.image_processor,
        video_processor=Qwen2VLVideoProcessor(
            size={"shortest_edge": 3136, "longest_edge": 12845056}, cap_pixels_per_frame=False
        ),
        feature_extractor=WhisperFeatureExtractor(feature_size=128, chunk_length=300),
        tokenizer=theirs.tokenizer,
        chat_template=theirs.chat_template,
    )
    return QwenOmniPrompts(processor, backbone.model.config)


def assert_same(prompt: PromptFeatures, expected: dict[str, Tensor]) -> None:
    """Ids and pixels are the same to the bit, the spectrum too but for how a processor sums; without its padding."""
    assert prompt.input_ids.tolist() == expected["input_ids"][0].tolist()
    kept = {"pixel_values_videos", "video_grid_thw", "input_features", "feature_attention_mask"} & expected.keys()
    assert prompt.media.keys() == kept
    for name, value in prompt.media.items():
        theirs = expected[name]
        if name in {"input_features", "feature_attention_mask"}:
            theirs = theirs[..., : int(expected["feature_attention_mask"].sum())]
        assert_close(value, theirs, atol=1e-6 if name == "input_features" else 0, rtol=0)


# -- the same numbers as the processor ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", CLIPS)
def test_any_clip_gives_the_processors_ids_pixels_and_spectrum(backbone: QwenOmniBackbone, shape: Any) -> None:
    clip = make_clip(*shape)
    assert_same(backbone.encode_prompt(QUESTION, clip), plain(backbone.processor, QUESTION, clip))


@pytest.mark.parametrize("shape", CLIPS)
def test_so_do_the_front_ends_of_the_released_models(released: QwenOmniPrompts, shape: Any) -> None:
    clip = make_clip(*shape)
    assert_same(released.encode_prompt(QUESTION, clip), plain(released.processor, QUESTION, clip))


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("which", SWITCHES)
def test_any_question_about_any_part_of_a_clip_gives_the_processors_ids(
    backbone: QwenOmniBackbone, question: str, which: str
) -> None:
    clip = switched(make_clip(), which)
    assert_same(backbone.encode_prompt(question, clip), plain(backbone.processor, question, clip))


@pytest.mark.parametrize("sound", ["silence", "click at the end"])
def test_sound_that_is_nearly_silent_gives_the_same_spectrum(released: QwenOmniPrompts, sound: str) -> None:
    clip = make_clip()
    wave = torch.zeros(16000)
    wave[-1] = float(sound != "silence")
    clip.audio = wave
    assert_same(released.encode_prompt("Why?", clip), plain(released.processor, "Why?", clip))


def test_audio_of_another_sample_rate_or_without_a_token_is_refused(backbone: QwenOmniBackbone) -> None:
    clip = make_clip()
    with pytest.raises(ValueError, match="sampling rate of 16000"):
        backbone.encode_prompt("Why?", dataclasses.replace(clip, sample_rate=8000))
    with pytest.raises(ValueError, match="320 samples of audio are too few"):
        backbone.encode_prompt("Why?", dataclasses.replace(clip, audio=torch.zeros(320)))


@pytest.mark.parametrize("token", ["<|VIDEO|>", "<|AUDIO|>", "<|IMAGE|>", "<|audio_bos|>", "<|vision_bos|>"])
@pytest.mark.parametrize("which", ["both", "text"])
def test_a_question_that_holds_a_media_token_is_refused(backbone: QwenOmniBackbone, token: str, which: str) -> None:
    with pytest.raises(ValueError, match="holds a media token: take it out"):
        backbone.encode_prompt(f"What is {token}?", switched(make_clip(), which))


# -- without weights ----------------------------------------------------------------------------------------------


def assert_equal_prompts(one: PromptFeatures, other: PromptFeatures) -> None:
    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.position_ids, other.position_ids)
    assert one.media.keys() == other.media.keys()
    assert all(torch.equal(one.media[name], other.media[name]) for name in one.media)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kept", ["built in", "folder", "whole model"])
def test_prompts_need_no_weights(kept: str, mixed: bool, tmp_path: Path) -> None:
    backbone = QwenOmniBackbone("tiny", use_audio_in_video=mixed)
    pretrained = "tiny"
    if kept != "built in":
        pretrained = str(tmp_path)
        backbone.processor.save_pretrained(tmp_path)
        config = backbone.model.config
        if kept == "whole model":  # as released: the thinker's configuration within that of the whole
            config = Qwen2_5OmniConfig(thinker_config=config.to_dict())
        config.save_pretrained(tmp_path)
    assert not [*tmp_path.glob("*.safetensors")]
    prompts = QwenOmniBackbone.prompt_encoder(
        pretrained=pretrained, use_audio_in_video=mixed, freeze=["vision"], dtype="bfloat16", lora=None, seed=3
    )
    assert prompts.max_audio_seconds == backbone.max_audio_seconds == 2.0
    clips = [make_clip(4, samples=20000), make_clip(6)]
    encoded = [(prompts.encode_prompt("Why?", clip), backbone.encode_prompt("Why?", clip)) for clip in clips]
    for ours, theirs in encoded:
        assert_equal_prompts(ours, theirs)
    ours, theirs = zip(*encoded, strict=True)
    one, other = prompts.collate(["a", "b"], ours), backbone.collate(["a", "b"], theirs)
    assert torch.equal(one.input_ids, other.input_ids)


def test_the_global_random_state_stays() -> None:
    state = torch.get_rng_state()
    QwenOmniPrompts.from_pretrained()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no exported model in .*none'.*Train the stage"):
        QwenOmniBackbone.prompt_encoder(pretrained=str(tmp_path / "none"))


def test_a_broken_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no policy in"):
        QwenOmniBackbone.prompt_encoder(pretrained=str(tmp_path))


def test_workers_of_any_start_method_can_have_it() -> None:
    prompts = QwenOmniPrompts.from_pretrained()
    assert_equal_prompts(
        pickle.loads(pickle.dumps(prompts)).encode_prompt("Why?", make_clip()),
        prompts.encode_prompt("Why?", make_clip()),
    )


def test_a_backbone_that_says_nothing_is_its_own_prompt_encoder() -> None:
    encoder = Backbone.prompt_encoder.__func__(QwenOmniBackbone, pretrained="tiny", seed=1)  # type: ignore[attr-defined]
    assert isinstance(encoder, QwenOmniBackbone)


# -- parts of a clip ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("which", SWITCHES)
def test_logits_of_any_part_are_the_models_own(backbone: QwenOmniBackbone, which: str) -> None:
    clips = [switched(make_clip(frames, samples=samples), which) for frames, samples in ((4, 16000), (3, 12000))]
    prompts = [backbone.encode_prompt(question, clip) for question, clip in zip(QUESTIONS, clips, strict=False)]
    batch = backbone.collate(["a", "b"], prompts)
    assert {"video": "video_grid_thw" in batch.media, "audio": "input_features" in batch.media} == dict(
        zip(("video", "audio"), SWITCHES[which], strict=True)
    )
    logits = own(backbone, batch)
    for row, (question, clip, prompt) in enumerate(zip(QUESTIONS, clips, prompts, strict=False)):
        theirs = backbone.model(**plain(backbone.processor, question, clip)).logits
        assert_close(logits[row, -len(prompt.input_ids) :], theirs[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("which", SWITCHES)
@pytest.mark.parametrize("read", [False, True])
def test_split_undoes_collate_whatever_a_clip_holds(backbone: QwenOmniBackbone, which: str, read: bool) -> None:
    clips = [switched(make_clip(frames, samples=samples), which) for frames, samples in ((4, 16000), (3, 12000))]
    prompts = [backbone.encode_prompt(question, clip) for question, clip in zip(QUESTIONS, clips, strict=False)]
    batch = backbone.collate(["a", "b"], prompts)
    if read:
        batch = backbone.read_media(batch)
        assert not batch.media
        assert len(batch.features) == sum(SWITCHES[which])
        prompts = backbone.split(batch)
        again = backbone.collate(["a", "b"], prompts)
        assert all(torch.equal(again.features[name], value) for name, value in batch.features.items())
        assert torch.equal(backbone.embed(again), backbone.embed(batch))
    for ours, theirs in zip(backbone.split(batch), prompts, strict=True):
        assert_equal_prompts(ours, theirs)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ("both", "video", "'a' has pixel_values_videos, .*feature_attention_mask; sample 'b' has pixel_values_videos"),
        ("text", "audio", "'a' has text alone; sample 'b' has input_features"),
        ("video", "text", "sample 'b' has text alone"),
    ],
)
def test_prompts_of_different_media_do_not_share_a_batch(
    backbone: QwenOmniBackbone, one: str, other: str, message: str
) -> None:
    prompts = [backbone.encode_prompt("Why?", switched(make_clip(), which)) for which in (one, other)]
    with pytest.raises(ValueError, match=message):
        backbone.collate(["a", "b"], prompts)


@pytest.mark.parametrize(("lost", "word"), [("video", "video"), ("audio", "audio")])
def test_a_batch_whose_media_went_missing_names_its_samples(backbone: QwenOmniBackbone, lost: str, word: str) -> None:
    batch = backbone.collate(["a"], [backbone.encode_prompt("Why?", switched(make_clip(), lost))])
    with pytest.raises(ValueError, match=rf"sample 'a': \d+ {word} tokens in the prompt, 0 features"):
        backbone.embed(dataclasses.replace(batch, media={}))


# -- audio within video -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "samples"),
    [(4, 16000), (8, 32000), (16, 30000), (3, 12000), (1, 4000), (6, 31999)],
)
@pytest.mark.parametrize("chunk", [1, 2])
def test_turns_of_sound_and_picture_are_the_models_own(
    frames: int, samples: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = QwenOmniBackbone("tiny", use_audio_in_video=True).eval()
    backbone.model.config.seconds_per_chunk = chunk
    monkeypatch.setattr(type(backbone.processor), "seconds_per_chunk", float(chunk))
    clip = make_clip(frames, samples=samples)
    prompt = backbone.encode_prompt(QUESTION, clip)
    expected = plain(backbone.processor, QUESTION, clip, mixed=True)
    assert_same(prompt, expected)
    positions: list[Tensor] = []
    decoder = backbone.model.model.language_model
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: positions.append(kwargs["position_ids"]), with_kwargs=True
    )
    theirs = backbone.model(**expected, use_audio_in_video=True).logits
    hook.remove()
    assert torch.equal(prompt.position_ids, positions[0][-3:, 0])
    assert_close(own(backbone, backbone.collate(["a"], [prompt])), theirs, atol=1e-5, rtol=1e-5)


def test_two_seconds_of_each_take_turns(backbone: QwenOmniBackbone) -> None:
    config = backbone.model.config
    prompts = QwenOmniPrompts(backbone.processor, config, use_audio_in_video=True)
    video, audio = config.video_token_id, config.audio_token_id
    turns = prompts._placeholders(
        {"video_grid_thw": torch.tensor([[3, 4, 4]]), "feature_attention_mask": torch.ones(1, 300)}, 1.0, True
    )
    start, end = config.audio_start_token_id, config.audio_end_token_id
    assert turns == {video: [start, *[video] * 8, *[audio] * 50, *[video] * 4, *[audio] * 25, end]}


@pytest.mark.parametrize("which", ["video", "audio", "text"])
def test_one_of_them_alone_is_as_ever(backbone: QwenOmniBackbone, which: str) -> None:
    prompts = QwenOmniPrompts(backbone.processor, backbone.model.config, use_audio_in_video=True)
    clip = switched(make_clip(), which)
    assert_equal_prompts(prompts.encode_prompt("Why?", clip), backbone.encode_prompt("Why?", clip))


@torch.no_grad()
def test_taking_turns_changes_the_answer(backbone: QwenOmniBackbone) -> None:
    mixed = QwenOmniBackbone("tiny", use_audio_in_video=True).eval()
    one, other = (own(each, each.collate(["a"], [each.encode_prompt("?", make_clip())])) for each in (backbone, mixed))
    assert (one[0, -1] - other[0, -1]).abs().max() > 1e-3


def test_generation_goes_on_where_the_model_would() -> None:
    mixed = QwenOmniBackbone("tiny", use_audio_in_video=True)
    clip = make_clip(8, samples=32000)
    prompt = mixed.encode_prompt("Why?", clip)
    expected = plain(mixed.processor, "Why?", clip, mixed=True)
    with torch.no_grad():
        mixed.model(**expected, use_audio_in_video=True)
    batch = mixed.collate(["a"], [prompt])
    delta = int(mixed.model.model.rope_deltas)
    assert batch.next_position.tolist() == [len(prompt.input_ids) + delta]
