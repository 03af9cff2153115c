"""Attention over a packed row, three ways to the same numbers; the oracle is sdpa with the layout's mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from erv_lightning.models.attention import planned_attention
from erv_lightning.rl.packing import Layout, make_layout
from erv_lightning.rl.prefix_attention import FLEX_BLOCK, PackedAttention, row_multiple

CPU = torch.device("cpu")
SCALE = 0.3
HEADS = [(4, 4), (4, 2), (6, 1)]  # query heads, key heads

LAYOUTS = {
    "one prompt": make_layout([5], [[3, 2]]),
    "ragged": make_layout([5, 9, 2], [[3, 1, 4], [2, 2, 6], [1, 1, 1]]),
    "equal prompts": make_layout([4, 4, 4], [[2, 3], [5, 1], [2, 2]]),
    "equal prompts and completions": make_layout([3, 3], [[3, 3], [3, 3]]),
    "one completion each": make_layout([5, 3, 4], [[2], [4], [3]]),
    "one and several": make_layout([5, 3, 5], [[2], [4, 1, 2], []]),
    "prompts alone": make_layout([5, 3, 5], [[], [], []]),
    "empty completions": make_layout([5, 3, 2, 4], [[0, 3], [0, 0], [0], [2, 0]]),
    "filler": make_layout([5, 3], [[2, 1], [4, 2]], 16),
    "filler behind one completion": make_layout([3], [[1]], 8),
    "filler behind prompts": make_layout([3, 4], [[], []], 8),
    "longer than the kernels' tiles": make_layout([600, 70], [[130, 40, 65], [90, 1, 0]], 128),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def inputs(layout: Layout, heads: tuple[int, int], width: int = 8, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Query, key, value and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    kinds = (heads[0], heads[1], heads[1], heads[0])
    return [torch.randn(1, n, layout.length, width, generator=generator, dtype=dtype) for n in kinds]


def masked(layout: Layout, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    mask = layout.mask().to(query.device)
    return scaled_dot_product_attention(query, key, value, mask, scale=SCALE, enable_gqa=True)


def planned(layout: Layout, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return PackedAttention(layout, query.device).attend(nn.Identity(), query, key, value, SCALE)


def values_and_gradients(out: Tensor, given_tensors: list[Tensor], grad_out: Tensor) -> list[Tensor]:
    return [out.detach(), *torch.autograd.grad(out, given_tensors, grad_out)]


def both(layout: Layout, tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Values and the gradients of query, key and value: as planned, and with a mask in float64 on the CPU."""
    *qkv, grad_out = tensors
    ours = [x.clone().requires_grad_() for x in qkv]
    theirs = [x.detach().cpu().double().requires_grad_() for x in qkv]
    found = values_and_gradients(planned(layout, *ours), ours, grad_out)
    expected = values_and_gradients(masked(layout, *theirs), theirs, grad_out.cpu().double())
    return found, expected


# -- parts, on the CPU --------------------------------------------------------------------------------------------


@layouts
@pytest.mark.parametrize("heads", HEADS)
def test_the_parts_put_together_are_the_masked_whole(layout: Layout, heads: tuple[int, int]) -> None:
    for found, expected in zip(*both(layout, inputs(layout, heads)), strict=True):
        assert_close(found, expected, atol=1e-12, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 7), st.lists(st.integers(0, 6), max_size=5)), min_size=1, max_size=5),
    st.sampled_from(HEADS),
    st.sampled_from([1, 8]),
)
def test_whatever_the_row_is(lengths: list[tuple[int, list[int]]], heads: tuple[int, int], multiple: int) -> None:
    layout = make_layout([prompt for prompt, _ in lengths], [group for _, group in lengths], multiple)
    for found, expected in zip(*both(layout, inputs(layout, heads)), strict=True):
        assert_close(found, expected, atol=1e-12, rtol=1e-12)


@layouts
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.1)])
def test_shorter_floats_are_as_near_as_they_can_be(layout: Layout, dtype: torch.dtype, tolerance: float) -> None:
    for found, expected in zip(*both(layout, inputs(layout, (4, 2), dtype=dtype)), strict=True):
        assert found.dtype == dtype
        assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


def test_a_layers_own_strides_do_not_matter() -> None:
    layout = LAYOUTS["ragged"]
    tensors = inputs(layout, (4, 2))
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]  # (1, L, H, D) in memory
    for found, expected in zip(both(layout, turned)[0], both(layout, tensors)[0], strict=True):
        assert_close(found, expected, atol=1e-14, rtol=1e-14)


def test_large_scores_do_not_overflow() -> None:
    layout = LAYOUTS["ragged"]
    query, key, value, grad_out = inputs(layout, (4, 2))
    for found, expected in zip(*both(layout, [1e3 * query, key, value, grad_out]), strict=True):
        assert found.isfinite().all()
        assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_only_prompts_of_equal_length_and_completions_of_equal_length_go_together() -> None:
    parts = PackedAttention(LAYOUTS["equal prompts"], CPU)._parts
    together = sorted(tuple(index.shape) for index in parts.own)
    assert together == [(1, 1), (1, 3), (1, 5), (3, 2), (3, 4)]
    assert [(len(rows), len(keys)) for rows, keys in parts.across] == [(5, 4), (6, 4), (4, 4)]


# -- blocks, for FlexAttention ------------------------------------------------------------------------------------


@layouts
def test_flex_attention_is_shown_the_layouts_mask(layout: Layout) -> None:
    block_mask = PackedAttention(layout, CPU).block_mask
    every = torch.arange(layout.length)
    zero = torch.zeros((), dtype=torch.long)
    shown = block_mask.mask_mod(zero, zero, every[:, None], every[None, :])
    assert torch.equal(shown, layout.mask())


@layouts
def test_a_block_is_skipped_where_nobody_sees_anybody_and_nowhere_else(layout: Layout) -> None:
    dense = PackedAttention(layout, CPU).block_mask.to_dense()[0, 0]
    mask = layout.mask()
    for row in range(dense.shape[0]):
        for column in range(dense.shape[1]):
            block = mask[row * FLEX_BLOCK : (row + 1) * FLEX_BLOCK, column * FLEX_BLOCK : (column + 1) * FLEX_BLOCK]
            assert bool(dense[row, column]) == bool(block.any())


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["ragged", "filler", "longer than the kernels' tiles"])
def test_flex_attention_gives_what_the_parts_give(name: str) -> None:
    layout = LAYOUTS[name]
    query, key, value, _ = inputs(layout, (4, 2))
    block_mask = PackedAttention(layout, CPU).block_mask
    out = flex_attention(query, key, value, block_mask=block_mask, scale=SCALE, enable_gqa=True)
    assert_close(planned(layout, query, key, value), out, atol=1e-12, rtol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's kernels need CUDA")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_on_cuda_the_blocks_give_the_masked_whole(heads: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    cuda = torch.device("cuda")
    layout = make_layout([300, 70, 70], [[130, 40, 0], [90, 1, 20], [5, 5, 5]], row_multiple(cuda))
    tensors = [x.to(cuda) for x in inputs(layout, heads, width=32, dtype=dtype)]
    for found, expected in zip(*both(layout, tensors), strict=True):
        assert found.dtype == dtype
        assert_close(found.cpu().double(), expected, atol=tolerance, rtol=tolerance)


# -- elsewhere ----------------------------------------------------------------------------------------------------


def test_rows_are_cut_for_blocks_on_cuda_alone() -> None:
    assert row_multiple(CPU) == 1
    assert row_multiple(torch.device("cuda")) == FLEX_BLOCK


@torch.no_grad()
def test_other_devices_get_the_mask() -> None:
    layout = LAYOUTS["ragged"]
    query, key, value, _ = inputs(layout, (4, 2))
    plan = PackedAttention(layout, torch.device("meta"))
    plan._mask = layout.mask()  # what it would have moved to its device
    out = plan.attend(nn.Identity(), query, key, value, SCALE)
    assert_close(out, planned(layout, query, key, value), atol=1e-12, rtol=1e-12)


def test_attention_dropout_is_refused_as_completions_share_their_prompt() -> None:
    layout = LAYOUTS["one prompt"]
    query, key, value, _ = inputs(layout, (4, 2))
    with pytest.raises(ValueError, match=r"attention_dropout is 0\.1.*prefix_sharing: false"):
        planned_attention(nn.Identity(), query, key, value, PackedAttention(layout, CPU), dropout=0.1)
