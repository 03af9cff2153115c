"""PyAV and torchcodec show the same frames of each kind of file, and neither decodes more than it has to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from erv_lightning.data import pyav_decoder, torchcodec_decoder
from erv_lightning.data.media import MediaSettings, frame_indices, load_clip
from erv_lightning.data.pyav_decoder import MediaFile

PYAV = MediaSettings(num_frames=5, decoder="pyav")


@pytest.fixture
def both() -> None:
    if not torchcodec_decoder.installed():
        assert not os.environ.get("CI"), "torchcodec and FFmpeg's shared libraries have to be installed in CI"
        pytest.skip("torchcodec or FFmpeg's shared libraries are not installed")


def pictures(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A bright square that wanders over coloured noise."""
    ground = np.random.default_rng(0).integers(0, 200, (height, width, 3)).astype(np.uint8)
    for index in range(count):
        image = ground.copy()
        image[index % height :, : 1 + index % width] = (255, 10 * index % 256, 0)
        yield image


def write(
    path: Path, *, codec: str = "libx264", pixels: str = "yuv420p", size: tuple[int, int] = (48, 64), count: int = 20,
    rate: int = 10, times: list[int] | None = None, setup: Callable[[Any], object] | None = None,
    options: dict[str, str] | None = None, container: str | None = None, sound: bool = False,
) -> Path:  # fmt: skip
    with av.open(str(path), "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        voice: Any = output.add_stream("aac", rate=44100, layout="stereo") if sound else None
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if setup:
            setup(stream)
        for index, image in enumerate(pictures(count, *size)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for start in range(0, 44100 * count // rate if sound else 0, 1024):
            tone = 0.3 * np.sin(np.arange(start, start + 1024) / [[9], [13]])
            piece = av.AudioFrame.from_ndarray(tone.astype(np.float32), format="fltp", layout="stereo")
            piece.sample_rate, piece.pts = 44100, start
            output.mux(voice.encode(piece))
        if sound:
            output.mux(voice.encode(None))
    return path


VARIED = [0, 40, 80, 500, 510, 520, 900, 1400, 1410, 1500, 2000, 2100, 2150, 2160, 2170, 2500, 2600, 2700, 2900, 3000]
KINDS: dict[str, dict[str, Any]] = {
    "h264": {"sound": True},
    "narrow": {"size": (50, 70)},
    "full range": {"pixels": "yuvj420p"},
    "4:2:2": {"pixels": "yuv422p"},
    "4:4:4, odd": {"pixels": "yuv444p", "size": (47, 65)},
    "odd": {"codec": "mpeg4", "size": (47, 65), "suffix": "mkv"},
    "odd width": {"codec": "mpeg4", "size": (48, 65), "suffix": "mkv"},
    "10 bits": {"pixels": "yuv420p10le"},
    "mjpeg": {"codec": "mjpeg", "pixels": "yuvj420p", "suffix": "avi"},
    "ffv1": {"codec": "ffv1", "suffix": "mkv"},
    "vp9": {"codec": "libvpx-vp9", "suffix": "webm"},
    "mpeg4 in avi": {"codec": "mpeg4", "suffix": "avi"},
    "transport stream": {"suffix": "ts", "sound": True},
    "short groups": {"count": 90, "options": {"g": "12", "bf": "3", "sc_threshold": "0"}},
    "open groups": {"count": 90, "options": {"x264-params": "keyint=20:open-gop=1:bframes=3:scenecut=0"}},
    "variable rate": {"times": VARIED},
    "late start": {"times": [time + 700 for time in VARIED], "suffix": "mkv"},
    "one frame": {"count": 1},
    "rotated": {"setup": lambda stream: stream.set_display_rotation(90)},
    "rotated back": {"setup": lambda stream: stream.set_display_rotation(-90)},
    "upside down": {"setup": lambda stream: stream.set_display_rotation(180)},
    "bt709": {"setup": lambda stream: setattr(stream.codec_context, "colorspace", 1)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_both_decoders_give_the_same_frames_and_the_same_sound(tmp_path: Path, both: None, kind: str) -> None:
    how = dict(KINDS[kind])
    path = write(tmp_path / f"clip.{how.pop('suffix', 'mp4')}", **how)
    for count in (1, 5, 40):
        one = load_clip(path, replace(PYAV, num_frames=count))
        other = load_clip(path, replace(PYAV, num_frames=count, decoder="torchcodec"))
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.audio, other.audio)
        assert (one.duration, one.size, one.has_audio) == (other.duration, other.size, other.has_audio)


@pytest.mark.parametrize("kind", ["h264", "narrow", "full range", "short groups", "variable rate", "rotated", "vp9"])
def test_torchcodec_itself_reads_the_usual_kinds_to_the_bit(tmp_path: Path, both: None, kind: str) -> None:
    how = dict(KINDS[kind])
    path = write(tmp_path / f"clip.{how.pop('suffix', 'mp4')}", **how)
    with MediaFile(path) as media:
        track = pyav_decoder.scan(media).track
        assert track is not None
        assert torchcodec_decoder.reads(track)
        wanted = list(range(len(track.times)))
        theirs = torchcodec_decoder.read_pictures(path, track, wanted)
        assert torch.equal(theirs, torch.stack(pyav_decoder.read_pictures(media, track, lambda _: wanted)))


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_a_decoder_that_decodes_all(tmp_path: Path, kind: str) -> None:
    how = dict(KINDS[kind])
    path = write(tmp_path / f"clip.{how.pop('suffix', 'mp4')}", **how)
    with av.open(str(path)) as container:
        every = [
            np.rot90(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"), round(frame.rotation / 90))
            for frame in container.decode(video=0)
        ]
    clip = load_clip(path, PYAV)
    wanted = np.stack([every[index] for index in frame_indices(len(every), 5)])
    assert np.array_equal(clip.frames.permute(0, 2, 3, 1).numpy(), wanted)


def test_sound_that_begins_before_the_pictures_is_in_step_with_them(tmp_path: Path) -> None:
    path = write(tmp_path / "late.mkv", times=[time + 700 for time in VARIED], sound=True)
    whole = load_clip(path, MediaSettings(num_frames=1, decoder="pyav")).audio
    with MediaFile(path) as media:
        alone = pyav_decoder.read_sound(media, 1, 16000, 30.0)
    assert alone is not None
    heard = alone[0][round((0.7 - alone[1]) * 16000) :]
    assert torch.equal(whole[: min(len(heard), len(whole))], heard[: len(whole)])


def test_torchcodec_is_refused_in_words_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "clip.mp4")
    monkeypatch.setattr(torchcodec_decoder, "installed", lambda: False)
    with pytest.raises(ValueError, match=r"data\.decoder: pyav"):
        load_clip(path, MediaSettings(decoder="torchcodec"))
    assert torch.equal(load_clip(path, MediaSettings()).frames, load_clip(path, MediaSettings(decoder="pyav")).frames)


def test_a_rotated_clip_is_upright(tmp_path: Path) -> None:
    # as in `write_mp4`: otherwise x264 may give other bytes for the same pictures
    same = {"threads": "1", "tune": "zerolatency"}
    lying = load_clip(write(tmp_path / "lying.mp4", options=same), PYAV)
    turned = write(tmp_path / "clip.mp4", setup=lambda stream: stream.set_display_rotation(90), options=same)
    clip = load_clip(turned, PYAV)
    assert clip.size == (64, 48)
    assert torch.equal(clip.frames, torch.rot90(lying.frames, 1, (2, 3)))


def test_frames_a_second_are_those_of_the_whole_clip_up_to_the_cap(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", count=40)  # four seconds
    every = load_clip(path, replace(PYAV, num_frames=40)).frames
    for fps, cap, count in ((2.0, 100, 8), (2.0, 5, 5), (0.1, 5, 1), (30.0, 16, 16)):
        clip = load_clip(path, replace(PYAV, fps=fps, num_frames=cap))
        assert torch.equal(clip.frames, every[frame_indices(40, count)])
        assert clip.fps == count / 4


def test_large_frames_are_scaled_into_the_pixel_budget(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", size=(90, 160))
    for budget in (100, 3000, 90 * 160):
        clip = load_clip(path, replace(PYAV, max_pixels=budget))
        height, width = clip.frames.shape[-2:]
        assert height * width <= budget
        assert clip.size == (90, 160)
        assert width / height == pytest.approx(16 / 9, rel=0.15)
    assert load_clip(path, replace(PYAV, max_pixels=10**6)).frames.shape[-2:] == (90, 160)


def test_frames_of_a_variable_rate_are_counted_and_the_duration_is_by_the_clock(tmp_path: Path) -> None:
    clip = load_clip(write(tmp_path / "clip.mp4", times=VARIED), PYAV)
    assert 3.0 <= clip.duration < 3.3


# -- only what is needed ------------------------------------------------------------------------------------------


def test_few_frames_of_ten_minutes_decode_few_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"g": "25", "preset": "ultrafast"}
    path = write(tmp_path / "long.mp4", count=3000, rate=5, options=options, sound=False)
    decoded = count_frames(monkeypatch)
    clip = load_clip(path, MediaSettings(num_frames=8, decoder="pyav"))
    assert clip.duration == pytest.approx(600)
    assert clip.frames.shape == (8, 3, 48, 64)
    assert clip.audio.shape == (30 * 16000,)
    assert len(decoded) <= 8 * 26


def test_neighbouring_frames_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "clip.mp4", count=60, options={"g": "5"})
    decoded = count_frames(monkeypatch)
    load_clip(path, MediaSettings(num_frames=60, decoder="pyav"))
    assert len(decoded) == 60


def test_pictures_are_not_decoded_where_they_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "clip.mp4", sound=True)
    decoded = count_frames(monkeypatch)
    clip = load_clip(path, MediaSettings(video=False, decoder="pyav"))
    assert clip.frames is None
    assert not decoded
    assert torch.equal(clip.audio, load_clip(path, PYAV).audio)


def count_frames(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    own = pyav_decoder.decoded

    def counted(container: Any, stream: Any) -> Iterator[Any]:
        for frame in own(container, stream):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(pyav_decoder, "decoded", counted)
    return seen
