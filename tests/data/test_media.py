from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erv_lightning.data.encode import write_mp4
from erv_lightning.data.media import ClipError, MediaSettings, frame_indices, load_clip
from erv_lightning.data.readers import SyntheticClips

RAMP = [20 * index for index in range(12)]  # grey of each frame of `ramp_clip`


def brightness(path: Path, num_frames: int) -> list[int]:
    """The index of each loaded frame, read from its grey."""
    frames = load_clip(path, MediaSettings(num_frames=num_frames)).frames
    return [round(float(frame.float().mean()) / 20) for frame in frames]


def write_audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# -- what is loaded -----------------------------------------------------------------------------------------------


def test_a_clip_has_its_frames_sound_and_rates(ramp_clip: Path) -> None:
    clip = load_clip(ramp_clip, MediaSettings(num_frames=4, frame_size=(16, 24)))
    assert clip.frames.shape == (4, 3, 16, 24)
    assert clip.frames.dtype == torch.uint8
    assert clip.audio.shape == (16000,)
    assert clip.audio.dtype == torch.float32
    assert (clip.sample_rate, clip.fps, clip.has_audio) == (16000, 4.0, True)
    assert load_clip(ramp_clip, MediaSettings(num_frames=1)).frames.shape == (1, 3, 32, 48)


def test_decoded_sound_is_the_sound_that_was_written(ramp_clip: Path) -> None:
    # in step to the sample: AAC's priming samples must not delay it
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    inner = slice(2048, -2048)
    heard = load_clip(ramp_clip, MediaSettings(num_frames=1)).audio.numpy()
    assert np.abs(heard - wanted)[inner].max() < 0.02


def test_sound_is_resampled_cut_and_padded_to_the_pictures_duration(tmp_path: Path, ramp_clip: Path) -> None:
    assert load_clip(ramp_clip, MediaSettings(num_frames=1, sample_rate=8000)).audio.shape == (8000,)
    assert load_clip(ramp_clip, MediaSettings(num_frames=1, max_seconds=0.25)).audio.shape == (4000,)
    frames = np.zeros((24, 16, 16, 3), np.uint8)
    for seconds in (0.5, 3.0):
        tone = np.full(round(16000 * seconds), 0.25, np.float32)
        write_mp4(tmp_path / "tone.mp4", frames, tone, 12, 16000)
        assert load_clip(tmp_path / "tone.mp4", MediaSettings(num_frames=2)).audio.shape == (32000,)


def test_a_clip_without_an_audio_track_is_silent_and_says_so(tmp_path: Path) -> None:
    write_mp4(tmp_path / "mute.mp4", np.zeros((6, 16, 16, 3), np.uint8), None, 12, 16000)
    clip = load_clip(tmp_path / "mute.mp4", MediaSettings(num_frames=2))
    assert not clip.has_audio
    assert clip.audio.shape == (8000,)
    assert not clip.audio.any()


# -- which frames -------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.integers(1, 64))
def test_frame_indices_are_the_mid_points_of_equal_segments(available: int, wanted: int) -> None:
    segment = float(available - 1) / wanted
    expected = []
    for number in range(wanted):
        start, end = segment * number, segment * (number + 1)
        expected.append(round((start + end) / 2 + 1e-6))
    assert frame_indices(available, wanted) == pytest.approx(expected)
    assert all(0 <= index < available for index in expected)


def test_frame_indices_by_hand() -> None:
    assert frame_indices(12, 4) == [1, 4, 7, 10]
    assert frame_indices(1, 3) == [0, 0, 0]
    assert frame_indices(100, 1) == [50]


@pytest.mark.parametrize("num_frames", [1, 4, 5, 12])
def test_the_chosen_frames_are_loaded_in_order(ramp_clip: Path, num_frames: int) -> None:
    assert brightness(ramp_clip, num_frames) == frame_indices(12, num_frames)


def test_a_clip_with_fewer_frames_than_wanted_repeats_them(ramp_clip: Path) -> None:
    loaded = brightness(ramp_clip, 30)
    assert loaded == frame_indices(12, 30)
    assert len(loaded) == 30


@pytest.mark.parametrize("suffix", ["mkv", "avi", "ts"])
def test_containers_that_do_not_tell_their_number_of_frames_give_the_same_frames(
    ramp_clip: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"ramp.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if suffix == "avi" else "libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for grey in RAMP:
            picture = np.full((32, 48, 3), grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert brightness(path, 4) == frame_indices(12, 4)


# -- what is refused ----------------------------------------------------------------------------------------------


def truncate(path: Path, source: Path) -> None:
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BAD_CLIPS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "missing": (lambda path, source: None, "does not exist"),
    "empty": (lambda path, source: path.write_bytes(b""), "cannot be decoded"),
    "truncated": (truncate, "cannot be decoded"),
    "text": (lambda path, source: path.write_text("Is this a clip?\n" * 20), "cannot be decoded"),
    "folder": (lambda path, source: path.mkdir(), "is a folder"),
    "audio only": (lambda path, source: write_audio_only(path), "no video stream"),
}


@pytest.mark.parametrize("what", BAD_CLIPS)
def test_a_bad_clip_is_one_line_with_its_path_its_record_and_the_way_out(
    tmp_path: Path, ramp_clip: Path, what: str
) -> None:
    make, said = BAD_CLIPS[what]
    path = tmp_path / "bad.mp4"
    make(path, ramp_clip)
    with pytest.raises(ClipError) as caught:
        load_clip(path, MediaSettings(num_frames=4, frame_size=(16, 16)), record="train.jsonl:12")
    message = str(caught.value)
    assert said in message
    assert str(path) in message
    assert "train.jsonl:12" in message
    assert "take the record out" in message
    assert "\n" not in message


def test_a_clip_cut_off_within_its_index_is_refused(tmp_path: Path, ramp_clip: Path) -> None:
    content = ramp_clip.read_bytes()
    second_track = content.rindex(b"trak")  # the index stands at the file's end, the audio track last in it
    (tmp_path / "cut.mp4").write_bytes(content[: second_track + 4])
    with pytest.raises(ClipError):
        load_clip(tmp_path / "cut.mp4", MediaSettings(num_frames=1))


def test_an_unreadable_clip_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"nowhere\.mp4' does not exist"):
        load_clip(tmp_path / "nowhere.mp4", MediaSettings(num_frames=1))


# -- writing ------------------------------------------------------------------------------------------------------


def test_the_same_pictures_and_sound_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    sound = rng.normal(0, 0.1, 8000).astype(np.float32)
    written = []
    for name in ("one.mp4", "other.mp4"):
        write_mp4(tmp_path / name, frames, sound, 10, 16000)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_a_clip_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    odd = np.zeros((3, 17, 17, 3), np.uint8)  # H.264 refuses odd sides
    with pytest.raises(av.FFmpegError):
        write_mp4(path, odd, None, 12, 16000)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    assert path.read_bytes() == b"old"


def test_sound_is_float32_whatever_torchs_default_is(clips: SyntheticClips) -> None:
    path = clips.samples("val")[0].clip
    expected = load_clip(path, MediaSettings(num_frames=4, frame_size=(56, 56))).audio
    torch.set_default_dtype(torch.bfloat16)  # as half precision does while a step is computed
    try:
        found = load_clip(path, MediaSettings(num_frames=4, frame_size=(56, 56))).audio
    finally:
        torch.set_default_dtype(torch.float32)
    assert found is not None
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
