"""MAFW in miniature: split lists and the workbook of labels as published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import Mafw
from erv_lightning.labels import MAFW

SINGLE = "Train & Test Set/single/no_caption"


def make_mafw(root: Path, test: list[str], train: list[str] | None = None, fold: int = 5, clips: str = "clips") -> Path:
    """Split lists with these lines and an empty folder of clips."""
    (root / clips).mkdir(parents=True, exist_ok=True)
    folder = root / SINGLE / f"set_{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text("\n".join(train or []) + "\n")
    (folder / "test.txt").write_text("\n".join(test) + "\n")
    return root


def write_workbook(root: Path, labels: dict[str, object]) -> None:
    """``Labels/single-set.xlsx``: a header, then clip, eleven columns of votes, and the id."""
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["clip", *MAFW.names, "single_label"])
    for name, label in labels.items():
        sheet.append([name, *[0] * 11, label])
    (root / "Labels").mkdir(parents=True, exist_ok=True)
    book.save(root / "Labels" / "single-set.xlsx")


@pytest.mark.parametrize("clips", ["clips", "data/clips"])
def test_a_line_names_the_clip_and_its_label_and_the_clip_decodes(
    tmp_path: Path, put_clip: Callable[[Path], Path], clips: str
) -> None:
    put_clip(tmp_path / clips / "00025.mp4")
    make_mafw(tmp_path, ["00025.mp4 anger"], clips=clips)
    (sample,) = Mafw(str(tmp_path)).samples("test")

    assert (sample.id, sample.label, sample.label_space, sample.dataset) == ("00025", "anger", "mafw", "mafw")
    assert (sample.clip, sample.fold) == (str(tmp_path / clips / "00025.mp4"), 5)
    assert sample.record == f"{tmp_path / SINGLE / 'set_5' / 'test.txt'}:1"
    assert load_clip(sample.clip).has_audio


def test_a_fold_reads_its_own_lists(tmp_path: Path) -> None:
    for fold in range(1, 6):
        make_mafw(tmp_path, [f"0000{fold}.mp4 fear"], fold=fold)

    found = [Mafw(str(tmp_path), fold).samples("test")[0] for fold in range(1, 6)]
    assert [(sample.id, sample.fold) for sample in found] == [(f"0000{fold}", fold) for fold in range(1, 6)]


def test_the_ids_of_the_workbook_are_the_eleven_emotions_in_the_published_order(tmp_path: Path) -> None:
    names = [f"{number:05d}.mp4" for number in range(1, 12)]
    make_mafw(tmp_path, names)
    write_workbook(tmp_path, {name: number for number, name in enumerate(names, start=1)})
    labels = [sample.label for sample in Mafw(str(tmp_path)).samples("test")]

    assert labels[:4] == ["anger", "disgust", "fear", "happiness"]
    assert labels == list(MAFW.names)


@pytest.mark.parametrize("number", [10, 10.0, "10", " 10 "])
def test_an_id_may_be_a_number_or_text_in_the_workbook(tmp_path: Path, number: object) -> None:
    make_mafw(tmp_path, ["00001.mp4"])
    write_workbook(tmp_path, {"00001.mp4": number})

    assert Mafw(str(tmp_path)).samples("test")[0].label == "helplessness"


def test_list_and_workbook_together_are_compared(tmp_path: Path) -> None:
    make_mafw(tmp_path, ["00001.mp4 anger", "00002.mp4 fear", "00003.mp4 fear"])
    write_workbook(tmp_path, {"00001.mp4": 1, "00002.mp4": 1, "99999.mp4": 0})
    with pytest.raises(ValueError, match="correct one of them") as caught:
        Mafw(str(tmp_path)).samples("test")

    workbook = tmp_path / "Labels" / "single-set.xlsx"
    assert str(caught.value).endswith(f"test.txt:2: label 'fear', but 1 (anger) at {workbook}:3: correct one of them")


def test_all_bad_lines_are_named_at_once(tmp_path: Path) -> None:
    lines = [
        "00001.mp4 anger",
        "",
        "00002.mp4 bored",
        "00003.mp4",
        "00004.mp4",
        "00001.mp4 fear",
        "00005.mp4 anger fear",
    ]
    make_mafw(tmp_path, lines)
    write_workbook(tmp_path, {"00004.mp4": "1,9"})
    with pytest.raises(ValueError, match=r"test\.txt:3") as caught:
        Mafw(str(tmp_path)).samples("test")

    message = str(caught.value)
    assert "test.txt:1: " not in message
    for part in (
        "test.txt:3: label 'bored' is not in the label space 'mafw'",
        "test.txt:4: no label here and none in Labels/single-set.xlsx",
        "test.txt:5: label '1,9' at",
        "test.txt:6: the id '00001' stands already at",
        "test.txt:7: label 'anger fear' is not in",
    ):
        assert part in message


def test_a_workbook_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    make_mafw(tmp_path, ["00001.mp4 anger"])
    (tmp_path / "Labels").mkdir()
    (tmp_path / "Labels" / "single-set.xlsx").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"single-set\.xlsx' is no workbook that can be read .* fetch it again"):
        Mafw(str(tmp_path)).samples("test")


def test_validation_clips_come_out_of_training_the_same_share_of_each_label(tmp_path: Path) -> None:
    lines = [f"{number:05d}.mp4 {MAFW.names[number % 11]}" for number in range(220)]
    make_mafw(tmp_path, [], lines)
    source = Mafw(str(tmp_path), holdout=0.1)
    train, val = source.samples("train"), source.samples("val")

    assert Counter(sample.label for sample in val) == dict.fromkeys(MAFW.names, 2)
    assert len({sample.id for sample in train + val}) == 220
    assert source.samples("val") == val


def test_the_published_numbers_add_up() -> None:
    source = Mafw("nowhere")
    test, train = source.published(["test"]), source.published(["train", "val"])

    assert test is not None
    assert train is not None
    assert (test.clips, sum(test.per_label.values()), train.clips) == (1831, 1831, 7341)
    assert (test.per_label["anger"], test.per_label["contempt"], test.per_label["disappointment"]) == (278, 47, 36)
    assert Mafw("nowhere", fold=1).published(["test"]) is None


@pytest.mark.parametrize("fold", [0, 6])
def test_a_fold_that_does_not_exist_is_refused(fold: int) -> None:
    with pytest.raises(ValueError, match=rf"no fold {fold}, only 1 to 5: set data\.source\.init_args\.fold"):
        Mafw("nowhere", fold)


def test_what_is_missing_is_named_with_the_places_that_were_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"looked for Train & Test Set/single/no_caption/set_5/test\.txt"):
        Mafw(str(tmp_path)).samples("test")
    make_mafw(tmp_path, []).joinpath("clips").rmdir()
    with pytest.raises(ValueError, match="looked for clips, data/clips"):
        Mafw(str(tmp_path)).samples("test")


def test_a_list_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    make_mafw(tmp_path, [])
    (tmp_path / SINGLE / "set_5" / "test.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"test\.txt' is not UTF-8 text"):
        Mafw(str(tmp_path)).samples("test")
