"""One GRPO step, whichever way it is cut: micro-batches, processes, repeated updates, resampled groups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpo_two_processes as many
import lightning as L
import pytest
import torch
from grpo_two_processes import TOGETHER, ManyUpdates
from torch import Tensor

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.rl.objectives import LOSS_TYPES

MakeData = Callable[..., ClipDataModule]
MakeTrainer = Callable[..., L.Trainer]
Gradients = dict[str, Tensor]

SAME = 1e-6  # relative, of what is computed in float64


def distance(some: Gradients, others: Gradients) -> float:
    """How far apart gradients are, relative to their length; the largest over all parameters."""
    assert some.keys() == others.keys()
    assert all(value.dtype == torch.float64 for value in some.values())
    return max(float((value - others[name]).norm() / value.norm()) for name, value in some.items() if value.norm() > 0)


# -- micro-batches ------------------------------------------------------------------------------------------------

SIZES = (None, 1, 2, 3, 4)  # 3 does not divide the 4 prompts
BACKBONES: dict[str, dict[str, Any]] = {
    "decoder": {"freeze": ("vision", "audio")},
    "lora": {"lora": LoraSpec(rank=4, alpha=8)},
    "towers": {"freeze": ()},
}


@pytest.fixture(scope="module", params=BACKBONES)
def cut(request: pytest.FixtureRequest, taught: Any, clips: SyntheticClips, tmp_path_factory: Any) -> ManyUpdates:
    """A module that has taken the same step in micro-batches of every size."""
    from conftest import DECODE, quiet_trainer

    torch.manual_seed(0)
    variants = {(kind, size): many.settings(kind, size) for kind in LOSS_TYPES for size in SIZES}
    variants["apart"] = many.settings(share=False)
    module = ManyUpdates(
        variants,
        backbone=lambda: QwenOmniBackbone(str(taught.folder), **BACKBONES[request.param]),
        prompts_per_step=4,
        generations_per_prompt=4,
        **many.REWARDS,
    )
    trainer = quiet_trainer(tmp_path_factory.mktemp("cut"), max_steps=1, gradient_clip_val=None)
    trainer.fit(module, ClipDataModule(clips, train_split="rl", **DECODE))
    return module


@pytest.mark.parametrize("kind", LOSS_TYPES)
def test_the_gradient_does_not_depend_on_the_size_of_micro_batches(cut: ManyUpdates, kind: str) -> None:
    whole, loss = cut.gradients[kind, None], cut.losses[kind, None]
    for size in SIZES:
        print(kind, size, distance(whole, cut.gradients[kind, size]))
        assert distance(whole, cut.gradients[kind, size]) < SAME
        assert cut.losses[kind, size] == pytest.approx(loss, rel=SAME)
