"""Sentences of explanations: where they stand, which are equal, and the explanations that predictions hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erv_lightning.data.sample import Sample
from erv_lightning.labels import DFEW, EMER, MAFW
from erv_lightning.teaching.sentences import distinct, from_predictions, mentions
from erv_lightning.text import split_sentences

SAMPLE = Sample(
    "7", "emer", "video/7.mp4", "?", "emer", "angry", "train", explanation="He roars. He stares!", source="A"
)


def test_a_sentence_keeps_the_place_where_it_stands() -> None:
    first, second = mentions([SAMPLE], DFEW)

    assert (first.id, first.text, first.clip_label) == ("emer/7/1", "He roars.", "angry")
    assert (second.id, second.text, second.labels) == ("emer/7/2", "He stares!", None)
    assert (second.dataset, second.clip, second.source, second.clip_name) == ("emer", "video/7.mp4", "A", "emer/7")


def test_sentences_of_several_explanations_of_a_clip_are_numbered_on() -> None:
    found = mentions([SAMPLE, replace(SAMPLE, id="8"), replace(SAMPLE, explanation="So he is angry.")], DFEW)
    assert [one.id for one in found] == ["emer/7/1", "emer/7/2", "emer/8/1", "emer/8/2", "emer/7/3"]


def test_labels_are_called_as_the_wanted_space_calls_them() -> None:
    labelled = replace(SAMPLE, sentence_labels=(("angry", "anxiety"), None), sentence_probs=((0.1,) * 6, None))
    worried = replace(SAMPLE, label="anxiety")

    assert [one.labels for one in mentions([labelled], MAFW)] == [("anger", "anxiety"), None]
    assert [one.labels for one in mentions([labelled], DFEW)] == [("angry",), None]
    assert [one.probs for one in mentions([labelled], EMER)] == [(0.1,) * 6, None]
    assert [one.probs for one in mentions([labelled], DFEW)] == [None, None]  # of other labels
    assert [mentions([sample], MAFW)[0].clip_label for sample in (SAMPLE, worried)] == ["anger", "anxiety"]
    assert mentions([worried], DFEW)[0].clip_label == "anxiety"  # which is no label of DFEW


def test_labels_that_do_not_match_the_sentences_are_named_all_at_once() -> None:
    wrong = [replace(SAMPLE, id=name, sentence_labels=(("angry",),), record=f"a.jsonl:{name}") for name in "12"]
    with pytest.raises(ValueError, match=r"a\.jsonl:1: 1 sentence labels .* for 2 sentences; a\.jsonl:2"):
        mentions(wrong, DFEW)


def test_sentences_that_differ_in_case_and_white_space_are_one_and_the_first_is_kept() -> None:
    texts = ["He  smiles.", "he smiles. Then not.", "HE\nSMILES."]
    found = distinct(mentions([replace(SAMPLE, id=str(i), explanation=text) for i, text in enumerate(texts)], DFEW))

    assert [(one.text, len(one.mentions)) for one in found] == [("He  smiles.", 3), ("Then not.", 1)]
    assert found[0].first.id == "emer/0/1"


@given(st.text(alphabet='ab.!?" \n\t\u2028', max_size=40))
def test_a_sentence_is_never_cut_again(text: str) -> None:
    assert [split_sentences(one) for one in split_sentences(text)] == [[one] for one in split_sentences(text)]


# -- predictions ---------------------------------------------------------------------------------------------------


def predicted(path: Path, *rows: dict[str, Any]) -> Path:
    usual = {"dataset": "dfew", "clip": "1.mp4", "label_space": "dfew", "label_id": 1, "answer_id": 0}
    path.write_text("".join(json.dumps({**usual, "id": str(i), **row}) + "\n" for i, row in enumerate(rows)))
    return path


def test_predictions_give_their_explanations_labels_and_sources(tmp_path: Path) -> None:
    path = predicted(
        tmp_path / "p.jsonl",
        {"explanation": "He smiles.", "source": "film"},
        {"explanation": ""},
        {"explanation": None},
    )
    (sample,) = from_predictions([path])

    assert (sample.id, sample.dataset, sample.clip, sample.source) == ("0", "dfew", "1.mp4", "film")
    assert (sample.explanation, sample.label, sample.label_space) == ("He smiles.", "sad", "dfew")
    assert sample.record == f"{path}:1"


def test_a_prediction_without_a_label_still_has_sentences(tmp_path: Path) -> None:
    (sample,) = from_predictions([predicted(tmp_path / "p.jsonl", {"label_id": -1, "explanation": "He smiles."})])
    assert (sample.label, mentions([sample], DFEW)[0].clip_label) == ("", "")


def test_predictions_without_any_explanation_give_none_and_missing_files_are_named(tmp_path: Path) -> None:
    assert from_predictions([predicted(tmp_path / "p.jsonl", {})]) == []
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.jsonl.*--predictions"):
        from_predictions([tmp_path / "none.jsonl"])
