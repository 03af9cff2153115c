"""Reading media files with PyAV, whose wheel brings FFmpeg along: what a file holds, its pictures, its sound.

`scan` reads packets without decoding them; both decoders pick their frames from what it found. Sound is always read
here: FFmpeg's AAC decoder gives other last bits in each version, and a clip sounds the same whatever reads its
pictures.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torchaudio.transforms import Resample

MAX_PIXELS = 64 * 2**20  # of a picture; more is a broken header
MAX_KERNEL = 2**24  # elements of a resampling kernel: rates without a common divisor ask for gigabytes
WORTH_A_SEEK = 16  # frames skipped; decoding fewer costs less than a seek and a decoder that starts anew
# Their duration is FFmpeg's guess from the bit rate, and no promise of the file.
GUESSED_DURATION = {"mp3", "aac", "ac3", "h264", "hevc", "m4v", "mpegvideo", "mjpeg"}


@dataclass
class Track:
    """The pictures of a file.

    Attributes:
        stream: its number in the file.
        times: presentation time of each frame, in order, in units of `time_base` seconds.
        keys: (presentation time, decoding time) of the frames that decoding can start at, in order.
        timed: whether the times tell the frames apart.
        intact: whether all packets are whole and decoding starts at a key frame.
        start, duration: in seconds.
    """

    stream: int
    times: list[int]
    keys: list[tuple[int, int]]
    timed: bool
    intact: bool
    start: float
    duration: float
    codec: str
    pixel_format: str
    size: tuple[int, int]


@dataclass
class Contents:
    """What a file holds: its pictures, the number of its sound stream, and the sound's length in seconds."""

    track: Track | None
    sound: int | None
    seconds: float


class MediaFile:
    """A file, or a media file's content, opened once for several passes: opening decodes frames to know the streams."""

    def __init__(self, source: str | Path | bytes) -> None:
        self.source = source
        self._container: Any = None

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._container is not None:
            self._container.close()

    def opened(self) -> Any:
        """The container, newly opened."""
        self.__exit__()
        self._container = av.open(io.BytesIO(self.source) if isinstance(self.source, bytes) else str(self.source))
        return self._container

    def rewound(self, stream: int) -> Any:
        """The container at the stream's first packet. Only of mp4's kin is it known that going back is like opening."""
        container = self._container
        if container is None or "mp4" not in container.format.name.split(","):
            return self.opened()
        container.seek(-(2**40), stream=container.streams[stream])
        return container


def scan(media: MediaFile) -> Contents:
    """Reads all packets, none decoded.

    Raises:
        EOFError: the file ends before its header says.
    """
    container = media.opened()
    videos = [stream for stream in container.streams.video if not _is_cover(stream)]
    streams = [*videos[:1], *container.streams.audio[:1]]
    unknown = [stream.index for stream in streams if stream.codec_context is None]
    if unknown:
        raise ValueError(f"no decoder for its stream {unknown[0]}")
    packets: dict[int, list[Any]] = {stream.index: [] for stream in streams}
    for packet in container.demux(streams) if streams else ():
        if packet.size and not packet.is_discard:
            when = packet.dts if packet.pts is None else packet.pts
            facts = (when, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_corrupt)
            packets[packet.stream.index].append(facts)
    _check_end(container, streams, packets)
    track = _track(videos[0], packets[videos[0].index]) if videos else None
    sounds = container.streams.audio[:1]
    seconds = _span(packets[sounds[0].index], sounds[0]) if sounds else 0.0
    return Contents(track, sounds[0].index if sounds else None, seconds)


def _is_cover(stream: Any) -> bool:
    """Whether the stream is a song's cover and no video."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _end(packets: list[Any]) -> int:
    return max((when + length for when, _, length, _, _ in packets if when is not None), default=0)


def _span(packets: list[Any], stream: Any) -> float:
    start = min((when for when, *_ in packets if when is not None), default=0)
    return float((_end(packets) - start) * stream.time_base)


def _check_end(container: Any, streams: list[Any], packets: dict[int, list[Any]]) -> None:
    """A file that stops before its header's duration was cut off, whatever its container."""
    if not container.duration or container.format.name in GUESSED_DURATION:
        return
    promised = container.duration / av.time_base
    # Matroska counts its duration from zero, others from the first packet: the later end is the lenient one.
    start = min((container.start_time or 0) / av.time_base, 0.0)
    # A stream without times (raw video in an odd container) cannot be judged.
    ends = [float(_end(packets[s.index]) * s.time_base) - start for s in streams if _end(packets[s.index])]
    if ends and max(ends) < promised - max(0.5, 0.05 * promised):
        raise EOFError(f"it ends after {max(ends):.2f} of {promised:.2f} s")


def _track(stream: Any, packets: list[Any]) -> Track:
    context = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise ValueError(f"its pictures would be {context.width} x {context.height} pixels")
    times = [packet[0] for packet in packets]
    timed = None not in times and len(set(times)) == len(times)
    whole = bool(packets) and not any(packet[4] for packet in packets)
    if timed:
        packets = sorted(packets, key=lambda packet: packet[0])
        times.sort()
    keys = [(when, when if dts is None else dts) for when, dts, _, key, _ in packets if key and when is not None]
    starts_at_key = bool(packets) and packets[0][3]
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    duration = len(packets) / rate
    if timed and packets:
        # Frames may have any distance from one another: the last one's length is told, or the average.
        last = packets[-1][2] or 1 / rate / float(stream.time_base)
        duration = float((times[-1] - times[0] + last) * stream.time_base)
    start = float(times[0] * stream.time_base) if timed and times else 0.0
    if not 0 <= duration < 1e6:
        raise ValueError(f"its pictures would last {duration:.3g} s")
    return Track(
        stream.index, times, keys, timed, whole and starts_at_key, start, duration, context.name,
        context.pix_fmt or "", (context.height, context.width),
    )  # fmt: skip


# -- pictures -----------------------------------------------------------------------------------------------------


def read_pictures(media: MediaFile, track: Track, choose: Callable[[int], list[int]]) -> list[Tensor]:
    """The chosen frames, each uint8 (3, H, W), upright.

    Args:
        media: the file.
        track: of `scan`.
        choose: positions of the wanted frames among so many.

    Raises:
        ValueError: frames that are corrupt or missing.
    """
    wanted = choose(len(track.times))
    if track.timed:
        found = _read_by_time(media, track, sorted({track.times[index] for index in wanted}))
        if found is not None:
            return [found[track.times[index]] for index in wanted]
    # Packets without times, or that are not a frame each (DivX's packed pairs): what the decoder gives, counted.
    count = sum(1 for _ in _all_frames(media, track))
    if count < 0.9 * len(track.times):
        raise ValueError(f"only {count} of {len(track.times)} frames can be decoded")
    wanted = choose(count)
    kept = {i: _picture(frame) for i, frame in enumerate(_all_frames(media, track)) if i in set(wanted)}
    return [kept[index] for index in wanted]


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames from where the container stands."""
    yield from container.decode(stream)


def _prepare(container: Any, track: Track) -> Any:
    stream = container.streams[track.stream]
    # Data workers share the cores already. A picture of absurd size is refused before memory is asked for.
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _all_frames(media: MediaFile, track: Track) -> Iterator[Any]:
    container = media.opened()
    yield from decoded(container, _prepare(container, track))


def _read_by_time(media: MediaFile, track: Track, times: list[int]) -> dict[int, Tensor] | None:
    """Frames by presentation time; None where one does not come out, or comes out corrupt after a seek."""
    found: dict[int, Tensor] = {}
    sought = False
    container = media.rewound(track.stream)
    stream = _prepare(container, track)
    frames, key_times = decoded(container, stream), [when for when, _ in track.keys]
    position = 0  # of the frame that decoding goes on from
    for time in times:
        key = bisect_right(key_times, time) - 1
        if key >= 0 and bisect_right(track.times, key_times[key]) - 1 - position >= WORTH_A_SEEK:
            container.seek(track.keys[key][1], stream=stream)  # by decoding time: mp4's index is sorted by it
            frames, sought = decoded(container, stream), True
        frame = next((frame for frame in frames if frame.pts is None or frame.pts >= time), None)
        if frame is None or frame.pts != time or (sought and frame.is_corrupt):
            return None
        found[time] = _picture(frame)
        position = bisect_right(track.times, time)
    return found


def _picture(frame: Any) -> Tensor:
    if frame.is_corrupt:
        raise ValueError(f"the frame at {frame.time} s is corrupt")
    # Bicubic, as torchcodec converts pictures of an odd height; those of an even one need no interpolation.
    converted = av.video.reformatter.VideoReformatter().reformat(
        frame, format="rgb24", interpolation="BICUBIC", threads=1
    )
    pixels = torch.from_numpy(converted.to_ndarray()).permute(2, 0, 1)
    turns = round(frame.rotation / 90) % 4
    return torch.rot90(pixels, turns, (1, 2)) if turns else pixels


# -- sound --------------------------------------------------------------------------------------------------------


def read_sound(media: MediaFile, stream: int, sample_rate: int, seconds: float) -> tuple[Tensor, float] | None:
    """The first `seconds` (or more) of a sound, (S,) at `sample_rate`, and its start in seconds; None: no sample."""
    pieces: list[Any] = []  # each (channels, S)
    resampler = av.AudioResampler(format="fltp")
    rate, start, heard = 0, 0.0, 0
    container = media.rewound(stream)
    for frame in container.decode(container.streams[stream]):
        if frame.is_corrupt:
            raise ValueError(f"the sound at {frame.time} s is corrupt")
        if not rate:
            rate, start = frame.sample_rate, frame.time or 0.0
        elif rate != frame.sample_rate:
            raise ValueError(f"its sound changes from {rate} to {frame.sample_rate} Hz")
        for piece in [frame] if frame.format.name == "fltp" else resampler.resample(frame):
            pieces.append(piece.to_ndarray())
            heard += pieces[-1].shape[1]
        if heard >= (seconds + 0.1) * rate:  # beyond the cut, so that the resampling filter does not see it
            break
    if not pieces:
        return None
    if len({len(piece) for piece in pieces}) > 1:
        raise ValueError("its sound changes its number of channels")
    return _resample(torch.from_numpy(np.concatenate(pieces, axis=1)).mean(0), rate, sample_rate), start


def _resample(wave: Tensor, rate: int, sample_rate: int) -> Tensor:
    divisor = math.gcd(rate, sample_rate)
    if (rate // divisor) * (sample_rate // divisor) > MAX_KERNEL:
        raise ValueError(f"its sound would have {rate} Hz")
    if not bool(wave.isfinite().all()):
        raise ValueError("its sound holds values that are no numbers")
    resampled: Tensor = _resampler(rate, sample_rate)(wave)
    return resampled.clamp(-1, 1)


@lru_cache(maxsize=16)
def _resampler(rate: int, sample_rate: int) -> Any:
    """With its kernel, which takes longer to make than a short clip to resample."""
    return Resample(rate, sample_rate, dtype=torch.float32)
