"""A data set from explanations: no clip and no sentence in two splits, whatever the explanations are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from erv_lightning.data.sample import Sample
from erv_lightning.labels import DFEW
from erv_lightning.teaching.build import Built, Plan, build
from erv_lightning.teaching.ledger import Lesson
from erv_lightning.teaching.sentences import Distinct
from erv_lightning.teaching.teachers import SampleTeacher, Teacher

WORDS = ("Smiles.", "smiles.", "Tears.", "A tear!", "He shouts.", "Silence.", "Nothing?")


@dataclass
class Deciding(Teacher):
    """Labels by the first letter; remembers what it was asked."""

    name: str = "deciding"

    def lessons(self, sentences: Sequence[Distinct], told: Callable[[int], None]) -> list[Lesson]:
        self.asked = [one.text for one in sentences]
        by_letter = {"s": ("happy",), "t": ("sad", "fear"), "h": ("angry",), "a": ("sad",)}
        return [Lesson(by_letter.get(one.key[0], ())) for one in sentences]

    def settings(self) -> dict[str, Any]:
        return {}


def clip(name: str, text: str, label: str = "happy", **more: Any) -> Sample:
    return Sample(name, "d", f"{name}.mp4", "?", "dfew", label, "train", explanation=text, **more)


def made(samples: Sequence[Sample], *teachers: Teacher, **plan: Any) -> Built:
    return build(samples, teachers or [Deciding()], Plan(DFEW, **plan), lambda name, total: lambda done: None)


def all_rows(built: Built) -> list[tuple[str, dict[str, Any]]]:
    return [(part, row) for part, rows in built.rows.items() for row in rows]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(WORDS), max_size=4), st.sampled_from(["", "x", "y"]), st.integers(0, 9)),
        min_size=1,
        max_size=25,
    ),
    st.integers(0, 3),
    st.sampled_from([None, 0, 1, 3]),
)
def test_no_clip_no_source_and_no_sentence_is_in_two_splits(
    clips: list[tuple[list[str], str, int]], seed: int, per_label: int | None
) -> None:
    samples = [
        Sample(str(i), "d", f"{file}.mp4", "?", "dfew", "sad", "train", explanation=" ".join(text), source=source)
        for i, (text, source, file) in enumerate(clips)
    ]
    try:
        built = made(samples, fractions=(0.5, 0.5, 0.0), seed=seed, per_label=per_label)
    except ValueError as error:
        assert "would be empty" in str(error) or "no explanation" in str(error)  # noqa: PT017  # what hypothesis draws
        assume(False)
    rows = all_rows(built)
    for key in (lambda row: row["clip"], lambda row: row["source"] or row["id"]):
        assert max(len({part for part, row in rows if key(row) == name}) for name in {key(row) for _, row in rows}) == 1
    texts = [row["text"].casefold() for _, row in rows]
    assert len(set(texts)) == len(texts)
    if per_label:
        assert max(Counter(label for row in built.rows["train"] for label in row["labels"]).values()) <= per_label


def test_rows_and_numbers_by_hand() -> None:
    samples = [
        clip("1", "Smiles. He shouts.", "happy", sentence_labels=(("happy",), ("fear",))),
        clip("2", "SMILES. Zzz. Tears.", "anger", source="film"),
        clip("3", "", "sad"),
    ]
    teacher = Deciding()
    built = made(samples, teacher, SampleTeacher("labels", DFEW), fractions=(1.0, 0.0, 0.0), per_label=0)

    assert teacher.asked == ["Smiles.", "He shouts.", "Zzz.", "Tears."]
    assert built.rows == {
        "train": [
            {"id": "d/1/1", "text": "Smiles.", "labels": ["happy"], "label_space": "dfew", "dataset": "d",
             "clip": "1.mp4", "source": "", "clip_label": "happy"},
            {"id": "d/1/2", "text": "He shouts.", "labels": ["angry"], "label_space": "dfew", "dataset": "d",
             "clip": "1.mp4", "source": "", "clip_label": "happy"},
            {"id": "d/2/3", "text": "Tears.", "labels": ["sad", "fear"], "label_space": "dfew", "dataset": "d",
             "clip": "2.mp4", "source": "film", "clip_label": "angry"},
        ]
    }  # fmt: skip
    numbers = built.numbers
    assert {key: numbers[key] for key in ("clips", "sentences", "distinct", "asked", "without_label", "per_label")} == {
        "clips": 2, "sentences": 5, "distinct": 4, "asked": 4, "without_label": 1, "per_label": 0
    }  # fmt: skip
    train = numbers["splits"]["train"]
    assert (train["sentences"], train["clips"], train["sentences_per_clip"]) == (3, 2, 1.5)
    assert train["labels"] == {**dict.fromkeys(DFEW.names, 0), "happy": 1, "sad": 1, "angry": 1, "fear": 1}
    deciding, labels = numbers["teachers"]
    assert deciding["clip_label"] == {"sentences": 3, "share": pytest.approx(1 / 3)}
    assert (deciding["without_label"], deciding["several_labels"]) == (1, 1)
    assert (deciding["sentence_labels"]["sentences"], deciding["sentence_labels"]["exact"]) == (2, 0.5)
    assert labels["without_label"] == 2
    (both,) = numbers["agreement"]
    assert (both["with"], both["sentences"], both["exact"]) == ("labels", 4, 0.5)  # nothing and nothing is equal, too


def test_probabilities_are_written_by_label() -> None:
    probs = (0.9, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0)
    sample = clip("1", "Smiles.", sentence_labels=(("happy",),), sentence_probs=(probs,))
    built = made([sample], SampleTeacher("labels", DFEW), fractions=(1, 0, 0))
    assert built.rows["train"][0]["probs"] == dict(zip(DFEW.names, probs, strict=True))


def test_only_train_is_balanced() -> None:
    samples = [clip(str(i), f"Smile number {i}.") for i in range(60)]
    built = made(samples, per_label=5)
    parts = built.numbers["splits"]

    assert parts["train"]["labels"]["happy"] == len(built.rows["train"]) == 5
    assert parts["train"]["before_balancing"]["sentences"] > 40
    assert parts["val"]["sentences"] == parts["val"]["before_balancing"]["sentences"] == len(built.rows["val"])
    assert sum(part["before_balancing"]["sentences"] for part in parts.values()) == 60


def test_a_limit_labels_the_first_sentences_only() -> None:
    teacher = Deciding()
    built = made([clip(str(i), f"Smile number {i}.") for i in range(60)], teacher, limit=4, fractions=(1, 0, 0))
    assert teacher.asked == [f"Smile number {i}." for i in range(4)]
    assert (built.numbers["limit"], built.numbers["distinct"], built.numbers["asked"]) == (4, 60, 4)


def test_an_empty_split_is_refused_before_anyone_is_asked() -> None:
    teacher = Deciding()
    with pytest.raises(ValueError, match=r"the split '\w+' would be empty, of 2 sentences from 1 clips .*--fractions"):
        made([clip("1", "Smiles. Tears.")], teacher)
    assert not hasattr(teacher, "asked")


def test_a_split_that_the_teacher_leaves_empty_is_refused_too() -> None:
    with pytest.raises(ValueError, match=r"deciding gives too few sentences a label: the split 'train' would be empty"):
        made([clip("1", "Zzz.")], fractions=(1, 0, 0))


def test_samples_without_an_explanation_are_no_data_set() -> None:
    with pytest.raises(ValueError, match="no explanation to cut into sentences: EMER, MERR and predictions have some"):
        made([clip("1", " ")])
