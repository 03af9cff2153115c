"""The memory estimate is what autograd keeps, what training was measured to take, and moves as its parts do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import memory as bench
from erv_lightning.doctor.memory import Plan, Shape, cache, estimate, held, layer_activations
from erv_lightning.doctor.sizes import Sizes, sizes_of
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.rl.packing import make_layout
from erv_lightning.rl.prefix_attention import PackedAttention

RESULTS = Path(bench.__file__).parent / "results"
ROOM = 0.2  # of the measured peak
SHAPE = Shape(prompts=4, group=8, prompt=100, new_tokens=64, micro=4)


@pytest.fixture(scope="module")
def tiny() -> Sizes:
    return sizes_of("tiny", None, ("vision", "audio"))


def measured() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / "memory.json").read_text(encoding="utf-8"))["cases"]
    return rows


def saved_bytes(backbone: QwenOmniBackbone, tokens: int) -> int:
    """What autograd keeps of the decoder's second layer, counted as it is packed away."""
    decoder = backbone.model.model.language_model
    dtype = decoder.layers[1].input_layernorm.weight.dtype
    states = torch.randn(1, tokens, 128, dtype=dtype, requires_grad=True)
    rotary = decoder.rotary_emb(states, torch.arange(tokens).expand(3, 1, tokens))
    known = {one.untyped_storage().data_ptr() for one in (*backbone.parameters(), *rotary)}
    seen: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return value

    layout = make_layout([tokens // 2], [[tokens // 4, tokens // 4]])
    plan = PackedAttention(layout, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        out = decoder.layers[1](states, attention_mask=plan, position_embeddings=rotary)
    del out
    return sum(size for place, size in seen.items() if place not in known)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraSpec(rank=16)])
def test_a_layer_keeps_the_bytes_that_autograd_packs_away(lora: LoraSpec | None, dtype: Any) -> None:
    backbone = QwenOmniBackbone("tiny", lora, ("vision", "audio"), dtype)
    size = {"float32": 4, "bfloat16": 2}[dtype]
    sizes = sizes_of("tiny", lora, ("vision", "audio"))
    assert saved_bytes(backbone, 200) == 200 * layer_activations(sizes, Plan(size=size, activation=size))


def test_the_bytes_of_a_layer_by_hand(tiny: Sizes) -> None:
    # norms 2·(3·128·4 + 4), attention 4·128·4 + 4 heads·4, MLP 4·384·4; LoRA: no normalised input, 7·16·4 more
    assert layer_activations(tiny, Plan()) == 3080 + 2064 + 6144
    adapted = sizes_of("tiny", LoraSpec(rank=16))
    assert layer_activations(adapted, Plan()) == 3080 - 1024 + 2064 + 6144 + 448
    # a GPU keeps the 2 key heads as they are: 2·(128 + 64)·4
    assert layer_activations(tiny, Plan(cuda=True)) == 3080 + 1552 + 6144


@pytest.mark.parametrize("row", measured(), ids=lambda row: row["case"]["name"])
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(row: dict[str, Any]) -> None:
    case = bench.Case(**row["case"])
    said = bench.estimate_of(case, row["prompt"])
    assert said["all"] == pytest.approx(row["peaks_mb"]["all"], rel=ROOM)
    for phase in said.keys() & row["peaks_mb"].keys():
        assert said[phase] == pytest.approx(row["peaks_mb"][phase], rel=ROOM), phase


def test_there_are_four_configurations_each_above_a_hundred_megabytes_and_the_page_is_theirs() -> None:
    assert len(measured()) == 4
    assert all(row["peaks_mb"]["all"] > 100 for row in measured())
    result = json.loads((RESULTS / "memory.json").read_text(encoding="utf-8"))
    page = (RESULTS / "memory.md").read_text(encoding="utf-8")
    assert page == bench.markdown(result)
    assert page.count("not measured") == 2


def test_a_step_measured_now_is_within_a_fifth_too() -> None:
    case = bench.Case("live", "sft", 8, 1, 60)
    found = bench.measure(case)
    assert bench.estimate_of(case, found["prompt"])["all"] == pytest.approx(found["peaks_mb"]["all"], rel=ROOM)


def test_peaks_are_running_sums() -> None:
    class Event:
        def __init__(self, name: str, start: int, size: int = 0, length: int = 0) -> None:
            self.values = name, start, size, length

        def name(self) -> str:
            return self.values[0]

        def start_ns(self) -> int:
            return self.values[1]

        def nbytes(self) -> int:
            return self.values[2] * bench.MB

        def duration_ns(self) -> int:
            return self.values[3]

    events = [Event("[memory]", 1, 5), Event("[memory]", 9, -4), Event("[memory]", 5, 3), Event("[memory]", 11, 2)]
    assert bench.peaks([*events, Event("phase:update", 8, length=5)]) == {"all": 8.0, "update": 6.0}


def test_parts_that_stay_by_hand(tiny: Sizes) -> None:
    parts = held(tiny, Plan(reference=True))
    assert parts["weights"] == 4 * tiny.parameters
    assert parts["gradients"] == parts["kept reference"] == 4 * tiny.trained
    assert parts["optimiser states"] == 8 * tiny.trained
    assert parts["DDP buckets"] == 0


def test_fsdp_shares_and_ddp_keeps_gradients_twice(tiny: Sizes) -> None:
    alone = held(tiny, Plan(reference=True))
    shared = held(tiny, Plan(reference=True, devices=4, strategy="fsdp"))
    for name in ("weights", "gradients", "optimiser states", "kept reference"):
        assert shared[name] == alone[name] / 4
    assert held(tiny, Plan(devices=4, strategy="ddp"))["DDP buckets"] == alone["gradients"]


def test_keys_and_values_by_hand(tiny: Sizes) -> None:
    # keys and values of 64 numbers in 4 layers, 4 bytes: 2048 a token; 4 prompts of 100, 32 completions of 63
    assert cache(tiny, SHAPE, Plan()) == (4 * 100 * 2048, 32 * 63 * 2048)
    assert cache(tiny, SHAPE, Plan(prefix_sharing=False)) == (4 * 100 * 2048, 32 * 163 * 2048)


def test_each_saving_saves(tiny: Sizes) -> None:
    whole = estimate(tiny, SHAPE, Plan(reference=True)).phases["update"]
    assert estimate(tiny, replace(SHAPE, micro=1), Plan(reference=True)).phases["update"] < whole
    assert estimate(tiny, SHAPE, Plan(reference=True, checkpointing=True)).phases["update"] < whole
    assert estimate(tiny, SHAPE, Plan(reference=True, prefix_sharing=False)).phases["update"] > whole
    assert estimate(tiny, SHAPE, Plan(reference=False)).phases["update"] < whole


def test_the_packed_row_by_hand() -> None:
    assert SHAPE.row == 4 * (100 + 8 * 63)
    assert SHAPE.repeated_row() == 32 * 164


def test_a_validation_batch_is_a_phase_of_its_own(tiny: Sizes) -> None:
    few, many = (estimate(tiny, replace(SHAPE, evaluated=count), Plan()) for count in (1, 64))
    assert few.phases["validate"] < many.phases["validate"]
    assert "validate" not in estimate(tiny, SHAPE, Plan()).phases
