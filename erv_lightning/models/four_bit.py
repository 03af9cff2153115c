"""Frozen weights in 4 bits for QLoRA (Dettmers et al., arXiv 2305.14314), by bitsandbytes: a 7B on one small GPU.

Only linear layers of the decoder are quantised. The towers stay as they are: they are small, run once per clip, and
nothing is trained that could make up for their error. bitsandbytes is needed here and nowhere else (extra `qlora`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import dequantize_bnb_weight

Quantize = Literal["4bit"]


def reading_options(quantize: Quantize | None, lora: bool, pretrained: str, kept: Sequence[str]) -> dict[str, Any]:
    """Arguments of `from_pretrained` that keep the frozen weights in 4 bits; none where nothing is quantised.

    Args:
        quantize: ``4bit``, or None.
        lora: whether adapters are trained.
        pretrained: folder or hub id.
        kept: modules that stay as they are.

    Raises:
        ValueError: what stands in the way, all of it.
    """
    if quantize is None:
        return {}
    problems = []
    if not lora:
        problems.append("weights of 4 bits cannot be trained: give lora, such as {rank: 16, alpha: 32}")
    if pretrained == "tiny":
        problems.append("the built-in small model is not worth it: name a pretrained one with --base")
    if not torch.cuda.is_available():
        problems.append("there is no CUDA device here")
    if find_spec("bitsandbytes") is None:
        problems.append("bitsandbytes is not installed: pip install 'erv-lightning[qlora]'")
    if problems:
        raise ValueError(f"quantize: 4bit cannot be: {'; '.join(problems)}. Or leave it out")
    # each process its own GPU: Lightning has made it the current one
    return {"quantization_config": four_bit_config(kept), "device_map": {"": torch.cuda.current_device()}}


def four_bit_config(kept: Sequence[str]) -> BitsAndBytesConfig:
    """The paper's setting: NF4 with double quantisation, computing in bfloat16; `kept` modules are left alone."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(kept),  # of 4 bits too, whatever its name says
    )


def is_four_bit(model: Any) -> bool:
    """Whether a transformers model was read in 4 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def unpacked(model: Any) -> tuple[Any, dict[str, Tensor]]:
    """A model that can be saved and its state dict, weights of 4 bits replaced by the plain ones that they stand for.

    Quantising is not undone by this: the export holds the rounded weights, as training saw them, at their full size.
    """
    state: dict[str, Tensor] = model.state_dict()
    if not is_four_bit(model):
        return model, state
    for name, parameter in model.named_parameters():
        if type(parameter).__name__ == "Params4bit":
            for key in [key for key in state if key.startswith(f"{name}.")]:  # absmax, quant_map, …
                del state[key]
            state[name] = dequantize_bnb_weight(parameter).to(model.dtype)
    config = type(model.config).from_dict(
        {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    )
    with torch.device("meta"):
        return type(model)(config), state
