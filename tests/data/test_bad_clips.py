"""Broken, odd and mutated media: each is one clip or one line of error, and never the end of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from erv_lightning.data import pyav_decoder, torchcodec_decoder
from erv_lightning.data.encode import write_mp4
from erv_lightning.data.media import ClipError, MediaSettings, load_clip

FOUR = MediaSettings(num_frames=4)
DECODERS = ["pyav", "torchcodec"]

MUTATE = """
import random, sys, torch
from pathlib import Path
from erv_lightning.data.media import ClipError, MediaSettings, load_clip
torch.set_num_threads(1)
content, folder = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
clips = errors = 0
for seed in range(200):
    rng = random.Random(seed)
    broken = bytearray(content)
    head = content.rindex(b"moov")
    for _ in range(rng.choice([1, 4, 30])):
        place = rng.randrange(head, len(broken)) if seed % 2 else rng.randrange(len(broken))
        broken[place] = rng.randrange(256)
    if seed % 5 == 0:
        del broken[rng.randrange(len(broken)) :]
    path = folder / f"{seed}.mp4"
    path.write_bytes(broken)
    try:
        clip = load_clip(path if seed % 3 else bytes(broken), MediaSettings(num_frames=4, decoder=sys.argv[3]))
        assert clip.frames.shape[:2] == (4, 3) and clip.frames.dtype == torch.uint8
        assert bool(clip.audio.isfinite().all()) and len(clip.audio) <= 30 * 16000
        clips += 1
    except ClipError as error:
        assert "\\n" not in str(error) and "take the record out" in str(error), str(error)
        errors += 1
print(clips, errors)
"""


@pytest.mark.parametrize("decoder", DECODERS)
def test_two_hundred_mutated_files_are_each_a_clip_or_an_error(tmp_path: Path, ramp_clip: Path, decoder: str) -> None:
    if decoder == "torchcodec" and not torchcodec_decoder.installed():
        assert not os.environ.get("CI"), "torchcodec and FFmpeg's shared libraries have to be installed in CI"
        pytest.skip("torchcodec or FFmpeg's shared libraries are not installed")
    command = [sys.executable, "-c", MUTATE, str(ramp_clip), str(tmp_path), decoder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    clips, errors = map(int, done.stdout.split())
    assert clips + errors == 200
    assert min(clips, errors) >= 20


# -- files that end too early -------------------------------------------------------------------------------------


def transcode(source: Path, path: Path, count: int = 60) -> Path:
    """Sixty frames of noise at 12 a second in another container."""
    codec = {"avi": "mpeg4", "webm": "libvpx-vp9"}.get(path.suffix[1:], "libx264")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(count):
            image = rng.integers(0, 255, (32, 48, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
def test_a_file_cut_off_is_refused_in_every_container_that_tells_its_length(
    tmp_path: Path, ramp_clip: Path, suffix: str, share: float
) -> None:
    path = transcode(ramp_clip, tmp_path / f"clip.{suffix}")
    assert load_clip(path, FOUR).duration == pytest.approx(5, abs=0.01)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ClipError, match="cannot be decoded"):
        load_clip(path, FOUR)


def test_a_file_without_an_end_is_no_longer_than_what_it_holds(tmp_path: Path, ramp_clip: Path) -> None:
    path = transcode(ramp_clip, tmp_path / "clip.ts")
    content = path.read_bytes()
    path.write_bytes(content[: 188 * (len(content) // 188 // 2)])
    assert 1 < load_clip(path, FOUR).duration < 4


def test_a_corrupt_frame_among_the_wanted_is_refused(ramp_clip: Path) -> None:
    class Corrupt:
        is_corrupt, time = True, 0.5

    with pytest.raises(ValueError, match=r"frame at 0\.5 s is corrupt"):
        pyav_decoder._picture(Corrupt())


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_a_picture_with_damaged_bytes_is_refused_by_pyav(tmp_path: Path, ramp_clip: Path, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    if suffix == "avi":
        transcode(ramp_clip, path)
    else:  # always the same bytes, and enough of them for a picture
        noise = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3)).astype(np.uint8)
        write_mp4(path, noise, None, 12, 16000)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    damage = 40 if suffix == "avi" else len(content) // 6  # more than one picture's
    content[middle : middle + damage] = bytes(damage)
    path.write_bytes(content)
    with pytest.raises(ClipError, match="cannot be decoded"):
        load_clip(path, MediaSettings(num_frames=60, decoder="pyav"))


def test_absurd_sizes_are_refused_before_memory_is_asked_for(ramp_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav_decoder, "MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(ClipError, match="48 x 32 pixels"):
        load_clip(ramp_clip, FOUR)
    monkeypatch.undo()
    with pytest.raises(ClipError, match="do not fit into memory"):
        load_clip(ramp_clip, MediaSettings(num_frames=10**7))


# -- names, bytes, streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["clip.txt", "clip.avi", "clip", "mit Leer zeichen.mp4", "表情 émotion 😀.mp4", "a'b\".mp4"]
)
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_files_name_does_not_matter(tmp_path: Path, ramp_clip: Path, name: str, decoder: str) -> None:
    (tmp_path / name).write_bytes(ramp_clip.read_bytes())
    settings = MediaSettings(num_frames=4, decoder=decoder)
    assert torch.equal(load_clip(tmp_path / name, settings).frames, load_clip(ramp_clip, settings).frames)


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_files_content_is_read_like_the_file(ramp_clip: Path, decoder: str) -> None:
    settings = MediaSettings(num_frames=4, decoder=decoder)
    one, other = load_clip(ramp_clip, settings), load_clip(ramp_clip.read_bytes(), settings)
    assert torch.equal(one.frames, other.frames)
    assert torch.equal(one.audio, other.audio)
    with pytest.raises(ClipError, match=r"clip of 100 bytes \(from shard:3\)"):
        load_clip(ramp_clip.read_bytes()[:100], settings, record="shard:3")


def write_wav(path: Path, seconds: float, rate: int = 8000) -> Path:
    samples = (8000 * np.sin(np.arange(int(seconds * rate)) / 3)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_modality_that_is_off_is_not_there(tmp_path: Path, ramp_clip: Path) -> None:
    deaf = load_clip(ramp_clip, MediaSettings(num_frames=4, audio=False))
    assert deaf.audio is None
    assert deaf.has_audio
    blind = load_clip(ramp_clip, MediaSettings(num_frames=4, video=False))
    assert (blind.frames, blind.size, blind.fps) == (None, (0, 0), 0.0)
    assert torch.equal(blind.audio, load_clip(ramp_clip, FOUR).audio)
    song = write_wav(tmp_path / "song.wav", 2.5)
    clip = load_clip(song, MediaSettings(video=False))
    assert (clip.duration, clip.has_audio, len(clip.audio)) == (2.5, True, 40000)
    cut = load_clip(song, MediaSettings(video=False, max_seconds=1))
    assert (cut.duration, len(cut.audio)) == (2.5, 16000)
    with pytest.raises(ClipError, match="no video stream"):
        load_clip(song, FOUR)


def test_a_separate_sound_file_is_heard_instead_of_the_clips_own(tmp_path: Path, ramp_clip: Path) -> None:
    song = write_wav(tmp_path / "song.wav", 2.5)
    clip = load_clip(ramp_clip, FOUR, audio=str(song))
    assert torch.equal(clip.audio, load_clip(song, MediaSettings(video=False)).audio[:16000])
    with pytest.raises(ClipError, match=r"gone\.wav' \(from row 3\) does not exist"):
        load_clip(ramp_clip, FOUR, audio=str(tmp_path / "gone.wav"), record="row 3")
    write_mp4(tmp_path / "mute.mp4", np.zeros((6, 16, 16, 3), np.uint8), None, 12, 16000)
    with pytest.raises(ClipError, match="no audio stream"):
        load_clip(ramp_clip, FOUR, audio=str(tmp_path / "mute.mp4"))


# -- folders of frames --------------------------------------------------------------------------------------------


def write_folder(folder: Path, count: int, suffix: str = "png") -> Path:
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (20, 10), (20 * index,) * 3).save(folder / f"frame_{index}.{suffix}")
    (folder / "notes.txt").write_text("not a frame")
    return folder


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp"])
def test_a_folder_of_frames_is_a_clip_in_natural_order(tmp_path: Path, suffix: str) -> None:
    folder = write_folder(tmp_path / "clip", 12, suffix)
    clip = load_clip(folder, MediaSettings(num_frames=4, folder_fps=6))
    assert [round(float(frame.float().mean()) / 20) for frame in clip.frames] == [1, 4, 7, 10]
    assert (clip.duration, clip.fps, clip.size, clip.has_audio, len(clip.audio)) == (2.0, 2.0, (10, 20), False, 32000)
    assert not clip.audio.any()


def test_a_folder_has_its_sound_beside_it(tmp_path: Path) -> None:
    folder, song = write_folder(tmp_path / "clip", 12), write_wav(tmp_path / "song.wav", 1)
    clip = load_clip(folder, MediaSettings(num_frames=4, folder_fps=6), audio=str(song))
    assert clip.has_audio
    assert clip.audio[:15000].any()
    assert not clip.audio[16000:].any()


def unlike(folder: Path) -> None:
    Image.new("RGB", (21, 10)).save(folder / "frame_1.png")


def broken(folder: Path) -> None:
    (folder / "frame_1.png").write_bytes(b"\x89PNG and no more")


@pytest.mark.parametrize(("spoil", "said"), [(unlike, "sizes"), (broken, "frame_1.png")])
def test_a_bad_folder_is_named(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    folder = write_folder(tmp_path / "clip", 4)
    spoil(folder)
    with pytest.raises(ClipError, match=said):
        load_clip(folder, FOUR)
    (tmp_path / "none").mkdir()
    with pytest.raises(ClipError, match="folder holds no frames"):
        load_clip(tmp_path / "none", FOUR)
