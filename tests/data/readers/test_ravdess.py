"""RAVDESS in miniature: file names as published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import Ravdess


def make_ravdess(root: Path, *names: str, flat: bool = False) -> Path:
    """Empty files in the folders of their actors."""
    for name in names:
        path = root / f"{name}.mp4" if flat else root / f"Actor_{name[-2:]}" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def two_clips_of_each_actor() -> list[str]:
    return [f"01-01-03-01-0{statement}-01-{actor:02d}" for actor in range(1, 25) for statement in (1, 2)]


@pytest.mark.parametrize("folder", ["Actor_01", ".", "Video_Speech_Actor_01", "Video_Speech_Actor_01/Actor_01"])
def test_the_name_of_a_file_says_everything_and_the_file_decodes(
    tmp_path: Path, put_clip: Callable[[Path], Path], folder: str
) -> None:
    path = put_clip(tmp_path / folder / "01-01-06-01-02-01-01.mp4")
    (sample,) = Ravdess(str(tmp_path)).samples("test")

    assert (sample.id, sample.label) == ("01-01-06-01-02-01-01", "fearful")
    assert (sample.dataset, sample.label_space, sample.split, sample.fold) == ("ravdess", "ravdess", "test", 1)
    assert sample.subtitle == "Dogs are sitting by the door."
    assert sample.clip == sample.record == str(path)
    assert load_clip(sample.clip).has_audio


def test_the_codes_01_to_08_are_the_eight_emotions_in_the_published_order(tmp_path: Path) -> None:
    make_ravdess(tmp_path, *[f"01-01-0{code}-01-01-01-01" for code in range(1, 9)])
    samples = Ravdess(str(tmp_path)).samples("test")

    expected = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
    assert [sample.label for sample in samples] == expected
    assert {sample.subtitle for sample in samples} == {"Kids are talking by the door."}


def test_only_clips_with_picture_and_sound_are_taken_and_songs_when_asked_for(tmp_path: Path) -> None:
    make_ravdess(
        tmp_path, "01-01-03-01-01-01-01", "01-02-03-01-01-01-01", "02-01-03-01-01-01-01", "02-02-03-01-01-01-01"
    )

    assert [s.id for s in Ravdess(str(tmp_path)).samples("test")] == ["01-01-03-01-01-01-01"]
    assert [s.id[:5] for s in Ravdess(str(tmp_path), song=True).samples("test")] == ["01-01", "01-02"]


@pytest.mark.parametrize("fold", range(1, 7))
def test_a_fold_tests_four_actors_and_trains_on_the_others(tmp_path: Path, fold: int) -> None:
    make_ravdess(tmp_path, *two_clips_of_each_actor())
    source = Ravdess(str(tmp_path), fold, holdout=0)
    tested = {int(sample.id[-2:]) for sample in source.samples("test")}
    trained = {int(sample.id[-2:]) for sample in source.samples("train")}

    assert tested == {4 * (fold - 1) + k for k in (1, 2, 3, 4)}
    assert trained == set(range(1, 25)) - tested


def test_validation_holds_out_whole_actors(tmp_path: Path) -> None:
    make_ravdess(tmp_path, *two_clips_of_each_actor())
    source = Ravdess(str(tmp_path), holdout=0.1)
    actors = {split: {sample.id[-2:] for sample in source.samples(split)} for split in ("train", "val", "test")}

    assert [len(actors[split]) for split in ("train", "val", "test")] == [18, 2, 4]
    assert len(actors["train"] | actors["val"] | actors["test"]) == 24
    assert source.samples("val") == Ravdess(str(tmp_path), holdout=0.1).samples("val")


def test_the_published_numbers_add_up() -> None:
    speech = [Ravdess("nowhere", fold).published(["test"]) for fold in range(1, 7)]
    both = [Ravdess("nowhere", fold, song=True).published(["test"]) for fold in range(1, 7)]
    rest = Ravdess("nowhere").published(["train", "val"])

    for part in (*speech, *both, rest):
        assert part is not None
        assert sum(part.per_label.values()) == part.clips
    assert [part.clips for part in speech if part] == [240] * 6
    assert sum(part.clips for part in both if part) == 1440 + 1012  # one actor, the 18th, does not sing
    assert [part.clips for part in both if part][4] == 416 - 44
    assert rest is not None
    assert rest.clips == 1200
    assert speech[0] is not None
    assert (speech[0].per_label["neutral"], speech[0].per_label["calm"]) == (16, 32)


def test_all_bad_names_are_given_at_once(tmp_path: Path) -> None:
    make_ravdess(tmp_path, "01-01-03-01-01-01-01", "01-01-09-01-03-01-01", "01-01-03-01-01-01-99", "holiday", flat=True)
    with pytest.raises(ValueError, match="rename the file or move it elsewhere") as caught:
        Ravdess(str(tmp_path)).samples("test")

    message = str(caught.value)
    assert f"{tmp_path / '01-01-09-01-03-01-01.mp4'}: RAVDESS has no emotion 09, no statement 03" in message
    assert "RAVDESS has no actor 99" in message
    assert f"{tmp_path / 'holiday.mp4'}: the name is not MM-VC-EM-IN-ST-RE-AC.mp4" in message


def test_a_clip_that_is_there_twice_is_named(tmp_path: Path) -> None:
    make_ravdess(tmp_path, "01-01-03-01-01-01-01")
    make_ravdess(tmp_path, "01-01-03-01-01-01-01", flat=True)
    with pytest.raises(ValueError, match="the id '01-01-03-01-01-01-01' stands already at"):
        Ravdess(str(tmp_path)).samples("test")


@pytest.mark.parametrize("fold", [0, 7])
def test_a_fold_that_does_not_exist_is_refused(fold: int) -> None:
    with pytest.raises(ValueError, match=rf"no fold {fold}, only 1 to 6: set data\.source\.init_args\.fold"):
        Ravdess("nowhere", fold)


def test_a_folder_without_clips_is_named_with_the_places_that_were_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no clips in .*Actor_\*.*check data\.source\.init_args\.root"):
        Ravdess(str(tmp_path)).samples("test")
