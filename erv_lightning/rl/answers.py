"""Which tokens of a completion are its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from erv_lightning.text import ANSWER, END_ANSWER


def answer_logp(decode: Callable[[Sequence[int]], str], token_ids: Tensor, mask: Tensor, logp: Tensor) -> Tensor:
    """Mean log-probability of each completion's answer tokens, the closing tag included.

    Args:
        decode: text of token ids.
        token_ids, mask: (N, C), completions and which of their tokens are real.
        logp: (N, C), of these tokens.

    Returns:
        (N,), float, on the CPU; NaN for a completion that does not have exactly one answer block.
    """
    rows = zip(token_ids.tolist(), mask.sum(1).tolist(), logp.double().cpu(), strict=True)
    means = []
    for ids, length, logp_C in rows:
        span = _answer_span(decode, ids[:length])
        means.append(float(logp_C[slice(*span)].mean()) if span else float("nan"))
    return torch.tensor(means)


def _answer_span(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> tuple[int, int] | None:
    """The tokens after the opening tag, up to and with the closing one."""
    text = decode(ids)
    if text.count(ANSWER) != 1 or text.count(END_ANSWER) != 1 or text.index(ANSWER) > text.index(END_ANSWER):
        return None
    return _first_with(decode, ids, ANSWER), _first_with(decode, ids, END_ANSWER)


def _first_with(decode: Callable[[Sequence[int]], str], ids: Sequence[int], tag: str) -> int:
    """The shortest prefix of the tokens whose text holds the tag; a tag may span tokens, and a token hold more."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if tag in decode(ids[:middle]) else (middle + 1, high)
    return low
