"""Entailment as the judge: a small BERT that has learnt which cue entails which emotion."""

from __future__ import annotations

from functools import wraps
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from erv_lightning.judges.nli import NliJudge
from erv_lightning.labels import LabelSpace

CUES = {"smile": "happy", "tear": "sad", "stillness": "neutral"}
TEMPLATE = "They feel {}."
SPACE = LabelSpace("moods", tuple(CUES.values()), {}, 2)
OTHER_ORDER = LabelSpace("moods_turned", ("neutral", "sad", "happy"), {}, 0)
OUTPUTS = ("Contradiction", "Entailment", "Neutral")
WORDS = ("<pad>", "<s>", "</s>", "<unk>", ".", "there", "is", "a", "they", "feel", *CUES, *CUES.values())
TEXTS = ["There is a tear.", "There is a smile.", "A stillness.", "", "There is a tear.", "A smile is there there."]
VERDICTS = ["sad", "happy", "neutral", None, "sad", "happy"]


def pair_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def small_bert(outputs: tuple[str, ...]) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=40,
            initializer_range=0.2,
            id2label=dict(enumerate(outputs)),
            label2id={name: index for index, name in enumerate(outputs)},
        )
    )


def save(folder: Path, model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a model that has learnt which cue entails which emotion; the rest is contradiction."""
    tokenizer, model = pair_tokenizer(), small_bert(OUTPUTS)
    premises = [f"{start} {cue}.{end}" for start, cue, end in product(("There is a", "A"), CUES, ("", " They."))]
    pairs = [(premise, TEMPLATE.format(emotion)) for premise in premises for emotion in CUES.values()]
    truth = [int(any(cue in one and emotion in two for cue, emotion in CUES.items())) for one, two in pairs]
    batch = tokenizer(pairs, padding=True, return_tensors="pt")
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.eval()  # no dropout
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model(**batch).logits, torch.tensor(truth))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    return save(tmp_path_factory.mktemp("nli"), model, tokenizer)


def ids(space: LabelSpace) -> list[int]:
    return [-1 if emotion is None else space.names.index(emotion) for emotion in VERDICTS]


@pytest.mark.parametrize("space", [SPACE, OTHER_ORDER])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_emotion_that_the_explanation_entails_is_named(nli: str, space: LabelSpace, batch_size: int) -> None:
    verdicts = NliJudge(nli, template=TEMPLATE, batch_size=batch_size, device="cpu").read(TEXTS, space)
    assert verdicts.label_ids == ids(space)


@pytest.mark.parametrize("space", [SPACE, OTHER_ORDER])
def test_probabilities_are_the_softmax_of_entailment_over_the_labels(nli: str, space: LabelSpace) -> None:
    probs = NliJudge(nli, template=TEMPLATE, device="cpu").read(TEXTS, space).probs
    assert probs is not None
    tokenizer = pair_tokenizer()
    model = BertForSequenceClassification.from_pretrained(nli).eval()
    for text, row in zip(TEXTS, probs, strict=True):
        if not text:
            assert row.isnan().all()
            continue
        with torch.no_grad():
            entailment = torch.stack(
                [
                    model(**tokenizer(text, TEMPLATE.format(name), return_tensors="pt")).logits[0, 1]
                    for name in space.names
                ]
            )
        assert_close(row, entailment.softmax(0))
        assert row.sum().item() == pytest.approx(1)


def test_equal_explanations_are_read_once(nli: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = NliJudge(nli, template=TEMPLATE, device="cpu")
    rows: list[int] = []
    forward = BertForSequenceClassification.forward

    @wraps(forward)  # the pipeline reads its signature
    def watched(model: BertForSequenceClassification, input_ids: Tensor, **inputs: Any) -> Any:
        rows.append(len(input_ids))
        return forward(model, input_ids, **inputs)

    monkeypatch.setattr(BertForSequenceClassification, "forward", watched)
    judge.read(TEXTS, SPACE)
    assert sum(rows) == 4 * len(SPACE.names)


def test_a_long_explanation_is_cut_and_the_hypothesis_kept(nli: str) -> None:
    judge = NliJudge(nli, template=TEMPLATE, device="cpu")
    verdicts = judge.read(["There is a tear. " + "there " * 100], SPACE)
    assert verdicts.probs is not None
    assert verdicts.probs.isfinite().all()
    assert verdicts.probs.max() - verdicts.probs.min() > 0.01


def test_nothing_to_read_is_no_verdict(nli: str) -> None:
    judge = NliJudge(nli, device="cpu")
    verdicts = judge.read(["", " \n"], SPACE)
    assert verdicts.label_ids == [-1, -1]
    assert verdicts.probs is not None
    assert verdicts.probs.isnan().all()
    assert judge.read([], SPACE).label_ids == []


def test_a_model_without_entailment_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save(tmp_path, small_bert(("happy", "sad")), pair_tokenizer())
    with pytest.raises(ValueError, match=r"has the outputs \['happy', 'sad'\], none called entailment: use") as refused:
        NliJudge(folder, device="cpu").read(TEXTS, SPACE)
    assert "\n" not in str(refused.value)


def test_a_missing_model_is_named_when_first_asked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no NLI model in"):
        NliJudge(str(tmp_path / "none"), device="cpu").read(TEXTS, SPACE)


def test_a_template_without_a_place_for_the_emotion_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"no place for the emotion: write \{\} there"):
        NliJudge("any", template="The person is happy.")
