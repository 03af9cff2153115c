from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from erv_lightning.data.readers import SyntheticClips
from erv_lightning.labels import DFEW, GOEMOTIONS, MAFW
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.rl import reward_terms
from erv_lightning.rl.reward_terms import BUILT_IN, Completions, ExplanationRule, RewardSum
from erv_lightning.text import parse_response, split_sentences

TEXTS = [
    "<think>In the video, a broad smile.</think>\n<answer>happy</answer>",
    "<think>The voice is dull. It is slow!</think><answer>Sad.</answer>",
    "no form at all",
    "<think>A frown.</think>\n<answer>happy, or sad</answer>",
]
LABELS = ["happy", "angry", "fear", "happy"]


def completions(
    texts: list[str] = TEXTS,
    labels: list[str] = LABELS,
    verifier: EmotionVerifier | None = None,
    rule: ExplanationRule = ExplanationRule(),  # noqa: B008  # frozen
) -> Completions:
    responses = [parse_response(text) for text in texts]
    return Completions(
        responses, [DFEW.id(r.answer) for r in responses], [DFEW.id(x) for x in labels], DFEW, verifier, rule
    )


def words(seen: Completions) -> Tensor:
    """A reward of one's own: the number of words of the explanation."""
    return torch.tensor([len(response.explanation.split()) for response in seen.responses])


# -- adding up ----------------------------------------------------------------------------------------------------


def test_the_sum_is_weighted_and_its_parts_are_not() -> None:
    total, parts = RewardSum({"format": 0.5, "accuracy": 2.0}, {})(completions())
    assert parts["format"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert parts["accuracy"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert total.tolist() == [2.5, 0.5, 0.0, 0.5]


def test_a_negative_weight_is_a_penalty() -> None:
    total, _ = RewardSum({"format": -1.0}, {})(completions())
    assert total.tolist() == [-1.0, -1.0, 0.0, -1.0]


def test_a_reward_without_weight_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(seen: Completions) -> Tensor:
        raise AssertionError("computed")

    monkeypatch.setitem(BUILT_IN, "accuracy", explode)
    reward = RewardSum({"format": 1.0, "accuracy": 0.0, "explanation": 0.0}, {})
    assert not reward.needs_verifier
    total, parts = reward(completions())
    assert list(parts) == ["format"]
    assert total.tolist() == [1.0, 1.0, 0.0, 1.0]


# -- rewards of one's own -----------------------------------------------------------------------------------------


def test_a_function_is_found_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_rewards"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "terse.py").write_text(
        "import torch\ndef terse(seen):\n    return torch.tensor([float(len(r.answer) < 6) for r in seen.responses])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    total, parts = RewardSum({"terse": 3.0, "format": 1.0}, {"terse": "my_rewards.terse:terse"})(completions())
    assert parts["terse"].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert total.tolist() == [4.0, 4.0, 3.0, 1.0]
    sys.modules.pop("my_rewards.terse")


def test_a_function_is_found_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text(
        "import torch\ndef words(seen):\n"
        "    return torch.tensor([len(r.explanation.split()) for r in seen.responses])\n"
    )
    _, parts = RewardSum({"words": 1}, {"words": f"{tmp_path}/long.py:words"})(completions())
    assert parts["words"].dtype == torch.float32
    assert parts["words"].tolist() == words(completions()).tolist() == [6.0, 7.0, 0.0, 2.0]


@pytest.mark.parametrize(
    "target",
    ["no.such.module:f", "erv_lightning.text:no_such_function", "no/such/file.py:f", "erv_lightning.text", "", ":f"],
)
def test_a_function_that_cannot_be_found_says_how_to_write_it(target: str) -> None:
    with pytest.raises(ValueError, match=r"reward 'mine': cannot load .*'package.module:function' or"):
        RewardSum({"mine": 1.0}, {"mine": target})


@pytest.mark.parametrize("weights", [{"fromat": 1.0}, {"format": 1.0, "fromat": 0.5}])
def test_an_unknown_name_is_refused_with_the_known_ones(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"\['fromat'\]; built in are \['accuracy', 'explanation', 'format'\]"):
        RewardSum(weights, {})


@pytest.mark.parametrize("weights", [{}, {"format": 0.0}])
def test_a_sum_of_nothing_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="none with a weight"):
        RewardSum(weights, {})


@pytest.mark.parametrize("shape", [(), (3,), (4, 1)])
def test_a_reward_of_the_wrong_shape_is_named(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_terms, "odd", lambda seen: torch.zeros(shape), raising=False)
    reward = RewardSum({"odd": 1.0}, {"odd": "erv_lightning.rl.reward_terms:odd"})
    with pytest.raises(ValueError, match=r"reward 'odd' returned shape .*, expected \(4,\)"):
        reward(completions())


# -- the explanation reward ---------------------------------------------------------------------------------------


def by_hand(verifier: EmotionVerifier, text: str, label: str, neutral: str) -> float:
    """R_E of one response, sentence by sentence (method.md, stage 3)."""
    sentences = split_sentences(parse_response(text).explanation)
    matches = counted = 0
    for sentence in sentences:
        with torch.no_grad():
            probs = dict(zip(verifier.labels, verifier([sentence]).sigmoid()[0].tolist(), strict=True))
        ranked = sorted(probs, key=lambda name: -probs[name])
        conveyed = [name for name in ranked if probs[name] > 0.1][:2] or ranked[:1]
        matches += label in conveyed
        counted += label == neutral or conveyed != [neutral]
    return matches / counted if counted else 0.0


def test_the_explanation_reward_is_the_formula_sentence_by_sentence(
    clips: SyntheticClips, verifier_folder: Path
) -> None:
    verifier = EmotionVerifier.from_pretrained(str(verifier_folder)).eval()
    samples = [*clips.samples("train"), *clips.samples("test")]
    texts = [f"<think>{sample.explanation}</think>\n<answer>sad</answer>" for sample in samples]
    texts += ["<think></think>\n<answer>sad</answer>", "no form", "<think>Blue. Green? Or what!</think>"]
    labels = [sample.label for sample in samples] + ["happy", "neutral", "neutral"]
    seen = completions(texts, labels, verifier)
    _, parts = RewardSum({"explanation": 1.0}, {})(seen)
    expected = [by_hand(verifier, text, label, "neutral") for text, label in zip(texts, labels, strict=True)]
    assert parts["explanation"].tolist() == pytest.approx(expected)
    assert len(set(expected)) > 2
    # what the verifier said is kept, sentence by sentence
    assert [[sentence for sentence, _ in row] for row in seen.verdicts] == [
        split_sentences(parse_response(text).explanation) for text in texts
    ]


def test_with_goemotions_outputs_the_label_is_looked_up_in_the_methods_table() -> None:
    verifier = EmotionVerifier.tiny([TEXTS[1]], GOEMOTIONS).eval()
    _, parts = RewardSum({"explanation": 1.0}, {})(completions(verifier=verifier))
    outputs = {"happy": "joy", "angry": "anger", "fear": "fear"}
    expected = [by_hand(verifier, text, outputs[label], "neutral") for text, label in zip(TEXTS, LABELS, strict=True)]
    assert parts["explanation"].tolist() == pytest.approx(expected)


def test_the_rule_reaches_the_reward(verifier_folder: Path) -> None:
    verifier = EmotionVerifier.from_pretrained(str(verifier_folder)).eval()
    everything = ExplanationRule(threshold=0.0, max_labels=7)
    _, parts = RewardSum({"explanation": 1.0}, {})(completions(verifier=verifier, rule=everything))
    assert parts["explanation"].tolist() == [1.0, 1.0, 0.0, 1.0]  # every sentence conveys every label


def test_completions_without_a_sentence_earn_nothing(verifier_folder: Path) -> None:
    verifier = EmotionVerifier.from_pretrained(str(verifier_folder)).eval()
    _, parts = RewardSum({"explanation": 1.0}, {})(completions(["", "none"], ["happy", "neutral"], verifier))
    assert parts["explanation"].tolist() == [0.0, 0.0]


def test_the_explanation_reward_needs_a_verifier_and_a_label() -> None:
    reward = RewardSum({"explanation": 1.0}, {})
    assert reward.needs_verifier
    with pytest.raises(ValueError, match=r"needs a verifier: set model\.init_args\.verifier"):
        reward(completions())
    verifier = EmotionVerifier.tiny(TEXTS, DFEW.names).eval()
    with pytest.raises(ValueError, match="not in its label space"):
        reward(completions(labels=["happy", "contempt", "sad", "sad"], verifier=verifier))


def test_a_verifier_of_other_labels_cannot_reward() -> None:
    seen = completions(verifier=EmotionVerifier.tiny(TEXTS, DFEW.names).eval())
    seen.space = MAFW
    with pytest.raises(ValueError, match="contempt"):
        RewardSum({"explanation": 1.0}, {})(seen)
