"""Prompts and their completions in one row: each prompt once, each completion after it, no padding.

Knows token ids, positions and lengths; knows no model, reward or data set.

A completion sees its prompt and itself. Its positions go on where the prompt's end, whichever completion stands before
it in the row. The last token of a completion predicts nothing and is left out.

Legend: P prompts, G completions each, N = P·G, T prompt tokens (padded), C completion tokens (padded), L tokens of the
row, K completion tokens that are predicted, A axes of a position.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from erv_lightning.models.backbone import PromptBatch


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of the row, [start, stop)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Layout:
    """Where prompts and completions stand in the row.

    Attributes:
        prompts: the span of each prompt.
        completions: for each prompt, the spans of its completions; they follow the prompt without a gap.
        length: L; what lies behind the last span is filler that sees itself only.
    """

    prompts: tuple[Span, ...]
    completions: tuple[tuple[Span, ...], ...]
    length: int

    @cached_property
    def owners(self) -> tuple[Tensor, Tensor]:
        """For each token its prompt (−1 − i for filler i) and its completion (0 for the prompt itself), both (L,)."""
        prompt = -1 - torch.arange(self.length)
        completion = torch.zeros(self.length, dtype=torch.long)
        for number, (span, group) in enumerate(zip(self.prompts, self.completions, strict=True)):
            prompt[span.start : group[-1].stop if group else span.stop] = number
            for which, own in enumerate(group, start=1):
                completion[own.start : own.stop] = which
        return prompt, completion

    def mask(self) -> Tensor:
        """The same as a mask (L, L), True where a token (row) sees another (column)."""
        prompt, completion = self.owners
        seen = (completion == 0) | (completion[:, None] == completion)
        return (prompt[:, None] == prompt) & seen & torch.ones(self.length, self.length, dtype=torch.bool).tril()


@dataclass(frozen=True)
class PackedRow:
    """One row, ready for the decoder.

    Attributes:
        embeds: (1, L, H).
        position_ids: (A, 1, L).
        layout: who stands where.
        states: (K,), the place in the row whose state predicts each completion token.
        place: (K,), where these tokens stand in the flattened (N, C) tokens.
    """

    embeds: Tensor
    position_ids: Tensor
    layout: Layout
    states: Tensor
    place: Tensor


def make_layout(prompt_lengths: list[int], completion_lengths: list[list[int]], multiple: int = 1) -> Layout:
    """The row of prompts and completions of these lengths, filled up to a multiple of `multiple` tokens."""
    prompts, completions, at = [], [], 0
    for length, group in zip(prompt_lengths, completion_lengths, strict=True):
        prompts.append(Span(at, at + length))
        at += length
        own = []
        for fed in group:
            own.append(Span(at, at + fed))
            at += fed
        completions.append(tuple(own))
    return Layout(tuple(prompts), tuple(completions), -(-at // multiple) * multiple)


def pack_prompts(prompt_embeds: Tensor, batch: PromptBatch, multiple: int = 1) -> tuple[Tensor, Tensor, Layout]:
    """Prompts alone, for reading them into a cache: embeddings (1, L, H), positions (A, 1, L) and their layout."""
    lengths = batch.attention_mask.sum(1).tolist()
    layout = make_layout(lengths, [[] for _ in lengths], multiple)
    width = prompt_embeds.shape[1]
    real = [row * width + torch.arange(width - length, width) for row, length in enumerate(lengths)]
    order = _filled(torch.cat(real), layout.length).to(prompt_embeds.device)
    return prompt_embeds.flatten(0, 1)[order][None], batch.position_ids.flatten(1)[:, None, order], layout


def pack(
    prompt_embeds: Tensor,
    batch: PromptBatch,
    token_ids: Tensor,
    mask: Tensor,
    token_embeds: Tensor,
    lengths: list[int],
    multiple: int = 1,
) -> PackedRow:
    """Prompts and completions in one row.

    Args:
        prompt_embeds: (P, T, H), padded on the left.
        batch: the prompts that belong to them.
        token_ids, mask: (N, C), padded on the right; the completions of a prompt stand next to each other.
        token_embeds: (tokens fed, H), embeddings of `fed(token_ids, mask)`.
        lengths: tokens of each completion, `mask.sum(1)` as numbers.
        multiple: see `make_layout`.
    """
    prompts, width = prompt_embeds.shape[:2]
    group, columns = len(lengths) // prompts, token_ids.shape[1]
    prompt_lengths = batch.attention_mask.sum(1).tolist()
    fed = [[max(0, length - 1) for length in lengths[p * group : (p + 1) * group]] for p in range(prompts)]
    layout = make_layout(prompt_lengths, fed, multiple)
    none = torch.zeros(0, dtype=torch.long)  # of nothing there is no concatenation
    order, positions, states, place = [none], [none], [none], [none]
    begin = prompts * width  # of the next completion among prompt and completion embeddings side by side
    for p, (prompt, own) in enumerate(zip(layout.prompts, layout.completions, strict=True)):
        order.append(torch.arange((p + 1) * width - len(prompt), (p + 1) * width))
        for g, span in enumerate(own):
            order.append(torch.arange(begin, begin + len(span)))
            begin += len(span)
            positions.append(torch.arange(len(span)))
            if lengths[p * group + g]:  # the prompt's last state predicts the first token
                states.append(torch.cat([torch.tensor([prompt.stop - 1]), torch.arange(span.start, span.stop)]))
                place.append((p * group + g) * columns + torch.arange(lengths[p * group + g]))
    device = prompt_embeds.device
    index = _filled(torch.cat(order), layout.length).to(device)
    flat = torch.cat([prompt_embeds.flatten(0, 1), token_embeds.to(prompt_embeds.dtype)])
    counts = torch.tensor([sum(own) for own in fed], device=device)
    after = batch.next_position.repeat_interleave(counts) + torch.cat(positions).to(device)
    axes = batch.position_ids.shape[0]
    flat_positions = torch.cat([batch.position_ids.flatten(1), after.expand(axes, -1)], dim=1)
    return PackedRow(
        embeds=flat.index_select(0, index)[None],
        position_ids=flat_positions[:, None, index],
        layout=layout,
        states=torch.cat(states).to(device),
        place=torch.cat(place).to(device),
    )


def fed(token_ids: Tensor, mask: Tensor) -> Tensor:
    """The completion tokens that go into the row, (tokens fed,): all but the last of each completion."""
    last = mask.sum(1, keepdim=True) - 1
    return token_ids[mask & (torch.arange(mask.shape[1], device=mask.device) < last)]


def _filled(order: Tensor, length: int) -> Tensor:
    """`order` with its first entry repeated up to `length`: what stands in the filler is never looked at."""
    return torch.cat([order, order[:1].expand(length - len(order))])
