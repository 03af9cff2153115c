"""How much a GRPO step has to compute: tokens through the decoder, and floating-point operations.

Counted, not measured: 2 operations per weight of a linear layer and token, 4 per pair of tokens that see each other and
width of the queries, once forward and twice backward. Embedding look-ups, norms and softmax are left out, the media
towers too.

Legend: P prompts of T tokens, G completions each of C tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decoder:
    """What of a decoder costs operations.

    Attributes:
        linear: weights of all layers' linear maps.
        head: weights of the vocabulary head.
        width: width of all queries of a layer together.
        layers: how many.
        kv_width: width of a layer's keys, and of its values.
    """

    linear: int
    head: int
    width: int
    layers: int
    kv_width: int

    @classmethod
    def of(cls, config: Any) -> Decoder:
        """From a transformers config of the Qwen2 family."""
        hidden, heads = config.hidden_size, config.num_attention_heads
        head = getattr(config, "head_dim", None) or hidden // heads
        width, kv_width = heads * head, config.num_key_value_heads * head
        per_layer = hidden * (width + 2 * kv_width) + width * hidden + 3 * hidden * config.intermediate_size
        layers = config.num_hidden_layers
        return cls(layers * per_layer, hidden * config.vocab_size, width, layers, kv_width)

    def operations(self, tokens: int, pairs: int, scored: int) -> int:
        """Of one forward pass: tokens, pairs that see each other in all layers, tokens whose vocabulary is scored."""
        return 2 * (self.linear * tokens + self.head * scored) + 4 * self.width * pairs


@dataclass(frozen=True)
class Work:
    """Tokens through the decoder and operations of one step's sampling and update."""

    sampled_tokens: int
    update_tokens: int
    sampling: int
    update: int


def shared(decoder: Decoder, prompts: int, length: int, group: int, new: int) -> Work:
    """Each prompt once, in sampling and in the update; in the last layer only its last token looks."""
    prompt_pairs = prompts * ((decoder.layers - 1) * length * (length + 1) // 2 + length)
    return _work(decoder, prompts, prompt_pairs, prompts * group, length, new)


def repeated(decoder: Decoder, prompts: int, length: int, group: int, new: int) -> Work:
    """Each prompt once per completion, and all of it in every layer."""
    rows = prompts * group
    return _work(decoder, rows, rows * decoder.layers * length * (length + 1) // 2, rows, length, new)


def _work(decoder: Decoder, prompts: int, prompt_pairs: int, completions: int, length: int, new: int) -> Work:
    fed = new - 1
    pairs = prompt_pairs + completions * decoder.layers * (fed * length + fed * (fed + 1) // 2)
    tokens = prompts * length + completions * fed
    sampling = decoder.operations(tokens, pairs, prompts + completions * fed)
    return Work(tokens, tokens, sampling, 3 * decoder.operations(tokens, pairs, completions * new))


def decode_bytes(decoder: Decoder, prompts: int, length: int, group: int, new: int, size: int) -> float:
    """Bytes that sampling one token of every row has to read, on average: all weights, and the keys and values so far.

    Args:
        size: bytes of a number.
    """
    keys = prompts * length + prompts * group * new / 2
    return size * (decoder.linear + decoder.head + 2 * decoder.kv_width * decoder.layers * keys)
