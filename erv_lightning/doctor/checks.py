"""What keeps a run from working, or makes its numbers worthless: one line of what, where and the way out each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version

from erv_lightning.doctor.memory import Memory, Plan, Shape, estimate
from erv_lightning.doctor.sizes import Sizes
from erv_lightning.labels import GOEMOTIONS, LabelSpace
from erv_lightning.rl.reward_terms import EXPLANATION_REWARDS
from erv_lightning.runs import RunFolder

PACKAGES = (
    "torch", "torchvision", "torchaudio", "lightning", "transformers", "peft", "torchmetrics", "jsonargparse",
    "omegaconf", "wandb", "av", "torchcodec", "numpy",
)  # fmt: skip
# Package, from, below, what goes wrong, way out. Sources: the projects' issues, and runs of our own.
KNOWN_BAD = (
    ("lightning", "2.6.2", "2.6.4", "2.6.2 and 2.6.3 were compromised releases", "lightning>=2.6.4,<2.7"),
    ("transformers", "0", "5.21", "module paths of Qwen2.5-Omni moved in 5.21", "transformers>=5.21,<6"),
    ("transformers", "6", "999", "was never tried", "transformers>=5.21,<6"),
    ("peft", "0", "0.21", "adapters' forward hooks are bypassed before 0.21", "peft>=0.21"),
    ("torch", "0", "2.11", "too old for FSDP2 with adapters and for torchcodec's wheels", "torch>=2.11,<2.15"),
    ("jsonargparse", "0", "4.43", "no omegaconf+ parser mode", "jsonargparse[signatures]>=4.43,<5"),
)
# Beside this torch minor version these torchcodec wheels do not load.
CODEC_FROM = ((Version("2.11"), Version("0.11.1")),)


@dataclass(frozen=True)
class Finding:
    """One line. `problem` means that the run will not work; otherwise it is a warning or a note."""

    line: str
    problem: bool = True


def versions() -> dict[str, str]:
    """Installed versions; packages that are not there are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def check_versions(found: Mapping[str, str]) -> list[Finding]:
    """Versions and pairs of them that are known not to work."""
    lines = [
        Finding(f"{name} {found[name]}: {why}; pip install '{instead}'")
        for name, least, below, why, instead in KNOWN_BAD
        if name in found and Version(least) <= Version(found[name]) < Version(below)
    ]
    if "torchcodec" in found:
        for torch_from, codec_from in CODEC_FROM:
            if Version(found["torch"]) >= torch_from and Version(found["torchcodec"]) < codec_from:
                lines.append(
                    Finding(
                        f"torchcodec {found['torchcodec']} does not load beside torch {found['torch']}: pip install "
                        f"'torchcodec>={codec_from}', or data.decoder: pyav",
                        problem=False,
                    )
                )
    if "torchaudio" in found and ("+cpu" in found["torch"]):
        lines.append(Finding(f"torchaudio from PyPI does not load beside torch {found['torch']}", problem=False))
    return lines


def _first(run: RunFolder) -> Finding:
    return Finding(f"{run.export} is not there yet: fit trains the {run.stage} stage first", problem=False)


def check_policy(pretrained: str) -> list[Finding]:
    """Whether the policy that a run starts from is there, or will be trained first."""
    run = RunFolder.of_export(pretrained)
    if run is not None and not (run.export / "config.json").is_file():
        return [_first(run)]
    path = Path(pretrained)
    if run is None and (path.is_absolute() or len(path.parts) > 2) and not (path / "config.json").is_file():
        return [Finding(f"no policy in {pretrained!r}: name a folder with config.json, a hub id, or tiny")]
    return []


def check_verifier(pretrained: str | None, rewards: Mapping[str, float], spaces: Sequence[LabelSpace]) -> list[Finding]:
    """Whether the verifier is there and knows the data's labels, from its config alone."""
    if not any(weight and name in EXPLANATION_REWARDS for name, weight in rewards.items()):
        return []
    if pretrained is None:
        return [Finding("rewards ask a verifier, but model.init_args.verifier is null: name one, or weight 0")]
    config = Path(pretrained) / "config.json"
    run = RunFolder.of_export(pretrained)
    if not config.is_file():
        if run is not None:
            return [_first(run)]
        if Path(pretrained).is_absolute() or len(Path(pretrained).parts) != 2:
            return [Finding(f"no verifier in {pretrained!r}: train one (configs/verifier.yaml) or name a classifier")]
        return [Finding(f"verifier {pretrained} is on the hub: its labels were not checked", problem=False)]
    names = tuple(json.loads(config.read_text(encoding="utf-8")).get("id2label", {}).values())
    if names == GOEMOTIONS:
        return []
    lines = []
    for space in spaces:
        known = {space.id(name) for name in names}
        missing = [name for label, name in enumerate(space.names) if label not in known]
        if missing:
            lines.append(
                Finding(
                    f"verifier {pretrained} does not know {', '.join(missing)} of the label space {space.name!r}: "
                    "train a verifier on this data, or use -c configs/reward/goemotions.yaml"
                )
            )
    return lines


def check_judge(judge: str | None, verifier: str | None) -> list[Finding]:
    """The reward must not be its own examiner."""
    if judge is None or verifier is None or Path(judge) != Path(verifier):
        return []
    return [
        Finding(
            f"{verifier} both rewards and judges: EEA, EPC and FCR will look better than they are; choose another "
            "judge, such as -c configs/judge/nli.yaml"
        )
    ]


def ways_out(sizes: Sizes, shape: Shape, plan: Plan, room: float) -> list[tuple[str, Memory]]:
    """Settings under which the step fits, the cheapest first; each is tried alone, then all together."""
    tries: list[tuple[str, Shape, Plan]] = []
    small = replace(shape, micro=1)
    if shape.micro > 1 and plan.stage == "grpo":
        tries.append(("--micro_batch_prompts 1", small, plan))
    elif shape.micro > 1:
        small = replace(shape, micro=1, prompts=1)
        tries.append((f"--batch_size 1 --accumulate {shape.prompts}", small, plan))
    saving = replace(plan, checkpointing=True)
    words = "--model.init_args.backbone.init_args.gradient_checkpointing true"
    if not plan.checkpointing:
        tries += [(words, shape, saving), (f"{tries[0][0]} {words}" if tries else words, small, saving)]
    if plan.devices > 1 and plan.strategy != "fsdp":
        tries.append(("-c configs/trainer/fsdp.yaml", shape, replace(plan, strategy="fsdp")))
        tries.append(("-c configs/trainer/fsdp.yaml, one prompt at a time, gradient checkpointing", small,
                      replace(saving, strategy="fsdp")))  # fmt: skip
    found = [(line, estimate(sizes, one, how)) for line, one, how in tries]
    return [(line, memory) for line, memory in found if memory.peak <= room]


def advice(lora: bool, devices: int) -> str:
    """What is left where no single setting is enough."""
    adapters = "" if lora else "LoRA (model.init_args.backbone.init_args.lora: {rank: 16, alpha: 32}), "
    more = "more devices with -c configs/trainer/fsdp.yaml" if devices < 64 else "a larger device"
    return (
        f"{adapters}dtype: bfloat16, fewer frames, shorter max_new_tokens, {more}, or a smaller model (configs/model/)"
    )


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Problems and warnings as lines."""
    return {
        "problems": [one.line for one in findings if one.problem],
        "warnings": [one.line for one in findings if not one.problem],
    }
