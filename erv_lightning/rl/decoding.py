"""Decoding token by token from prompts that were read once.

`SharedPrefixDecoder` keeps the keys and values of a prompt once, however many completions go on from it.
`RepeatedPromptDecoder` gives every completion a copy, with a plain mask, for backbones that cannot do otherwise.

Legend: P prompts, G completions each, N = P·G rows, T prompt tokens, R tokens reserved for a completion, H heads,
K key heads, r = H/K, D width of a head, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from erv_lightning.models.attention import AttentionPlan
from erv_lightning.models.backbone import Backbone, PromptBatch
from erv_lightning.rl.logprobs import attention_mask
from erv_lightning.rl.packing import pack_prompts
from erv_lightning.rl.prefix_attention import PackedAttention, row_multiple


class Decoder(ABC):
    """Rows of completions that grow together.

    Attributes:
        logits: (N, V), what the next token of each row is drawn from; `step` replaces it.
    """

    logits: Tensor

    @abstractmethod
    def step(self, tokens: Tensor) -> Tensor:
        """Appends one token to every row, (N,), and returns the new logits (N, V)."""

    @abstractmethod
    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """Goes on with these prompts (P',) and rows (P'·G',) alone; the rows of a prompt stand together."""


class _Clock:
    """Where in the cache the next token goes.

    Args:
        start: the first place.
        device: of the cache.

    Attributes:
        at: (1,), the place, as a tensor that a CUDA graph can move on.
        visible: how many places are written, the next one included; None where a graph must look at all of them.
    """

    def __init__(self, start: int, device: torch.device) -> None:
        self.at = torch.full((1,), start, device=device)
        self.visible: int | None = start


class _StaticLayer(DynamicLayer):  # type: ignore[misc]  # transformers ships no types
    """Keys and values in memory of their final size, written in place: concatenating copies all of them per token.

    Args:
        keys, values: (P, K, T, D), what is there already; each row is repeated for its G completions.
        group: G.
        room: R, further tokens.
        clock: the place of the next token.
    """

    def __init__(self, keys: Tensor, values: Tensor, group: int, room: int, clock: _Clock) -> None:
        super().__init__()
        # keys in the values' type: in mixed precision the rotary step widens them for nothing
        self.keys, self.values = (self._reserve(x.to(values.dtype), group, room) for x in (keys, values))
        self.dtype, self.device = values.dtype, values.device
        self.clock, self.is_initialized = clock, True

    @staticmethod
    def _reserve(there: Tensor, group: int, room: int) -> Tensor:
        rows, kinds, length, width = there.shape
        # zeros: a masked place has the weight 0, and 0 · NaN is NaN
        reserved = there.new_zeros(rows * group, kinds, length + room, width)
        reserved[:, :, :length] = there.repeat_interleave(group, 0)
        return reserved

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes one token a row; returns what is visible."""
        self.keys.index_copy_(2, self.clock.at, keys.to(self.dtype))
        self.values.index_copy_(2, self.clock.at, values.to(self.dtype))
        return self.keys[:, :, : self.clock.visible], self.values[:, :, : self.clock.visible]

    def keep(self, rows: Tensor) -> None:
        """Drops all other rows."""
        self.keys, self.values = self.keys[rows], self.values[rows]

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return int(self.clock.at)


class _DecodeAttention(AttentionPlan):
    """One new token a row, which sees its prompt (kept once per prompt) and its own completion.

    Args:
        prompts: of each layer, the prompts' keys and values, (P, K, T, D).
        seen: (P, 1, 1, T), True on a prompt's real tokens; None where all are.
        group: G.
        room: R.
        clock: how many tokens the completions have.
    """

    def __init__(
        self, prompts: list[tuple[Tensor, Tensor]], seen: Tensor | None, group: int, room: int, clock: _Clock
    ) -> None:
        self.prompts, self.seen, self.group, self.clock = prompts, seen, group, clock
        self.places = torch.arange(room, device=clock.at.device)

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        prompt_key, prompt_value = self.prompts[module.layer_idx]  # type: ignore[index]
        (rows, heads, _, width), kinds = query.shape, key.shape[1]
        each = heads // kinds
        query = query.reshape(rows, kinds, each, width) * scale
        shared = _scores(self._by_prompt(query), prompt_key)  # (P, K, G·r, T)
        if self.seen is not None:
            shared = shared.masked_fill(~self.seen, float("-inf"))
        own = _scores(query, key)  # (N, K, r, R)
        if self.clock.visible is None:
            own = own.masked_fill(self.places > self.clock.at, float("-inf"))
        # one softmax over both; products with the prompt are one matrix product for the whole group
        weights = torch.cat([shared, self._by_prompt(own)], dim=-1).softmax(-1).to(value.dtype)
        shared, own = torch.split(weights, [shared.shape[-1], own.shape[-1]], dim=-1)
        out = self._by_row(shared @ prompt_value) + self._by_row(own) @ value
        return out.reshape(rows, heads, 1, width)

    def _by_prompt(self, x: Tensor) -> Tensor:
        """(N, K, r, …) → (P, K, G·r, …)."""
        rows, kinds, each, last = x.shape
        x = x.reshape(rows // self.group, self.group, kinds, each, last).transpose(1, 2)
        return x.reshape(rows // self.group, kinds, self.group * each, last)

    def _by_row(self, x: Tensor) -> Tensor:
        """(P, K, G·r, …) → (N, K, r, …)."""
        prompts, kinds, _, last = x.shape
        x = x.reshape(prompts, kinds, self.group, -1, last).transpose(1, 2)
        return x.reshape(prompts * self.group, kinds, -1, last)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Products of queries (…, Q, D) and keys (…, S, D), in float32 at least: bfloat16 scores would cost accuracy."""
    if query.dtype in (torch.float32, torch.float64):
        return query @ key.transpose(-1, -2)
    if query.device.type == "cuda":  # bfloat16 in, float32 out, in one product
        flat = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(-1, -2), out_dtype=torch.float32)
        return flat.view(*query.shape[:2], *flat.shape[1:])
    return query.float() @ key.float().transpose(-1, -2)


class SharedPrefixDecoder(Decoder):
    """Reads each prompt once and keeps its keys and values once.

    Args:
        backbone: the policy; takes an `AttentionPlan`.
        prompt_embeds: (P, T, width), padded on the left.
        batch: the prompts that belong to them.
        group: G.
        room: R.
        graph: replay the step as a CUDA graph, captured at the second token; on CUDA only.
    """

    def __init__(
        self, backbone: Backbone, prompt_embeds: Tensor, batch: PromptBatch, group: int, room: int, graph: bool = False
    ) -> None:
        self.backbone = backbone
        device = prompt_embeds.device
        embeds, positions, layout = pack_prompts(prompt_embeds, batch, row_multiple(device))
        cache = DynamicCache()
        states = backbone.hidden(embeds, positions, PackedAttention(layout, device), cache)[0]
        ends = torch.tensor([span.stop - 1 for span in layout.prompts], device=device)
        self.logits = backbone.logits(states[ends]).repeat_interleave(group, 0)
        # From the row to one place per prompt, padded on the right.
        lengths = torch.tensor([len(span) for span in layout.prompts], device=device)[:, None]
        place = torch.arange(int(lengths.max()), device=device)
        seen = place < lengths  # (P, T)
        index = ends[:, None] - (lengths - 1 - place).clamp(min=0)
        prompts = [
            (self._one_place(one.keys.to(one.values.dtype), index), self._one_place(one.values, index))
            for one in cache.layers
        ]
        self.clock = _Clock(0, device)
        self.plan = _DecodeAttention(
            prompts,
            None if bool(seen.all()) else seen[:, None, None],
            group,
            room,
            self.clock,
        )
        self.position = _first_positions(batch, group)
        self.cache = DynamicCache()
        self.cache.layers = [
            _StaticLayer(keys[:, :, :0], values[:, :, :0], group, room, self.clock) for keys, values in prompts
        ]
        self.graph: _Graph | None = None
        if graph and device.type == "cuda":
            self.graph, self.clock.visible = _Graph(self._forward), None

    @staticmethod
    def _one_place(row: Tensor, index: Tensor) -> Tensor:
        """Keys or values of a packed row (1, K, L, D) as (P, K, T, D)."""
        return row[0][:, index].transpose(0, 1).contiguous()

    def step(self, tokens: Tensor) -> Tensor:
        """See `Decoder.step`."""
        if self.graph is not None:
            self.logits = self.graph(tokens, (self.clock.at, self.position))
            return self.logits
        self.clock.visible += 1  # type: ignore[operator]
        self.logits = self._forward(tokens)
        return self.logits

    def _forward(self, tokens: Tensor) -> Tensor:
        embeds = self.backbone.embed_tokens(tokens[:, None])
        states = self.backbone.hidden(embeds, self.position, self.plan, self.cache)
        self.clock.at += 1
        self.position += 1
        return self.backbone.logits(states)[:, 0]

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """See `Decoder.keep`."""
        plan = self.plan
        if len(prompts) < len(plan.prompts[0][0]):
            plan.prompts = [(keys[prompts], values[prompts]) for keys, values in plan.prompts]
            plan.seen = None if plan.seen is None else plan.seen[prompts]
        plan.group = len(rows) // len(prompts)
        for layer in self.cache.layers:
            layer.keep(rows)
        self.position, self.logits = self.position[:, rows].clone(), self.logits[rows]
        if self.graph is not None:  # its memory is of the old shape
            self.graph = _Graph(self._forward)


class _Graph:
    """A decode step captured as a CUDA graph: one launch a token instead of hundreds.

    The step must read and write the same memory each time, which is why the cache is static and the step's number and
    the positions are tensors.
    """

    WARM_UP = 2

    def __init__(self, step: Any) -> None:
        self.step = step
        self.captured: Any = None

    def __call__(self, tokens: Tensor, counters: tuple[Tensor, ...]) -> Tensor:
        """Logits (N, V) after these tokens (N,). The result is overwritten by the next call."""
        if self.captured is None:
            self._capture(tokens, counters)
        self.tokens.copy_(tokens)
        self.captured.replay()
        logits: Tensor = self.logits
        return logits

    def _capture(self, tokens: Tensor, counters: tuple[Tensor, ...]) -> None:
        self.tokens = tokens.clone()
        before = [counter.clone() for counter in counters]
        # autocast's cache of weights would be freed under the graph's feet
        autocast = torch.autocast(
            "cuda",
            dtype=torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            cache_enabled=False,
        )
        with autocast:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(self.WARM_UP):  # what it writes is written again before anybody looks
                    self.step(self.tokens)
                    self._reset(counters, before)
            torch.cuda.current_stream().wait_stream(side)
            self.captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.captured):
                self.logits = self.step(self.tokens)
        self._reset(counters, before)

    @staticmethod
    def _reset(counters: tuple[Tensor, ...], before: list[Tensor]) -> None:
        for counter, value in zip(counters, before, strict=True):
            counter.copy_(value)


class RepeatedPromptDecoder(Decoder):
    """Reads each prompt once and copies its keys and values for every completion.

    Args: as `SharedPrefixDecoder`.
    """

    def __init__(self, backbone: Backbone, prompt_embeds: Tensor, batch: PromptBatch, group: int, room: int) -> None:
        self.backbone = backbone
        self.cache = DynamicCache()
        mask = attention_mask(batch.attention_mask)
        state = backbone.hidden(prompt_embeds, batch.position_ids, mask, self.cache)[:, -1:]
        self.logits = backbone.logits(state)[:, 0].repeat_interleave(group, 0)
        real = batch.attention_mask.bool().repeat_interleave(group, 0)
        self.clock = _Clock(real.shape[1], prompt_embeds.device)
        self.cache.layers = [
            _StaticLayer(layer.keys, layer.values, group, room, self.clock) for layer in self.cache.layers
        ]
        self.seen = torch.cat([real, real.new_ones(len(real), room)], dim=1)[:, None, None]  # (N, 1, 1, T + R)
        self.position = _first_positions(batch, group)

    def step(self, tokens: Tensor) -> Tensor:
        """See `Decoder.step`."""
        self.clock.visible += 1  # type: ignore[operator]
        embeds = self.backbone.embed_tokens(tokens[:, None])
        state = self.backbone.hidden(embeds, self.position, self.seen[..., : self.clock.visible], self.cache)
        self.clock.at += 1
        self.position += 1
        self.logits = self.backbone.logits(state)[:, 0]
        return self.logits

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """See `Decoder.keep`."""
        for layer in self.cache.layers:
            layer.keep(rows)
        self.seen, self.position, self.logits = self.seen[rows], self.position[:, rows], self.logits[rows]


def _first_positions(batch: PromptBatch, group: int) -> Tensor:
    """The position of each completion's first token, (A, N, 1); one's own memory, since it is counted up in place."""
    first = batch.next_position.repeat_interleave(group)
    return first.expand(batch.position_ids.shape[0], -1)[..., None].clone()
