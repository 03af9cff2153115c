"""Which tokens are the answer, against a search through every prefix."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

import pytest
import torch

from erv_lightning.models import QwenOmniBackbone
from erv_lightning.rl.answers import answer_logp

# Tokens that hold a tag, a part of one, more than one, or none.
VOCABULARY = [
    "<answer>",
    "</answer>",
    "<ans",
    "wer>",
    "</",
    "answer>",
    ">ha",
    "happy",
    " ",
    "<think>",
    "a</answer>!",
    "",
]


def decode(ids: Sequence[int]) -> str:
    return "".join(VOCABULARY[token] for token in ids)


def mean_of(ids: list[int], logp: list[float]) -> float:
    """The same by trying every prefix: the first whose text has a tag ends with the last of the tag's tokens."""
    text = decode(ids)
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return math.nan
    opened, closed = (
        min(n for n in range(len(ids) + 1) if tag in decode(ids[:n])) for tag in ("<answer>", "</answer>")
    )
    return statistics.fmean(logp[opened:closed]) if opened < closed else math.nan


def found(rows: list[list[int]], logp: list[list[float]]) -> list[float]:
    """What `answer_logp` says of rows of different length; padding would be noticed."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [7] * (width - len(row)) for row in rows])
    mask = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
    padded = torch.tensor([row + [1e9] * (width - len(row)) for row in logp])
    return answer_logp(decode, ids, mask, padded).tolist()


@pytest.mark.parametrize(
    ("tokens", "answer"),
    [
        (["<think>", "<answer>", "happy", "</answer>"], [2, 3]),
        (["<answer>", "happy", " ", "happy", "</answer>", " "], [1, 2, 3, 4]),
        (["<ans", "wer>", "happy", "</", "answer>"], [2, 3, 4]),
        (["<answer>", "happy", "a</answer>!"], [1, 2]),  # a token that holds more than the tag
        (["<answer>", "</answer>"], [1]),
        (["happy", "</answer>"], None),
        (["<answer>", "happy"], None),
        (["</answer>", "<answer>"], None),
        (["<answer>", "happy", "</answer>", "<answer>"], None),
        (["<answer>", "</answer>", "</answer>"], None),
        (["happy"], None),
    ],
)
def test_the_answer_is_what_follows_the_opening_tag_up_to_and_with_the_closing_one(
    tokens: list[str], answer: list[int] | None
) -> None:
    ids = [VOCABULARY.index(token) for token in tokens]
    (mean,) = found([ids], [[-float(2**place) for place in range(len(ids))]])
    expected = math.nan if answer is None else -statistics.fmean(2**place for place in answer)
    assert mean == pytest.approx(expected, nan_ok=True)


def test_it_is_what_a_search_through_every_prefix_finds() -> None:
    chance = random.Random(0)
    rows = [[chance.randrange(len(VOCABULARY)) for _ in range(chance.randint(1, 12))] for _ in range(3000)]
    logp = [[-chance.random() for _ in row] for row in rows]
    expected = [mean_of(row, one) for row, one in zip(rows, logp, strict=True)]
    assert found(rows, logp) == pytest.approx(expected, nan_ok=True, abs=1e-6)
    assert sum(not math.isnan(mean) for mean in expected) > 100


def test_of_a_policys_response_the_end_token_is_no_part_of_the_answer(backbone: QwenOmniBackbone) -> None:
    before, answer = backbone.tokenize("<think>A smile.</think>\n<answer>"), backbone.tokenize("happy</answer>")
    ids = torch.tensor([[*before, *answer, backbone.eos_token_id]])
    logp = -torch.arange(ids.shape[1], dtype=torch.float32)[None]
    mean = answer_logp(backbone.decode, ids, torch.ones_like(ids, dtype=torch.bool), logp)
    places = range(len(before), len(before) + len(answer))
    assert mean.item() == pytest.approx(-statistics.fmean(places))
