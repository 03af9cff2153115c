from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from erv_lightning.data.datamodule import Sentence
from erv_lightning.data.grammar import EMOTIONS, corpus, read_emotion
from erv_lightning.labels import DFEW, GOEMOTIONS, MAFW
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.perturbations import PERTURBATIONS, SYNONYMS, Perturbation, distinct, perturbed
from erv_lightning.probes import CUES
from erv_lightning.report.robustness import robustness_figure, section, verdicts
from erv_lightning.robustness import (
    SPACES,
    by_novelty,
    honest_sentences,
    other_spaces,
    robustness,
    share,
    unknown_emotions,
)

BY_NAME = {one.name: one for one in PERTURBATIONS}
SMILE = Sentence("In the video, I see a broad smile on the whole face.", ("happy",))
CORPUS = [Sentence(text, (str(read_emotion(text)),)) for text in corpus()]


@pytest.fixture(scope="module")
def verifier(verifier_folder: Path) -> EmotionVerifier:
    return EmotionVerifier.from_pretrained(str(verifier_folder)).eval()


def changed(name: str, *sentences: Sentence, seed: int = 0) -> list[str]:
    return [text for _, text in perturbed(BY_NAME[name], sentences, DFEW, seed)]


# -- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("denied by name", "The emotion is not happy."),
        ("other opener", "On screen, I see a broad smile on the whole face."),
        ("other words", "In the footage, I see a broad smile on the complete visage."),
        ("first half", "In the video, I see a"),
        ("second half", "broad smile on the whole face."),
        ("no full stop", "In the video, I see a broad smile on the whole face"),
        ("lower case", "in the video, i see a broad smile on the whole face."),
        ("upper case", "IN THE VIDEO, I SEE A BROAD SMILE ON THE WHOLE FACE."),
    ],
)
def test_what_a_change_makes_of_a_sentence(name: str, text: str) -> None:
    assert changed(name, SMILE) == [text]


def test_random_changes_keep_the_words() -> None:
    for seed in range(20):
        [denied], [carried], [shuffled], [noisy] = (
            changed(name, SMILE, seed=seed) for name in ("denied", "carrier phrase", "shuffled", "noise")
        )
        assert denied.endswith(" in the video, I see a broad smile on the whole face.")
        assert any(word in denied for word in ("not", "no", "wrong"))
        assert carried.endswith(" in the video, I see a broad smile on the whole face.")
        assert sorted(shuffled.rstrip(".").split()) == sorted(SMILE.text.lower().replace(",", "").rstrip(".").split())
        assert noisy.startswith(SMILE.text)
        assert noisy != SMILE.text


def test_a_sentence_that_starts_with_i_or_capitals_keeps_them_behind_other_words() -> None:
    for text in ("I see a smile.", "TV noise drowns the voice."):
        assert changed("denied", Sentence(text, ("happy",)))[0].endswith(f" {text}")


def test_changes_depend_on_the_seed_and_the_text_alone() -> None:
    for one in PERTURBATIONS:
        state = random.getstate()
        whole = dict(perturbed(one, CORPUS, DFEW, 0))
        assert random.getstate() == state
        some = dict(perturbed(one, CORPUS[::-7], DFEW, 0))
        assert some.items() <= whole.items()
    assert dict(perturbed(BY_NAME["shuffled"], CORPUS, DFEW, 1)) != dict(
        perturbed(BY_NAME["shuffled"], CORPUS, DFEW, 0)
    )


def test_what_cannot_be_changed_is_left_out() -> None:
    assert changed("other opener", Sentence("He smiles.", ("happy",))) == []
    assert changed("other words", Sentence("He smiles.", ("happy",))) == []
    assert changed("lower case", Sentence("he smiles.", ("happy",))) == []
    assert changed("shuffled", Sentence("Oh no.", ("happy",))) == []
    assert changed("first half", Sentence("Joy.", ("happy",))) == changed("second half", Sentence("Joy.", ())) == []


def test_neutral_sentences_are_not_denied() -> None:
    calm = Sentence("The face is still.", ("neutral",))
    assert changed("denied", calm) == changed("denied by name", calm) == []
    assert changed("carrier phrase", calm) != []


def test_other_words_are_no_words_of_emotions() -> None:
    emotional = {word for space in SPACES for word in (*space.names, *space.synonyms)}
    spoken = {word for word, other in SYNONYMS.items() for word in (word, *other.split())}
    assert not spoken & emotional
    nouns = "video clip face gaze look voice tone speech sentence speaker person man woman child moment"
    for word in [*nouns.split(), "whole", "big", "large", "small", "quick"]:
        assert SYNONYMS[word][0] not in "aeiou"  # "a" before it stays right


def test_equal_sentences_count_once_and_keep_their_order() -> None:
    none = Sentence("A cue.", ())
    drawn, different = distinct([*CORPUS, none, *CORPUS], 20, seed=0)
    assert different == len(CORPUS)
    assert len(drawn) == 20
    places = [CORPUS.index(one) for one in drawn]
    assert places == sorted(set(places))
    assert distinct(CORPUS, 20, seed=1)[0] != drawn
    assert distinct(CORPUS, 10**6, seed=0)[0] == CORPUS


# -- what is counted ------------------------------------------------------------------------------------------------


def holds(p: Sequence[float], labels: Sequence[int]) -> bool:
    likeliest = sorted(range(len(p)), key=lambda k: (-p[k], k))
    said = [k for k in likeliest if p[k] > 0.1][:2] or likeliest[:1]
    return any(k in said for k in labels)


def test_shares_are_those_of_a_loop(verifier: EmotionVerifier) -> None:
    sentences = [*CORPUS[::5], Sentence("In the audio, a sigh and a laugh mix.", ("happy", "sad"))]
    found = robustness(verifier, DFEW, [*sentences, *sentences], most=30, seed=3)
    assert (found["sentences"], found["distinct_sentences"]) == (30, len(sentences))
    chosen, _ = distinct(sentences, 30, 3)
    for of, one in zip(found["perturbations"], PERTURBATIONS, strict=True):
        pairs = perturbed(one, chosen, DFEW, 3)
        before, kept, p_before, p_after = [], [], [], []
        for sentence, text in pairs:
            ids = [DFEW.id(label) for label in sentence.labels]
            first, then = (verifier.probs([read])[0].tolist() for read in (sentence.text, text))
            before.append(holds(first, ids))
            kept.append(holds(then, ids))
            p_before.append(sum(first[k] for k in ids) / len(ids))
            p_after.append(sum(then[k] for k in ids) / len(ids))
        assert of["sentences"] == len(pairs) > 0
        assert of["before"]["value"] == pytest.approx(np.mean(before))
        assert of["kept"]["value"] == pytest.approx(np.mean(kept))
        assert of["kept"]["low"] <= of["kept"]["value"] <= of["kept"]["high"]
        assert of["gained"] - of["lost"] == sum(kept) - sum(before)
        assert of["probability_drop"] == pytest.approx(np.mean(p_before) - np.mean(p_after), abs=1e-6)
        assert of["example"] == [pairs[0][0].text, pairs[0][1]]


def test_it_is_the_same_every_time_and_with_another_seed_another(verifier: EmotionVerifier) -> None:
    first, again, other = (robustness(verifier, DFEW, CORPUS, most=10, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first["perturbations"] != other["perturbations"]


def test_without_labelled_sentences_there_are_no_shares(verifier: EmotionVerifier) -> None:
    found = robustness(verifier, DFEW, [Sentence("A cue.", ())])
    assert all(of["sentences"] == 0 and math.isnan(of["kept"]["value"]) for of in found["perturbations"])
    assert "0 of the 0 different" in "\n".join(section({**found, "novelty": None}))
    robustness_figure(found)


def test_wilsons_interval() -> None:
    assert share(8, 10) == pytest.approx({"value": 0.8, "low": 0.4902, "high": 0.9433}, abs=1e-4)
    assert share(0, 5) == pytest.approx({"value": 0.0, "low": 0.0, "high": 0.4345}, abs=1e-4)
    assert all(math.isnan(value) for value in share(0, 0).values())
    for of in range(1, 200):  # whatever is rounded, the share is inside
        for hits in (0, 1, of):
            one = share(hits, of)
            assert 0 <= one["low"] <= one["value"] <= one["high"] <= 1


def test_f1_of_seen_and_unseen_sentences_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true, said = rng.random((60, 4)) < 0.3, rng.random((60, 4)) < 0.3
    texts = [f"sentence {row % 25}" for row in range(60)]
    known = {text for text in texts if int(text.split()[1]) < 10}
    found = by_novelty(said, true, texts, known)
    for name, inside in (("seen", True), ("unseen", False)):
        rows = [row for row, text in enumerate(texts) if (text in known) == inside]
        one = found[name]
        assert (one["sentences"], one["distinct"]) == (len(rows), 10 if inside else 15)
        assert one["f1"]["value"] == pytest.approx(f1_score(true[rows], said[rows], average="macro"))
        assert one["f1"]["low"] < one["f1"]["value"] < one["f1"]["high"]
    everything = by_novelty(said, true, texts, set(texts))
    assert everything["unseen"]["sentences"] == 0
    assert math.isnan(everything["unseen"]["f1"]["value"])


# -- emotions and label spaces that it was not made for --------------------------------------------------------------


def test_every_built_in_label_has_honest_sentences() -> None:
    for space in SPACES:
        assert all(honest_sentences(label) for label in space.names)
    assert all(read_emotion(text) == "happy" for text in honest_sentences("joy"))
    assert honest_sentences("bliss") == ()


def test_unknown_emotions_by_hand(verifier: EmotionVerifier) -> None:
    rows = {of["emotion"]: of for of in unknown_emotions(verifier, DFEW)}
    assert list(rows) == [*CUES, "all"]
    p = verifier.probs(CUES["contempt"])
    emotions = [k for k in range(7) if k != DFEW.neutral]
    assert rows["contempt"]["sentences"] == 3
    assert rows["contempt"]["above_half"]["value"] == np.mean([any(p[n, k] > 0.5 for k in emotions) for n in range(3)])
    assert rows["contempt"]["above_paper"]["value"] == np.mean([any(p[n, k] > 0.1 for k in emotions) for n in range(3)])
    best = [DFEW.names[int(k)] for k in p.argmax(1)]
    assert best.count(rows["contempt"]["taken_for"]) == rows["contempt"]["times"] == max(map(best.count, best))
    assert rows["all"]["sentences"] == 3 * len(CUES)
    mafw = EmotionVerifier.tiny(corpus(), MAFW.names).eval()
    assert [of["emotion"] for of in unknown_emotions(mafw, MAFW)] == ["worried", "calm", "doubt", "all"]


def test_label_spaces_that_ask_for_the_same_outputs_share_a_row(verifier: EmotionVerifier) -> None:
    rows = other_spaces(verifier, DFEW)
    assert [of["spaces"] for of in rows] == [
        ["dfew", "mafw", "ravdess", "meld"],
        ["emer", "mer2023"],
        ["merr"],
        ["cremad"],
    ]
    assert set(rows[2]["missing"]) == {"worried", "doubt", "contempt"}
    right = []
    outputs = [DFEW.id(label) for label in rows[2]["labels"]]
    for label, of in rows[2]["labels"].items():
        said = [max(outputs, key=lambda k: z[k]) for z in verifier.logits(honest_sentences(label)).tolist()]
        hits = [k == DFEW.id(label) for k in said]
        assert of["right"]["value"] == pytest.approx(np.mean(hits))
        right += hits
    assert rows[2]["right"]["value"] == pytest.approx(np.mean(right))


def test_goemotions_outputs_serve_every_label_space() -> None:
    go = EmotionVerifier.tiny(corpus(), GOEMOTIONS).eval()
    rows = other_spaces(go, MAFW)
    assert {name for of in rows for name in of["spaces"]} == {space.name for space in SPACES}
    assert all(of["missing"] == [] for of in rows)


def test_of_a_trained_verifier_the_page_says_what_it_reads() -> None:
    torch.manual_seed(0)
    verifier = EmotionVerifier.tiny(corpus(), DFEW.names)
    optimizer = torch.optim.AdamW(verifier.parameters(), lr=5e-3)
    target = torch.tensor([DFEW.id(sentence.labels[0]) for sentence in CORPUS])
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(verifier([sentence.text for sentence in CORPUS]), target).backward()
        optimizer.step()
    found = robustness(verifier.eval(), DFEW, CORPUS, most=60)
    of = {one["name"]: one for one in found["perturbations"]}
    assert of["lower case"]["before"]["value"] > 0.9
    assert of["lower case"]["kept"]["value"] > 0.9  # its tokenizer ignores case
    assert of["denied"]["kept"]["value"] > 0.5  # it never saw a negation
    page = "\n\n".join(section({**found, "novelty": by_novelty(*[np.ones((2, 7), bool)] * 2, ["a", "b"], {"a"})}))
    assert "still hold the denied label: the label is heard although it is denied" in page
    assert "| in training | 1 | 1 | 1.00" in page
    assert "| all | 21 |" in page
    assert all(f"**{one.name}**, {one.what}" in page for one in PERTURBATIONS)


# -- what people read -----------------------------------------------------------------------------------------------


def row(name: str, before: float, kept: float, p: float) -> dict[str, Any]:
    one: Perturbation = BY_NAME[name]
    of = {"name": name, "kind": one.kind, "wanted": one.wanted, "sentences": 100, "p": p}
    return {**of, "before": {"value": before}, "kept": {"value": kept}}


@pytest.mark.parametrize(
    ("of", "verdict"),
    [
        (
            row("denied", 1, 0.5, 0),
            "denied: 50 % still hold the denied label: the label is heard although it is denied.",
        ),
        (row("denied", 1, 0.1, 0), "denied: 10 % still hold the denied label: the denial is heard."),
        (row("shuffled", 1, 0.9, 1), "shuffled: 90 % hold a true label, 100 % before: it reads a bag of words."),
        (row("shuffled", 1, 0.8, 0), "shuffled: 80 % hold a true label, 100 % before: the order of words counts."),
        (row("noise", 1, 0.8, 0.01), "noise: 80 % hold a true label, 100 % before: this change confuses it."),
        (row("noise", 1, 0.8, 0.06), "noise: 80 % hold a true label, 100 % before: no clear difference."),
        (row("noise", 0.8, 1, 0.01), "noise: 100 % hold a true label, 80 % before: better than before."),
    ],
)
def test_verdicts(of: dict[str, Any], verdict: str) -> None:
    assert verdicts([of]) == [verdict]


def test_emotions_of_the_grammar_are_dfews() -> None:
    assert set(EMOTIONS) == set(DFEW.names)  # which honest sentences rely on
