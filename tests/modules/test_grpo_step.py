"""One GRPO step has one gradient, whichever way it is cut: into micro-batches, over processes, prompts shared."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpo_two_processes as many
import pytest
import torch
from grpo_two_processes import TOGETHER, ManyUpdates
from torch import Tensor

from erv_lightning.data.readers import SyntheticClips
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.rl.advantages import group_advantages
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.objectives import LOSS_TYPES, policy_loss

Gradients = dict[str, Tensor]

ROOT = Path(__file__).parents[2]
SAME = 1e-6  # relative, of what is computed in float64


def distance(some: Gradients, others: Gradients) -> float:
    """How far apart gradients are, relative to their length; the largest of all parameters."""
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
    torch.manual_seed(0)
    variants: dict[Any, dict[str, Any]] = {
        (kind, size): many.settings(kind, size) for kind in LOSS_TYPES for size in SIZES
    }
    variants |= {("masked", kind): many.settings(kind, 3, mask_truncated=True) for kind in ("grpo", "dapo")}
    variants["apart"] = many.settings(share=False)
    module = ManyUpdates(
        variants,
        backbone=lambda: QwenOmniBackbone(str(taught.folder), **BACKBONES[request.param]),
        prompts_per_step=4,
        generations_per_prompt=4,
        **many.REWARDS,
    )
    many.fit(module, clips, tmp_path_factory.mktemp("cut"))
    assert any("visual" in name for name in module.gradients["apart"]) == (request.param == "towers")
    return module


@pytest.mark.parametrize("kind", LOSS_TYPES)
def test_the_gradient_does_not_depend_on_the_size_of_micro_batches(cut: ManyUpdates, kind: str) -> None:
    whole = cut.numbers[kind, None]
    assert whole["kl"] > 0
    assert whole["clip_ratio/region_mean"] > 0
    for size in SIZES:
        assert distance(cut.gradients[kind, None], cut.gradients[kind, size]) < SAME
        assert cut.numbers[kind, size] == pytest.approx(whole, rel=SAME)


def by_autograd(seen: ManyUpdates, kind: str, mask: Tensor) -> tuple[Gradients, float]:
    """Gradients and loss of the objective over the whole rollout at once, one padded row per completion."""
    whole, drawn = seen.experience, seen.experience.drawn
    assert whole.old_logp is not None
    batch = seen.backbone.collate([sample.id for sample in whole.samples], whole.prompts)
    logp, _ = completion_logps(
        seen.backbone,
        seen.backbone.embed(batch),
        batch,
        drawn.token_ids,
        drawn.mask,
        temperature=2.0,
        unsayable_ids=seen.backbone.unsayable_ids,
        prefix_sharing=False,
    )
    advantages = group_advantages(whole.earned.total, 4, applicable=whole.earned.applicable)
    options: dict[str, Any] = {"loss_type": kind, "ref_logp": whole.ref_logp, "beta": 0.3, "width": 24}
    loss, _ = policy_loss(logp, whole.old_logp, advantages, mask, **options)
    named = {name: p for name, p in seen.backbone.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, gradients, strict=True)), loss.item()


@pytest.mark.parametrize("kind", LOSS_TYPES)
def test_the_gradient_is_that_of_the_objective_over_the_whole_rollout(cut: ManyUpdates, kind: str) -> None:
    mask = cut.experience.drawn.mask
    assert len(set(mask.sum(1).tolist())) > 2  # else means over completions would be means over tokens
    gradients, loss = by_autograd(cut, kind, mask)
    assert distance(cut.gradients[kind, 3], gradients) < SAME
    assert cut.numbers[kind, 3]["loss"] == pytest.approx(loss, rel=SAME)


@pytest.mark.parametrize("kind", ["grpo", "dapo"])
def test_truncated_completions_can_be_left_out_of_the_loss(cut: ManyUpdates, kind: str) -> None:
    drawn = cut.experience.drawn
    assert 0 < drawn.truncated.sum() < len(drawn.truncated)
    gradients, loss = by_autograd(cut, kind, drawn.mask & ~drawn.truncated[:, None])
    assert distance(cut.gradients["masked", kind], gradients) < SAME
    assert cut.numbers["masked", kind]["loss"] == pytest.approx(loss, rel=SAME)
    assert distance(cut.gradients["masked", kind], cut.gradients[kind, None]) > 0.1


def test_the_gradient_does_not_depend_on_whether_prefixes_are_shared(cut: ManyUpdates) -> None:
    assert distance(cut.gradients["grpo", None], cut.gradients["apart"]) < SAME
    assert cut.numbers["apart"] == pytest.approx(cut.numbers["grpo", None], rel=SAME)


# -- processes ----------------------------------------------------------------------------------------------------


@dataclass
class Both:
    """What one process found, and what each of two found for the same step."""

    one: dict[str, Any]
    two: list[dict[str, Any]]


@pytest.fixture(scope="module")
def both(taught: Any, clips: SyntheticClips, tmp_path_factory: pytest.TempPathFactory) -> Both:
    root = tmp_path_factory.mktemp("both")
    policy = str(taught.folder)
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    given = (many.__file__, policy, str(clips.folder.parent), str(root))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # each process ends itself before this time is up, and torchrun with it
    done = subprocess.run(
        (*launch, *given), env=environment, capture_output=True, text=True, timeout=many.LAUNCHED + 60
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Both(many.run(policy, clips, root, world=1), [torch.load(root / f"{rank}.pt") for rank in (0, 1)])


@pytest.mark.parametrize("setting", TOGETHER)
def test_the_gradient_does_not_depend_on_the_number_of_processes(both: Both, setting: str) -> None:
    one, two = both.one["gradients"][setting], [found["gradients"][setting] for found in both.two]
    assert distance(one, two[0]) < SAME
    assert all(torch.equal(value, two[1][name]) for name, value in two[0].items())
    shares = [found["losses"][setting] for found in both.two]
    assert sum(shares) == pytest.approx(both.one["losses"][setting], rel=SAME)
    assert shares[0] != shares[1]


def test_two_processes_say_what_one_says(both: Both) -> None:
    shares = [found["said"] for found in both.two]
    assert [len(share) for share in shares] == [2, 2]
    assert shares[0] | shares[1] == both.one["said"]
    assert len({text for texts in both.one["said"].values() for text in texts}) > 12


def test_processes_resample_together_and_end_with_as_many_groups_as_they_began(both: Both) -> None:
    for found in both.two:
        assert len(found["rows"]) == 2 * 4
        assert found["resampled"] == both.two[0]["resampled"]
        assert 1 <= found["resampled"]["train/resampled/rounds"] <= 3
    assert both.two[0]["resampled"]["train/resampled/groups"] > 0
