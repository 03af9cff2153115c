import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from erv_lightning.rl.rewards import (
    VARIANTS,
    accuracy_reward,
    care_bonus,
    explanation_reward,
    format_reward,
    label_sets,
    overlong_penalty,
)
from erv_lightning.text import parse_response

NEUTRAL, HAPPY, SAD, ANGRY = range(4)


def sentence(**probs):
    """A sentence's probabilities over (neutral, happy, sad, angry)."""
    return [probs.get(name, 0.01) for name in ("neutral", "happy", "sad", "angry")]


BLAND = sentence(neutral=0.9)
GLAD = sentence(happy=0.8)
SORRY = sentence(sad=0.7)


def reward(sentences, target, **options):
    probs = tensor(sentences) if sentences else torch.zeros(0, 4)
    return explanation_reward([probs], [target], NEUTRAL, **options).item()


@pytest.mark.parametrize(
    ("sentences", "target", "expected"),
    [
        ([GLAD, SORRY], HAPPY, 1 / 2),
        ([GLAD, GLAD, SORRY], HAPPY, 2 / 3),
        # neutral sentences drop out of the denominator: the one of three that is left matches
        ([GLAD, BLAND, BLAND], HAPPY, 1.0),
        ([GLAD, SORRY, BLAND, BLAND], HAPPY, 1 / 2),
        # nothing but neutral sentences: 0 / 0
        ([BLAND, BLAND], HAPPY, 0.0),
        # with the label neutral, every sentence counts
        ([BLAND, BLAND, GLAD], NEUTRAL, 2 / 3),
        ([GLAD], NEUTRAL, 0.0),
        # neutral beside another label is no neutral sentence
        ([sentence(neutral=0.9, sad=0.2), GLAD], HAPPY, 1 / 2),
        ([sentence(neutral=0.9, happy=0.2), BLAND], HAPPY, 1.0),
        ([sentence(neutral=0.9, happy=0.2), BLAND], NEUTRAL, 1.0),
        # three labels above the threshold: the top two stay
        ([sentence(happy=0.5, sad=0.4, angry=0.3)], ANGRY, 0.0),
        ([sentence(happy=0.5, sad=0.4, angry=0.3)], SAD, 1.0),
        # none above it: the likeliest stays
        ([sentence(sad=0.05)], SAD, 1.0),
        ([sentence(neutral=0.05), GLAD], HAPPY, 1.0),
        ([], HAPPY, 0.0),
        ([], NEUTRAL, 0.0),
    ],
)
def test_the_explanation_reward_by_hand(sentences, target, expected):
    assert reward(sentences, target) == pytest.approx(expected)


def test_the_threshold_is_exclusive():
    half = [[0.0, 0.5, 0.75, 0.0]]
    assert reward(half, HAPPY, threshold=0.5) == 0
    assert reward(half, HAPPY, threshold=0.49) == 1


def test_ties_go_to_the_lower_id():
    tied = [[0.5, 0.5, 0.5, 0.5]]
    assert [reward(tied, target) for target in range(4)] == [1, 1, 0, 0]
    assert [reward(tied, target, max_labels=3) for target in range(4)] == [1, 1, 1, 0]
    assert [reward([[0.0] * 4], target) for target in (HAPPY, SAD)] == [0, 0]
    wide = [torch.full((1, 1000), 0.5)] * 3  # wide enough for a sort that is not stable to shuffle
    assert explanation_reward(wide, [0, 1, 2], 0).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("variant", "expected"), [("paper", 2 / 3), ("top1", 1 / 3), ("half", 1.0), ("all_sentences", 2 / 5)]
)
def test_the_variants_by_hand(variant, expected):
    sentences = [GLAD, sentence(sad=0.8, happy=0.3), SORRY, BLAND, BLAND]
    assert reward(sentences, HAPPY, variant=variant) == pytest.approx(expected)


def test_half_asks_for_at_least_one_half():
    assert reward([GLAD, SORRY], HAPPY, variant="half") == 1
    assert reward([GLAD, SORRY, SORRY], HAPPY, variant="half") == 0
    assert reward([BLAND], HAPPY, variant="half") == 0


@pytest.mark.parametrize(
    ("explanation", "target", "expected"),
    [
        ([sentence(neutral=0.9, happy=0.2)], HAPPY, 1.0),
        ([SORRY], HAPPY, 0.0),
        ([BLAND], HAPPY, 0.0),
        ([BLAND], NEUTRAL, 1.0),
        ([sentence(happy=0.5, sad=0.4, angry=0.3)], ANGRY, 0.0),
        ([], HAPPY, 0.0),
    ],
)
def test_a_paragraph_is_one_sentence(explanation, target, expected):
    assert reward(explanation, target, variant="paragraph") == expected


def test_gated_pays_the_papers_value_for_a_right_answer_alone():
    probs, target = [tensor([GLAD, GLAD, SORRY])] * 3, [HAPPY] * 3
    paid = explanation_reward(probs, target, NEUTRAL, variant="gated", answers=[HAPPY, SAD, -1])
    assert paid.tolist() == pytest.approx([2 / 3, 0.0, 0.0])


def test_graded_pays_the_mean_probability_of_a_right_answer():
    probs, target = [tensor([GLAD, BLAND, SORRY])] * 3, [HAPPY] * 3
    paid = explanation_reward(probs, target, NEUTRAL, variant="graded", answers=[HAPPY, SAD, -1])
    assert paid.tolist() == pytest.approx([(0.8 + 0.01 + 0.01) / 3, 0.0, 0.0])


def test_self_consistent_asks_for_the_answers_emotion_whatever_the_label_is():
    probs = [tensor([GLAD, SORRY, SORRY, BLAND])] * 4
    for target in ([HAPPY] * 4, [SAD] * 4):
        paid = explanation_reward(probs, target, NEUTRAL, variant="self_consistent", answers=[HAPPY, SAD, NEUTRAL, -1])
        # of three sentences that are not neutral; of all four where the answer is neutral; nothing without an answer
        assert paid.tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 4, 0.0])


def test_without_an_answer_nothing_agrees_with_the_first_label():
    assert reward([[0.9, 0.0, 0.0, 0.0]], SAD, variant="self_consistent", answers=[-1]) == 0


@pytest.mark.parametrize("variant", ["paper", "paragraph", "top1", "half", "all_sentences"])
def test_the_other_variants_take_no_notice_of_the_answer(variant):
    assert reward([GLAD], HAPPY, variant=variant, answers=[SAD]) == reward([GLAD], HAPPY, variant=variant) == 1


def by_loop(probs, target, answer, neutral, threshold, max_labels, variant):
    """The definition, one sentence at a time, on lists."""
    if (variant in ("gated", "graded") and answer != target) or (variant == "self_consistent" and answer < 0):
        return 0.0
    if variant == "graded":
        return sum(p[target] for p in probs) / len(probs) if probs else 0.0
    aim = answer if variant == "self_consistent" else target
    match = nonneutral = 0
    for p in probs:
        ranked = sorted(range(len(p)), key=lambda k: (-p[k], k))
        labels = {k for k in ranked[:max_labels] if p[k] > threshold} or {ranked[0]}
        if variant == "top1":
            labels = {ranked[0]}
        match += aim in labels
        nonneutral += labels != {neutral}
    n = len(probs) if aim == neutral or variant == "all_sentences" else nonneutral
    ratio = match / n if n else 0.0
    return float(ratio >= 0.5) if variant == "half" else ratio


# few distinct values, so that ties and the threshold itself come up
probability = st.sampled_from([0.0, 0.0625, 0.125, 0.25, 0.5, 1.0])
rows = st.lists(st.lists(probability, min_size=4, max_size=4), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    batch=st.lists(st.tuples(rows, st.integers(0, 3), st.integers(-1, 3)), max_size=4),
    neutral=st.integers(0, 3),
    threshold=st.sampled_from([0.0625, 0.1, 0.25]),
    max_labels=st.integers(1, 5),
    variant=st.sampled_from(VARIANTS),
)
def test_the_reward_equals_the_definition_sentence_by_sentence(batch, neutral, threshold, max_labels, variant):
    if variant == "paragraph":
        batch = [(probs[:1], target, answer) for probs, target, answer in batch]
    rewards = explanation_reward(
        [tensor(probs).reshape(-1, 4) for probs, _, _ in batch],
        [target for _, target, _ in batch],
        neutral,
        threshold=threshold,
        max_labels=max_labels,
        variant=variant,
        answers=[answer for _, _, answer in batch],
    )
    assert rewards.shape == (len(batch),)
    assert bool(((rewards >= 0) & (rewards <= 1)).all())
    expected = [by_loop(*one, neutral, threshold, max_labels, variant) for one in batch]
    assert rewards.tolist() == pytest.approx(expected, abs=1e-7)


def test_half_precision_is_taken():
    assert explanation_reward([tensor([GLAD], dtype=torch.bfloat16)], [HAPPY], NEUTRAL).tolist() == [1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "mean"}, "'mean'.*paper, paragraph, top1, half, all_sentences, gated, self_consistent, graded"),
        ({"variant": "gated"}, "variant 'gated' needs answers"),
        ({"variant": "self_consistent"}, "variant 'self_consistent' needs answers"),
        ({"variant": "graded"}, "variant 'graded' needs answers"),
        ({"variant": "gated", "answers": [1, 2]}, "1 targets but 2 answers"),
        ({"variant": "gated", "answers": [-2]}, r"\[-2\] outside the verifier's 4 labels"),
        ({"variant": "self_consistent", "answers": [4]}, r"\[4\] outside the verifier's 4 labels"),
        ({"variant": "paragraph", "probs": [torch.zeros(2, 4)]}, "takes one row per response"),
        ({"target": [1, 2]}, "1 responses but 2 targets"),
        ({"target": [-1]}, r"\[-1\] outside the verifier's 4 labels"),
        ({"neutral": 4}, r"\[4\] outside the verifier's 4 labels"),
        ({"max_labels": 0}, "max_labels must be at least 1, got 0"),
        ({"probs": [torch.zeros(4)]}, r"must all be \(sentences, labels\)"),
        ({"probs": [torch.zeros(1, 4), torch.zeros(1, 5)], "target": [0, 0]}, "over the same labels"),
        ({"probs": [tensor([[0.1, -2.0, 3.0, 0.0]])]}, "apply the sigmoid"),
        ({"probs": [tensor([[0.1, float("nan"), 0.0, 0.0]])]}, "nan"),
    ],
)
def test_what_does_not_fit_is_an_error(arguments, message):
    fitting = {"probs": [torch.zeros(1, 4)], "target": [1], "neutral": 0}
    with pytest.raises(ValueError, match=message):
        explanation_reward(**(fitting | arguments))


def test_the_format_reward_is_one_for_well_formed_responses():
    texts = ["<think>a</think><answer>sad</answer>", "sad", ""]
    assert format_reward([parse_response(text) for text in texts]).tolist() == [1.0, 0.0, 0.0]
    assert format_reward([]).shape == (0,)


def test_the_accuracy_reward_is_one_for_the_label_and_never_for_a_missing_answer():
    assert accuracy_reward([1, 2, -1, -1], [1, 1, 1, -1]).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert accuracy_reward(tensor([3]), tensor([3])).tolist() == [1.0]
    assert accuracy_reward([], []).shape == (0,)
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1,\)"):
        accuracy_reward([1, 2], [1])


# -- GRPO-CARE's bonus --------------------------------------------------------------------------------------------


def test_the_care_bonus_by_hand():
    # p: 0.9, 0.5, 0.2 and no answer; the mean of the three is 0.533
    p = tensor([0.9, 0.5, 0.2, float("nan"), 0.1, 0.1, 0.4, 0.4])
    right = tensor([True, True, False, False, True, False, True, False])
    # second group: the mean is 0.25
    assert care_bonus(p.log(), right, 4).tolist() == [1, 0, 0, 0, 0, 0, 1, 0]


def test_a_wrong_answers_likelihood_counts_in_the_mean_and_earns_nothing():
    assert care_bonus(tensor([0.5, 0.9]).log(), tensor([True, False]), 2).tolist() == [0, 0]
    assert care_bonus(tensor([0.5, 0.1]).log(), tensor([True, False]), 2).tolist() == [1, 0]


@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.7, 0.9999, 1.0])
def test_answers_as_likely_as_each_other_are_all_at_the_mean(p):
    for group in range(1, 12):
        assert care_bonus(torch.full((group,), math.log(p)), torch.ones(group, dtype=torch.bool), group).all()


def test_without_an_answer_there_is_no_bonus():
    nothing = torch.full((2,), float("nan"))
    assert care_bonus(nothing, tensor([True, False]), 2).tolist() == [0, 0]
    assert care_bonus(tensor([float("nan"), -9.0]), tensor([True, True]), 2).tolist() == [0, 1]
    assert care_bonus(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 4).shape == (0,)


def care_by_loop(answer_logp, right, group_size):
    bonus = []
    for start in range(0, len(right), group_size):
        p = [None if math.isnan(x) else math.exp(x) for x in answer_logp[start : start + group_size]]
        answered = [x for x in p if x is not None]
        for x, is_right in zip(p, right[start : start + group_size], strict=True):
            # a millionth is what rounding may do to numbers that are equal
            bonus.append(float(x is not None and is_right and x >= sum(answered) / len(answered) * (1 - 1e-6)))
    return bonus


@settings(max_examples=100, deadline=None)
@given(group_size=st.integers(1, 4), prompts=st.integers(0, 3), data=st.data())
def test_the_care_bonus_equals_its_definition_one_by_one(group_size, prompts, data):
    logp = st.sampled_from([math.log(0.5), math.log(0.25), math.log(0.125), float("nan")])
    count = group_size * prompts
    answer_logp = data.draw(st.lists(logp, min_size=count, max_size=count))
    right = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    bonus = care_bonus(tensor(answer_logp, dtype=torch.float64), tensor(right, dtype=torch.bool), group_size)
    assert bonus.dtype == torch.float32
    assert bonus.tolist() == care_by_loop(answer_logp, right, group_size)


@pytest.mark.parametrize(
    ("logp", "right", "group"), [((3,), (3,), 2), ((4,), (2,), 2), ((2, 2), (2, 2), 2), ((4,), (4,), 0)]
)
def test_care_of_no_whole_groups_is_an_error(logp, right, group):
    with pytest.raises(ValueError, match=r"care_bonus: .* are no whole groups of"):
        care_bonus(torch.zeros(logp), torch.zeros(right, dtype=torch.bool), group)


# -- length -------------------------------------------------------------------------------------------------------


def test_the_overlong_penalty_falls_from_0_to_minus_1_over_the_buffer():
    penalty = overlong_penalty(tensor([0, 75, 80, 81, 90, 95, 100, 107]), max_new_tokens=100, buffer=20)
    assert penalty.dtype == torch.float32
    assert penalty.tolist() == pytest.approx([0, 0, 0, -1 / 20, -10 / 20, -15 / 20, -1, -1])
    assert overlong_penalty(tensor([1, 4]), 4, 4).tolist() == [-0.25, -1.0]


def dapo_equation_13(length, l_max, l_cache):
    if length <= l_max - l_cache:
        return 0.0
    return ((l_max - l_cache) - length) / l_cache if length <= l_max else -1.0


@settings(max_examples=50, deadline=None)
@given(l_max=st.integers(1, 40), data=st.data())
def test_the_overlong_penalty_is_dapos_equation(l_max, data):
    l_cache = data.draw(st.integers(1, l_max))
    expected = [dapo_equation_13(length, l_max, l_cache) for length in range(l_max + 5)]
    assert overlong_penalty(torch.arange(l_max + 5), l_max, l_cache).tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("buffer", [0, -1, 9])
def test_a_buffer_longer_than_a_completion_is_an_error(buffer):
    with pytest.raises(ValueError, match=f"buffer must be 1 to max_new_tokens = 8, got {buffer}"):
        overlong_penalty(tensor([1]), 8, buffer)


def test_each_label_may_have_a_threshold_of_its_own() -> None:
    thresholds = tensor([0.5, 0.9, 0.2, 0.2])  # neutral, happy, sad, angry
    # happy is likelier, but below its own threshold
    assert reward([sentence(happy=0.8, sad=0.3)], SAD, threshold=thresholds) == 1.0
    assert reward([sentence(happy=0.8, sad=0.3)], HAPPY, threshold=thresholds) == 0.0
    assert reward([sentence(happy=0.8, sad=0.3)], HAPPY) == 1.0
    # none is above its threshold: the likeliest stays
    assert reward([sentence(happy=0.8, sad=0.1)], HAPPY, threshold=thresholds) == 1.0
    # a label below its threshold takes no place among the top two
    three = [sentence(happy=0.8, sad=0.4, angry=0.3)]
    assert reward(three, ANGRY, threshold=thresholds) == 1.0
    assert reward(three, ANGRY) == 0.0
    with pytest.raises(ValueError, match=r"\(3,\) thresholds for 4 labels"):
        reward([GLAD], HAPPY, threshold=thresholds[:3])


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_equal_thresholds_are_one_threshold(sentences: list[list[float]], threshold: float) -> None:
    one = label_sets(tensor(sentences), threshold, 2)
    assert torch.equal(one, label_sets(tensor(sentences), torch.full((4,), threshold, dtype=torch.float64), 2))
