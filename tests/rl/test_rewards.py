import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from erv_lightning.rl.rewards import VARIANTS, accuracy_reward, explanation_reward, format_reward
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


def by_loop(probs, target, neutral, threshold, max_labels, variant):
    """The definition, one sentence at a time, on lists."""
    match = nonneutral = 0
    for p in probs:
        ranked = sorted(range(len(p)), key=lambda k: (-p[k], k))
        labels = {k for k in ranked[:max_labels] if p[k] > threshold} or {ranked[0]}
        if variant == "top1":
            labels = {ranked[0]}
        match += target in labels
        nonneutral += labels != {neutral}
    n = len(probs) if target == neutral or variant == "all_sentences" else nonneutral
    ratio = match / n if n else 0.0
    return float(ratio >= 0.5) if variant == "half" else ratio


# few distinct values, so that ties and the threshold itself come up
probability = st.sampled_from([0.0, 0.0625, 0.125, 0.25, 0.5, 1.0])
rows = st.lists(st.lists(probability, min_size=4, max_size=4), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    batch=st.lists(st.tuples(rows, st.integers(0, 3)), max_size=4),
    neutral=st.integers(0, 3),
    threshold=st.sampled_from([0.0625, 0.1, 0.25]),
    max_labels=st.integers(1, 5),
    variant=st.sampled_from(VARIANTS),
)
def test_the_reward_equals_the_definition_sentence_by_sentence(batch, neutral, threshold, max_labels, variant):
    rewards = explanation_reward(
        [tensor(probs).reshape(-1, 4) for probs, _ in batch],
        [target for _, target in batch],
        neutral,
        threshold=threshold,
        max_labels=max_labels,
        variant=variant,
    )
    assert rewards.shape == (len(batch),)
    assert bool(((rewards >= 0) & (rewards <= 1)).all())
    expected = [by_loop(*one, neutral, threshold, max_labels, variant) for one in batch]
    assert rewards.tolist() == pytest.approx(expected)


def test_half_precision_is_taken():
    assert explanation_reward([tensor([GLAD], dtype=torch.bfloat16)], [HAPPY], NEUTRAL).tolist() == [1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "mean"}, "'mean'.*paper, top1, half, all_sentences"),
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
