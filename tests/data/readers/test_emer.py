"""EMER in miniature, with the file and column names of both published versions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import Emer
from erv_lightning.data.sample import QUESTION


def v1(root: Path, *rows: str) -> None:
    root.mkdir(exist_ok=True)
    (root / "gt-eng.csv").write_text("names,emotions,subtitles,reasons\n" + "".join(row + "\n" for row in rows))


def v2(root: Path, *rows: str, name: str = "name", labels: str = "train-label.csv") -> None:
    (root / "final-EMER-reason.csv").write_text(f"{name},chinese,english\n" + "".join(row + "\n" for row in rows))
    (root / labels).write_text("name,discrete,valence\nsample_00000007,happy,2.0\nsample_00000021,worried,-1.0\n")


def test_version_1_has_explanations_labels_and_subtitles_and_its_clips_decode(
    tmp_path: Path, put_clip: Callable[[Path], Path]
) -> None:
    v1(tmp_path, 'sample_00000648,angry,Stop!,"He roared, and stared. So he is angry."')
    put_clip(tmp_path / "video" / "sample_00000648.mp4")

    (sample,) = Emer(str(tmp_path), holdout=0).samples("train")

    assert (sample.id, sample.dataset, sample.label_space, sample.label) == ("sample_00000648", "emer", "emer", "angry")
    assert (sample.subtitle, sample.explanation) == ("Stop!", "He roared, and stared. So he is angry.")
    assert (sample.split, sample.question, sample.record) == ("train", QUESTION, f"{tmp_path / 'gt-eng.csv'}:2")
    assert load_clip(sample.clip, record=sample.record).has_audio


@pytest.mark.parametrize(
    ("told", "label"),
    [("worried", "anxiety"), ('"[happy, excited]"', "happy"), ("\"['shy', 'sad']\"", "sad"), ("neutral", "neutral")],
)
def test_the_label_is_the_first_word_that_the_space_knows(tmp_path: Path, told: str, label: str) -> None:
    v1(tmp_path, f"sample_00000648,{told},,He looks down.")
    (sample,) = Emer(str(tmp_path), holdout=0).samples("train")
    assert sample.label == label


@pytest.mark.parametrize("column", ["name", "names"])
@pytest.mark.parametrize("labels", ["train-label.csv", "label-disdim.csv"])
def test_version_2_takes_its_labels_from_the_table_of_mer2023_or_2024(
    tmp_path: Path, put_clip: Callable[[Path], Path], column: str, labels: str
) -> None:
    rows = ("sample_00000007,在视频中,She smiles.", "sample_00000021,在视频中,She frowns.")
    v2(tmp_path, *rows, name=column, labels=labels)
    put_clip(tmp_path / "sample_00000007.avi")

    first, second = Emer(str(tmp_path), labels=labels, holdout=0).samples("train")

    assert (first.label, first.explanation, first.subtitle) == ("happy", "She smiles.", "")
    assert second.label == "anxiety"
    assert load_clip(first.clip).frames is not None


def test_the_labels_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "emer").mkdir()
    v2(tmp_path / "emer", "sample_00000007,,She smiles.")
    path = (tmp_path / "emer" / "train-label.csv").rename(tmp_path / "labels.csv")
    (sample,) = Emer(str(tmp_path / "emer"), labels=str(path), holdout=0).samples("train")
    assert sample.label == "happy"


def test_every_clip_without_a_label_or_an_explanation_is_named_in_one_error(tmp_path: Path) -> None:
    v2(tmp_path, "sample_00000007,,", "sample_00000021,,She frowns.", "sample_00000033,,He is tense.")
    with pytest.raises(ValueError, match="skip_unlabelled") as caught:
        Emer(str(tmp_path), labels="train-label.csv").samples("train")
    message = str(caught.value)
    assert "reason.csv:2: 'sample_00000007' has no explanation" in message
    assert "reason.csv:4: 'sample_00000033' has no label in train-label.csv" in message
    assert "reason.csv:3" not in message


def test_clips_without_a_label_can_be_left_out_and_the_log_says_once_how_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    v1(tmp_path, "a,happy,,She smiles.", "b,relieved,,She sighs.")
    source = Emer(str(tmp_path), skip_unlabelled=True, holdout=0)
    with caplog.at_level(logging.INFO):
        assert [sample.id for sample in source.samples("train")] == ["a"]
        source.samples("train")
    assert caplog.text.count("left out 1 clips without a label, e.g. b") == 1


def test_version_2_without_labels_says_where_they_are(tmp_path: Path) -> None:
    v2(tmp_path, "sample_00000007,,She smiles.")
    with pytest.raises(ValueError, match=r"set data\.source\.init_args\.labels to MER2023's train-label\.csv"):
        Emer(str(tmp_path)).samples("train")
    with pytest.raises(ValueError, match=r"no file 'other\.csv' in .*init_args\.labels"):
        Emer(str(tmp_path), labels="other.csv").samples("train")


def test_a_folder_without_annotations_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no annotations of EMER in .*gt-eng\.csv"):
        Emer(str(tmp_path)).samples("train")


def test_validation_clips_are_taken_from_training(tmp_path: Path) -> None:
    v1(tmp_path, *(f"s{number},happy,,She smiles." for number in range(20)))
    source = Emer(str(tmp_path), holdout=0.1)
    train, val = source.samples("train"), source.samples("val")
    assert (len(train), len(val)) == (18, 2)
    with pytest.raises(ValueError, match="no split 'test'"):
        source.samples("test")


def test_published_counts_are_r1_omnis_for_version_2(tmp_path: Path) -> None:
    published = Emer(str(tmp_path), labels="train-label.csv").published(("train", "val"))
    assert published is not None
    assert sum(published.per_label.values()) == published.clips == 331
    v1_published = Emer(str(tmp_path)).published(("train", "val"))
    assert v1_published is not None
    assert v1_published.clips == 100
