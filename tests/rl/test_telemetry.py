from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from erv_lightning.labels import DFEW, MAFW, LabelSpace
from erv_lightning.rl.telemetry import (
    emotion_words,
    explanation_metrics,
    judge_metrics,
    length_metrics,
    reward_metrics,
)

NAN = math.nan


# -- rewards ------------------------------------------------------------------------------------------------------


def test_rewards_by_hand():
    metrics = reward_metrics(
        tensor([0.0, 2.0, 1.0, 1.0, 3.0, 3.0]),
        {"format": tensor([0.0, 0.0, 1.0, 1.0, 1.0, 0.0]), "own": tensor([NAN, 2.0, NAN, NAN, -1.0, NAN])},
        2,
    )
    assert metrics == pytest.approx(
        {
            "reward": 10 / 6,
            "reward_std": math.sqrt(2) / 3,  # unbiased deviations √2, 0, 0
            "frac_reward_zero_std": 2 / 3,
            "rewards/format/mean": 0.5,
            "rewards/format/std": math.sqrt(6 * 0.25 / 5),
            "rewards/format/all_right": 1 / 3,
            "rewards/format/all_wrong": 1 / 3,
            "rewards/own/mean": 0.5,
            "rewards/own/std": math.sqrt(4.5),
            "rewards/own/all_right": 1 / 3,  # the group (nan, 2)
            "rewards/own/all_wrong": 1 / 3,  # the group (−1, nan); (nan, nan) is neither
        }
    )


def shares_by_loop(part, group_size):
    groups = [part[start : start + group_size] for start in range(0, len(part), group_size)]
    right = wrong = 0
    for group in groups:
        applicable = [value for value in group if not math.isnan(value)]
        if applicable:
            right += all(value >= 1 for value in applicable)
            wrong += all(value <= 0 for value in applicable)
    return right / len(groups), wrong / len(groups)


@settings(max_examples=60, deadline=None)
@given(group_size=st.integers(1, 4), prompts=st.integers(1, 4), data=st.data())
def test_rewards_equal_the_loop_over_groups(group_size, prompts, data):
    count = group_size * prompts
    total = data.draw(st.lists(st.sampled_from([0.1, 0.7, 2.0]), min_size=count, max_size=count))
    part = data.draw(st.lists(st.sampled_from([-0.5, 0.0, 0.5, 1.0, NAN]), min_size=count, max_size=count))
    metrics = reward_metrics(tensor(total), {"own": tensor(part)}, group_size)
    groups = [total[start : start + group_size] for start in range(0, count, group_size)]
    applicable = [value for value in part if not math.isnan(value)]
    assert metrics == pytest.approx(
        {
            "reward": statistics.fmean(total),
            "reward_std": statistics.fmean(statistics.stdev(group) if group_size > 1 else 0.0 for group in groups),
            "frac_reward_zero_std": sum(len(set(group)) == 1 for group in groups) / prompts,
            "rewards/own/mean": statistics.fmean(applicable) if applicable else NAN,
            "rewards/own/std": statistics.stdev(applicable) if len(applicable) > 1 else 0.0 if applicable else NAN,
            "rewards/own/all_right": shares_by_loop(part, group_size)[0],
            "rewards/own/all_wrong": shares_by_loop(part, group_size)[1],
        },
        abs=1e-6,
        nan_ok=True,
    )


def test_almost_equal_rewards_are_not_equal():
    one = tensor(1.0)
    above = torch.nextafter(one, tensor(2.0))
    metrics = reward_metrics(torch.stack([one, one, one, above]), {}, 2)
    assert metrics["frac_reward_zero_std"] == 0.5


def test_the_keys_do_not_depend_on_the_values():
    with_some = reward_metrics(torch.ones(4), {"own": torch.ones(4)}, 2)
    with_none = reward_metrics(torch.ones(4), {"own": torch.full((4,), NAN)}, 2)
    assert with_some.keys() == with_none.keys()
    assert with_none["rewards/own/all_right"] == with_none["rewards/own/all_wrong"] == 0.0


@pytest.mark.parametrize(("total", "part", "group_size"), [(5, 5, 2), (4, 3, 2), (4, 4, 0), (0, 0, 2)])
def test_rewards_that_are_no_whole_groups_are_refused(total, part, group_size):
    with pytest.raises(ValueError, match="whole groups"):
        reward_metrics(torch.zeros(total), {"own": torch.zeros(part)}, group_size)


# -- lengths ------------------------------------------------------------------------------------------------------


def test_lengths_by_hand():
    metrics = length_metrics(tensor([3, 8, 5, 8]), tensor([False, True, False, False]))
    assert metrics == pytest.approx(
        {
            "completions/mean_length": 6.0,
            "completions/min_length": 3.0,
            "completions/max_length": 8.0,
            "completions/clipped_ratio": 0.25,
            "completions/mean_terminated_length": 16 / 3,
            "completions/min_terminated_length": 3.0,
            "completions/max_terminated_length": 8.0,
        }
    )


def test_where_no_completion_ended_the_terminated_lengths_are_0():
    metrics = length_metrics(tensor([8, 8]), tensor([True, True]))
    assert {metrics[f"completions/{kind}_terminated_length"] for kind in ("mean", "min", "max")} == {0.0}
    assert metrics["completions/clipped_ratio"] == 1.0


# -- explanations -------------------------------------------------------------------------------------------------


def test_emotion_words_are_labels_synonyms_and_goemotions():
    words = emotion_words(DFEW)
    assert {"happy", "joyful", "scared", "neutral", "nervousness"} <= words
    assert not {"smile", "voice", "the", "helpless"} & words
    assert "helpless" in emotion_words(MAFW)
    own = LabelSpace("own", ("neutral", "mixed feelings", "bored"), {}, 0)
    assert "bored" in emotion_words(own)
    assert not {"mixed", "feelings", "mixed feelings"} & emotion_words(own)


def test_explanations_by_hand():
    texts = [
        "A broad smile. She is Happy, happy!",  # 7 words, 2 emotion words, 2 sentences
        "It's dull. It's dull! A smile.",  # 6 words, 3 sentences, the second repeats the first
        "",
    ]
    probs = [tensor([[0.1, 0.9], [0.8, 0.2]]), tensor([[0.2, 0.3], [0.4, 0.3], [0.0, 0.1]]), torch.zeros(0, 2)]
    metrics = explanation_metrics(texts, probs, 1, {"happy", "smiles"})
    # words: a broad smile she is happy it's dull; no pair spans two texts
    # pairs: a·broad broad·smile smile·she she·is is·happy happy·happy / it's·dull dull·it's it's·dull dull·a a·smile
    assert metrics == pytest.approx(
        {
            "explanations/words": 13 / 3,
            "explanations/sentences": 5 / 3,
            "explanations/emotion_word_rate": 2 / 13,
            "explanations/distinct_1": 8 / 13,
            "explanations/distinct_2": 10 / 11,
            "explanations/repeated_sentences": 1 / 5,
            "explanations/neutral_ratio": 3 / 5,
        }
    )


def test_the_same_sentence_in_two_explanations_is_no_repetition():
    metrics = explanation_metrics(["A smile.", "A smile. A frown."], None, None, set())
    assert metrics["explanations/repeated_sentences"] == 0.0


def test_sentences_that_differ_in_a_number_differ():
    metrics = explanation_metrics(["It rises 2 times. It rises 3 times."], None, None, set())
    assert metrics["explanations/repeated_sentences"] == 0.0


@pytest.mark.parametrize(("probs", "neutral"), [(None, 0), ([torch.ones(1, 2)], None)])
def test_without_probabilities_or_a_neutral_label_there_is_no_neutral_ratio(probs, neutral):
    assert "explanations/neutral_ratio" not in explanation_metrics(["A smile."], probs, neutral, set())


@pytest.mark.parametrize("texts", [[], [""], ["", " ?! "]])
def test_explanations_without_words_give_zeros(texts):
    metrics = explanation_metrics(texts, [torch.zeros(0, 3) for _ in texts], 0, {"happy"})
    sentences = metrics.pop("explanations/sentences")
    assert set(metrics.values()) == {0.0}
    assert sentences == (0.5 if len(texts) == 2 else 0.0)  # "?!" is a sentence of no words


def test_probabilities_of_other_explanations_are_refused():
    with pytest.raises(ValueError, match=r"2 explanations, but probabilities of 1"):
        explanation_metrics(["A smile.", "A frown."], [torch.ones(1, 2)], 0, set())


# -- the judge ----------------------------------------------------------------------------------------------------


def test_the_judge_by_hand():
    reward, judged, labels = [1.0, 0.5, 0.0, 1.0, NAN], [2, 1, -1, 0, 3], [2, 0, -1, 1, 3]
    metrics = judge_metrics(tensor(reward), judged, labels)
    # agrees with 1, 0, 0, 0, 1: −1 agrees with nothing
    assert metrics == pytest.approx(
        {
            "judge/accuracy": 2 / 5,
            "judge/reward_gap": 2.5 / 4 - 1 / 4,  # where there is a reward
            "judge/correlation": np.corrcoef([1.0, 0.5, 0.0, 1.0], [1, 0, 0, 0])[0, 1],
        }
    )


def test_a_verifier_that_is_pleased_where_the_judge_is_not_shows_in_the_gap():
    assert judge_metrics(torch.ones(4), [0, 0, 1, 1], [1, 1, 1, 0])["judge/reward_gap"] == 0.75
    assert judge_metrics(tensor([0.0, 1.0]), [1, 1], [0, 1])["judge/reward_gap"] == 0.0


@pytest.mark.parametrize(
    ("reward", "judged"),
    [([0.3, 0.3], [0, 1]), ([0.3, 0.4], [0, 0]), ([0.3, NAN], [0, 1]), ([NAN, NAN], [0, 1])],
    ids=["reward constant", "verdict constant", "one reward", "no reward"],
)
def test_an_undefined_correlation_is_left_out(reward, judged):
    assert judge_metrics(tensor(reward), judged, [0, 0]).keys() == {"judge/accuracy", "judge/reward_gap"}


def test_verdicts_and_labels_must_fit():
    with pytest.raises(ValueError, match="do not fit"):
        judge_metrics(torch.ones(2), [0, 1], [0])
