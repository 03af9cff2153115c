"""MELD in miniature: the published tables and folders."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import Meld

HEADER = ["Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode"]
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
Row = tuple[str, str, object, object]  # utterance, emotion, dialogue, number within it


def write_table(path: Path, *rows: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for number, (said, emotion, dialogue, utterance) in enumerate(rows, start=1):
            table.writerow([number, said, "Joey", emotion, "neutral", dialogue, utterance, 8, 21])


def make_meld(root: Path, *rows: Row) -> Path:
    """The published layout, with the same rows in each part."""
    for part, folder in FOLDERS.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_table(root / f"{part}_sent_emo.csv", *rows)
    return root


@pytest.mark.parametrize(
    ("table", "folder"),
    [
        ("dev_sent_emo.csv", "dev_splits_complete"),
        ("MELD.Raw/dev_sent_emo.csv", "MELD.Raw/dev_splits_complete"),
        ("data/MELD/dev_sent_emo.csv", "MELD.Raw/dev_splits_complete"),
        ("dev/dev_sent_emo.csv", "dev/dev_splits_complete"),
        ("MELD.Raw/dev/dev_sent_emo.csv", "MELD.Raw/dev/dev_splits_complete"),
        ("dev_sent_emo.csv", "dev"),
        ("MELD.Raw/dev_sent_emo.csv", "MELD.Raw/dev"),
    ],
)
def test_each_layout_is_read_and_its_clips_decode(
    tmp_path: Path, put_clip: Callable[[Path], Path], table: str, folder: str
) -> None:
    write_table(tmp_path / table, ("Oh my God!", "surprise", 12, 3))
    put_clip(tmp_path / folder / "dia12_utt3.mp4")
    (sample,) = Meld(str(tmp_path)).samples("val")

    assert sample.clip == str(tmp_path / folder / "dia12_utt3.mp4")
    assert (sample.id, sample.label, sample.subtitle) == ("dev_dia12_utt3", "surprise", "Oh my God!")
    assert (sample.dataset, sample.label_space, sample.split, sample.fold) == ("meld", "meld", "val", None)
    assert sample.record == f"{tmp_path / table}:2"
    assert load_clip(sample.clip).has_audio


def test_the_three_parts_are_the_published_ones_and_their_ids_differ(tmp_path: Path) -> None:
    source = Meld(str(make_meld(tmp_path, ("Hi.", "neutral", 0, 0))))
    (train,), (val,), (test,) = (source.samples(split) for split in ("train", "val", "test"))

    assert (train.id, val.id, test.id) == ("train_dia0_utt0", "dev_dia0_utt0", "test_dia0_utt0")
    assert [Path(sample.clip).parent.name for sample in (train, val, test)] == list(FOLDERS.values())


@pytest.mark.parametrize("emotion", ["anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise"])
def test_all_seven_emotions_are_known(tmp_path: Path, emotion: str) -> None:
    assert Meld(str(make_meld(tmp_path, ("Hi.", emotion, 0, 0)))).samples("test")[0].label == emotion


def test_quotes_of_windows_in_what_is_said_become_real_ones(tmp_path: Path) -> None:
    make_meld(tmp_path, ("I\x92m \x93fine\x94, he said,\x85 \x96 “really”", "joy", 0, 0))

    assert Meld(str(tmp_path)).samples("test")[0].subtitle == "I’m “fine”, he said,… – “really”"


def test_the_published_numbers_add_up() -> None:
    source = Meld("nowhere")
    parts = {split: source.published([split]) for split in ("train", "val", "test")}

    assert {split: part.clips for split, part in parts.items() if part} == {"train": 9989, "val": 1109, "test": 2610}
    assert all(part is not None and sum(part.per_label.values()) == part.clips for part in parts.values())
    assert parts["test"] is not None
    assert (parts["test"].per_label["neutral"], parts["test"].per_label["fear"]) == (1256, 50)


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    rows: list[Row] = [("a", "joy", 0, 0), ("b", "bored", 0, 1), ("c", "joy", "x", "y"), ("d", "joy", 0, 0)]
    with pytest.raises(ValueError, match=r"test_sent_emo\.csv:3") as caught:
        Meld(str(make_meld(tmp_path, *rows))).samples("test")

    message = str(caught.value)
    assert "test_sent_emo.csv:2: " not in message
    for part in (
        "test_sent_emo.csv:3: label 'bored' is not in the label space 'meld'",
        "test_sent_emo.csv:4: Dialogue_ID 'x' is no number, Utterance_ID 'y' is no number",
        "test_sent_emo.csv:5: the id 'test_dia0_utt0' stands already at",
    ):
        assert part in message


def test_what_is_missing_is_named_with_the_places_that_were_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no annotations of val in .*: looked for dev_sent_emo\.csv, MELD\.Raw"):
        Meld(str(tmp_path)).samples("val")
    write_table(tmp_path / "dev_sent_emo.csv")
    with pytest.raises(ValueError, match=r"no folder of clips in .*: looked for dev_splits_complete, dev/dev_splits"):
        Meld(str(tmp_path)).samples("val")


def test_a_table_without_the_columns_is_named(tmp_path: Path) -> None:
    make_meld(tmp_path)
    (tmp_path / "test_sent_emo.csv").write_text("Utterance,Emotion\nHi.,joy\n")
    with pytest.raises(ValueError, match=r"test_sent_emo\.csv' has no column Dialogue_ID, Utterance_ID"):
        Meld(str(tmp_path)).samples("test")
