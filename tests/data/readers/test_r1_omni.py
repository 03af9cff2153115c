"""R1-Omni's JSON in miniature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import R1Omni

ASKED = "which emotion is the most obvious to you?\nOutput the thinking process in <think> </think> tags."
THOUGHT = "<think>He frowns. His voice is tense.</think>\n<answer>anxious</answer>"


def record(video: str, answer: str, asked: str = "<video>\n<audio>\n" + ASKED) -> dict[str, Any]:
    return {"video": video, "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]}


def write(path: Path, *records: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records))


def test_a_record_for_sft_has_an_explanation_and_its_clip_decodes(
    tmp_path: Path, put_clip: Callable[[Path], Path]
) -> None:
    write(tmp_path / "emer.json", record("MER24/sample_00000967.mp4", THOUGHT))
    put_clip(tmp_path / "MER24" / "sample_00000967.mp4")

    (sample,) = R1Omni(str(tmp_path), {"train": "emer.json"}, holdout=0).samples("train")

    assert (sample.id, sample.dataset, sample.label_space) == ("MER24/sample_00000967.mp4", "emer", "emer")
    assert (sample.label, sample.explanation) == ("anxiety", "He frowns. His voice is tense.")
    assert (sample.question, sample.record) == (ASKED, f"{tmp_path / 'emer.json'}:0")
    assert load_clip(sample.clip, record=sample.record).has_audio


def test_a_record_for_grpo_has_the_bare_label(tmp_path: Path) -> None:
    write(tmp_path / "rl.json", record("DFEW/videos/1.mp4", "sad"), record("DFEW/videos/2.mp4", " Happy\n"))
    source = R1Omni(str(tmp_path), {"train": "rl.json"}, label_space="dfew", dataset="r1", holdout=0)
    assert [(one.label, one.explanation, one.dataset) for one in source.samples("train")] == [
        ("sad", "", "r1"),
        ("happy", "", "r1"),
    ]


def test_each_split_has_its_file_and_validation_its_own_where_there_is_one(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write(tmp_path / f"{name}.json", *(record(f"{name}{number}.mp4", "sad") for number in range(20)))
    files = {"train": "train.json", "test": "test.json"}
    held_out = R1Omni(str(tmp_path), files)
    own = R1Omni(str(tmp_path), {**files, "val": "val.json"})
    assert [len(held_out.samples(split)) for split in ("train", "val", "test")] == [19, 1, 20]
    assert [own.samples(split)[0].id for split in ("train", "val", "test")] == ["train0.mp4", "val0.mp4", "test0.mp4"]
    assert {sample.split for sample in held_out.samples("val")} == {"val"}
    with pytest.raises(ValueError, match="no split 'rl', only train, test, val"):
        held_out.samples("rl")


def test_the_authors_own_folder_can_be_cut_off_and_clips_lie_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "mafw.json", record("/mnt/data/jiaxing/MAFW/clips/1.mp4", "contempt"))
    source = R1Omni(
        str(tmp_path),
        {"test": "mafw.json"},
        label_space="mafw",
        media_root=str(tmp_path / "media"),
        strip="/mnt/data/jiaxing",
    )
    (sample,) = source.samples("test")
    assert (sample.id, sample.clip) == ("MAFW/clips/1.mp4", str(tmp_path / "media" / "MAFW/clips/1.mp4"))


def test_an_absolute_path_stays_where_nothing_is_cut_off(tmp_path: Path) -> None:
    write(tmp_path / "a.json", record("/elsewhere/1.mp4", "sad"))
    (sample,) = R1Omni(str(tmp_path), {"test": "a.json"}).samples("test")
    assert sample.clip == "/elsewhere/1.mp4"


def test_all_bad_records_are_named_at_once(tmp_path: Path) -> None:
    write(
        tmp_path / "emer.json",
        record("0.mp4", THOUGHT),
        record("1.mp4", "<think>He frowns.</think> sad"),
        record("2.mp4", "bored"),
        {"video": "3.mp4", "conversations": [{"from": "human", "value": "?"}]},
        {"conversations": record("4.mp4", "sad")["conversations"]},
        "five",
        record("6.mp4", "sad", asked="<video>\n<audio>\n"),
        record("0.mp4", THOUGHT),
    )
    with pytest.raises(ValueError, match=r"emer\.json:1: gpt gives no answer") as caught:
        R1Omni(str(tmp_path), {"train": "emer.json"}).samples("train")
    message = str(caught.value)
    assert "json:0:" not in message
    for part in (
        "json:2: label 'bored' is not in",
        "json:3: no 'gpt'",
        "json:4: no 'video'",
        "json:5: no 'video'",
        "json:6: the human asks nothing",
        "json:7: the id '0.mp4' stands already",
    ):
        assert part in message


def test_a_path_without_the_beginning_to_cut_off_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.json", record("/home/1.mp4", "sad"))
    with pytest.raises(ValueError, match=r"a\.json:0: video '/home/1\.mp4' does not begin with .*strip '/mnt'"):
        R1Omni(str(tmp_path), {"test": "a.json"}, strip="/mnt").samples("test")


def test_a_missing_file_another_kind_of_file_and_no_file_at_all_are_named(tmp_path: Path) -> None:
    source = R1Omni(str(tmp_path), {"test": "a.json"})
    with pytest.raises(ValueError, match=r"no file .*a\.json'"):
        source.samples("test")
    (tmp_path / "a.json").write_text('{"video": "1.mp4"}')
    with pytest.raises(ValueError, match=r"a\.json' is no JSON list"):
        source.samples("test")
    with pytest.raises(ValueError, match=r"set data\.source\.init_args\.files"):
        R1Omni(str(tmp_path), {})
