"""Whole explanations read by any classifier: against the same classifier, asked text by text."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from erv_lightning.judges.classifier import ClassifierJudge
from erv_lightning.labels import DFEW, GOEMOTIONS, MAFW, LabelSpace
from erv_lightning.models.tiny import verifier_tokenizer
from erv_lightning.models.verifier import EmotionVerifier

TEXTS = [
    "The smile is broad. The voice is lively!",
    "A tear.",
    "The brows are low and the voice is loud. Anger, then.",
    "",
    "A tear.",
    "Nothing much happens here, and nobody says a word.",
]
EMPTY = 3
MOODS = LabelSpace("moods", ("happy", "sad", "neutral"), {"joy": "happy", "sadness": "sad"}, 2)
OUTPUTS = ("joy", "LABEL_1", "love", "neutral", "anger", "sadness")
MAP = {"LABEL_1": "sad", "love": "happy"}
Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Saves a small classifier with random weights; returns its folder."""

    def saved(outputs: Sequence[str], kind: str = "bert", multi_label: bool = False, limit: int | None = 128) -> str:
        tokenizer = verifier_tokenizer(TEXTS)
        tokenizer.model_max_length = limit or int(1e30)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = (BertConfig if kind == "bert" else RobertaConfig)(
            **sizes,
            vocab_size=len(tokenizer),
            max_position_embeddings=130,
            initializer_range=0.5,
            pad_token_id=tokenizer.pad_token_id,
            problem_type="multi_label_classification" if multi_label else None,
            id2label=dict(enumerate(outputs)),
            label2id={name: index for index, name in enumerate(outputs)},
        )
        torch.manual_seed(0)
        model = (BertForSequenceClassification if kind == "bert" else RobertaForSequenceClassification)(config)
        EmotionVerifier(model, tokenizer).save(tmp_path)
        return str(tmp_path)

    return saved


def outputs_alone(folder: str, text: str) -> dict[str, float]:
    """The classifier's probabilities of one text, by output."""
    classifier = EmotionVerifier.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = classifier([text])[0]
    multi_label = classifier.model.config.problem_type == "multi_label_classification"
    return dict(zip(classifier.labels, (logits.sigmoid() if multi_label else logits.softmax(0)).tolist(), strict=True))


def assert_rows(probs: Tensor, expected: Callable[[str], list[float]]) -> None:
    for row, text in zip(probs, TEXTS, strict=True):
        assert_close(row, torch.tensor(expected(text)) if text else torch.full((3,), torch.nan), equal_nan=True)


# -- probabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_outputs_that_stand_for_one_label_add_up_under_softmax(make: Make, kind: str) -> None:
    folder = make(OUTPUTS, kind)

    def by_hand(text: str) -> list[float]:
        of = outputs_alone(folder, text)
        return [of["joy"] + of["love"], of["LABEL_1"] + of["sadness"], of["neutral"]]

    verdicts = ClassifierJudge(folder, labels=MAP, batch_size=2, device="cpu").read(TEXTS, MOODS)
    assert verdicts.probs is not None
    assert_rows(verdicts.probs, by_hand)
    labels = [max(range(3), key=by_hand(text).__getitem__) if text else -1 for text in TEXTS]
    assert verdicts.label_ids == labels
    assert len(set(labels)) > 2


def test_of_independent_outputs_the_largest_counts(make: Make) -> None:
    folder = make(OUTPUTS, multi_label=True)

    def by_hand(text: str) -> list[float]:
        of = outputs_alone(folder, text)
        return [max(of["joy"], of["love"]), max(of["LABEL_1"], of["sadness"]), of["neutral"]]

    probs = ClassifierJudge(folder, labels=MAP, device="cpu").read(TEXTS, MOODS).probs
    assert probs is not None
    assert_rows(probs, by_hand)


def test_an_output_without_an_emotion_keeps_its_share(make: Make) -> None:
    folder = make(OUTPUTS)
    judge = ClassifierJudge(folder, labels={**MAP, "joy": "", "anger": ""}, device="cpu")
    probs = judge.read(TEXTS[:1], MOODS).probs
    assert probs is not None
    of = outputs_alone(folder, TEXTS[0])
    assert probs[0, 0].item() == pytest.approx(of["love"])
    assert probs.sum().item() == pytest.approx(1 - of["joy"] - of["anger"])


def test_goemotions_outputs_are_found_by_the_methods_table_and_more_can_be_added(make: Make) -> None:
    folder = make(GOEMOTIONS, multi_label=True)
    of = outputs_alone(folder, TEXTS[0])
    plain = ClassifierJudge(folder, device="cpu").read(TEXTS[:1], MAFW).probs
    more = ClassifierJudge(folder, labels={"grief": "sad", "annoyance": "helpless"}, device="cpu")
    moved = more.read(TEXTS[:1], MAFW).probs
    assert plain is not None
    assert moved is not None
    assert plain[0, MAFW.id("helplessness")].item() == pytest.approx(of["grief"])
    assert moved[0, MAFW.id("helplessness")].item() == pytest.approx(of["annoyance"])
    assert moved[0, MAFW.id("sadness")].item() == pytest.approx(max(of["grief"], of["sadness"]))


def test_one_judge_reads_two_label_spaces(make: Make) -> None:
    judge = ClassifierJudge(make([*MAFW.names, "scorn"]), labels={"scorn": "contempt"}, device="cpu")
    for space in (DFEW, MAFW):
        probs = judge.read(TEXTS[:1], space).probs
        assert probs is not None
        assert probs.shape == (1, len(space.names))


# -- what is read -------------------------------------------------------------------------------------------------


def test_equal_explanations_are_scored_once_and_whole(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = ClassifierJudge(make(OUTPUTS), labels=MAP, device="cpu")
    judge.read([], MOODS)
    scored: list[str] = []
    forward = EmotionVerifier.forward

    def watched(classifier: EmotionVerifier, texts: Sequence[str]) -> Tensor:
        scored.extend(texts)
        return forward(classifier, texts)

    monkeypatch.setattr(EmotionVerifier, "forward", watched)
    judge.read(TEXTS, MOODS)
    assert sorted(scored) == sorted({text for text in TEXTS if text})


def test_nothing_to_read_is_no_verdict(make: Make) -> None:
    judge = ClassifierJudge(make(OUTPUTS), labels=MAP, device="cpu")
    verdicts = judge.read(["", " \n"], MOODS)
    assert verdicts.label_ids == [-1, -1]
    assert verdicts.probs is not None
    assert verdicts.probs.isnan().all()
    assert judge.read([], MOODS).label_ids == []


@pytest.mark.parametrize(("kind", "limit", "reads"), [("bert", 20, 20), ("bert", None, 130), ("roberta", None, 128)])
def test_what_is_longer_than_the_model_is_cut_and_said_once(
    make: Make, kind: str, limit: int | None, reads: int
) -> None:
    judge = ClassifierJudge(make(OUTPUTS, kind, limit=limit), labels=MAP, device="cpu")
    begin, end = "smile " * (reads - 2), "tear " * 3  # two tokens are <s> and </s>
    with pytest.warns(UserWarning, match=rf"2 of 4 explanations are longer than the {reads} tokens") as said:
        probs = judge.read([begin + end, begin, begin + end, TEXTS[1]], MOODS).probs
    assert len(said) == 1
    assert probs is not None
    assert_close(probs[0], probs[1])


def test_what_fits_is_read_without_a_word(make: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClassifierJudge(make(OUTPUTS), labels=MAP, device="cpu").read(TEXTS, MOODS)


# -- errors -------------------------------------------------------------------------------------------------------


def test_labels_without_an_output_are_refused_and_the_setting_named(make: Make) -> None:
    judge = ClassifierJudge(make(["LABEL_0", "LABEL_1", "joy"]), device="cpu")
    with pytest.raises(ValueError, match=r"'moods'.* say in the judge's `labels`") as refused:
        judge.read(TEXTS, MOODS)
    assert "has the outputs ['LABEL_0', 'LABEL_1', 'joy'], but no output stands for ['sad', 'neutral']" in str(
        refused.value
    )
    assert "\n" not in str(refused.value)


def test_a_map_that_does_not_fit_is_refused_with_all_that_is_wrong(make: Make) -> None:
    judge = ClassifierJudge(make(OUTPUTS), labels={**MAP, "LABEL_9": "sad", "anger": "hapy"}, device="cpu")
    with pytest.raises(ValueError, match=r"it has no output 'LABEL_9'; 'hapy' is no emotion: "):
        judge.read(TEXTS, MOODS)


def test_a_missing_classifier_is_named_when_first_asked(tmp_path: Path) -> None:
    judge = ClassifierJudge(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no classifier in"):
        judge.read(TEXTS, MOODS)
