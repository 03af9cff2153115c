"""Decoding clips with PyAV, whose wheel brings FFmpeg along: the needed frames, and the audio as mono."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
import torchaudio.functional as audio_functional
import torchvision.transforms.v2.functional as video_functional
from torch import Tensor


class ClipError(ValueError):
    """A clip that cannot be used; the message names the file, the record it came from and the way out."""


@dataclass(frozen=True)
class MediaSettings:
    """What is read of a clip, and how.

    Attributes:
        num_frames: frames a clip, at the mid-points of equal segments; with `fps`, at most so many.
        fps: frames per second of the clip instead; null for `num_frames` of every clip.
        frame_size: height and width in pixels; null for the clip's own.
        max_pixels: larger frames are scaled down to so many pixels (height × width), their shape kept; null: no limit.
        sample_rate: of the audio, in Hz.
        max_seconds: audio beyond is cut.
        folder_fps: frames per second that a folder of frames was taken at.
        decoder: ``auto`` is torchcodec where it and FFmpeg are installed, PyAV otherwise; frames are the same.
        video, audio: whether it is read at all.
    """

    num_frames: int = 8
    fps: float | None = None
    frame_size: tuple[int, int] | None = None
    max_pixels: int | None = None
    sample_rate: int = 16000
    max_seconds: float = 30.0
    folder_fps: float = 25.0
    decoder: Literal["auto", "torchcodec", "pyav"] = "auto"
    video: bool = True
    audio: bool = True


@dataclass
class Clip:
    """A decoded clip.

    Attributes:
        frames: uint8, (T, 3, H, W), in time order; None where the video is not read.
        audio: float32, (S,), mono in [−1, 1]; silence where the clip has no audio track, None where it is not read.
        sample_rate: of the audio, in Hz.
        fps: frames per second of `frames`: T over the clip's duration.
        has_audio: whether the clip has an audio track.
        duration: of the clip, in seconds.
        size: height and width of the clip's own frames, in pixels; (0, 0) where the video is not read.
    """

    frames: Tensor | None
    audio: Tensor | None
    sample_rate: int
    fps: float
    has_audio: bool
    duration: float
    size: tuple[int, int]


def frame_indices(available: int, wanted: int) -> list[int]:
    """The mid-points of `wanted` equal segments of [0, available − 1], R1-Omni's choice of frames.

    Fewer frames than wanted repeat.
    """
    width = (available - 1) / wanted
    return [round((start * width + (start + 1) * width) / 2 + 1e-6) for start in range(wanted)]


def load_clip(
    source: str | Path | bytes, settings: MediaSettings = MediaSettings(), *, audio: str = "", record: str = ""
) -> Clip:
    """Decodes the frames and the audio of a clip.

    Args:
        source: the media file, a folder of frames, or a media file's content.
        settings: what is read.
        audio: a separate sound file; "" for the clip's own sound.
        record: the annotation that names the clip, for error messages.

    Raises:
        ClipError: a missing, unreadable or empty file, or one without a video stream.
    """
    path = source
    assert not isinstance(path, bytes)
    num_frames, size, sample_rate = settings.num_frames, settings.frame_size, settings.sample_rate
    origin = f" (from {record})" if record else ""
    if not Path(path).is_file():
        what = "is a folder, not a clip" if Path(path).is_dir() else "does not exist"
        raise ClipError(f"clip {str(path)!r}{origin} {what}: correct the path, or take the record out")
    try:
        if _is_cut_off(Path(path)):
            raise EOFError("the file ends within a box")
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ClipError(f"clip {str(path)!r}{origin} has no video stream: take the record out")
            frames, duration = _read_frames(container, num_frames)
        with av.open(str(path)) as container:
            sound = _read_audio(container, sample_rate) if container.streams.audio else None
    except (av.FFmpegError, OSError, EOFError) as error:
        raise ClipError(
            f"clip {str(path)!r}{origin} cannot be decoded ({error}): is the file complete? Fetch it again, or take "
            "the record out"
        ) from error
    if not frames:
        raise ClipError(f"clip {str(path)!r}{origin} holds no frames: fetch it again, or take the record out")
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)  # (T, 3, H, W)
    own = (pixels.shape[-2], pixels.shape[-1])
    if size is not None and own != tuple(size):
        pixels = video_functional.resize(pixels, list(size), antialias=True)
    length = round(min(duration, settings.max_seconds) * sample_rate)
    # AAC begins with priming samples and ends on a whole packet: the picture's duration is the truth.
    wave = torch.zeros(length)
    if sound is not None:
        wave[: len(sound)] = sound[:length]
    fps = num_frames / max(duration, 1e-6)
    return Clip(pixels.contiguous(), wave, sample_rate, fps, sound is not None, duration, own)


def _is_cut_off(path: Path) -> bool:
    """Whether an mp4 or mov file is shorter than its boxes say: FFmpeg may open it without its last track."""
    end, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position + 8 <= end:
            file.seek(position)
            size, kind = struct.unpack(">I4s", file.read(8))
            if position == 0 and kind != b"ftyp":
                return False  # another container
            if size == 1:  # the size follows in eight bytes
                size = int.from_bytes(file.read(8), "big")
            if size == 0:  # up to the end of the file
                return False
            position += max(size, 8)
    return position != end


def _read_frames(container: Any, num_frames: int) -> tuple[list[np.ndarray], float]:
    """The wanted frames as (H, W, 3) arrays and the duration in seconds; only wanted frames are converted."""
    stream = container.streams.video[0]
    available = stream.frames or sum(1 for _ in container.decode(stream))
    if not stream.frames:
        container.seek(0)
    wanted = frame_indices(max(available, 1), num_frames)
    kept: dict[int, np.ndarray] = {}
    last: np.ndarray | None = None
    end = 0.0
    for index, frame in enumerate(container.decode(stream)):
        end = index + 1
        if index in wanted:
            last = kept[index] = frame.to_ndarray(format="rgb24")
        if index >= wanted[-1] and stream.frames:
            break
    if last is None:
        return [], 0.0
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    duration = (available if stream.frames else end) / rate
    # A header may promise more frames than the file holds: the last real one stands in.
    return [kept.get(index, last) for index in wanted], duration


def _read_audio(container: Any, sample_rate: int) -> Tensor | None:
    """Mono audio at the wanted rate, (S,), or None for a track without a sample."""
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="fltp", layout="mono")
    pieces = [piece.to_ndarray()[0] for frame in container.decode(stream) for piece in resampler.resample(frame)]
    pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    if not pieces:
        return None
    wave = torch.from_numpy(np.concatenate(pieces))
    resampled: Tensor = audio_functional.resample(wave, stream.rate, sample_rate)
    return resampled
