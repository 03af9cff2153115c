"""Weights in 4 bits: what is asked for before anything is read, and what an export makes of them.

bitsandbytes needs CUDA, and neither is here: its weights are played by a parameter of the same name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from erv_lightning.models import QwenOmniBackbone, four_bit
from erv_lightning.models.backbone import LoraSpec, PromptBatch
from erv_lightning.models.four_bit import four_bit_config, reading_options
from erv_lightning.rl.logprobs import attention_mask

KEPT = ("lm_head", *QwenOmniBackbone.layout.towers)


@pytest.fixture
def equipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has all it takes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(four_bit, "find_spec", lambda name: name)


def test_nothing_is_asked_for_where_nothing_is_quantised() -> None:
    assert reading_options(None, False, "tiny", KEPT) == {}


def test_everything_in_the_way_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(four_bit, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="quantize: 4bit cannot be") as caught:
        QwenOmniBackbone("tiny", quantize="4bit")
    for part in ("cannot be trained: give lora", "--base", "no CUDA device", "pip install 'erv-lightning[qlora]'"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("equipped")
@pytest.mark.parametrize(("lora", "pretrained", "said"), [(False, "a/b", "give lora"), (True, "tiny", "--base")])
def test_only_what_is_in_the_way_is_said(lora: bool, pretrained: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        reading_options("4bit", lora, pretrained, KEPT)
    assert "CUDA" not in str(caught.value)
    assert ";" not in str(caught.value)


@pytest.mark.usefixtures("equipped")
def test_the_decoder_is_read_in_nf4_onto_the_process_own_gpu() -> None:
    options = reading_options("4bit", True, "a/b", KEPT)
    assert options["device_map"] == {"": 3}
    config = options["quantization_config"]
    assert config.quantization_method() == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert config.llm_int8_skip_modules == list(KEPT)


def test_the_towers_and_the_head_stay_as_they_are(backbone: QwenOmniBackbone) -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = four_bit_config(KEPT).llm_int8_skip_modules
    packed = {
        name.split(".")[1]
        for name, module in backbone.model.named_modules()
        if type(module) is nn.Linear and should_convert_module(name, kept)
    }
    assert packed == {"language_model"}


# -- what becomes of them -----------------------------------------------------------------------------------------


class Params4bit(nn.Parameter):
    """Holds a weight as bytes, as bitsandbytes' parameter does; `plain` is what they stand for."""

    plain: Tensor


def pack(backbone: QwenOmniBackbone) -> dict[str, Tensor]:
    """Puts the decoder's linear layers into 4 bits; returns what they now stand for."""
    rounded = {}
    for name, layer in backbone.decoder.named_modules():
        base = getattr(layer, "base_layer", None)
        if base is None:
            continue
        value = (base.weight.detach() * 8).round() / 8
        weight = Params4bit(torch.zeros(base.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
        weight.plain = value
        base.weight = weight
        base.register_buffer("absmax", torch.ones(1), persistent=False)
        rounded[f"model.language_model.{name}.weight"] = value
    backbone.model.is_loaded_in_4bit = True
    backbone.model.config.quantization_config = four_bit_config(KEPT)
    return rounded


def logits(backbone: QwenOmniBackbone, batch: PromptBatch) -> Tensor:
    states = backbone.hidden(backbone.embed(batch), batch.position_ids, attention_mask(batch.attention_mask))
    return backbone.logits(states)


@torch.no_grad()
def test_an_export_holds_plain_weights_with_the_adapters_merged(
    prompts: PromptBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(four_bit, "dequantize_bnb_weight", lambda parameter: parameter.plain)
    backbone = QwenOmniBackbone("tiny", lora=LoraSpec(rank=4, alpha=8)).eval()
    for parameter in backbone.trainable():
        parameter.normal_(std=0.1)
    rounded = pack(backbone)
    state = backbone.model.state_dict()
    extra = "model.language_model.layers.0.mlp.up_proj.base_layer.weight.absmax"  # as bitsandbytes adds to a state dict
    monkeypatch.setattr(backbone.model, "state_dict", lambda: {**state, extra: torch.ones(1)})
    deltas = {
        f"model.language_model.{name}.weight": layer.get_delta_weight("default")
        for name, layer in backbone.decoder.named_modules()
        if hasattr(layer, "base_layer")
    }
    backbone.save(tmp_path)

    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = QwenOmniBackbone(str(tmp_path)).eval()
    found = again.model.state_dict()
    assert len(rounded) == 4 * 7
    for name, value in rounded.items():
        assert_close(found[name], value + deltas[name])
    assert logits(again, prompts).isfinite().all()
    assert backbone.has_lora  # the policy itself goes on in 4 bits
    assert isinstance(backbone.decoder.layers[0].mlp.up_proj.base_layer.weight, Params4bit)


def test_fsdp2_is_refused_with_the_way_out() -> None:
    backbone: Any = QwenOmniBackbone("tiny", lora=LoraSpec(rank=4, alpha=8))
    pack(backbone)
    with pytest.raises(ValueError, match=r"FSDP2 cannot share out weights of 4 bits.*trainer/gpu\.yaml"):
        backbone.units()


def test_freezing_what_is_no_part_names_the_parts() -> None:
    with pytest.raises(ValueError, match="freeze knows vision, audio, language, not 'eyes'"):
        QwenOmniBackbone("tiny", freeze=["eyes"])  # type: ignore[list-item]
