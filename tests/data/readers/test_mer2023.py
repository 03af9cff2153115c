"""MER2023 in miniature, with the folder, file and column names of the challenge's release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import Mer2023


def labels(root: Path, part: str, *rows: str, header: str = "name,discrete,valence") -> None:
    path = root / f"{part}-label.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" for row in (header, *rows)))


def test_a_part_has_its_own_folder_of_clips_which_decode(tmp_path: Path, put_clip: Callable[[Path], Path]) -> None:
    labels(tmp_path, "train", "sample_00000047,worried,-1.5")
    put_clip(tmp_path / "train" / "sample_00000047.avi")

    (sample,) = Mer2023(str(tmp_path), holdout=0).samples("train")

    assert (sample.id, sample.dataset, sample.label) == ("sample_00000047", "mer2023", "worried")
    assert (sample.label_space, sample.split, sample.explanation, sample.subtitle) == ("mer2023", "train", "", "")
    assert sample.record == f"{tmp_path / 'train-label.csv'}:2"
    assert load_clip(sample.clip, record=sample.record).has_audio


def test_one_folder_may_hold_the_clips_of_all_parts(tmp_path: Path, put_clip: Callable[[Path], Path]) -> None:
    labels(tmp_path, "test1", "sample_00000001,sad,-1.5")
    put_clip(tmp_path / "video" / "sample_00000001.mp4")
    (sample,) = Mer2023(str(tmp_path)).samples("test")
    assert sample.clip == str(tmp_path / "video" / "sample_00000001.mp4")


def test_the_test_set_can_be_chosen_and_the_third_has_no_valence(tmp_path: Path) -> None:
    labels(tmp_path, "test1", "a,happy,2")
    labels(tmp_path / "test-labels", "test2", "b,sad,-2")
    labels(tmp_path, "test3", "c,angry", header="name,discrete")
    found = [Mer2023(str(tmp_path), test=name).samples("test")[0] for name in ("test1", "test2", "test3")]
    assert [(sample.id, sample.label, sample.split) for sample in found] == [
        ("a", "happy", "test"),
        ("b", "sad", "test"),
        ("c", "angry", "test"),
    ]
    with pytest.raises(ValueError, match=r"no test set 'train': set .* to test1, test2 or test3"):
        Mer2023(str(tmp_path), test="train")


@pytest.mark.parametrize(
    ("name", "text", "subtitle"),
    [
        ("transcription.csv", "name,sentence\na,你好\n", "你好"),
        ("transcription-engchi-polish.csv", "name,chinese,english\na,你好,Hello\n", "Hello"),
        ("subtitle_chieng.csv", "name,chinese,english\na,你好,\n", "你好"),
        ("transcription.csv", "name,sentence\nb,你好\n", ""),
    ],
)
def test_subtitles_come_from_a_transcription_in_english_where_there_is_some(
    tmp_path: Path, name: str, text: str, subtitle: str
) -> None:
    labels(tmp_path, "test1", "a,happy,2")
    (tmp_path / name).write_text(text)
    (sample,) = Mer2023(str(tmp_path)).samples("test")
    assert sample.subtitle == subtitle


def test_a_transcription_without_a_column_of_text_is_named(tmp_path: Path) -> None:
    labels(tmp_path, "test1", "a,happy,2")
    (tmp_path / "transcription.csv").write_text("name,words\na,Hello\n")
    with pytest.raises(ValueError, match=r"transcription\.csv' has no column english or sentence or chinese"):
        Mer2023(str(tmp_path)).samples("test")


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    labels(tmp_path, "train", "a,happy,2", "b,bored,0", "a,sad,0")
    with pytest.raises(ValueError, match=r"train-label\.csv:3: label 'bored'.*train-label\.csv:4: the id 'a'"):
        Mer2023(str(tmp_path)).samples("train")


def test_missing_labels_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no labels of train in .*train-label\.csv"):
        Mer2023(str(tmp_path)).samples("train")
    labels(tmp_path, "train", "a,happy", header="name,emotion")
    with pytest.raises(ValueError, match="has no column discrete"):
        Mer2023(str(tmp_path)).samples("train")


def test_published_counts_go_by_the_part(tmp_path: Path) -> None:
    found = [Mer2023(str(tmp_path), test=name).published(("test",)) for name in ("test1", "test2", "test3")]
    train = Mer2023(str(tmp_path)).published(("train", "val"))
    assert [one and one.clips for one in (train, *found)] == [3373, 411, 412, 834]
