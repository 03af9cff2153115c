"""Writing small mp4 files (H.264 + AAC) the same way every time. No torch in here: worker processes start fast."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
ByteArray = np.ndarray[Any, np.dtype[np.uint8]]

AAC_FRAME = 1024  # samples an AAC packet holds


def write_mp4(path: Path, frames: ByteArray, audio: FloatArray | None, fps: int, sample_rate: int) -> None:
    """Encodes a clip; the same input gives the same bytes, and a half-written file never bears the final name.

    Args:
        path: where to write.
        frames: (T, H, W, 3) uint8, H and W even.
        audio: (S,) float32 mono in [−1, 1]; None for a clip without an audio track.
        fps: frames per second.
        sample_rate: of the audio, in Hz.
    """
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        with av.open(str(unfinished), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            # One thread: how x264 splits a picture depends on the number of threads. No look-ahead (zerolatency): its
            # macroblock tree reads memory that nobody wrote, and the same pictures give other bytes each time.
            options = {"threads": "1", "crf": "20", "preset": "veryfast", "tune": "zerolatency"}
            video: Any = container.add_stream("libx264", rate=fps, options=options)
            video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
            video.codec_context.flags |= av.codec.context.Flags.bitexact
            sound: Any = None
            if audio is not None:
                sound = container.add_stream("aac", rate=sample_rate, layout="mono")
                sound.codec_context.flags |= av.codec.context.Flags.bitexact
            for image in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(video.encode(None))
            if audio is not None:
                _encode_audio(container, sound, audio, sample_rate)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _encode_audio(container: Any, stream: Any, audio: FloatArray, sample_rate: int) -> None:
    for start in range(0, len(audio), AAC_FRAME):
        piece = np.ascontiguousarray(audio[None, start : start + AAC_FRAME], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
