"""Clips from files and folders of frames: the needed frames, and the audio as mono.

The decoders know files; here are the choice of frames, sizes, lengths, and what is said of a clip that cannot be used.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import torch
import torchvision.transforms.v2.functional as video_functional
from torch import Tensor

from erv_lightning.data import frame_folder, pyav_decoder, torchcodec_decoder
from erv_lightning.data.frame_folder import Folder
from erv_lightning.data.pyav_decoder import Contents, MediaFile, Track

MAX_BYTES = 4 * 2**30  # of a clip's frames before they are resized
RIFF = int.from_bytes(b"RIFF", "big")  # avi and wav
# What broken files make the libraries raise: the front turns it into one line about the clip.
BROKEN = (av.FFmpegError, OSError, EOFError, ValueError, RuntimeError, MemoryError, ArithmeticError, LookupError)


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
        decoder: ``auto`` is torchcodec where it and FFmpeg are installed, PyAV otherwise. Frames are the same, but PyAV
            refuses those that FFmpeg calls corrupt, which torchcodec patches up; and torchcodec is no faster here.
        video, audio: whether it is read at all.
    """

    num_frames: int = 8
    fps: float | None = None
    frame_size: tuple[int, int] | None = None
    max_pixels: int | None = None
    sample_rate: int = 16000
    max_seconds: float = 30.0
    folder_fps: float = 25.0
    decoder: Literal["auto", "torchcodec", "pyav"] = "pyav"
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
    source: str | Path | bytes, settings: MediaSettings = MediaSettings(), *, audio: str | bytes = "", record: str = ""
) -> Clip:
    """Decodes the frames and the audio of a clip.

    Args:
        source: the media file or a folder of frames; or the content of either, a folder's as a zip archive.
        settings: what is read.
        audio: a separate sound file, or its content; "" for the clip's own sound.
        record: the annotation that names the clip, for error messages.

    Raises:
        ClipError: a missing, unreadable, incomplete or empty file, or one without a video stream.
        ValueError: the decoder is not installed.
    """
    if settings.decoder == "torchcodec" and not torchcodec_decoder.installed():
        raise ValueError(
            "data.decoder: torchcodec cannot be imported: install erv-lightning[codec] and FFmpeg's shared libraries, "
            "or set data.decoder: pyav"
        )
    read = _Read()
    if settings.video or not audio:
        with _named(source, record):
            _read_source(source, settings, read, own_sound=not audio)
    if audio:
        read.has_audio = True
        if settings.audio or not read.duration:
            with _named(audio, record), _opened(audio) as (media, found):
                if found.sound is None:
                    raise ClipError("has no audio stream: correct the path, or take the record out")
                _read_sound(media, found, settings, read)
    wave = None
    if settings.audio:
        # AAC begins with priming samples and ends on a whole packet: the picture's duration is the truth.
        seconds = min(read.duration, settings.max_seconds)
        # float32 whatever torch's default is: half precision changes it, in the thread that decodes ahead too
        wave = torch.zeros(round(seconds * settings.sample_rate), dtype=torch.float32)
        if read.sound is not None:
            wave[: len(read.sound)] = read.sound[: len(wave)]
    fps = len(read.frames) / max(read.duration, 1e-6) if read.frames is not None else 0.0
    return Clip(read.frames, wave, settings.sample_rate, fps, read.has_audio, read.duration, read.size)


@dataclass
class _Read:
    """A clip while it is read: `Clip`'s fields, the sound not yet cut, `start` of the pictures in seconds if any."""

    frames: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    start: float | None = None
    duration: float = 0.0
    sound: Tensor | None = None
    has_audio: bool = False


@contextmanager
def _named(source: str | Path | bytes, record: str) -> Iterator[None]:
    """Turns whatever a broken file raises into one line that names it."""
    name = f"of {len(source)} bytes" if isinstance(source, bytes) else repr(str(source))
    origin = f" (from {record})" if record else ""
    try:
        yield
    except ClipError as error:
        raise ClipError(f"clip {name}{origin} {error}") from None
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ClipError(
            f"clip {name}{origin} cannot be decoded ({reason[:300]}): is the file complete? Fetch it again, or take "
            "the record out"
        ) from error


# -- files --------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[tuple[MediaFile, Contents]]:
    if not isinstance(source, bytes) and not Path(source).is_file():
        what = "is a folder, not a sound" if Path(source).is_dir() else "does not exist"
        raise ClipError(f"{what}: correct the path, or take the record out")
    if _is_cut_off(source):
        raise EOFError("the file ends within a box")
    with MediaFile(source) as media:
        yield media, pyav_decoder.scan(media)


def _is_cut_off(source: str | Path | bytes) -> bool:
    """Whether an mp4, mov, avi or wav file is shorter than its boxes say: FFmpeg may read it as a shorter clip."""
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        end, position = file.seek(0, io.SEEK_END), 0
        while position + 8 <= end:
            file.seek(position)
            size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if position == 0 and size == RIFF:
                length = int.from_bytes(kind, "little")
                return length < 2**32 - 2**16 and length + 8 > end  # written to a pipe, the length is left open
            if position == 0 and kind != b"ftyp":
                return False  # another container
            if size == 1:  # the size follows in eight bytes
                size = int.from_bytes(file.read(8), "big")
            if size == 0:  # up to the end of the file
                return False
            position += max(size, 8)
    return position != end


def _read_source(source: str | Path | bytes, settings: MediaSettings, read: _Read, own_sound: bool) -> None:
    """Pictures of a file or folder, and the file's own sound."""
    folder = frame_folder.of(source)
    if folder is not None:
        _read_folder(folder, settings, read)
        return
    with _opened(source) as (media, found):
        if settings.video or found.track is not None:
            _read_video(media, found.track, settings, read)
        elif found.sound is None:
            raise ClipError("has neither a video nor an audio stream: take the record out")
        if own_sound and found.sound is not None:
            read.has_audio = True
            if settings.audio or not read.duration:
                _read_sound(media, found, settings, read)


def _read_video(media: MediaFile, track: Track | None, settings: MediaSettings, read: _Read) -> None:
    if track is None:
        raise ClipError("has no video stream: take the record out")
    if not track.times:
        raise ClipError("holds no frames: fetch it again, or take the record out")
    read.start, read.duration = track.start, track.duration
    if not settings.video:
        return
    count = _frame_count(track.duration, settings)
    height, width = track.size
    if height * width * 3 * count > MAX_BYTES:
        raise ValueError(f"{count} frames of {width} x {height} pixels do not fit into memory")
    pixels = _read_pictures(media, track, lambda available: frame_indices(available, count), settings)
    read.size = (pixels.shape[-2], pixels.shape[-1])
    read.frames = _resized(pixels, settings)


def _read_pictures(
    media: MediaFile, track: Track, choose: Callable[[int], list[int]], settings: MediaSettings
) -> Tensor:
    """The chosen frames, uint8 (T, 3, H, W), channels last in memory, as they come: resizing is fastest so."""
    if settings.decoder != "pyav" and torchcodec_decoder.installed() and torchcodec_decoder.reads(track):
        try:
            return torchcodec_decoder.read_pictures(media.source, track, choose(len(track.times)))
        except BROKEN:
            pass  # what torchcodec refuses is PyAV's to read or to refuse: both decoders have the same clips
    frames = pyav_decoder.read_pictures(media, track, choose)
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError("its pictures change their size")
    return torch.stack([frame.permute(1, 2, 0) for frame in frames]).permute(0, 3, 1, 2)


def _frame_count(duration: float, settings: MediaSettings) -> int:
    if settings.fps is None:
        return settings.num_frames
    return min(max(round(duration * settings.fps), 1), settings.num_frames)


def _resized(pixels: Tensor, settings: MediaSettings) -> Tensor:
    """Frames (T, 3, H, W) at the wanted size, or scaled down to the pixel budget."""
    height, width = pixels.shape[-2:]
    wanted = settings.frame_size or (height, width)
    if settings.max_pixels is not None and wanted[0] * wanted[1] > settings.max_pixels:
        scale = (settings.max_pixels / (wanted[0] * wanted[1])) ** 0.5
        wanted = (max(int(wanted[0] * scale), 1), max(int(wanted[1] * scale), 1))
    if tuple(wanted) != (height, width):
        pixels = video_functional.resize(pixels, list(wanted), antialias=True)
    return pixels.contiguous()


def _read_sound(media: MediaFile, found: Contents, settings: MediaSettings, read: _Read) -> None:
    """The sound in step with the pictures of the same file; without pictures, the sound's duration is the clip's."""
    assert found.sound is not None
    limit = min(read.duration or settings.max_seconds, settings.max_seconds)
    start = read.start if read.start is not None and found.track is not None else None
    heard = pyav_decoder.read_sound(media, found.sound, settings.sample_rate, limit + max(start or 0.0, 0.0))
    if heard is None:
        read.has_audio = False
        return
    read.sound, begins = heard
    if not read.duration:
        own = len(read.sound) / settings.sample_rate
        read.duration = own if found.seconds <= limit else max(found.seconds, own)  # decoded whole, or a part
        return
    shift = begins - start if start is not None else 0.0
    if abs(shift) >= read.duration:
        raise ValueError(f"its sound begins {shift:.2f} s from its pictures, which last {read.duration:.2f} s")
    samples = round(shift * settings.sample_rate)
    read.sound = torch.cat([read.sound.new_zeros(samples), read.sound]) if samples > 0 else read.sound[-samples:]


def _read_folder(folder: Folder, settings: MediaSettings, read: _Read) -> None:
    """Pictures of a folder of frames."""
    paths = frame_folder.frames_in(folder)
    if not paths:
        raise ClipError("is a folder, and the folder holds no frames: correct the path, or take the record out")
    read.duration = len(paths) / settings.folder_fps
    if settings.video:
        pixels = frame_folder.read_pictures(paths, frame_indices(len(paths), _frame_count(read.duration, settings)))
        read.size = (pixels.shape[-2], pixels.shape[-1])
        read.frames = _resized(pixels, settings)
