"""The projector's blocks, each against the plain one, and the shapes of the real sizes."""

from __future__ import annotations

import sys
from typing import Any

import humanomni_plain as plain
import pytest
import torch
from humanomni_published import REAL, TINY, our_config, random_tensors
from torch import Tensor, nn
from torch.testing import assert_close

from erv_lightning.models.humanomni import HumanOmniForConditionalGeneration
from erv_lightning.models.humanomni.projector import AudioProjector, ConvBranch, FaceBranch, VisualProjector, stage

ROOT = "model.mm_projector"
SIZES = [pytest.param(sizes, id=name) for name, sizes in TINY.items()]


def loaded(module: nn.Module, weights: dict[str, Tensor], names: dict[str, str]) -> Any:
    """The module with published tensors: those that begin with a key, under the value's name."""
    state = {}
    for name, value in weights.items():
        for theirs, ours in names.items():
            if name.startswith(theirs):
                state[ours + name.removeprefix(theirs)] = value
    module.load_state_dict(state, strict=True)
    return module.eval()


def branch_names(branch: str, within: str = "") -> dict[str, str]:
    return {f"{ROOT}.{part}_{branch}.": f"{within}{part}." for part in ("s1", "sampler", "s2", "readout")}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("name", "width"), [("s1_video", 20), ("s2_body", 32)])
def test_a_stage_is_made_of_depthwise_blocks_with_squeeze_and_excitation(sizes: Any, name: str, width: int) -> None:
    w = random_tensors(sizes)
    ours = loaded(stage(sizes.depth, width, 32), w, {f"{ROOT}.{name}.": ""})
    x = torch.randn(2, width, 5, 4)
    assert_close(ours(x), plain.stage(w, f"{ROOT}.{name}", x, sizes.depth), atol=1e-5, rtol=1e-4)


def test_the_norms_of_a_stage_divide_by_the_published_epsilon() -> None:
    norms = [part for part in stage(2, 8, 8).modules() if isinstance(part, nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-5] * 6


@pytest.mark.parametrize("sizes", SIZES)
def test_a_branch_sees_each_frame_with_the_one_before_it(sizes: Any) -> None:
    w = random_tensors(sizes)
    ours = loaded(ConvBranch(sizes.depth, 20, 32, our_padding(sizes)), w, branch_names("body"))
    grid = sizes.image // sizes.patch
    x = torch.randn(2, 4, 20, grid, grid)
    out = ours(x)
    assert out.shape == (2, 4 * 4, 32)
    for clip in range(2):
        assert_close(out[clip], plain.conv_branch(w, "body", x[clip], sizes), atol=1e-5, rtol=1e-4)
    changed = x.clone()
    changed[:, 2] += 1
    steps = (ours(changed) - out).abs().amax((0, 2)).reshape(4, 4).amax(1)
    assert (steps > 1e-3).tolist() == [False, False, True, True]


def our_padding(sizes: Any) -> tuple[int, int, int]:
    return {"all_in_one_small": (1, 0, 0), "all_in_one": (1, 1, 1)}[sizes.projector]


@pytest.mark.parametrize("grid", [4, 3, 5])
def test_the_face_branch_halves_the_grid_between_corners(grid: int) -> None:
    w = random_tensors(TINY["0.5B"])
    ours = loaded(FaceBranch(20, 32), w, {f"{ROOT}.mlp_2xgelu_face.": "mlp."})
    patches = torch.randn(2, 3, grid * grid, 20)
    for clip in range(2):
        assert_close(ours(patches)[clip], plain.face_branch(w, patches[clip]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_question_mixes_the_branches(sizes: Any) -> None:
    w = random_tensors(sizes)
    names = {f"{ROOT}.mlp_2xgelu_face.": "face.mlp.", "model.bert_gate.": "gate."}
    names |= branch_names("video", "video.") | branch_names("body", "body.")
    ours = loaded(VisualProjector(our_config(sizes)), w, names)
    patches, questions = torch.randn(2, 3, (sizes.image // sizes.patch) ** 2, 20), 2 * torch.randn(2, 12)
    out = ours(patches, questions)
    for clip in range(2):
        assert_close(out[clip], plain.project(w, patches[clip], questions[clip], sizes), atol=1e-5, rtol=1e-4)
    assert (out - ours(patches, questions.flip(0))).abs().max() > 0.01


@pytest.mark.parametrize("states", [48, 50])
def test_an_audio_token_is_the_mean_of_three_states(states: int) -> None:
    w = random_tensors(TINY["0.5B"])
    ours = loaded(AudioProjector(our_config(TINY["0.5B"])), w, {"model.audio_projector.": "mlp."})
    x = torch.randn(2, states, 16)
    assert ours(x).shape == (2, 16, 32)
    assert_close(ours(x)[1], plain.project_audio(w, x[1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "tokens", "shapes"),
    [
        (
            "0.5B",
            392,
            {
                "video.s1.b1.se.fc1.weight": (192, 896, 1, 1),
                "video.s1.b2.se.fc1.weight": (224, 896, 1, 1),
                "body.s1.b1.downsample.conv.weight": (896, 768, 1, 1),
                "body.s2.b2.conv2.conv.weight": (896, 1, 3, 3),
                "video.sampler.0.weight": (896, 896, 2, 2, 2),
                "gate.0.weight": (3584, 768),
                "gate.2.weight": (3, 3584),
            },
        ),
        (
            "7B",
            1568,
            {
                "video.s1.b1.se.fc1.weight": (288, 3584, 1, 1),
                "body.s2.b4.se.fc1.weight": (896, 3584, 1, 1),
                "video.sampler.0.weight": (3584, 3584, 2, 2, 2),
                "gate.0.weight": (3584, 768),
            },
        ),
    ],
)
def test_real_sizes_have_the_shapes_and_the_tokens_of_the_description(
    size: str, tokens: int, shapes: dict[str, tuple[int, ...]]
) -> None:
    sizes = REAL[size]
    with torch.device("meta"):
        model = HumanOmniForConditionalGeneration(our_config(sizes))
        frames = torch.empty(2, 8, 3, sizes.image, sizes.image)
        seen = model.get_video_features(frames, torch.zeros(2, 5, dtype=torch.long))
        heard = model.get_audio_features(torch.empty(2, 128, 3000))
    assert seen.shape == (2, tokens, sizes.text.width)
    assert heard.shape == (2, 500, sizes.text.width)
    assert (model.config.video_tokens, model.config.audio_tokens) == (tokens, 500)
    state = model.model.visual_projector.state_dict()
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    depth = {"0.5B": 2, "7B": 4}[size]
    assert [name for name, _ in model.model.visual_projector.body.s2.named_children()] == [
        f"b{number}" for number in range(1, depth + 1)
    ]


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.models.regnet", None)
    with pytest.raises(ValueError, match=r"needs timm: pip install 'erv-lightning\[humanomni\]'"):
        stage(2, 8, 8)
