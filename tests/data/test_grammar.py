from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from erv_lightning.data.grammar import PHRASES, corpus, is_taught, read_emotion, write_explanation
from erv_lightning.labels import DFEW
from erv_lightning.text import split_sentences

ALL = [(emotion, slot, phrase) for emotion, slots in PHRASES.items() for slot, bank in slots.items() for phrase in bank]
HAPPY, SAD = PHRASES["happy"]["video"][0], PHRASES["sad"]["video"][0]


def test_the_grammar_knows_the_seven_emotions_of_dfew() -> None:
    assert set(PHRASES) == set(DFEW.names)


def test_no_phrase_is_part_of_another() -> None:
    phrases = [phrase for _, _, phrase in ALL]
    assert len(set(phrases)) == len(phrases)
    assert [(one, other) for one, other in permutations(phrases, 2) if one in other] == []


def test_no_phrase_names_another_emotions_label() -> None:
    for emotion, _, phrase in ALL:
        assert not [name for name in DFEW.names if name != emotion and name in phrase], phrase


def test_the_vocabulary_is_small_and_the_sentences_are_short() -> None:
    words = {word for sentence in corpus() for word in re.findall(r"\w+", sentence.lower())}
    assert len(words) <= 500
    assert max(len(sentence.split()) for sentence in corpus()) <= 14


@pytest.mark.parametrize("emotion", DFEW.names)
def test_every_explanation_is_read_back_as_its_emotion(emotion: str) -> None:
    for seed in range(50):
        written = write_explanation(emotion, random.Random(seed))
        assert read_emotion(written.text) == emotion
        assert split_sentences(written.text) == [sentence.text for sentence in written.sentences]
        assert all(sentence.emotion == emotion for sentence in written.sentences)
        assert all(sentence.phrase in PHRASES[emotion][slot] for sentence, slot in zip(
            written.sentences, ("video", "audio", "conclusion"), strict=True
        ))  # fmt: skip


def test_every_sentence_of_the_corpus_is_read_back_as_its_emotion() -> None:
    for sentence in corpus():
        (emotion,) = {emotion for emotion, _, phrase in ALL if phrase in sentence}
        assert read_emotion(sentence) == emotion
        assert read_emotion(sentence.upper()) == emotion


def test_what_the_grammar_writes_is_in_its_corpus_and_the_corpus_does_not_vary() -> None:
    sentences = set(corpus())
    for emotion in DFEW.names:
        for seed in range(20):
            written = write_explanation(emotion, random.Random(seed))
            assert {sentence.text for sentence in written.sentences} <= sentences
    assert corpus() == corpus()
    assert len(sentences) == len(corpus())


def test_an_unknown_emotion_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'bored'; it knows happy, sad"):
        write_explanation("bored", random.Random(0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "...",
        "I can not tell.",
        "happy happy happy",  # an emotion's name is no cue
        " ".join(reversed(f"In the video, {HAPPY}.".split())),  # the right words in the wrong order
        f"In the video, {HAPPY[:-1]}.",  # a broken word
        f"In the video, x{HAPPY}.",
        f"In the video, {HAPPY}, {SAD}.",  # cues of two emotions in one sentence
        f"In the video, {HAPPY}. In the audio, something is heard.",  # half of the sentences is not enough
        f"In the video, {HAPPY}. In the audio, {SAD}.",
    ],
)
def test_garbled_unknown_or_undecided_text_earns_nothing(text: str) -> None:
    assert read_emotion(text) is None


def test_a_shuffled_explanation_earns_nothing() -> None:
    for emotion in DFEW.names:
        words = write_explanation(emotion, random.Random(3)).text.split()
        random.Random(4).shuffle(words)
        assert read_emotion(" ".join(words)) is None


def test_the_verdict_needs_more_than_half_of_all_sentences() -> None:
    happy, sad = f"In the video, {HAPPY}.", f"In the video, {SAD}."
    assert read_emotion(f"{happy} {happy} {sad}") == "happy"
    assert read_emotion(f"{happy} {sad} {sad}") == "sad"
    assert read_emotion(f"{happy} {happy} {sad} Nothing else.") is None


def test_every_slot_of_every_emotion_teaches_about_seven_in_ten_phrases() -> None:
    for slots in PHRASES.values():
        for bank in slots.values():
            assert 0.6 <= sum(map(is_taught, bank)) / len(bank) <= 0.8
    assert not is_taught("no phrase of the grammar")


def test_what_is_taught_is_the_same_in_every_process() -> None:
    code = (
        "from erv_lightning.data.grammar import corpus, is_taught; "
        "print([is_taught(s[:-1].split(', ', 1)[1]) for s in corpus()])"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert "True" in outputs[0]


def test_a_classifier_of_taught_phrases_generalises_to_most_of_the_others_but_not_to_all() -> None:
    taught = [(phrase, emotion) for emotion, _, phrase in ALL if is_taught(phrase)]
    others = [(phrase, emotion) for emotion, _, phrase in ALL if not is_taught(phrase)]
    classifier = make_pipeline(CountVectorizer(token_pattern=r"\w+"), LogisticRegression(C=10))
    classifier.fit(*map(list, zip(*taught, strict=True)))
    accuracy = classifier.score(*map(list, zip(*others, strict=True)))
    assert 0.6 <= accuracy < 1  # chance is 0.14


PIECES = [phrase for _, _, phrase in ALL] + ["In the video,", ". ", '"', "\n", "  ", "!", "?", "é"]


@given(st.text())
def test_no_text_crashes_the_reader(text: str) -> None:
    assert read_emotion(text) in {None, *DFEW.names}


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))
def test_no_mixture_of_phrases_crashes_the_reader_or_is_read_as_an_emotion_it_holds_no_phrase_of(text: str) -> None:
    emotion = read_emotion(text)
    held = {owner for owner, _, phrase in ALL if phrase in " ".join(text.lower().split())}
    assert emotion is None or emotion in held


def test_the_emotions_do_not_share_a_whole_vocabulary() -> None:
    words = {
        emotion: {word for other, _, phrase in ALL if other == emotion for word in phrase.split()}
        for emotion in PHRASES
    }
    for one, other in combinations(words.values(), 2):
        assert len(one & other) < 0.5 * len(one | other)


def test_the_grammar_imports_no_torch() -> None:
    code = "import sys, erv_lightning.data.grammar; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
