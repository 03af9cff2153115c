from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import RobertaForSequenceClassification

from erv_lightning.labels import DFEW, GOEMOTIONS, MAFW, LabelSpace
from erv_lightning.models.verifier import EmotionVerifier

SENTENCES = [
    "The corners of the mouth rise.",
    "The voice is flat.",
    "A loud, sharp voice!",
    "Nothing much happens here.",
]


@pytest.fixture(scope="module")
def verifier() -> EmotionVerifier:
    return EmotionVerifier.tiny(SENTENCES, DFEW.names).eval()


@pytest.fixture(scope="module")
def goemotions() -> EmotionVerifier:
    return EmotionVerifier.tiny(SENTENCES, GOEMOTIONS).eval()


# -- which output stands for which label --------------------------------------------------------------------------


def test_goemotions_outputs_are_found_by_the_methods_table(goemotions: EmotionVerifier) -> None:
    assert isinstance(goemotions.model, RobertaForSequenceClassification)
    assert goemotions.probs(SENTENCES).shape == (4, 28)
    words = {
        DFEW: ["joy", "sadness", "neutral", "anger", "surprise", "disgust", "fear"],
        MAFW: [
            *("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"),
            *("disapproval", "nervousness", "grief", "disappointment"),
        ],
    }
    for space, outputs in words.items():
        assert [GOEMOTIONS[index] for index in goemotions.output_index(space)] == outputs
        assert GOEMOTIONS[goemotions.neutral_output(space)] == "neutral"


def test_own_outputs_are_found_by_name_or_synonym_in_any_order() -> None:
    names = ["Fear", "neutral", "joyful", "anger", "sadness", "disgusted", "surprise"]
    verifier = EmotionVerifier.tiny(SENTENCES, names)
    assert verifier.labels == tuple(names)
    assert [names[index] for index in verifier.output_index(DFEW)] == [
        "joyful",
        "sadness",
        "neutral",
        "anger",
        "surprise",
        "disgusted",
        "Fear",
    ]
    assert verifier.neutral_output(DFEW) == 1


def test_a_verifier_of_other_labels_is_refused_with_the_missing_ones(verifier: EmotionVerifier) -> None:
    with pytest.raises(
        ValueError, match=r"'mafw' also has \['contempt', 'anxiety', 'helplessness', 'disappointment'\]"
    ):
        verifier.output_index(MAFW)
    moods = LabelSpace("moods", ("calm", "happy", "neutral"), {}, 2)
    with pytest.raises(ValueError, match=r"also has \['calm'\]: train a verifier on this data"):
        verifier.output_index(moods)


# -- probabilities ------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_each_sentence_alone_in_the_order_given(verifier: EmotionVerifier) -> None:
    asked = [*SENTENCES, *SENTENCES[::-1], ""]
    random.Random(0).shuffle(asked)
    probs = verifier.probs(asked, batch_size=2)
    assert probs.shape == (9, 7)
    assert 0 <= probs.min() <= probs.max() <= 1
    for sentence, row in zip(asked, probs, strict=True):
        with torch.no_grad():
            alone = verifier([sentence]).sigmoid()[0]
        assert_close(row, alone, atol=1e-6, rtol=1e-5)


def test_equal_sentences_are_scored_once(verifier: EmotionVerifier) -> None:
    scored: list[str] = []
    hook = verifier.register_forward_pre_hook(lambda module, args: scored.extend(args[0]))
    probs = verifier.probs([SENTENCES[0], SENTENCES[1], SENTENCES[0]] * 5)
    hook.remove()
    assert sorted(scored) == sorted(SENTENCES[:2])
    assert torch.equal(probs[0::3], probs[2::3])
    assert not torch.equal(probs[0], probs[1])


def test_logits_come_in_the_order_given_and_as_float32(verifier: EmotionVerifier) -> None:
    asked = SENTENCES[::-1]
    assert_close(verifier.logits(asked, batch_size=3).sigmoid(), verifier.probs(asked))
    half = EmotionVerifier.tiny(SENTENCES, DFEW.names).to(torch.bfloat16).eval()
    assert half.logits(asked).dtype == torch.float32


def test_batches_hold_sentences_of_similar_length(verifier: EmotionVerifier) -> None:
    widths: list[int] = []
    hook = verifier.model.register_forward_pre_hook(
        lambda module, args, inputs: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    verifier.probs(["flat " * count for count in (9, 1, 8, 2, 7, 3)], batch_size=2)
    hook.remove()
    assert widths == [4, 9, 11]  # 2, 7 and 9 words, <s> and </s>


def test_long_texts_come_in_smaller_batches(verifier: EmotionVerifier) -> None:
    rows: list[int] = []
    hook = verifier.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    texts = [f"{number:04d}" + "x" * 9_996 for number in range(20)] + ["y" * 100_000, "z" * 100_000]
    verifier.probs([*SENTENCES, *texts])
    hook.remove()
    assert rows == [6, 6, 6, 6, 1, 1]  # six of 10,000 characters are within 65,536


def test_no_sentence_gives_no_row(verifier: EmotionVerifier) -> None:
    assert verifier.probs([]).shape == (0, 7)


def test_a_sentence_beyond_the_models_length_is_cut_not_refused(verifier: EmotionVerifier) -> None:
    long = "The voice is flat. " * 200
    assert verifier.probs([long]).isfinite().all()


def test_probabilities_carry_no_gradient(verifier: EmotionVerifier) -> None:
    assert not verifier.probs(SENTENCES).requires_grad


# -- files --------------------------------------------------------------------------------------------------------


def test_a_saved_verifier_comes_back_equal(goemotions: EmotionVerifier, tmp_path: Path) -> None:
    goemotions.save(tmp_path)
    again = EmotionVerifier.from_pretrained(str(tmp_path))
    assert again.labels == GOEMOTIONS
    assert_close(again.probs(SENTENCES), goemotions.probs(SENTENCES))
    for name, value in again.state_dict().items():
        assert torch.equal(value, goemotions.state_dict()[name])
