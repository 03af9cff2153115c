from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from erv_lightning.data.augment import RandomGain, RandomNoise, RandomShift, augment
from erv_lightning.data.media import Clip

VIDEO: list[nn.Module] = [
    v2.RandomResizedCrop((24, 24), antialias=True),
    v2.RandomHorizontalFlip(),
    v2.ColorJitter(0.5),
]
AUDIO: list[nn.Module] = [RandomGain(12), RandomNoise(5, 20), RandomShift(0.1)]


class Half(nn.Module):
    def forward(self, given: Tensor) -> Tensor:
        return given[::2]


@pytest.fixture
def clip() -> Clip:
    picture = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    return Clip(
        picture.expand(4, -1, -1, -1).clone(), 0.4 * torch.sin(torch.arange(8000) / 7), 16000, 8.0, True, 0.5, (32, 48)
    )


def test_a_key_gives_one_draw_whatever_was_drawn_before(clip: Clip) -> None:
    one = augment(clip, VIDEO, AUDIO, "train/3/epoch 0")
    torch.rand(1000)
    same, other = augment(clip, VIDEO, AUDIO, "train/3/epoch 0"), augment(clip, VIDEO, AUDIO, "train/3/epoch 1")
    assert torch.equal(one.frames, same.frames)
    assert torch.equal(one.audio, same.audio)
    assert not torch.equal(one.frames, other.frames)
    assert not torch.equal(one.audio, other.audio)


def test_the_global_random_state_and_the_clip_stay_as_they_were(clip: Clip) -> None:
    frames, audio, state = clip.frames.clone(), clip.audio.clone(), torch.get_rng_state()
    augment(clip, VIDEO, AUDIO, "key")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(clip.frames, frames)
    assert torch.equal(clip.audio, audio)


def test_all_frames_of_a_clip_get_the_same_draw(clip: Clip) -> None:
    frames = augment(clip, VIDEO, [], "key").frames
    assert frames.shape == (4, 3, 24, 24)
    assert frames.dtype == torch.uint8
    assert type(frames) is Tensor
    assert all(torch.equal(frame, frames[0]) for frame in frames)


def test_sound_keeps_its_length_and_stays_within_one(clip: Clip) -> None:
    for number in range(20):
        wave = augment(clip, [], [RandomGain(40), *AUDIO], str(number)).audio
        assert wave.shape == clip.audio.shape
        assert float(wave.abs().max()) <= 1


def test_sound_is_drawn_alike_with_and_without_pictures(clip: Clip) -> None:
    deaf = Clip(None, clip.audio, 16000, 0.0, True, 0.5, (0, 0))
    assert torch.equal(augment(deaf, VIDEO, AUDIO, "key").audio, augment(clip, VIDEO, AUDIO, "key").audio)
    blind = Clip(clip.frames, None, 16000, 8.0, True, 0.5, (32, 48))
    assert augment(blind, VIDEO, AUDIO, "key").audio is None


def test_gain_is_within_its_decibels() -> None:
    gains = [float(RandomGain(6)(torch.ones(1))) for _ in range(200)]
    assert 10 ** (-6 / 20) <= min(gains) < 0.6
    assert 1.8 < max(gains) <= 10 ** (6 / 20)


def test_noise_has_its_ratio_to_the_sound_and_silence_stays_silent() -> None:
    wave = torch.sin(torch.arange(50000) / 5)
    noise = RandomNoise(20, 20)(wave) - wave
    assert float(10 * torch.log10(wave.square().mean() / noise.square().mean())) == pytest.approx(20, abs=0.2)
    assert not RandomNoise()(torch.zeros(100)).any()
    with pytest.raises(ValueError, match="above"):
        RandomNoise(30, 10)


def test_a_shift_moves_and_fills_with_silence() -> None:
    wave = torch.arange(1.0, 11.0)
    seen = set()
    for _ in range(200):
        moved = RandomShift(3, 1)(wave)
        by = 1 - int(moved[0]) if moved[0] else int((moved == 0).sum())
        expected = torch.zeros(10)
        for place in range(10):
            if 0 <= place - by < 10:
                expected[place] = wave[place - by]
        assert torch.equal(moved, expected)
        seen.add(by)
    assert seen == set(range(-3, 4))
    assert not RandomShift(0, 1)(torch.zeros(0)).any()


@pytest.mark.parametrize(
    ("video", "audio", "said"),
    [
        ([v2.ToDtype(torch.float32)], [], "only height and width may change"),
        ([Half()], [], "only height and width may change"),
        ([], [Half()], "length has to stay"),
    ],
)
def test_a_transform_that_changes_more_than_it_may_is_named(
    clip: Clip, video: list[nn.Module], audio: list[nn.Module], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        augment(clip, video, audio, "key")
