from __future__ import annotations

import json
from pathlib import Path

import pytest

from erv_lightning.data.readers import JsonlClips
from erv_lightning.data.sample import QUESTION


def write(root: Path, *rows: object, name: str = "train.jsonl") -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / name).write_text("\n".join(lines) + "\n")


def test_a_row_needs_a_clip_and_a_label_only(tmp_path: Path) -> None:
    write(tmp_path, {"clip": "a/1.mp4", "label": "Happiness"})
    (sample,) = JsonlClips(str(tmp_path)).samples("train")
    assert sample.clip == str(tmp_path / "a/1.mp4")
    assert (sample.label, sample.label_space, sample.split) == ("happy", "dfew", "train")
    assert (sample.question, sample.explanation, sample.sentence_labels) == (QUESTION, "", ())
    assert sample.record == f"{tmp_path / 'train.jsonl'}:1"


def test_optional_fields_are_read(tmp_path: Path) -> None:
    row = {
        "clip": "1.mp4",
        "label": "fear",
        "id": "one",
        "question": "What is felt?",
        "explanation": "The eyes are wide. It is dark.",
        "label_space": "mafw",
        "sentence_labels": [["fear", "anxious"], None],
        "subtitle": "Who is there?",
        "fold": 3,
        "dataset": "mine",
    }
    write(tmp_path, row)
    (sample,) = JsonlClips(str(tmp_path)).samples("train")
    assert (sample.id, sample.question, sample.dataset, sample.subtitle) == (
        "one",
        "What is felt?",
        "mine",
        row["subtitle"],
    )
    assert (sample.explanation, sample.label_space, sample.fold) == (row["explanation"], "mafw", 3)
    assert sample.sentence_labels == (("fear", "anxiety"), None)


def test_the_label_space_the_question_and_the_file_name_can_be_set_for_all_rows(tmp_path: Path) -> None:
    write(tmp_path, {"clip": "1.mp4", "label": "contempt"}, name="val_5.jsonl")
    source = JsonlClips(str(tmp_path), pattern="{split}_5.jsonl", label_space="mafw", question="Which?")
    (sample,) = source.samples("val")
    assert (sample.label, sample.label_space, sample.question) == ("contempt", "mafw", "Which?")


def test_an_absolute_clip_path_stays_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    write(tmp_path, "", {"clip": "/elsewhere/1.mp4", "label": "sad"}, "  ")
    (sample,) = JsonlClips(str(tmp_path)).samples("train")
    assert sample.clip == "/elsewhere/1.mp4"
    assert sample.record.endswith("train.jsonl:2")


def test_all_bad_rows_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"clip": "1.mp4", "label": "happy"},
        "{not json",
        {"clip": "2.mp4"},
        {"label": "sad"},
        {"clip": "3.mp4", "label": "bored"},
        ["a list"],
        {"clip": "4.mp4", "label": "happy", "label_space": "nowhere"},
    )
    with pytest.raises(ValueError, match=r"train\.jsonl:2") as caught:
        JsonlClips(str(tmp_path)).samples("train")
    message = str(caught.value)
    for line in range(2, 8):
        assert f"train.jsonl:{line}:" in message
    assert "train.jsonl:1:" not in message
    for part in ("'label'", "'clip'", "'bored' is not in the label space 'dfew': happy, sad", "'nowhere'"):
        assert part in message


def test_an_error_names_ten_problems_at_most_and_counts_the_rest(tmp_path: Path) -> None:
    write(tmp_path, *[{"clip": "1.mp4", "label": "bored"}] * 25)
    with pytest.raises(ValueError, match="and 15 more") as caught:
        JsonlClips(str(tmp_path)).samples("train")
    assert str(caught.value).count("bored") == 10


def test_a_split_without_a_file_is_named_with_the_file_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test\.jsonl' for the split 'test': check data\.source"):
        JsonlClips(str(tmp_path)).samples("test")


# What JsonlClips lets through or names badly today; each is a row that a user can easily write.
@pytest.mark.parametrize(
    "row",
    [
        {"clip": "1.mp4", "label": "sad", "label_space": 3},
        {"clip": "1.mp4", "label": "sad", "explanation": 3},
        {"clip": "1.mp4", "label": "sad", "fold": "first"},
        {"clip": "1.mp4", "label": "sad", "explanation": "One.", "sentence_labels": [[1]]},
        {"clip": "1.mp4", "label": "sad", "explanation": "One. Two.", "sentence_labels": [["sad"]]},
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_its_line(tmp_path: Path, row: dict[str, object]) -> None:
    write(tmp_path, row)
    with pytest.raises(ValueError, match=r"train\.jsonl:1"):
        JsonlClips(str(tmp_path)).samples("train")


@pytest.mark.parametrize("key", ["label_space", "explanation", "question", "subtitle"])
def test_null_counts_as_absent(tmp_path: Path, key: str) -> None:
    write(tmp_path, {"clip": "1.mp4", "label": "sad"}, name="without.jsonl")
    write(tmp_path, {"clip": "1.mp4", "label": "sad", key: None}, name="with.jsonl")
    source = JsonlClips(str(tmp_path))
    (without,), (with_null,) = source.samples("without"), source.samples("with")
    assert getattr(with_null, key) == getattr(without, key)


def test_an_id_that_stands_twice_is_named(tmp_path: Path) -> None:
    write(tmp_path, *[{"clip": "1.mp4", "label": "sad", "id": "one"}] * 2)
    with pytest.raises(ValueError, match="'one'"):
        JsonlClips(str(tmp_path)).samples("train")


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"train\.jsonl"):
        JsonlClips(str(tmp_path)).samples("train")


# -- a teacher's probabilities -------------------------------------------------------------------------------------

SURE = {"happy": 0.9, "sad": 0, "neutral": 0.1, "angry": 0.0, "surprise": 1, "disgust": 0.0, "fear": 0.0}


def test_probabilities_of_sentences_are_read_in_the_order_of_the_space(tmp_path: Path) -> None:
    backwards = dict(reversed(SURE.items()))
    write(tmp_path, {"clip": "1.mp4", "label": "sad", "explanation": "A. B.", "sentence_probs": [None, backwards]})
    (sample,) = JsonlClips(str(tmp_path)).samples("train")
    assert sample.sentence_probs == (None, (0.9, 0.0, 0.1, 0.0, 1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("probs", "why"),
    [
        ([None], "1 sentence probabilities for 2 sentences"),
        ([None, [0.1]], r"wrong type under \['sentence_probs'\]"),
        ({"happy": 1}, r"wrong type under \['sentence_probs'\]"),
        ([None, {"happy": 1}], "no probability of sad, neutral"),
        ([None, {**SURE, "contempt": 0}], "label 'contempt' is not in the label space"),
        ([None, {**SURE, "sad": 1.01}], "between 0 and 1 .* sad: 1.01"),
        ([None, {**SURE, "sad": True}], "between 0 and 1 .* sad: True"),
    ],
)
def test_probabilities_that_are_none_are_named(tmp_path: Path, probs: object, why: str) -> None:
    write(tmp_path, {"clip": "1.mp4", "label": "sad", "explanation": "A. B.", "sentence_probs": probs})
    with pytest.raises(ValueError, match=rf"train\.jsonl:1: .*{why}"):
        JsonlClips(str(tmp_path)).samples("train")
