"""Teachers: judges that are asked once, and what the samples say themselves."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from erv_lightning.judges.protocol import Judge, LabelSets, Verdicts
from erv_lightning.labels import DFEW, LabelSpace
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.teaching.ledger import Lesson
from erv_lightning.teaching.sentences import Distinct, Mention
from erv_lightning.teaching.teachers import BATCH, JudgeTeacher, Rule, SampleTeacher, make_teachers


def sentence(text: str, *said: tuple[str, ...] | None, clips: Sequence[str] = ()) -> Distinct:
    """A sentence with the labels that it has at several clips, or with the labels of the clips."""
    rows: Sequence[tuple[tuple[str, ...] | None, str]] = [(one, "") for one in said] or [(None, one) for one in clips]
    places = [Mention(f"d/{i}/1", text, "d", "", "", clip, labels) for i, (labels, clip) in enumerate(rows)]
    return Distinct(text.casefold(), tuple(places or [Mention("d/0/1", text, "d", "", "", "")]))


def silent(done: int) -> None:
    """Nobody watches."""


class Remembering(Judge):
    """Says that all is happy, and remembers what it was asked; stops before a text, as a lost connection would."""

    name = "remembering"

    def __init__(self, mood: str = "happy", stop_at: str = "") -> None:
        self.mood, self.stop_at = mood, stop_at
        self.asked: Counter[str] = Counter()

    def settings(self) -> dict[str, object]:
        return {"class": "Remembering", "mood": self.mood}

    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        if self.stop_at in explanations:
            raise ConnectionError("no answer")
        self.asked.update(explanations)
        return Verdicts([space.id(self.mood) for _ in explanations])


def teach(judge: Judge, texts: Sequence[str], folder: Path | None, rule: Rule | None = None) -> list[Lesson]:
    return JudgeTeacher("t", judge, DFEW, rule or Rule(), folder).lessons([sentence(text) for text in texts], silent)


# -- what the samples say ------------------------------------------------------------------------------------------


def test_of_several_label_sets_the_most_frequent_counts_and_of_equal_ones_the_first() -> None:
    teacher = SampleTeacher("labels", DFEW)
    sad, both, other = ("sad",), ("fear", "sad"), ("sad", "fear")
    found = teacher.lessons(
        [
            sentence("a", sad, both, other),  # both and other are one set
            sentence("b", both, sad),
            sentence("c", None, sad),  # not labelled at the first clip
            sentence("d", None),
            sentence("e", ()),
            sentence("f", (), (), sad),
        ],
        silent,
    )
    assert [one.labels for one in found] == [both, both, sad, (), (), ()]
    assert teacher.conflicts == 3  # a, b, f


def test_labels_of_samples_bring_their_probabilities_along() -> None:
    probs = (0.9, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0)
    mention = Mention("d/0/1", "a", "d", "", "", "", ("happy",), probs)
    assert SampleTeacher("labels", DFEW).lessons([Distinct("a", (mention,))], silent) == [Lesson(("happy",), probs)]


def test_a_weak_label_is_the_clips_where_the_space_has_it() -> None:
    teacher = SampleTeacher("clip", DFEW)
    found = teacher.lessons(
        [
            sentence("a", clips=["anxiety", "sad"]),
            sentence("b", clips=["anxiety"]),
            sentence("c", clips=["sad", "fear"]),
        ],
        silent,
    )
    assert [one.labels for one in found] == [("sad",), (), ("sad",)]
    assert teacher.conflicts == 1


# -- judges --------------------------------------------------------------------------------------------------------


def test_each_sentence_is_asked_once_however_often_the_command_runs(tmp_path: Path) -> None:
    texts = [str(number) for number in range(3 * BATCH + 1)]
    interrupted = Remembering(stop_at=texts[2 * BATCH + 3])
    with pytest.raises(ConnectionError):
        teach(interrupted, texts, tmp_path)
    again, third = Remembering(), Remembering()

    assert teach(again, texts, tmp_path) == teach(third, texts, tmp_path) == [Lesson(("happy",))] * len(texts)
    assert interrupted.asked == Counter(texts[: 2 * BATCH])
    assert again.asked == Counter(texts[2 * BATCH :])
    assert third.asked == Counter()


def test_nothing_is_kept_without_a_folder(tmp_path: Path) -> None:
    judge = Remembering()
    for _ in range(2):
        teach(judge, ["a"], None)
    assert judge.asked == Counter({"a": 2})


def test_progress_counts_what_was_there_and_what_came(tmp_path: Path) -> None:
    texts = [str(number) for number in range(BATCH + 2)]
    teach(Remembering(), texts[:3], tmp_path)
    told: list[int] = []
    JudgeTeacher("t", Remembering(), DFEW, Rule(), tmp_path).lessons([sentence(text) for text in texts], told.append)
    assert told == [3, BATCH - 1]


def test_other_settings_another_rule_or_another_space_ask_again(tmp_path: Path) -> None:
    teach(Remembering(), ["a"], tmp_path)
    sad, ruled = Remembering("sad"), Remembering()

    assert teach(sad, ["a"], tmp_path) == [Lesson(("sad",))]
    teach(ruled, ["a"], tmp_path, Rule(max_labels=1))
    assert (sad.asked["a"], ruled.asked["a"]) == (1, 1)
    unchanged = Remembering()
    assert teach(unchanged, ["A"], tmp_path) == [Lesson(("happy",))]  # case does not make another sentence
    assert unchanged.asked == Counter()


def test_a_classifier_teaches_probabilities_and_one_trained_again_is_another_teacher(tmp_path: Path) -> None:
    texts, folder = ["She smiles.", "A tear falls."], tmp_path / "tiny"
    verifier = EmotionVerifier.tiny(texts, DFEW.names).eval()
    verifier.save(folder)
    teacher = make_teachers([f"classifier:{folder}"], DFEW, Rule(), tmp_path / "labels")[0]

    first = teacher.lessons([sentence(text) for text in texts], silent)

    assert teacher.name == "classifier"
    assert [len(one.labels) for one in first] == [2, 2]
    for lesson, probs in zip(first, verifier.probs(texts), strict=True):
        assert lesson.probs is not None
        torch.testing.assert_close(torch.tensor(lesson.probs), probs, atol=1e-6, rtol=0)
        assert lesson.labels[0] == DFEW.names[int(probs.argmax())]
    with torch.no_grad():
        verifier.model.classifier.out_proj.bias += 1
    verifier.save(folder)
    os.utime(folder / "model.safetensors", (1, 1))
    again = make_teachers([f"classifier:{folder}"], DFEW, Rule(), tmp_path / "labels")[0]
    assert again.lessons([sentence(text) for text in texts], silent) != first


def test_a_sentence_without_a_label_has_no_probabilities_either() -> None:
    class Silent(Remembering):
        def conveyed(
            self, sentences: Sequence[str], space: LabelSpace, threshold: float = 0.1, max_labels: int = 2
        ) -> LabelSets:
            return LabelSets([() for _ in sentences], torch.full((len(sentences), 7), float("nan")))

    assert teach(Silent(), ["a"], None) == [Lesson()]


# -- by the words of a command line --------------------------------------------------------------------------------


def test_words_stand_for_teachers(tmp_path: Path) -> None:
    overlay = Path(__file__).parents[2] / "configs" / "judge" / "chat.yaml"
    specs = ["grammar", "labels", "clip", "mine=chat:m", f"theirs={overlay}"]
    assert [one.name for one in make_teachers(specs, DFEW, Rule(), None)] == [
        "grammar", "labels", "clip", "mine", "theirs"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("specs", "why"),
    [
        ([], "no teacher: name who labels the sentences, --teacher grammar, .*; or labels, or clip"),
        (["gramar"], "no teacher 'gramar'; one of these is needed: grammar, verifier:VALUE"),
        (["mine=chat:"], "no teacher 'mine=chat:'; one of these"),
        (["chat:m", "chat:m"], "two teachers are called 'm'"),
    ],
)
def test_words_that_stand_for_no_teacher_are_refused(specs: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make_teachers(specs, DFEW, Rule(), None)


def test_a_rule_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--threshold is 1\.5, .*; --max-labels is 0, it must be at least 1"):
        Rule(1.5, 0)
