"""Decoding with one copy of each prompt against decoding with a copy for every completion, token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniRMSNorm

from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import PromptBatch
from erv_lightning.rl.decoding import Decoder, RepeatedPromptDecoder, SharedPrefixDecoder
from erv_lightning.rl.rollout import Rollout, Sampling, _staying, rollout

GROUP, ROOM = 4, 8

# What stays after some steps: prompts, and rows of those prompts in an order of their own.
Moves = dict[int, tuple[list[int], list[int]]]
MOVES: dict[str, Moves] = {
    "nobody leaves": {},
    "rows leave": {2: ([0, 1, 2], [3, 1, 4, 5, 8, 11])},
    "a prompt leaves": {1: ([0, 2], [0, 1, 2, 3, 8, 9, 10, 11])},
    "one after the other": {1: ([0, 1, 2], [0, 2, 3, 5, 4, 7, 11, 10, 9]), 3: ([0, 2], [1, 0, 7, 8]), 5: ([1], [3])},
}


def wide_norm(norm: Qwen2_5OmniRMSNorm, hidden: Tensor) -> Tensor:
    scaled: Tensor = norm.weight * hidden * (hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    return scaled


@pytest.fixture(scope="module")
def exact() -> QwenOmniBackbone:
    """The small policy in float64, its norms too, which transformers computes in float32 whatever the weights are."""
    backbone = QwenOmniBackbone("tiny").double().eval().requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, Qwen2_5OmniRMSNorm):
            module.forward = partial(wide_norm, module)
    return backbone


@pytest.fixture(scope="module")
def batch(prompts: PromptBatch) -> PromptBatch:
    """Three prompts of different length."""
    assert len(prompts.attention_mask.sum(1).unique()) == 3
    media = {name: value.double() if value.is_floating_point() else value for name, value in prompts.media.items()}
    return dataclasses.replace(prompts, media=media)


Make = Callable[[type[Decoder]], Decoder]


@pytest.fixture
def make(exact: QwenOmniBackbone, batch: PromptBatch) -> Make:
    """A decoder of either kind, after the prompts."""
    return lambda kind: kind(exact, exact.embed(batch), batch, GROUP, ROOM)  # type: ignore[call-arg]


def logits_of(decoder: Decoder, moves: Moves) -> Iterator[Tensor]:
    """Logits after the prompts and after each of ROOM tokens a row; rows leave on the way."""
    generator = torch.Generator().manual_seed(0)
    yield decoder.logits
    for step in range(ROOM):
        if step in moves:
            prompts, rows = moves[step]
            before = decoder.logits
            decoder.keep(torch.tensor(prompts), torch.tensor(rows))
            assert torch.equal(decoder.logits, before[rows])
        tokens = torch.randint(20, 400, (len(decoder.logits),), generator=generator)
        returned = decoder.step(tokens)
        assert returned is decoder.logits
        yield returned


# -- two decoders -------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES.keys())
def test_a_prompt_kept_once_gives_what_its_copies_give(make: Make, moves: Moves) -> None:
    rows = []
    for shared, copied in zip(
        logits_of(make(SharedPrefixDecoder), moves), logits_of(make(RepeatedPromptDecoder), moves), strict=True
    ):
        assert shared.dtype == torch.float64
        assert_close(shared, copied, atol=1e-12, rtol=0)
        rows.append(len(shared))
    assert rows[-1] == (len(list(moves.values())[-1][1]) if moves else 3 * GROUP)


@torch.no_grad()
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("which", [[0], [1, 1]], ids=["one prompt", "two of one length"])
def test_prompts_without_padding_need_no_mask(
    exact: QwenOmniBackbone, batch: PromptBatch, group: int, which: list[int]
) -> None:
    real = batch.attention_mask[which[0]].bool()
    unpadded = dataclasses.replace(
        batch,
        input_ids=batch.input_ids[which][:, real],
        attention_mask=batch.attention_mask[which][:, real],
        position_ids=batch.position_ids[:, which][:, :, real],
    )
    embeds = exact.embed(batch)[which][:, real]
    shared = SharedPrefixDecoder(exact, embeds, unpadded, group, ROOM)
    copied = RepeatedPromptDecoder(exact, embeds, unpadded, group, ROOM)
    assert shared.plan.seen is None
    for ours, theirs in zip(logits_of(shared, {}), logits_of(copied, {}), strict=True):
        assert_close(ours, theirs, atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_row_that_stays_goes_on_as_if_nobody_had_left(make: Make) -> None:
    tokens = torch.randint(20, 400, (ROOM, 3 * GROUP), generator=torch.Generator().manual_seed(1))
    whole, thinned = make(SharedPrefixDecoder), make(SharedPrefixDecoder)
    rows = torch.tensor([1, 3, 10, 8])
    for step, given_tokens in enumerate(tokens):
        if step == 2:
            thinned.keep(torch.tensor([0, 2]), rows)
        expected = whole.step(given_tokens)
        found = thinned.step(given_tokens if step < 2 else given_tokens[rows])
        assert_close(found, expected if step < 2 else expected[rows], atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_prompt_is_kept_once_however_many_completions_go_on(make: Make) -> None:
    shared = make(SharedPrefixDecoder)
    assert isinstance(shared, SharedPrefixDecoder)
    assert {len(keys) for keys, _ in shared.plan.prompts} == {3}
    assert {tuple(layer.keys.shape[:1] + layer.keys.shape[2:3]) for layer in shared.cache.layers} == {(3 * GROUP, ROOM)}
    shared.keep(torch.tensor([2]), torch.tensor([8, 11]))
    assert {len(keys) for keys, _ in shared.plan.prompts} == {1}


# -- the whole cache, masked: what a CUDA graph looks at ----------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES.keys())
def test_looking_at_the_whole_cache_changes_nothing(make: Make, moves: Moves, monkeypatch: pytest.MonkeyPatch) -> None:
    masked, sliced = make(SharedPrefixDecoder), make(SharedPrefixDecoder)
    assert isinstance(masked, SharedPrefixDecoder)
    masked.clock.visible = None

    def step(tokens: Tensor) -> Tensor:  # as a graph would: `_forward` alone
        masked.logits = masked._forward(tokens)
        return masked.logits

    monkeypatch.setattr(masked, "step", step)
    for whole, part in zip(logits_of(masked, moves), logits_of(sliced, moves), strict=True):
        assert_close(whole, part, atol=1e-12, rtol=0)


# -- who stays ----------------------------------------------------------------------------------------------------


def staying_by_loop(alive: list[list[bool]], below: float) -> tuple[list[int], list[int]] | None:
    group = len(alive[0])
    most = max(sum(row) for row in alive)
    prompts = [number for number, row in enumerate(alive) if any(row)]
    if len(prompts) * most > below * len(alive) * group:
        return None
    rows = []
    for prompt in prompts:
        unfinished = [prompt * group + which for which in range(group) if alive[prompt][which]]
        finished = [prompt * group + which for which in range(group) if not alive[prompt][which]]
        rows += (unfinished + finished)[:most]
    return prompts, rows


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda g: st.lists(st.lists(st.booleans(), min_size=g, max_size=g), min_size=1, max_size=5)
    ),
    st.sampled_from([0.0, 0.3, 0.5, 0.85, 1.0]),
)
@example([[True, False], [False, False]], 0.25)  # just enough have ended
@example([[True, False], [False, False]], 0.24)
def test_no_unfinished_row_is_dropped_and_groups_stay_of_one_size(alive: list[list[bool]], below: float) -> None:
    assume(any(any(row) for row in alive))
    group, flat = len(alive[0]), torch.tensor(alive).flatten()
    found = _staying(flat, group, below)
    expected = staying_by_loop(alive, below)
    if expected is None:
        assert found is None
        return
    assert found is not None
    prompts, rows = found
    assert (prompts.tolist(), rows.tolist()) == expected
    assert set(flat.nonzero().flatten().tolist()) <= set(rows.tolist())
    assert len(set(rows.tolist())) == len(rows)
    each = len(rows) // len(prompts)
    assert (rows // group).tolist() == prompts.repeat_interleave(each).tolist()
    assert flat[rows].view(-1, each).sum(1).max() == each  # no larger than it must be


# -- CUDA graphs --------------------------------------------------------------------------------------------------


@contextmanager
def ending(backbone: QwenOmniBackbone, by: float) -> Iterator[None]:
    """Raises the logit of the end-of-response token."""
    weight = backbone.model.lm_head.weight
    bias = torch.zeros(len(weight), device=weight.device, dtype=weight.dtype)
    bias[backbone.eos_token_id] = by
    hook = backbone.model.lm_head.register_forward_hook(lambda module, args, logits: logits + bias)
    yield
    hook.remove()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("by", [0.0, 5.0], ids=["nobody ends", "rows leave"])
def test_a_cuda_graph_says_what_plain_steps_say(
    prompts: PromptBatch, temperature: float, by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = QwenOmniBackbone("tiny").to("cuda").eval().requires_grad_(False)
    batch = prompts.to("cuda")
    monkeypatch.setattr("erv_lightning.rl.rollout._LOOK_EVERY", {"cuda": 2})
    monkeypatch.setattr("erv_lightning.rl.rollout._MOVE_BELOW", {"cuda": 0.85})
    kept: list[int] = []

    def noted(self: Any, prompts: Tensor, rows: Tensor, keep: Any = SharedPrefixDecoder.keep) -> None:
        kept.append(len(rows))
        keep(self, prompts, rows)

    monkeypatch.setattr(SharedPrefixDecoder, "keep", noted)

    def draw(graph: bool) -> Rollout:
        monkeypatch.setattr("erv_lightning.rl.rollout._GRAPH_FROM", 1 if graph else 1000)
        sampling = Sampling(max_new_tokens=32, temperature=temperature)
        generator = torch.Generator("cuda").manual_seed(0)
        return rollout(backbone, backbone.embed(batch), batch, 8, sampling, generator)

    with ending(backbone, by):
        graph, plain = draw(True), draw(False)
    assert torch.equal(graph.token_ids, plain.token_ids)
    assert_close(graph.logp, plain.logp, atol=1e-4, rtol=0)
    if by and temperature:
        assert kept
        assert kept[: len(kept) // 2] == kept[len(kept) // 2 :]
