"""Where the page finds the clips: beside it, copied, within it, or why not. Converts what browsers cannot play.

A clip that cannot be shown never stops the report: it says why in words. torch is imported only to convert.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import av

WAYS = ("link", "copy", "embed", "none")
Way = Literal["link", "copy", "embed", "none"]

MOST_BYTES = 200 * 2**20
"""Of all clips within a page, before base64 makes them a third longer; browsers read larger pages slowly or not."""

PLAYED = {".mp4", ".m4v", ".mov", ".webm", ".ogv", ".ogg", ".mp3", ".m4a", ".aac", ".wav", ".flac", ".opus"}
"""Endings of files that browsers know."""

_VIDEO = {"h264", "vp8", "vp9", "av1", "libdav1d", "theora"}
_AUDIO = {"aac", "mp3", "mp3float", "opus", "vorbis", "flac", "pcm_s16le"}
_PIXELS = {"yuv420p", "yuvj420p"}
# What a converted clip has at most: it is to be looked at, not learnt from.
_FPS, _SECONDS, _PIXEL_LIMIT, _SAMPLE_RATE = 12, 60, 640 * 360, 44_100


@dataclass(frozen=True)
class Clip:
    """A clip as the page has it.

    Attributes:
        path: as the run named it.
        src: address relative to the page, ``media:K`` for a piece of the page; None if it cannot be played.
        why: not, in words; "" if it can.
    """

    path: str
    src: str | None
    why: str = ""


@dataclass(frozen=True)
class Medium:
    """A clip within the page: its number, media type and content in base64."""

    key: int
    type: str
    content: str


def place(
    paths: Sequence[str], way: Way, page: Path, told: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Clip], list[Medium]]:
    """Says for each clip where the page finds it, and puts it there.

    Args:
        paths: as runs named them, relative to the working directory or absolute.
        way: ``link`` where it lies; ``copy`` into a folder beside the page; ``embed`` into the page; ``none``.
        page: the file that the page will be.
        told: is told how many clips are done, and how many there are.

    Raises:
        OSError: a clip cannot be copied beside the page.
    """
    clips, media, size = [], list[Medium](), 0
    for number, path in enumerate(paths, start=1):
        why = _absent(path, way)
        if why:
            clips.append(Clip(path, None, why))
        elif way == "link":
            clips.append(Clip(path, _address(Path(path), page)))
        elif way == "copy":
            clips.append(_copied(path, page))
        else:
            clip, medium = _embedded(path, len(media), MOST_BYTES - size)
            clips.append(clip)
            if medium is not None:
                media.append(medium)
                size += len(medium.content) * 3 // 4
        told(number, len(paths))
    return clips, media


def _absent(path: str, way: Way) -> str:
    """Why a clip cannot be had in this way; "" if it can."""
    if way == "none":
        return "the report was made without clips"
    if not path:
        return "the row names no clip"
    if "://" in path:
        return f"it lies in object storage, {path.partition('://')[0]}: fetch it, the page reads files only"
    if not os.path.exists(path):
        return "the file is not there: run the report where the run ran, its paths are relative to that folder"
    if way != "link":
        return ""
    if os.path.isdir(path):
        return "it is a folder of frames, which browsers do not play: --clips copy makes a video of it"
    ending = Path(path).suffix.lower()
    return "" if ending in PLAYED else f"browsers do not play {ending or 'such'} files: --clips copy converts it"


def _address(file: Path, page: Path) -> str:
    """The file's address relative to the page, for a browser."""
    relative = os.path.relpath(os.path.abspath(file), os.path.dirname(os.path.abspath(page)))
    return quote(Path(relative).as_posix(), safe="/")


# -- copies -------------------------------------------------------------------------------------------------------


def _copied(path: str, page: Path) -> Clip:
    folder = page.with_name(f"{page.stem}_clips")
    folder.mkdir(parents=True, exist_ok=True)
    why = _unplayable(path)
    # the whole path tells two clips of one name apart, and the same clip gets the same name again
    mark = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(path).stem)[:80] or "clip"
    copy = folder / f"{stem}-{mark}{'.mp4' if why else Path(path).suffix.lower()}"
    if not (copy.is_file() and copy.stat().st_mtime >= os.stat(path).st_mtime):
        if not why:
            unfinished = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
            try:
                shutil.copy2(path, unfinished)
                unfinished.replace(copy)  # half a copy never bears the name that the page knows
            finally:
                unfinished.unlink(missing_ok=True)
        elif failed := _convert(path, copy):
            return Clip(path, None, f"{why}, and {failed}")
    return Clip(path, _address(copy, page))


def _embedded(path: str, key: int, room: int) -> tuple[Clip, Medium | None]:
    too_much = f"the page would hold more than {MOST_BYTES // 2**20} MB of clips: take --clips copy"
    why = _unplayable(path)
    if not why:
        if os.stat(path).st_size > room:
            return Clip(path, None, too_much), None
        content, kind = Path(path).read_bytes(), mimetypes.guess_type(path)[0] or "video/mp4"
    else:
        with tempfile.TemporaryDirectory() as folder:
            converted = Path(folder) / "clip.mp4"
            if failed := _convert(path, converted):
                return Clip(path, None, f"{why}, and {failed}"), None
            content, kind = converted.read_bytes(), "video/mp4"
        if len(content) > room:
            return Clip(path, None, too_much), None
    return Clip(path, f"media:{key}"), Medium(key, kind, base64.b64encode(content).decode("ascii"))


# -- what browsers play -------------------------------------------------------------------------------------------


def _unplayable(path: str) -> str:
    """Why browsers do not play a file or folder, "" if they do."""
    if os.path.isdir(path):
        return "it is a folder of frames, which browsers do not play"
    ending = Path(path).suffix.lower()
    if ending not in PLAYED:
        return f"browsers do not play {ending or 'such'} files"
    try:
        with av.open(path) as container:
            video, audio = container.streams.video[:1], container.streams.audio[:1]
            codecs = [(one.codec_context.name, _VIDEO) for one in video]
            codecs += [(one.codec_context.name, _AUDIO) for one in audio]
            strange = [name for name, known in codecs if name not in known]
            pixels = [one.codec_context.pix_fmt for one in video if one.codec_context.pix_fmt not in _PIXELS]
    except (av.FFmpegError, OSError, ValueError, AttributeError) as error:
        return f"the file cannot be read ({' '.join(str(error).split())[:120]})"
    return f"browsers do not play {(strange + pixels)[0]}" if strange or pixels else ""


def _convert(path: str, to: Path) -> str:
    """Writes a clip as H.264 and AAC; returns why it cannot be done, "" where it was."""
    from erv_lightning.data.encode import write_mp4
    from erv_lightning.data.media import ClipError, MediaSettings, load_clip

    settings = MediaSettings(
        num_frames=_FPS * _SECONDS,
        fps=_FPS,
        max_pixels=_PIXEL_LIMIT,
        sample_rate=_SAMPLE_RATE,
        max_seconds=_SECONDS,
    )
    try:
        clip = load_clip(path, settings)
    except ClipError as error:
        return f"it cannot be converted: {' '.join(str(error).split())}"
    if clip.duration > _SECONDS:
        return f"it is longer than {_SECONDS} s, too long to be converted here"
    if clip.frames is None or clip.frames.shape[-1] < 2 or clip.frames.shape[-2] < 2:
        return "it has no picture"
    height, width = (size // 2 * 2 for size in clip.frames.shape[-2:])  # H.264 wants even sizes
    frames = clip.frames[:, :, :height, :width].permute(0, 2, 3, 1).contiguous().numpy()
    sound = clip.audio.numpy() if clip.has_audio and clip.audio is not None else None
    write_mp4(to, frames, sound, _FPS, _SAMPLE_RATE)
    return ""
