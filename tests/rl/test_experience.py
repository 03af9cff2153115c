"""Groups that are picked from a rollout and joined to others take everything along that is theirs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from erv_lightning.data.sample import Sample
from erv_lightning.labels import DFEW
from erv_lightning.models.backbone import PromptFeatures
from erv_lightning.rl.experience import Experience
from erv_lightning.rl.reward_terms import Completions, Rewards
from erv_lightning.rl.rollout import Rollout
from erv_lightning.text import Response

GROUP = 2


def experience(names: str, lengths: list[int], reference: bool = True) -> Experience:
    """One prompt per letter, with numbers that tell where they come from."""
    count, width = len(lengths), max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    start = 100.0 * (ord(names[0]) if names else 0)
    numbers = start + torch.arange(count * width, dtype=torch.float32).view(count, width)
    rows = start + torch.arange(count, dtype=torch.float32)
    texts = [f"{name}{which}" for name in names for which in range(GROUP)]
    return Experience(
        [Sample(name, "made", name, "What?", "dfew", "sad", "train", record=name) for name in names],
        [PromptFeatures(torch.tensor([ord(name)]), torch.zeros(3, 1), {}) for name in names],
        Rollout(numbers.long() * mask, mask, -numbers * mask, ~mask[:, -1]),
        Completions(
            [Response(text, "sad", True) for text in texts],
            list(range(count)),
            [one + 10 for one in range(count)],
            DFEW,
            verdicts=[[(text, [0.5])] for text in texts],
            texts=texts,
            group_size=GROUP,
            lengths=torch.tensor(lengths),
            max_new_tokens=9,
            answer_logp=-rows,
        ),
        Rewards(rows, {"form": rows + 0.5}, rows % 3 > 0),
        -numbers * mask - 1 if reference else None,
        -numbers * mask - 2,
    )


def completion(whole: Experience, row: int) -> dict[str, Any]:
    """All that belongs to one completion, whatever the width of the tensors it stands in."""
    drawn, said, earned = whole.drawn, whole.completions, whole.earned
    real = int(drawn.mask[row].sum())
    assert not drawn.mask[row, real:].any()
    assert said.lengths is not None
    assert said.answer_logp is not None

    def tokens(values: Tensor | None) -> list[float] | None:
        return None if values is None else values[row, :real].tolist()

    return {
        "sample": whole.samples[row // GROUP].id,
        "prompt": whole.prompts[row // GROUP].input_ids.tolist(),
        "tokens": tokens(drawn.token_ids),
        "logp": tokens(drawn.logp),
        "ref_logp": tokens(whole.ref_logp),
        "old_logp": tokens(whole.old_logp),
        "truncated": bool(drawn.truncated[row]),
        "said": (said.responses[row], said.texts[row], said.verdicts[row]),
        "ids": (said.answer_ids[row], said.label_ids[row]),
        "about": (int(said.lengths[row]), float(said.answer_logp[row])),
        "earned": (float(earned.total[row]), float(earned.parts["form"][row]), bool(earned.applicable[row])),
    }


def completions(whole: Experience) -> list[dict[str, Any]]:
    count = len(whole.prompts) * whole.group
    tensors = (whole.drawn.mask, whole.drawn.token_ids, whole.drawn.logp, whole.earned.total)
    assert [len(tensor) for tensor in tensors] == [count] * 4
    assert [len(part) for part in (whole.completions.responses, whole.completions.texts)] == [count] * 2
    return [completion(whole, row) for row in range(count)]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1], [1, 1]])
def test_a_picked_prompt_takes_its_completions_and_all_their_numbers_along(order: list[int]) -> None:
    whole = experience("abc", [3, 1, 2, 4, 4, 1])
    rows = completions(whole)
    assert completions(whole.pick(order)) == [rows[p * GROUP + one] for p in order for one in range(GROUP)]


def test_parts_that_are_joined_again_are_the_whole() -> None:
    whole = experience("abcd", [3, 1, 2, 4, 4, 1, 1, 1])
    parts = [whole.pick([0]), whole.pick([1, 2]), whole.pick([]), whole.pick([3])]
    joined = Experience.join(parts)
    rows = completions(joined)
    assert joined.old_logp is None  # an update has not begun
    assert rows == [{**row, "old_logp": None} for row in completions(whole)]


def test_what_is_joined_may_differ_in_width_and_what_fills_it_is_no_token() -> None:
    short, long = experience("a", [1, 2]), experience("bc", [5, 1, 3, 4])
    joined = Experience.join([short, long])
    rows = [{**row, "old_logp": None} for one in (short, long) for row in completions(one)]
    assert completions(joined) == rows
    assert joined.drawn.mask.dtype == torch.bool
    assert joined.drawn.token_ids.dtype == short.drawn.token_ids.dtype
    assert joined.ref_logp is not None
    assert joined.drawn.mask.shape == joined.drawn.logp.shape == joined.ref_logp.shape == (6, 5)


def test_without_a_reference_there_is_none_after_picking_and_joining_either() -> None:
    parts = [experience(name, [2, 3], reference=False) for name in "ab"]
    assert parts[0].pick([0]).ref_logp is None
    assert Experience.join(parts).ref_logp is None


def test_what_the_verifier_has_read_stays_read() -> None:
    first, second = experience("a", [1, 2]), experience("b", [2, 2])
    first.completions._scored["a smile"] = torch.tensor([0.25])
    second.completions._scored["a frown"] = torch.tensor([0.75])
    joined = Experience.join([first.pick([0]), second.pick([0])])
    assert {text: float(probs) for text, probs in joined.completions._scored.items()} == {
        "a smile": 0.25,
        "a frown": 0.75,
    }


def test_picking_changes_nothing_in_what_was_picked_from() -> None:
    whole = experience("abc", [3, 1, 2, 4, 4, 1])
    before = completions(dataclasses.replace(whole))
    Experience.join([whole.pick([2]), whole.pick([0])]).drawn.token_ids.zero_()
    assert completions(whole) == before
