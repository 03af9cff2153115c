"""`python -m erv_lightning doctor -c CONFIG …`: what a run will take, and what will keep it from working."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erv_lightning import config_files
from erv_lightning.commands.arguments import count

if TYPE_CHECKING:
    from erv_lightning.data.datamodule import ClipDataModule
    from erv_lightning.doctor.batches import Counts
    from erv_lightning.doctor.checks import Finding
    from erv_lightning.doctor.memory import Plan, Shape
    from erv_lightning.doctor.sizes import Sizes
    from erv_lightning.doctor.tokens import Tokens


def main(argv: list[str]) -> int:
    """Exit status 1 where something will not work."""
    args, rest = _parser().parse_known_args(argv)
    files = config_files.read(config_files.paths_in(rest))
    config_files.stage_of(files)  # before the heavy imports
    from erv_lightning.configured import read
    from erv_lightning.report.doctor import text

    parts = read(rest, files)
    data, settings = parts.data, parts.settings
    report = examine(data, settings, args)
    print(json.dumps(report, ensure_ascii=False, indent=1) if args.json else text(report))
    return 1 if report["problems"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m erv_lightning doctor",
        description="Batches, tokens, memory and time of a run before it runs. Configs and settings as for fit.",
        epilog="example: python -m erv_lightning doctor -c configs/grpo.yaml -c configs/model/qwen2_5_omni_3b.yaml "
        "-c configs/trainer/fsdp.yaml --gpus 8 --device H100",
        allow_abbrev=False,
    )
    parser.add_argument("--gpus", type=count, metavar="N", help="devices, all nodes together (default: the trainer's)")
    parser.add_argument("--device", default=None, help="H100, H200, A100, L40S, RTX4090 or cpu (default: by config)")
    parser.add_argument("--gpu-memory", type=float, metavar="GB", help="of a device, in 10⁹ bytes (default: its own)")
    parser.add_argument("--clips", type=int, default=4, metavar="N", help="clips to measure (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, for scripts")
    return parser


def examine(data: ClipDataModule, settings: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The report, as plain JSON types."""
    from erv_lightning.doctor import batches, checks, time
    from erv_lightning.doctor.settings import counts_of, devices_of, is_tiny

    trainer, stage = settings.trainer, settings.stage
    on_cpu = trainer.accelerator == "cpu" or stage == "verifier" or is_tiny(settings)
    name = args.device or ("cpu" if on_cpu else "H100")
    if name not in time.DEVICES:
        raise ValueError(f"--device {name!r} is not known: one of {', '.join(time.DEVICES)}")
    device = time.DEVICES[name]
    devices, strategy = devices_of(settings, args.gpus)
    samples, findings = _samples(data)
    counts = counts_of(data, settings, {part: len(those) for part, those in samples.items()}, devices)
    findings += [checks.Finding(line) for line in batches.problems(counts)] if samples["train"] else []
    findings += checks.check_versions(found := checks.versions()) + _rooms(data, settings, samples)
    worked_out = batches.work_out(counts)
    report: dict[str, Any] = {
        "stage": stage,
        "device": asdict(device),
        "devices": devices,
        "strategy": strategy,
        "batches": asdict(worked_out),
        "versions": found,
    }
    if stage != "verifier":
        # of the CPU's memory, what this host has
        own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if name == "cpu" else device.memory
        room = args.gpu_memory * 1e9 if args.gpu_memory else float(own)
        room *= 1 if name == "cpu" else time.USABLE
        more, told = _policy(data, settings, samples["train"], worked_out.per_rank, counts, device, room, args)
        report, findings = report | more, findings + told
    return report | checks.as_json(findings)


def _samples(data: ClipDataModule) -> tuple[dict[str, list[Any]], list[Finding]]:
    """The samples of each part, and a finding for each part that cannot be read."""
    from erv_lightning.doctor.checks import Finding

    samples: dict[str, list[Any]] = {"train": [], "val": []}
    findings = []
    try:
        with redirect_stdout(sys.stderr):  # its progress bar
            data.source.prepare()
    except (ValueError, OSError) as error:
        return samples, [Finding(f"data: {error}")]
    for part, those in samples.items():
        try:
            those += data.source.samples(data.splits[part])  # type: ignore[index]
            if not those:
                findings.append(Finding(f"the {data.splits[part]!r} split has no samples"))  # type: ignore[index]
        except (ValueError, OSError) as error:
            findings.append(Finding(f"{part} split: {error}"))
    try:
        data.source.samples(data.splits["test"])
    except (ValueError, OSError) as error:
        findings.append(Finding(f"no test split, which fit does not need: {error}", problem=False))
    return samples, findings


def _rooms(data: ClipDataModule, settings: Any, samples: dict[str, list[Any]]) -> list[Finding]:
    """Policy, verifier, judge: are they there, and do they belong together?"""
    from erv_lightning.doctor import checks
    from erv_lightning.doctor.settings import plain
    from erv_lightning.labels import get_label_space

    if settings.stage == "verifier":
        return []
    model = settings.model.init_args
    backbone = plain(model.backbone.get("init_args"))
    findings = checks.check_policy(str(backbone.get("pretrained") or "tiny"))
    if settings.stage == "sft":
        silent = [one.record or one.id for one in samples["train"] if not one.explanation]
        if silent:
            line = f"{len(silent)} training samples have no explanation, which SFT learns: {silent[0]}, …"
            way = "take a data set with explanations, such as -c configs/data/merr.yaml"
            findings.append(checks.Finding(f"{line}; {way}"))
        return findings
    spaces = [get_label_space(name) for name in dict.fromkeys(one.label_space for one in samples["train"])]
    rewards = model.rewards or {"explanation": 1.0}
    findings += checks.check_verifier(model.verifier, plain(rewards), spaces)
    judge = plain(model.judge.get("init_args")).get("pretrained")
    return findings + checks.check_judge(judge, model.verifier)


def _policy(
    data: ClipDataModule, settings: Any, train: list[Any], prompts: int, counts: Counts, device: Any, room: float,
    args: argparse.Namespace,
) -> tuple[dict[str, Any], list[Finding]]:  # fmt: skip
    """Tokens, memory, time, and what does not fit."""
    from erv_lightning.doctor import checks, memory, time
    from erv_lightning.doctor.settings import devices_of, plain, plan_of, shape_of, sizes_from
    from erv_lightning.doctor.sizes import sizes_of
    from erv_lightning.models.backbone import LoraSpec

    backbone = plain(settings.model.init_args.backbone.get("init_args"))
    lora = None if not backbone.get("lora") else LoraSpec(**backbone["lora"])
    sizes = sizes_of(sizes_from(settings), lora, backbone.get("freeze") or ())
    tokens, why = _tokens(data, settings, train, args.clips)
    shape = shape_of(settings, tokens, prompts, counts)
    plan = plan_of(settings, sizes, counts, device.name, backbone, *devices_of(settings, args.gpus))
    found = memory.estimate(sizes, shape, plan)
    seconds = time.seconds(sizes, shape, plan, device)
    findings = [] if not why else [checks.Finding(f"prompts: {why}", problem=False)]
    most = data.rules.max_prompt_tokens
    if most is not None and tokens.prompt > most:
        line = f"a prompt has {tokens.prompt} tokens, data.max_prompt_tokens is {most}"
        findings.append(checks.Finding(f"{line}: take fewer or smaller frames, or raise it"))
    ways: list[str] = []
    if found.peak > room:
        fitting = checks.ways_out(sizes, shape, plan, room)
        ways = [f"{line}: {one.peak / 1e9:.1f} GB" for line, one in fitting]
        way = ways[0] if ways else checks.advice(lora is not None, plan.devices)
        phase = max(found.phases, key=lambda name: found.phases[name])
        line = f"memory: {phase} takes {found.peak / 1e9:.1f} GB, a device has {room / 1e9:.1f} GB: {way}"
        findings.append(checks.Finding(line))
    report = {
        "sizes": asdict(sizes),
        "tokens": asdict(tokens) | {"completion": shape.new_tokens, "packed_row": shape.row},
        "plan": asdict(plan),
        "memory": {"parts": found.parts, "phases": found.phases, "peak": found.peak, "room": room},
        "with_other_strategies": _strategies(sizes, shape, plan),
        "with_other_settings": _settings(sizes, shape, plan),
        "ways_out": ways,
        "seconds": seconds | {"step": sum(seconds.values())},
        "assumptions": asdict(time.Assumptions()),
    }
    return report, findings


def _strategies(sizes: Sizes, shape: Shape, plan: Plan) -> dict[str, float]:
    """The peak under each way to share the work; a device's prompts stay as they are."""
    from erv_lightning.doctor.memory import estimate

    ways = ("single",) if plan.devices == 1 else ("single", "ddp", "fsdp")
    return {way: estimate(sizes, shape, replace(plan, strategy=way)).peak for way in ways}


def _settings(sizes: Sizes, shape: Shape, plan: Plan) -> dict[str, float]:
    """The peak with one setting changed."""
    from erv_lightning.doctor.memory import estimate

    flipped = replace(plan, checkpointing=not plan.checkpointing)
    found = {
        f"gradient_checkpointing {'off' if plan.checkpointing else 'on'}": estimate(sizes, shape, flipped).peak,
        f"prefix_sharing {'off' if plan.prefix_sharing else 'on'}": estimate(
            sizes, shape, replace(plan, prefix_sharing=not plan.prefix_sharing)
        ).peak,
    }
    if shape.micro > 1 and plan.stage == "grpo":
        found["micro_batch_prompts 1"] = estimate(sizes, replace(shape, micro=1), plan).peak
    return found


def _tokens(data: ClipDataModule, settings: Any, train: list[Any], clips: int) -> tuple[Tokens, str]:
    from erv_lightning.configured import prompt_encoder
    from erv_lightning.doctor.settings import sizes_from
    from erv_lightning.doctor.tokens import from_clips, from_settings

    name = sizes_from(settings)
    if clips < 1 or not train or not (name == "tiny" or Path(name).is_dir()):
        return from_settings(data.rules), ""
    asked = settings.clone()
    asked.model.init_args.backbone.init_args.pretrained = name
    try:
        encoder = prompt_encoder(asked)
    except ValueError as error:
        return from_settings(data.rules), str(error)
    return from_clips(list(islice(train, clips)), data.source, data.rules.read_by(encoder), encoder)
