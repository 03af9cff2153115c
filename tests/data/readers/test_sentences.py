"""Labelled sentences in JSONL, as `verifier build-data` writes them and as anyone may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erv_lightning.data.datamodule import ClipDataModule, Sentence, labelled_sentences
from erv_lightning.data.readers import SentenceFiles
from erv_lightning.labels import DFEW

PROBS = dict(zip(DFEW.names, (0.9, 0.05, 0.0, 0.0, 0.5, 0.0, 0.0), strict=True))


def write(root: Path, *rows: Any, split: str = "train") -> SentenceFiles:
    (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SentenceFiles(str(root))


def test_text_and_labels_are_enough(tmp_path: Path) -> None:
    source = write(tmp_path, {"text": "She smiles.", "labels": "Joy"}, {"text": "A tear", "labels": ["sad", "fear"]})

    first, second = source.samples("train")

    assert (first.explanation, first.label, first.sentence_labels) == ("She smiles.", "happy", (("happy",),))
    assert (second.label, second.sentence_labels, second.sentence_probs) == ("sad", (("sad", "fear"),), ())
    assert (first.clip, first.source, first.dataset, first.split) == ("", "", tmp_path.name, "train")
    assert first.record == f"{tmp_path / 'train.jsonl'}:1"


def test_rows_keep_their_probabilities_names_and_sources(tmp_path: Path) -> None:
    more = {"id": "dfew/1/1", "dataset": "dfew", "clip": "a/1.mp4", "source": "film", "clip_label": "sad"}
    source = write(tmp_path, {"text": "She smiles.", "labels": ["happy", "surprise"], "probs": PROBS, **more})

    (sample,) = source.samples("train")

    assert (sample.id, sample.dataset, sample.clip, sample.source) == ("dfew/1/1", "dfew", "a/1.mp4", "film")
    assert sample.sentence_probs == (tuple(PROBS.values()),)
    assert labelled_sentences([sample]) == [Sentence("She smiles.", ("happy", "surprise"), tuple(PROBS.values()))]


def test_a_row_may_name_its_own_label_space(tmp_path: Path) -> None:
    source = write(tmp_path, {"text": "A sneer.", "labels": ["contempt"], "label_space": "mafw"})
    assert source.samples("train")[0].label_space == "mafw"


def test_the_data_module_gives_them_as_sentences(tmp_path: Path) -> None:
    data = ClipDataModule(write(tmp_path, {"text": 'He says "No. Never." twice.', "labels": "angry"}), unit="sentences")
    assert [one.text for one in data.sentences("train")] == ['He says "No. Never." twice.']


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("text", "a JSON object is needed"),
        ({"labels": ["sad"]}, 'a text under "text" is needed'),
        ({"text": "A tear."}, 'under "labels" a list of labels'),
        ({"text": "A tear.", "labels": []}, "labels is empty: name the space's neutral label, or leave the row out"),
        ({"text": "A tear.", "labels": ["gloomy"]}, "label 'gloomy' is not in the label space 'dfew'"),
        ({"text": " ", "labels": ["sad"]}, "text is empty: leave the row out"),
        ({"text": "A tear. A sob.", "labels": ["sad"]}, "text is 2 sentences, .*: give each a row of its own"),
        ({"text": "A tear.", "labels": ["sad"], "clip": 3}, r"values of a wrong type under \['clip'\]"),
        ({"text": "A tear.", "labels": ["sad"], "probs": [0.1]}, r"values of a wrong type under \['probs'\]"),
        ({"text": "A tear.", "labels": ["sad"], "probs": {"sad": 1}}, "no probability of happy, neutral"),
        ({"text": "A tear.", "labels": ["sad"], "probs": {**PROBS, "sad": 1.5}}, "between 0 and 1 .* sad: 1.5"),
        ({"text": "A tear.", "labels": ["sad"], "probs": {**PROBS, "sad": "1"}}, "between 0 and 1 .* sad: '1'"),
        ({"text": "A tear.", "labels": ["sad"], "probs": {**PROBS, "joy": 0.1}}, "one a label"),
    ],
)
def test_a_bad_row_is_named_with_what_is_wrong(tmp_path: Path, row: Any, why: str) -> None:
    source = write(tmp_path, {"text": "Fine.", "labels": "sad"}, row)
    with pytest.raises(ValueError, match=rf"train\.jsonl:2: .*{why}"):
        source.samples("train")


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text"\n\n{"text": "A.", "labels": "x"}\n')
    with pytest.raises(ValueError, match=r"train\.jsonl:1: .*; .*train\.jsonl:3: label 'x'"):
        SentenceFiles(str(tmp_path)).samples("train")


def test_a_split_without_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*val\.jsonl.*data\.source\.init_args\.root"):
        SentenceFiles(str(tmp_path)).samples("val")
