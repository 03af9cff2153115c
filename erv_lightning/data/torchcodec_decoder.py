"""Reading pictures with torchcodec, where it and FFmpeg's shared libraries are installed.

It reads what it is known to read bit for bit like PyAV; `reads` says what. FFmpeg's versions differ in how they convert
pictures of an odd height and of more than eight bits. What torchcodec cannot do is tell a damaged picture: where PyAV
refuses a frame that FFmpeg flags as corrupt, torchcodec shows what FFmpeg patched it up with. The two are the same for
intact files; packets that the container itself flags are left to PyAV.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from erv_lightning.data.pyav_decoder import Track

CODECS = {"h264", "hevc", "vp8", "vp9", "libvpx-vp9", "av1", "libdav1d", "mpeg4", "mjpeg"}
PIXEL_FORMATS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}


@cache
def installed() -> bool:
    """Whether torchcodec can be imported: it needs FFmpeg's libraries, and raises RuntimeError without them."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def reads(track: Track) -> bool:
    """Whether torchcodec gives the same frames of this file as PyAV."""
    plain = track.codec in CODECS and track.pixel_format in PIXEL_FORMATS and track.size[0] % 2 == 0
    return plain and track.timed and track.intact


def read_pictures(source: str | Path | bytes, track: Track, wanted: list[int]) -> Tensor:
    """The wanted frames, uint8 (T, 3, H, W), upright.

    Raises:
        ValueError, RuntimeError: torchcodec counts other frames than `scan`, or cannot decode them.
    """
    from torchcodec.decoders import VideoDecoder

    name = source if isinstance(source, bytes) else str(source)
    decoder: Any = VideoDecoder(name, stream_index=track.stream, num_ffmpeg_threads=1)
    if len(decoder) != len(track.times):
        raise ValueError(f"torchcodec counts {len(decoder)} frames of {len(track.times)}")
    pixels: Tensor = decoder.get_frames_at(wanted).data
    return pixels
