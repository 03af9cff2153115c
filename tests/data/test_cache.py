"""Decoded clips on disk."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from erv_lightning.data import cache as cache_module
from erv_lightning.data.cache import ClipCache
from erv_lightning.data.media import Clip, ClipError, MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips

SETTINGS = MediaSettings(num_frames=4, frame_size=(56, 56))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded rather than read from the cache."""
    names: list[str] = []
    monkeypatch.setattr(
        cache_module,
        "load_clip",
        lambda path, *how, **more: (names.append(str(path)), load_clip(path, *how, **more))[1],
    )
    return names


def files(cache: ClipCache) -> list[Path]:
    return sorted(cache.folder.glob("*/*.safetensors"))


def equal(one: Clip, other: Clip) -> bool:
    assert one.frames is not None
    assert other.frames is not None
    assert one.audio is not None
    assert other.audio is not None
    rest = [(clip.sample_rate, clip.fps, clip.has_audio, clip.duration, clip.size) for clip in (one, other)]
    return torch.equal(one.frames, other.frames) and torch.equal(one.audio, other.audio) and rest[0] == rest[1]


def test_a_clip_is_decoded_once_and_then_read_as_it_was(
    clips: SyntheticClips, tmp_path: Path, decoded: list[str]
) -> None:
    path = clips.samples("val")[0].clip
    for _ in range(2):  # another run reads what this one wrote
        cache = ClipCache(tmp_path, 10**9)
        assert equal(cache.load(path, SETTINGS), load_clip(path, SETTINGS))
        assert equal(cache.load(path, SETTINGS), load_clip(path, SETTINGS))
    assert decoded == [path]


def test_other_settings_and_another_content_are_other_clips_and_a_copy_is_not(
    clips: SyntheticClips, tmp_path: Path, decoded: list[str]
) -> None:
    first, second = (Path(sample.clip) for sample in clips.samples("val")[:2])
    cache, own = ClipCache(tmp_path / "cache", 10**9), tmp_path / "own.mp4"
    own.write_bytes(first.read_bytes())
    cache.load(own, SETTINGS)
    cache.load(first, SETTINGS)
    assert len(decoded) == 1
    for settings in (MediaSettings(num_frames=5, frame_size=(56, 56)), MediaSettings(num_frames=4, audio=False)):
        cache.load(own, settings)
    assert len(decoded) == 3
    own.write_bytes(second.read_bytes())
    assert equal(cache.load(own, SETTINGS), load_clip(second, SETTINGS))
    assert len(decoded) == 4


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_a_damaged_file_is_decoded_again(
    clips: SyntheticClips, tmp_path: Path, decoded: list[str], damage: bytes | None
) -> None:
    path, cache = clips.samples("val")[0].clip, ClipCache(tmp_path, 10**9)
    cache.load(path, SETTINGS)
    (file,) = files(cache)
    file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    assert equal(cache.load(path, SETTINGS), load_clip(path, SETTINGS))
    assert equal(cache.load(path, SETTINGS), load_clip(path, SETTINGS))
    assert len(decoded) == 2


def test_a_bad_clip_is_told_as_without_a_cache_and_not_kept(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "cache", 10**9)
    with pytest.raises(ClipError, match=r"'gone\.mp4' \(from a\.jsonl:1\) does not exist"):
        cache.load("gone.mp4", SETTINGS, record="a.jsonl:1")
    (tmp_path / "bad.mp4").write_text("no clip")
    with pytest.raises(ClipError):
        cache.load(tmp_path / "bad.mp4", SETTINGS)
    assert files(cache) == []


def test_the_clips_used_longest_ago_make_room(clips: SyntheticClips, tmp_path: Path) -> None:
    paths = [sample.clip for sample in clips.samples("train")[:6]]
    cache = ClipCache(tmp_path, 10**9)
    for path in paths:
        cache.load(path, SETTINGS)
        time.sleep(0.01)
    size = files(cache)[0].stat().st_size
    cache.load(paths[0], SETTINGS)  # used again
    limited = ClipCache(tmp_path, 4 * size)
    limited.make_room()
    assert len(files(cache)) == 3  # 0.9 of the limit
    kept = {limited._path(path, SETTINGS, "") for path in (paths[0], paths[4], paths[5])}
    assert set(files(cache)) == kept


def test_the_limit_holds_while_clips_come_in(
    clips: SyntheticClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "CHECK_EVERY", 2)
    paths = [sample.clip for sample in clips.samples("train")]
    first = ClipCache(tmp_path, 10**9)
    first.load(paths[0], SETTINGS)
    size = files(first)[0].stat().st_size
    cache = ClipCache(tmp_path, 5 * size)
    for path in paths:
        cache.load(path, SETTINGS)
        assert sum(file.stat().st_size for file in files(cache)) <= 7 * size


def test_without_room_on_the_disk_clips_are_decoded_as_without_a_cache_and_it_is_said_once(
    clips: SyntheticClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "save_file", full)
    cache = ClipCache(tmp_path, 10**9)
    for sample in clips.samples("val"):
        assert equal(cache.load(sample.clip, SETTINGS), load_clip(sample.clip, SETTINGS))
    assert [record.getMessage().count("No space left") for record in caplog.records] == [1]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def _read_all(folder: Path, paths: list[str], limit: int) -> None:
    torch.set_num_threads(1)
    cache = ClipCache(folder, limit)
    for path in paths * 2:
        if not equal(cache.load(path, SETTINGS), load_clip(path, SETTINGS)):
            os._exit(1)


def test_several_processes_share_a_cache_that_is_too_small_for_them(clips: SyntheticClips, tmp_path: Path) -> None:
    paths = [sample.clip for sample in clips.samples("val")]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_read_all, args=(tmp_path, paths, 200_000)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert not list(tmp_path.rglob("*.tmp"))
