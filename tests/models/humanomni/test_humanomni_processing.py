"""The processor: the words around the media, the square around the frames, one placeholder a feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from humanomni_published import bert_tokenizer, qwen2_tokenizer
from PIL import Image
from torch.testing import assert_close
from transformers import AutoProcessor, SiglipImageProcessor, WhisperFeatureExtractor

from erv_lightning.data.media import frame_indices
from erv_lightning.models.humanomni import HumanOmniConfig, HumanOmniProcessor
from erv_lightning.models.humanomni.processing import pad_to_square

SOUND = {"sampling_rate": 16000}
QUESTION = "Which emotion do you hear?"


def made(**changes: Any) -> HumanOmniProcessor:
    settings: dict[str, Any] = {"num_frames": 3, "tokens_per_frame": 4}
    return HumanOmniProcessor(
        SiglipImageProcessor(size={"height": 32, "width": 32}),
        WhisperFeatureExtractor(feature_size=8, chunk_length=1),
        qwen2_tokenizer(),
        bert_tokenizer(),
        **settings | changes,
    )


@pytest.fixture(scope="module")
def processor() -> HumanOmniProcessor:
    return made()


def clip(frames: int = 3, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)


# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "media"),
    [
        (["video", "audio"], "<vi_start><|video_pad|><vi_end>\n<au_start><|audio_pad|><au_end>\n"),
        (["audio", "video"], "<vi_start><|video_pad|><vi_end>\n<au_start><|audio_pad|><au_end>\n"),
        (["video"], "<vi_start><|video_pad|><vi_end>\n"),
        (["audio"], "<au_start><|audio_pad|><au_end>\n"),
        ([], ""),
    ],
)
def test_the_wrapper_stands_before_the_question_after_qwen2s_system_turn(
    processor: HumanOmniProcessor, kinds: list[str], media: str
) -> None:
    assert processor.prompt(QUESTION, kinds) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{media}{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_tokenizers_own_template_goes_before_ours() -> None:
    tokenizer = qwen2_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
    images, sounds = SiglipImageProcessor(), WhisperFeatureExtractor()
    assert HumanOmniProcessor(images, sounds, tokenizer, bert_tokenizer()).prompt("Why?", []) == "<Why?>"


def test_the_wrapper_is_plain_text_and_each_feature_has_a_placeholder(processor: HumanOmniProcessor) -> None:
    data = processor(QUESTION, videos=clip(), audio=torch.zeros(9000), **SOUND)
    ids = data["input_ids"][0].tolist()
    video, audio = processor.video_token_id, processor.audio_token_id
    assert (video, audio) == (259, 260)
    assert (ids.count(video), ids.count(audio)) == (3 * 4, 100 // 2 // 3)
    assert len(processor.tokenizer.tokenize("<vi_start>")) == len("<vi_start>")  # one token a byte here
    pieces = processor.prompt(QUESTION, ["video", "audio"]).split("<|video_pad|>")
    pieces = [pieces[0], *pieces[1].split("<|audio_pad|>")]
    first, second, third = (processor.tokenizer(piece)["input_ids"] for piece in pieces)
    assert ids == [*first, *[video] * 12, *second, *[audio] * 16, *third]


def test_batches_are_padded_on_the_left_and_questions_on_the_right(processor: HumanOmniProcessor) -> None:
    data = processor([QUESTION, "Hear?"], videos=[clip(), clip()], audio=[np.zeros(5), np.zeros(20000)], **SOUND)
    assert set(data) == {
        "input_ids",
        "attention_mask",
        "pixel_values_videos",
        "input_features",
        "question_input_ids",
        "question_attention_mask",
    }
    shapes = {name: tuple(value.shape) for name, value in data.items()}
    assert shapes["pixel_values_videos"] == (2, 3, 3, 32, 32)
    assert shapes["input_features"] == (2, 8, 100)
    short = len(QUESTION) - len("Hear?")
    assert data["attention_mask"][1].tolist() == [0] * short + [1] * (shapes["input_ids"][1] - short)
    assert data["input_ids"][1, :short].tolist() == [processor.tokenizer.pad_token_id] * short
    assert data["question_input_ids"].tolist() == [[2, 5, 6, 7, 8, 9, 10, 3], [2, 9, 10, 3, 0, 0, 0, 0]]
    assert data["question_attention_mask"].tolist() == [[1] * 8, [1] * 4 + [0] * 4]


def test_the_gate_can_be_asked_another_question(processor: HumanOmniProcessor) -> None:
    data = processor(QUESTION, question="you hear")
    assert data["question_input_ids"].tolist() == [[2, 8, 9, 3]]
    assert processor.tokenizer.decode(data["input_ids"][0]) == processor.prompt(QUESTION, [])


# -- pictures and sound --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "top", "left"), [(20, 30, 5, 0), (31, 20, 0, 5), (7, 7, 0, 0)])
def test_frames_stand_in_the_middle_of_a_square_of_the_mean_colour(
    height: int, width: int, top: int, left: int
) -> None:
    frames = clip(2, height, width)
    square = pad_to_square(frames, (0.5, 0.25, 1.0))
    side = max(height, width)
    by_hand = torch.tensor([127, 63, 255], dtype=torch.uint8).view(1, 3, 1, 1).repeat(2, 1, side, side)
    by_hand[:, :, top : top + height, left : left + width] = frames
    assert torch.equal(square, by_hand)


def test_frames_are_scaled_and_normalised_as_siglip_does(processor: HumanOmniProcessor) -> None:
    frames = clip()
    pixels = processor.see([frames])
    for frame, values in zip(frames, pixels[0], strict=True):
        canvas = Image.new("RGB", (30, 30), (127, 127, 127))
        canvas.paste(Image.fromarray(frame.permute(1, 2, 0).numpy()), (0, 5))
        scaled = np.asarray(canvas.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32)
        by_hand = torch.from_numpy((scaled / 255 - 0.5) / 0.5).permute(2, 0, 1)
        assert_close(values, by_hand, atol=1.01 / 127.5, rtol=0)  # bytes may round another way


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 50])
def test_a_clip_has_exactly_its_number_of_frames(processor: HumanOmniProcessor, frames: int) -> None:
    video = clip(frames)
    pixels = processor.see([video])
    assert pixels.shape == (1, 3, 3, 32, 32)
    assert_close(pixels, processor.see([video[frame_indices(frames, 3)]]))
    if frames == 3:
        assert len({float(picture.sum()) for picture in pixels[0]}) == 3


def test_videos_may_be_tensors_arrays_or_pictures(processor: HumanOmniProcessor) -> None:
    video = clip()
    last = video.permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray(frame) for frame in last]
    wanted = processor.see([video])
    for other in (video.numpy(), last, torch.from_numpy(last), pictures):
        assert_close(processor.see([other]), wanted, atol=0, rtol=0)


def test_sound_is_cut_or_padded_as_whisper_does(processor: HumanOmniProcessor) -> None:
    wave = 0.1 * torch.randn(20000)
    long, short = processor.hear([wave, wave[:4000]], 16000)
    whisper = processor.feature_extractor
    for heard, samples in ((long, wave[:16000]), (short, wave[:4000])):
        padded = np.pad(samples.numpy(), (0, 16000 - len(samples)))
        assert_close(heard, torch.from_numpy(whisper(padded, sampling_rate=16000)["input_features"][0]))


# -- errors and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": "a <|audio_pad|>"}, r"holds <\|audio_pad\|>: take it out"),
        ({"text": ["a", "b"], "videos": [clip()]}, "2 texts and 1 videos"),
        ({"text": ["a", "b"], "audio": [np.zeros(9)] * 3, **SOUND}, "2 texts and 3 audio"),
        ({"text": ["a", "b"], "question": "a"}, "2 texts and 1 questions"),
        ({"text": "a", "videos": [clip().float()]}, "torch.float32 of shape"),
        ({"text": "a", "videos": [clip()[:0]]}, r"\(0, 3, 20, 30\): frames of bytes"),
        ({"text": "a", "audio": [np.zeros(9)]}, "give the audio's sampling_rate: 16000"),
        ({"text": "a", "audio": [np.zeros(9)], "sampling_rate": 8000}, "sampling rate of 16000"),
        ({"text": "a", "audio": [np.zeros((2, 9))], **SOUND}, "mono"),
        ({"text": "a", "return_tensors": "np"}, "return_tensors can only be 'pt'"),
        ({"text": "a", "images": 1}, r"\['images'\]"),
    ],
)
def test_what_cannot_be_used_is_an_error(processor: HumanOmniProcessor, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        processor(**given)


def test_a_saved_processor_does_the_same(processor: HumanOmniProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    HumanOmniConfig().save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is HumanOmniProcessor
    assert (again.num_frames, again.tokens_per_frame, again.audio_tokens) == (3, 4, 16)
    given = {"text": [QUESTION, "?"], "videos": [clip(5), clip(2)], "audio": [np.ones(99)] * 2, **SOUND}
    before, after = processor(**given), again(**given)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert_close(after[name], value, atol=0, rtol=0)


def test_placeholders_are_added_once() -> None:
    processor = made()
    size = len(processor.tokenizer)
    other = HumanOmniProcessor(
        processor.image_processor, processor.feature_extractor, processor.tokenizer, processor.question_tokenizer
    )
    assert len(other.tokenizer) == size
    assert other.video_token_id == processor.video_token_id
