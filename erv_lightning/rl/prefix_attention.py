"""Attention over a packed row: exactly the products that prompts and completions need, and no others.

Three ways to the same numbers:

- On the CPU, flash attention on the parts: each prompt with itself, each completion with itself, and all completions
  of a prompt with that prompt, put together by their log-sum-exps. A mask would make sdpa compute the whole square.
- On CUDA, FlexAttention with a `BlockMask`, which skips blocks where nobody sees anybody.
- Elsewhere, and as the others' oracle in the tests, sdpa with a mask.

Legend: H heads, K key heads, L tokens of the row, D width of a head.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.flex_attention import compile_friendly_flex_attention

from erv_lightning.models.attention import AttentionPlan
from erv_lightning.rl.packing import Layout, Span

# FlexAttention works in blocks of this many tokens; rows of other lengths are compiled anew.
FLEX_BLOCK = 128

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def row_multiple(device: torch.device) -> int:
    """What the length of a packed row should be a multiple of on this device."""
    return FLEX_BLOCK if device.type == "cuda" else 1


class PackedAttention(AttentionPlan):
    """The attention of one packed row, for every layer.

    What a prompt's tokens become in the last layer is read by nobody, but for its last token, which predicts: there the
    CPU leaves the others out.

    Args:
        layout: who stands where in the row.
        device: where the row is.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout, self.device = layout, device

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(1, H, L, D) of query (1, H, L, D), key and value (1, K, L, D)."""
        if self.device.type == "cpu":
            parts = self._last_parts if _is_last(module) else self._parts
            out: Tensor = _FlashParts.apply(query, key, value, parts, scale)  # type: ignore[no-untyped-call]
            return out
        if self.device.type == "cuda":
            return self._flex(query, key, value, scale)
        return scaled_dot_product_attention(query, key, value, self._mask, scale=scale, enable_gqa=True)

    @cached_property
    def _parts(self) -> _Parts:
        return _Parts.of(self.layout)

    @cached_property
    def _last_parts(self) -> _Parts:
        return _Parts.of_last_layer(self.layout)

    @cached_property
    def _mask(self) -> Tensor:
        return self.layout.mask().to(self.device)

    @cached_property
    def block_mask(self) -> BlockMask:
        """The layout for FlexAttention."""
        prompt, completion = (owner.to(self.device) for owner in self.layout.owners)

        def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            shared = (completion[key] == 0) | (completion[query] == completion[key])
            return (prompt[query] == prompt[key]) & shared & (query >= key)

        length = self.layout.length
        return create_block_mask(sees, B=None, H=None, Q_LEN=length, KV_LEN=length, device=self.device.type)

    def _flex(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out: Tensor = compile_friendly_flex_attention(
            query,
            key,
            value,
            training=False,  # concerns torch 2.6 alone, and a change would compile anew
            block_mask=self.block_mask,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out


def _is_last(module: nn.Module) -> bool:
    """Whether this attention belongs to the decoder's last layer."""
    layers = getattr(getattr(module, "config", None), "num_hidden_layers", None)
    return layers is not None and module.layer_idx == layers - 1


class _Parts:
    """The flash calls of a layout.

    Attributes:
        own: token indices (B, n) of sequences that see themselves, causally; those of equal length go together.
        across: pairs (tokens that look, tokens before them that all of these see).
    """

    def __init__(self, own: list[Span], across: list[tuple[Span, Span]]) -> None:
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for span in own:
            by_length[len(span)].append(span.start)
        self.own = [
            torch.tensor(starts)[:, None] + torch.arange(length) for length, starts in by_length.items() if length
        ]
        self.across = [pair for pair in across if all(pair)]

    @classmethod
    def of(cls, layout: Layout) -> _Parts:
        """Every token's attention."""
        own: list[Span] = []
        across: list[tuple[Span, Span]] = []
        end = 0
        for prompt, group in zip(layout.prompts, layout.completions, strict=True):
            end = group[-1].stop if group else prompt.stop
            if len(group) == 1:  # nothing is shared: one sequence
                own.append(Span(prompt.start, end))
                continue
            own += [prompt, *group]
            across.append((Span(prompt.stop, end), prompt))
        return cls(own + [Span(at, at + 1) for at in range(end, layout.length)], across)

    @classmethod
    def of_last_layer(cls, layout: Layout) -> _Parts:
        """The attention of the tokens whose states predict: a prompt's last one, and the completions'."""
        own: list[Span] = []
        across: list[tuple[Span, Span]] = []
        for prompt, group in zip(layout.prompts, layout.completions, strict=True):
            last = Span(prompt.stop - 1, prompt.stop)
            if len(group) == 1:
                last = Span(last.start, group[0].stop)
            else:
                own += group
                across.append((Span(prompt.stop, group[-1].stop if group else prompt.stop), prompt))
            own.append(last)
            across.append((last, Span(prompt.start, last.start)))
        return cls(own, across)


class _FlashParts(torch.autograd.Function):
    """Softmax attention from parts of its keys.

    With o_i and l_i the attention over part i of the keys and the log-sum-exp of its scores, the whole is
    l = log Σ exp l_i and o = Σ exp(l_i − l)·o_i. Backward, flash attention rebuilds a part's probabilities as
    exp(score − l): given the whole's o and l it returns exactly that part's share of the gradients. This is how ring
    attention (arXiv 2310.01889) splits a sequence over devices.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: _Parts, scale: float) -> Tensor:
        ctx.repeat = query.shape[1] // key.shape[1]
        ctx.parts, ctx.scale = parts, scale
        q, k, v = query[0], _repeat(key[0], ctx.repeat), _repeat(value[0], ctx.repeat)  # (H, L, D)
        # zeros where nobody asks: their gradients are zero as well
        out, lse = torch.zeros_like(q), q.new_zeros(q.shape[:2], dtype=_wide(q.dtype))
        for index in parts.own:
            part, part_lse = _flash(*(_take(x, index) for x in (q, k, v)), 0.0, True, scale=scale)
            out[:, index], lse[:, index] = part.transpose(0, 1), part_lse.transpose(0, 1)
        for rows, keys in parts.across:
            there = slice(rows.start, rows.stop)
            part, part_lse = _flash(_cut(q, rows), _cut(k, keys), _cut(v, keys), 0.0, False, scale=scale)
            whole = torch.logaddexp(lse[:, there], part_lse[0])
            ours, theirs = (lse[:, there] - whole).exp()[..., None], (part_lse[0] - whole).exp()[..., None]
            out[:, there] = (ours * out[:, there] + theirs * part[0]).to(out.dtype)
            lse[:, there] = whole
        ctx.save_for_backward(q, k, v, out, lse)
        return out[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        grad = grad_out[0]
        grads = [torch.zeros_like(x) for x in (q, k, v)]
        for index in ctx.parts.own:
            tensors = [_take(x, index) for x in (grad, q, k, v, out)]
            part = _flash_backward(*tensors, lse[:, index].transpose(0, 1), 0.0, True, scale=ctx.scale)
            for whole, share in zip(grads, part, strict=True):
                whole[:, index] = share.transpose(0, 1)
        for rows, keys in ctx.parts.across:
            tensors = [_cut(grad, rows), _cut(q, rows), _cut(k, keys), _cut(v, keys), _cut(out, rows)]
            part = _flash_backward(*tensors, lse[None, :, rows.start : rows.stop], 0.0, False, scale=ctx.scale)
            for whole, span, share in zip(grads, (rows, keys, keys), part, strict=True):
                whole[:, span.start : span.stop] += share[0]
        return (grads[0][None], *(_fold(x, ctx.repeat)[None] for x in grads[1:]), None, None)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Tokens `index` (B, n) of x (H, L, D) as (B, H, n, D); a view where they are one piece."""
    if len(index) == 1:
        return x[None, :, int(index[0, 0]) : int(index[0, -1]) + 1]
    return x[:, index].transpose(0, 1)


def _cut(x: Tensor, span: Span) -> Tensor:
    return x[None, :, span.start : span.stop]


def _repeat(x: Tensor, times: int) -> Tensor:
    """Key heads for every query head: (K, L, D) → (H, L, D)."""
    return x if times == 1 else x.repeat_interleave(times, 0)


def _fold(x: Tensor, times: int) -> Tensor:
    """The gradient of `_repeat`."""
    return x if times == 1 else x.reshape(-1, times, *x.shape[1:]).sum(1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
