"""CREMA-D in miniature: file names as published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import CremaD


def make_cremad(root: Path, *names: str) -> Path:
    """Empty files in ``VideoFlash/``."""
    (root / "VideoFlash").mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / "VideoFlash" / name).touch()
    return root


def one_clip_of_each_actor() -> list[str]:
    return [f"{actor}_DFA_ANG_XX.flv" for actor in range(1001, 1092)]


@pytest.mark.parametrize("file", ["VideoFlash/1001_IEO_SAD_HI.flv", "1001_IEO_SAD_HI.mp4", "1001_IEO_SAD_HI.AVI"])
def test_the_name_of_a_file_says_everything_and_the_file_decodes(
    tmp_path: Path, put_clip: Callable[[Path], Path], file: str
) -> None:
    put_clip(tmp_path / file)
    (sample,) = CremaD(str(tmp_path)).samples("test")

    assert (sample.id, sample.label, sample.subtitle) == ("1001_IEO_SAD_HI", "sad", "It's eleven o'clock")
    assert (sample.dataset, sample.label_space, sample.split, sample.fold) == ("cremad", "cremad", "test", 1)
    assert sample.clip == sample.record == str(tmp_path / file)
    assert load_clip(sample.clip).has_audio


def test_the_six_codes_are_the_six_emotions(tmp_path: Path) -> None:
    make_cremad(tmp_path, *[f"1001_WSI_{code}_XX.flv" for code in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")])

    labels = [sample.label for sample in CremaD(str(tmp_path)).samples("test")]
    assert labels == ["angry", "disgust", "fear", "happy", "neutral", "sad"]


def test_each_of_the_twelve_codes_is_another_sentence(tmp_path: Path) -> None:
    codes = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
    make_cremad(tmp_path, *[f"1001_{code}_NEU_XX.flv" for code in codes])
    samples = CremaD(str(tmp_path)).samples("test")
    said = {sample.id.split("_")[1]: sample.subtitle for sample in samples}

    assert len(set(said.values())) == 12
    initials = {code: "".join(word[0] for word in words.split()[:3]).upper() for code, words in said.items()}
    assert [code for code in codes if initials[code] != code] == ["ITH", "ITS"]  # I think I have …, I think I've seen …
    assert (said["ITH"], said["ITS"]) == ("I think I have a doctor's appointment", "I think I've seen this before")


def test_every_actor_is_tested_in_exactly_one_fold_and_never_trained_on_there(tmp_path: Path) -> None:
    make_cremad(tmp_path, *one_clip_of_each_actor())
    tested = []
    for fold in range(1, 6):
        source = CremaD(str(tmp_path), fold, holdout=0)
        test = {int(sample.id[:4]) for sample in source.samples("test")}
        train = {int(sample.id[:4]) for sample in source.samples("train")}
        assert {actor % 5 for actor in test} == {fold % 5}
        assert train == set(range(1001, 1092)) - test
        tested += sorted(test)

    assert sorted(tested) == list(range(1001, 1092))


def test_validation_holds_out_whole_actors(tmp_path: Path) -> None:
    make_cremad(tmp_path, *one_clip_of_each_actor(), *[f"{actor}_TSI_SAD_XX.flv" for actor in range(1001, 1092)])
    source = CremaD(str(tmp_path), holdout=0.1)
    actors = {split: {sample.id[:4] for sample in source.samples(split)} for split in ("train", "val", "test")}

    assert [len(actors[split]) for split in ("train", "val", "test")] == [65, 7, 19]
    assert len(actors["train"] | actors["val"] | actors["test"]) == 91
    assert source.samples("val") == CremaD(str(tmp_path), holdout=0.1).samples("val")


def test_nothing_is_published_of_folds_that_are_our_own() -> None:
    assert CremaD("nowhere").published(["test"]) is None
    assert CremaD("nowhere").published(["train", "val"]) is None


def test_other_files_are_passed_over_and_all_bad_names_are_given_at_once(tmp_path: Path) -> None:
    bad = ("1001_DFA_BOR_XX.flv", "0999_ABC_ANG_XX.flv", "holiday.flv")
    make_cremad(tmp_path, "1001_DFA_ANG_XX.flv", "README.md", ".1001_DFA_ANG_XX.flv", *bad)
    with pytest.raises(ValueError, match="rename the file or move it elsewhere") as caught:
        CremaD(str(tmp_path)).samples("test")

    message = str(caught.value)
    assert f"{tmp_path / 'VideoFlash' / '1001_DFA_BOR_XX.flv'}: CREMA-D has no emotion BOR: correct" in message
    assert "CREMA-D has no actor 0999, no sentence ABC" in message
    assert "holiday.flv: the name is not actor_sentence_emotion_level" in message
    assert message.count(str(tmp_path)) == len(bad)


@pytest.mark.parametrize("fold", [0, 6])
def test_a_fold_that_does_not_exist_is_refused(fold: int) -> None:
    with pytest.raises(ValueError, match=rf"no fold {fold}, only 1 to 5: set data\.source\.init_args\.fold"):
        CremaD("nowhere", fold)


def test_a_folder_without_clips_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \.flv, \.mp4, \.avi in .* check data\.source\.init_args\.root"):
        CremaD(str(tmp_path)).samples("test")
    with pytest.raises(ValueError, match=r"no folder of clips in .*nowhere"):
        CremaD(str(tmp_path / "nowhere")).samples("test")
