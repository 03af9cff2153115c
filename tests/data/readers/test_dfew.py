"""DFEW in miniature, with the folder, file and column names of the published copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import Dfew
from erv_lightning.labels import DFEW

LAYOUTS = {
    "label": "label/single_{part}set_{fold}.csv",
    "EmoLabel_DataSplit": "EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv",
}


def make_dfew(
    root: Path, train: list[str], test: list[str], fold: int = 5, layout: str = "label", clips: str = "clip"
) -> Path:
    """Annotation files with these rows, such as ``1,7``, and an empty folder of clips."""
    (root / clips).mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", train), ("test", test)):
        path = root / LAYOUTS[layout].format(part=part, fold=fold)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["video_name,label", *rows]) + "\n")
    return root


def seven_by_twenty() -> list[str]:
    """140 rows, twenty of each label."""
    return [f"{number},{number % 7 + 1}" for number in range(1, 141)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts_of_the_annotation_are_read(tmp_path: Path, layout: str) -> None:
    make_dfew(tmp_path, ["3,1"], ["1,4", "2,7"], layout=layout)
    source = Dfew(str(tmp_path), holdout=0)
    first, second = source.samples("test")

    assert [sample.id for sample in source.samples("train")] == ["3"]
    assert (first.id, first.label, second.id, second.label) == ("1", "angry", "2", "fear")
    assert (first.dataset, first.label_space, first.split, first.fold) == ("dfew", "dfew", "test", 5)
    assert first.record == f"{tmp_path / LAYOUTS[layout].format(part='test', fold=5)}:2"


def test_the_ids_one_to_seven_are_the_seven_emotions_in_the_published_order(tmp_path: Path) -> None:
    make_dfew(tmp_path, [], [f"{number},{number}" for number in range(1, 8)])
    labels = [sample.label for sample in Dfew(str(tmp_path)).samples("test")]

    assert labels == ["happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"]


def test_a_fold_reads_its_own_files(tmp_path: Path) -> None:
    for fold in range(1, 6):
        make_dfew(tmp_path, [], [f"{fold},1"], fold=fold)

    found = [Dfew(str(tmp_path), fold).samples("test")[0] for fold in range(1, 6)]
    assert [(sample.id, sample.fold) for sample in found] == [(str(fold), fold) for fold in range(1, 6)]


@pytest.mark.parametrize("name", ["7", "00007", "7.mp4", "00007.mp4"])
@pytest.mark.parametrize("file", ["clip/7.mp4", "videos/7.mp4", "clip/00007.mp4"])
def test_every_spelling_of_a_name_leads_to_the_clip_which_decodes(
    tmp_path: Path, put_clip: Callable[[Path], Path], name: str, file: str
) -> None:
    put_clip(tmp_path / file)
    make_dfew(tmp_path, [], [f"{name},1"], clips=Path(file).parent.name)
    (sample,) = Dfew(str(tmp_path)).samples("test")

    assert (sample.id, sample.clip) == ("7", str(tmp_path / file))
    assert load_clip(sample.clip).has_audio


@pytest.mark.parametrize("folder", ["Clip/jpg_256", "Clip/clip_224x224"])
def test_a_clip_may_be_a_folder_of_frames(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder / "00007").mkdir(parents=True)
    make_dfew(tmp_path, [], ["7,1"], clips=folder)
    (sample,) = Dfew(str(tmp_path)).samples("test")

    assert sample.clip == str(tmp_path / folder / "00007")


def test_a_clip_that_is_not_there_has_the_path_where_it_should_be(tmp_path: Path) -> None:
    make_dfew(tmp_path, [], ["7,1"])

    assert Dfew(str(tmp_path)).samples("test")[0].clip == str(tmp_path / "clip" / "7.mp4")


def test_validation_clips_come_out_of_training_the_same_share_of_each_label(tmp_path: Path) -> None:
    make_dfew(tmp_path, seven_by_twenty(), [])
    source = Dfew(str(tmp_path), holdout=0.1)
    train, val = source.samples("train"), source.samples("val")

    assert Counter(sample.label for sample in val) == dict.fromkeys(DFEW.names, 2)
    assert {sample.split for sample in val} == {"val"}
    assert sorted(int(sample.id) for sample in train + val) == list(range(1, 141))
    assert Dfew(str(tmp_path), holdout=0.1).samples("val") == val


def test_the_same_clips_are_held_out_when_the_list_has_another_order(tmp_path: Path) -> None:
    make_dfew(tmp_path / "a", seven_by_twenty(), [])
    make_dfew(tmp_path / "b", seven_by_twenty()[::-1], [])
    first, second = ({sample.id for sample in Dfew(str(tmp_path / name)).samples("val")} for name in "ab")

    assert first == second


def test_the_published_numbers_add_up() -> None:
    test = Dfew("nowhere").published(["test"])

    assert test is not None
    assert (test.clips, sum(test.per_label.values())) == (2336, 2336)
    assert (test.per_label["happy"], test.per_label["disgust"]) == (489, 29)
    sizes = [Dfew("nowhere", fold).published(["test"]) for fold in range(1, 6)]
    assert [size.clips for size in sizes if size] == [2341, 2341, 2340, 2339, 2336]
    assert sum(size.clips for size in sizes if size) == 2336 + 9361  # the folds are the parts of one whole


def test_training_clips_are_compared_with_those_held_out_of_them_or_not_at_all() -> None:
    whole = Dfew("nowhere").published(["train", "val"])

    assert whole is not None
    assert whole.clips == 9361
    assert Dfew("nowhere").published(["train"]) is None
    assert Dfew("nowhere", fold=1).published(["train", "val"]) is None


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    make_dfew(tmp_path, [], ["1,1", "two,1", "3,8", "4,happy", "00001.mp4,2"])
    with pytest.raises(ValueError, match=r"set_5\.csv:3") as caught:
        Dfew(str(tmp_path)).samples("test")

    message = str(caught.value)
    assert "testset_5.csv:2:" not in message
    for part in (
        "testset_5.csv:3: video_name 'two' is no clip number",
        "testset_5.csv:4: label '8' is none of DFEW's 1 to 7",
        "testset_5.csv:5: label 'happy' is none",
        "testset_5.csv:6: the id '1' stands already at",
    ):
        assert part in message


@pytest.mark.parametrize("fold", [0, 6])
def test_a_fold_that_does_not_exist_is_refused(fold: int) -> None:
    with pytest.raises(ValueError, match=rf"no fold {fold}, only 1 to 5: set data\.source\.init_args\.fold"):
        Dfew("nowhere", fold)


def test_what_is_missing_is_named_with_the_places_that_were_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no list of test clips in .*label/single_testset_5\.csv, EmoLabel_DataSplit"):
        Dfew(str(tmp_path)).samples("test")
    make_dfew(tmp_path, [], [])
    (tmp_path / "clip").rmdir()
    with pytest.raises(ValueError, match=r"no folder of clips in .*clip, videos, Clip/jpg_256"):
        Dfew(str(tmp_path)).samples("test")


def test_a_header_without_the_columns_is_named(tmp_path: Path) -> None:
    make_dfew(tmp_path, [], [])
    (tmp_path / "label" / "single_testset_5.csv").write_text("name,emotion\n1,1\n")
    with pytest.raises(ValueError, match=r"single_testset_5\.csv' has no column video_name, label"):
        Dfew(str(tmp_path)).samples("test")
