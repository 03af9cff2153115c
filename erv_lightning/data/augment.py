"""Augmentation of clips for training: the same key gives the same draw, and the global random state stays as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from erv_lightning.data.media import Clip


def augment(clip: Clip, video: Sequence[nn.Module], audio: Sequence[nn.Module], key: str) -> Clip:
    """The clip with transforms applied, whose random draws depend on nothing but the key.

    Args:
        clip: what `load_clip` gave.
        video: torchvision v2 transforms; all frames of a clip get the same draw. Only height and width may change.
        audio: modules from (S,) to (S,); values are cut to [−1, 1].
        key: what names the draw, as the clip's id and the epoch.

    Raises:
        ValueError: a transform that gives another type, number of frames or length.
    """
    frames, wave = clip.frames, clip.audio
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 2**63
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if frames is not None and video:
            frames = _transform_frames(frames, video)
        if wave is not None and audio:
            torch.default_generator.manual_seed(seed)  # the sound's draw is the same with and without pictures
            wave = _transform_sound(wave, audio)
    return replace(clip, frames=frames, audio=wave)


def _transform_frames(frames: Tensor, transforms: Sequence[nn.Module]) -> Tensor:
    video = tv_tensors.Video(frames.clone())  # (T, 3, H, W); the clip itself may be kept in memory
    for transform in transforms:
        video = transform(video)
        if video.dtype != torch.uint8 or video.shape[:-2] != frames.shape[:-2]:
            raise ValueError(
                f"{type(transform).__name__} turns frames uint8 {tuple(frames.shape)} into {video.dtype} "
                f"{tuple(video.shape)}: only height and width may change"
            )
    plain: Tensor = video.as_subclass(Tensor).contiguous()
    return plain


def _transform_sound(wave: Tensor, transforms: Sequence[nn.Module]) -> Tensor:
    changed = wave.clone()
    for transform in transforms:
        changed = transform(changed)
        if changed.shape != wave.shape:
            raise ValueError(
                f"{type(transform).__name__} turns {len(wave)} samples into {tuple(changed.shape)}: the length has to "
                "stay"
            )
    return changed.clamp(-1, 1).to(wave.dtype)


class RandomGain(nn.Module):
    """Louder or softer by up to so many decibels, drawn evenly from [−decibels, decibels]."""

    def __init__(self, decibels: float = 6.0) -> None:
        super().__init__()
        self.decibels = decibels

    def forward(self, wave: Tensor) -> Tensor:
        """(S,) → (S,)."""
        drawn = (2 * torch.rand(()) - 1) * self.decibels
        return wave * 10 ** (drawn / 20)


class RandomNoise(nn.Module):
    """White noise at a signal-to-noise ratio drawn evenly from [low, high] decibels; silence stays silent."""

    def __init__(self, low: float = 10.0, high: float = 40.0) -> None:
        super().__init__()
        if low > high:
            raise ValueError(f"RandomNoise: low {low} dB is above high {high} dB")
        self.low, self.high = low, high

    def forward(self, wave: Tensor) -> Tensor:
        """(S,) → (S,)."""
        ratio = self.low + (self.high - self.low) * torch.rand(())
        level = wave.square().mean().sqrt() if len(wave) else torch.zeros(())
        return wave + torch.randn(wave.shape) * level * 10 ** (-ratio / 20)


class RandomShift(nn.Module):
    """Later or earlier by up to so many seconds; what is pushed out is lost, silence comes in."""

    def __init__(self, seconds: float = 0.1, sample_rate: int = 16000) -> None:
        super().__init__()
        self.samples = round(seconds * sample_rate)

    def forward(self, wave: Tensor) -> Tensor:
        """(S,) → (S,)."""
        drawn = int(torch.randint(-self.samples, self.samples + 1, ()))
        moved = torch.zeros_like(wave)
        if abs(drawn) < len(wave):
            stays = wave[: len(wave) - drawn] if drawn >= 0 else wave[-drawn:]
            start = max(drawn, 0)
            moved[start : start + len(stays)] = stays
        return moved
