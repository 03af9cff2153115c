from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from erv_lightning.data.readers import SyntheticClips
from erv_lightning.labels import DFEW, GOEMOTIONS, MAFW
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.rl import reward_terms
from erv_lightning.rl.reward_terms import BUILT_IN, EXPLANATION_REWARDS, Completions, ExplanationRule, RewardSum
from erv_lightning.rl.rewards import explanation_reward
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
    **more: Any,
) -> Completions:
    responses = [parse_response(text) for text in texts]
    answers, truth = [DFEW.id(r.answer) for r in responses], [DFEW.id(x) for x in labels]
    return Completions(responses, answers, truth, DFEW, verifier, rule, **more)


def words(seen: Completions) -> Tensor:
    """A reward of one's own: the number of words of the explanation."""
    return torch.tensor([len(response.explanation.split()) for response in seen.responses])


# -- adding up ----------------------------------------------------------------------------------------------------


def test_the_sum_is_weighted_and_its_parts_are_not() -> None:
    earned = RewardSum({"format": 0.5, "accuracy": 2.0}, {})(completions())
    assert earned.parts["format"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert earned.parts["accuracy"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert earned.total.tolist() == [2.5, 0.5, 0.0, 0.5]
    assert earned.applicable.tolist() == [True] * 4


def test_a_negative_weight_is_a_penalty() -> None:
    assert RewardSum({"format": -1.0}, {})(completions()).total.tolist() == [-1.0, -1.0, 0.0, -1.0]


def test_a_reward_without_weight_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(seen: Completions) -> Tensor:
        raise AssertionError("computed")

    monkeypatch.setitem(BUILT_IN, "accuracy", explode)
    reward = RewardSum({"format": 1.0, "accuracy": 0.0, "explanation": 0.0}, {})
    assert (reward.weights, reward.needs_verifier) == ({"format": 1.0}, False)
    earned = reward(completions())
    assert list(earned.parts) == ["format"]
    assert earned.total.tolist() == [1.0, 1.0, 0.0, 1.0]


# -- rewards that do not always apply -----------------------------------------------------------------------------


def summed(weights: dict[str, float], monkeypatch: pytest.MonkeyPatch, **returned: object) -> reward_terms.Rewards:
    """Four completions, and rewards that return what is given."""
    for name, value in returned.items():
        monkeypatch.setitem(BUILT_IN, name, lambda seen, value=value: value)
    return RewardSum(weights, {})(completions())


def test_none_says_that_a_reward_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"format": 1.0, "mine": 0.5}
    earned = summed(weights, monkeypatch, format=[1, None, 0.0, None], mine=[2.0, 4.0, None, None])
    # the sum runs over what applies, and a completion of which no reward says anything has none
    assert earned.total.tolist() == [2.0, 2.0, 0.0, 0.0]
    assert earned.applicable.tolist() == [True, True, True, False]
    assert earned.parts["format"].isnan().tolist() == [False, True, False, True]
    assert earned.parts["mine"][:2].tolist() == [2.0, 4.0]  # not weighted


def test_a_list_without_none_is_as_good_as_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    earned = summed({"mine": 2.0}, monkeypatch, mine=[True, 0, 0.25, torch.tensor(0.5)])
    assert earned.total.tolist() == [2.0, 0.0, 0.5, 1.0]
    assert (earned.total.dtype, earned.applicable.all().item()) == (torch.float32, True)


@pytest.mark.parametrize(
    "returned", [torch.tensor([0, torch.nan, 0, -torch.inf]), [None, torch.nan, 0, torch.inf], [None, 1e300, 0, -1e39]]
)
def test_a_number_that_is_not_finite_is_a_mistake_and_named(returned: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"reward 'mine' is not finite for completions \[1, 3\] \(of 2\).*None"):
        summed({"mine": 1.0}, monkeypatch, mine=returned)


@pytest.mark.parametrize("returned", [1.0, None, ["high", "low", "low", "low"], [[1.0], [2.0], [3.0], [4.0]]])
def test_what_is_no_list_of_numbers_is_named(returned: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="reward 'mine' returned no tensor and no list of numbers or None"):
        summed({"mine": 1.0}, monkeypatch, mine=returned)


# -- rewards of one's own -----------------------------------------------------------------------------------------


def test_a_function_is_found_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_rewards"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "terse.py").write_text(
        "import torch\ndef terse(seen):\n    return torch.tensor([float(len(r.answer) < 6) for r in seen.responses])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    earned = RewardSum({"terse": 3.0, "format": 1.0}, {"terse": "my_rewards.terse:terse"})(completions())
    assert earned.parts["terse"].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert earned.total.tolist() == [4.0, 4.0, 3.0, 1.0]
    sys.modules.pop("my_rewards.terse")


def test_a_function_is_found_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text(
        "import torch\ndef words(seen):\n"
        "    return torch.tensor([len(r.explanation.split()) for r in seen.responses])\n"
    )
    parts = RewardSum({"words": 1}, {"words": f"{tmp_path}/long.py:words"})(completions()).parts
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
    with pytest.raises(ValueError, match=r"\['fromat'\]; built in are ") as error:
        RewardSum(weights, {})
    known = "accuracy all_sentences care explanation format gated graded half overlong paragraph self_consistent top1"
    assert str(known.split()) in str(error.value)


@pytest.mark.parametrize("weights", [{}, {"format": 0.0}])
def test_a_sum_of_nothing_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="none with a weight"):
        RewardSum(weights, {})


@pytest.mark.parametrize("shape", [(), (3,), (4, 1)])
def test_a_reward_of_the_wrong_shape_is_named(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"reward 'odd' returned shape .*, expected \(4,\)"):
        summed({"odd": 1.0}, monkeypatch, odd=torch.zeros(shape))


def test_a_list_of_the_wrong_length_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"reward 'odd' returned shape \(3,\), expected \(4,\)"):
        summed({"odd": 1.0}, monkeypatch, odd=[1.0, None, 0.0])


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
    parts = RewardSum({"explanation": 1.0}, {})(seen).parts
    expected = [by_hand(verifier, text, label, "neutral") for text, label in zip(texts, labels, strict=True)]
    assert parts["explanation"].tolist() == pytest.approx(expected)
    assert len(set(expected)) > 2
    # what the verifier said is kept, sentence by sentence
    assert [[sentence for sentence, _ in row] for row in seen.verdicts] == [
        split_sentences(parse_response(text).explanation) for text in texts
    ]


def test_with_goemotions_outputs_the_label_is_looked_up_in_the_methods_table() -> None:
    verifier = EmotionVerifier.tiny([TEXTS[1]], GOEMOTIONS).eval()
    parts = RewardSum({"explanation": 1.0}, {})(completions(verifier=verifier)).parts
    outputs = {"happy": "joy", "angry": "anger", "fear": "fear"}
    expected = [by_hand(verifier, text, outputs[label], "neutral") for text, label in zip(TEXTS, LABELS, strict=True)]
    assert parts["explanation"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", EXPLANATION_REWARDS)
def test_completions_of_two_label_spaces_earn_what_they_earn_alone(name: str) -> None:
    verifier = EmotionVerifier.tiny(["She smiles.", "A frown. It is slow."], GOEMOTIONS).eval()
    responses = [parse_response(text) for text in TEXTS]
    spaces, labels = [DFEW, MAFW, MAFW, DFEW], ["happy", "anger", "contempt", "sad"]
    answers = [space.id(one.answer) for space, one in zip(spaces, responses, strict=True)]
    truth = [space.id(label) for space, label in zip(spaces, labels, strict=True)]
    together = Completions(responses, answers, truth, spaces, verifier)
    alone = [
        Completions([responses[row]], [answers[row]], [truth[row]], spaces[row], verifier) for row in range(len(TEXTS))
    ]
    expected = [float(BUILT_IN[name](one)) for one in alone]
    assert BUILT_IN[name](together).tolist() == pytest.approx(expected)
    picked = together.pick([2, 0])
    assert picked.spaces == [MAFW, DFEW]
    joined = Completions.join([picked, alone[1]])
    assert joined.spaces == [MAFW, DFEW, MAFW]
    assert BUILT_IN[name](joined).tolist() == pytest.approx([expected[2], expected[0], expected[1]])


def test_the_rule_reaches_the_reward(verifier_folder: Path) -> None:
    verifier = EmotionVerifier.from_pretrained(str(verifier_folder)).eval()
    everything = ExplanationRule(threshold=0.0, max_labels=7)
    parts = RewardSum({"explanation": 1.0}, {})(completions(verifier=verifier, rule=everything)).parts
    assert parts["explanation"].tolist() == [1.0, 1.0, 0.0, 1.0]  # every sentence conveys every label


def test_a_calibrated_rule_takes_the_verifiers_own_temperature_and_thresholds() -> None:
    verifier = EmotionVerifier.tiny([TEXTS[1]], GOEMOTIONS).eval()
    rule = ExplanationRule(threshold=0.99, calibrated=True)
    with pytest.raises(ValueError, match="no erv_calibration"):
        rule.thresholds(verifier, DFEW)
    fitted = dict.fromkeys(("sadness", "neutral", "surprise", "disgust", "fear"), 0.98) | {"joy": 0.0, "anger": 0.0}
    verifier.calibrate(2.0, fitted)
    thresholds = rule.thresholds(verifier, DFEW)
    by_name = dict(zip(verifier.labels, thresholds.tolist(), strict=True))
    assert {name: round(at, 6) for name, at in by_name.items()} == {**dict.fromkeys(GOEMOTIONS, 0.99), **fitted}
    seen = completions(verifier=verifier, rule=rule)
    # every sentence conveys joy and anger, and nothing else
    assert RewardSum({"explanation": 1.0}, {})(seen).total.tolist() == [1.0, 1.0, 0.0, 1.0]
    said = verifier.probs([seen.verdicts[0][0][0]], calibrated=True)[0]
    assert seen.verdicts[0][0][1] == pytest.approx(said.tolist())
    plain = completions(verifier=verifier, rule=ExplanationRule())
    assert RewardSum({"explanation": 1.0}, {})(plain).total.tolist() != [1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", EXPLANATION_REWARDS)
def test_completions_without_a_sentence_earn_nothing(name: str, verifier_folder: Path) -> None:
    verifier = EmotionVerifier.from_pretrained(str(verifier_folder)).eval()
    earned = RewardSum({name: 1.0}, {})(completions(["", "none"], ["happy", "neutral"], verifier))
    assert earned.total.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("name", "variant"), EXPLANATION_REWARDS.items())
def test_every_variant_has_a_name_of_its_own(name: str, variant: str) -> None:
    verifier = EmotionVerifier.tiny(TEXTS, GOEMOTIONS).eval()  # so that outputs and labels are numbered differently
    outputs = {
        label: GOEMOTIONS.index(word) for label, word in {"happy": "joy", "angry": "anger", "fear": "fear"}.items()
    }
    reward = RewardSum({name: 1.0}, {})
    assert reward.needs_verifier
    explanations = [parse_response(text).explanation for text in TEXTS]
    texts = [[e] if e else [] for e in explanations] if variant == "paragraph" else map(split_sentences, explanations)
    probs = [verifier.probs(each) for each in texts]
    expected = explanation_reward(
        probs,
        [outputs[label] for label in LABELS],
        GOEMOTIONS.index("neutral"),
        variant=variant,
        answers=[GOEMOTIONS.index("joy"), GOEMOTIONS.index("sadness"), -1, -1],  # happy, sad, none, two at once
    )
    assert reward(completions(verifier=verifier)).total.tolist() == pytest.approx(expected.tolist())


def test_the_paragraph_reward_asks_about_whole_explanations(verifier_folder: Path) -> None:
    verifier = EmotionVerifier.from_pretrained(str(verifier_folder)).eval()
    seen = completions(verifier=verifier)
    probs = seen.explanation_probs()
    assert [len(rows) for rows in probs] == [1, 1, 0, 1]
    torch.testing.assert_close(probs[1], verifier(["The voice is dull. It is slow!"]).sigmoid().detach())
    RewardSum({"paragraph": 1.0}, {})(seen)
    assert seen.verdicts == []  # no sentence was scored


def test_the_verifier_reads_a_text_once_for_all_rewards_of_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = EmotionVerifier.tiny(TEXTS, DFEW.names).eval()
    asked: list[list[str]] = []
    probs = verifier.probs
    monkeypatch.setattr(verifier, "probs", lambda texts, **how: [asked.append(list(texts)), probs(texts, **how)][1])
    seen = completions([*TEXTS, *TEXTS], LABELS * 2, verifier)
    earned = RewardSum(dict.fromkeys(EXPLANATION_REWARDS, 1.0), {})(seen)

    # one batch of sentences, and then only the explanations that are not one sentence themselves
    assert [texts for texts in asked if texts] == [
        ["In the video, a broad smile.", "The voice is dull.", "It is slow!", "A frown."],
        ["The voice is dull. It is slow!"],
    ]
    for name, part in earned.parts.items():
        alone = RewardSum({name: 1.0}, {})(completions([*TEXTS, *TEXTS], LABELS * 2, verifier))
        assert part.tolist() == pytest.approx(alone.total.tolist()), name
    assert [[text for text, _ in row] for row in seen.verdicts[:2]] == [
        ["In the video, a broad smile."],
        ["The voice is dull.", "It is slow!"],
    ]


def test_the_verifiers_batches_hold_each_sentence_once_sorted_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = EmotionVerifier.tiny(TEXTS, DFEW.names).eval()
    batches: list[list[str]] = []
    forward = verifier.forward

    def watched(sentences: Sequence[str]) -> Tensor:
        batches.append(list(sentences))
        return forward(sentences)

    monkeypatch.setattr(verifier, "forward", watched)
    RewardSum({"explanation": 1.0}, {})(completions([*TEXTS, *TEXTS], LABELS * 2, verifier))
    assert batches == [["A frown.", "It is slow!", "The voice is dull.", "In the video, a broad smile."]]


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


# -- rewards that need more than the text -------------------------------------------------------------------------


def test_the_care_reward_compares_right_answers_with_their_group() -> None:
    reward = RewardSum({"care": 0.5}, {})
    assert (reward.needs_reference_answers, reward.needs_verifier) == (True, False)
    assert not RewardSum({"accuracy": 1.0}, {}).needs_reference_answers

    texts = [f"<think>So.</think><answer>{answer}</answer>" for answer in ("happy", "happy", "sad", "happy and sad")]
    p = torch.tensor([0.9, 0.2, 0.6, torch.nan])
    seen = completions(texts, ["happy"] * 4, answer_logp=p.log(), group_size=4)
    assert reward(seen).total.tolist() == [0.5, 0.0, 0.0, 0.0]  # the mean of the three answers is 0.57
    seen = completions(texts, ["happy"] * 4, answer_logp=p.log(), group_size=2)
    assert reward(seen).total.tolist() == [0.5, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"care reward needs .* under the reference"):
        reward(completions(texts))


def test_the_overlong_reward_begins_a_quarter_before_the_end_unless_told() -> None:
    reward = RewardSum({"overlong": 1.0}, {})
    lengths = torch.tensor([75, 80, 90, 100])
    seen = completions(lengths=lengths, max_new_tokens=100)
    assert reward(seen).total.tolist() == pytest.approx([0.0, -0.2, -0.6, -1.0])
    seen = completions(lengths=lengths, max_new_tokens=100, overlong_buffer=20)
    assert reward(seen).total.tolist() == pytest.approx([0.0, 0.0, -0.5, -1.0])
    assert reward(completions(lengths=torch.tensor([1, 2, 3, 2]), max_new_tokens=3)).total.tolist() == [0, 0, -1, 0]
    with pytest.raises(ValueError, match="overlong reward needs lengths and max_new_tokens"):
        reward(completions())
