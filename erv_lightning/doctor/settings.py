"""From a run's settings to what memory, time and batches are worked out from. Knows the configs' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from erv_lightning.data.datamodule import DEFAULT_BATCH, ClipDataModule, labelled_sentences
from erv_lightning.doctor.batches import Counts
from erv_lightning.doctor.memory import Plan, Shape
from erv_lightning.doctor.sizes import Sizes
from erv_lightning.doctor.tokens import Tokens

BYTES = {"float32": 4, "bfloat16": 2}
UNKNOWN_CLASSIFIER = 500_000_000  # bytes: a RoBERTa base in float32


def plain(value: Any) -> dict[str, Any]:
    """Nested settings as a dictionary; nothing of None."""
    return dict(value.as_dict() if hasattr(value, "as_dict") else value or {})


def is_tiny(settings: Any) -> bool:
    """Whether the policy is the built-in small one."""
    return bool(sizes_from(settings) == "tiny")


def sizes_from(settings: Any) -> str:
    """What the policy's sizes are read from: its folder, or the base that an earlier stage starts from."""
    if settings.stage == "verifier":
        return "tiny"
    backbone = plain(settings.model.init_args.backbone.get("init_args"))
    named = str(backbone.get("pretrained") or "tiny")
    here = named == "tiny" or (Path(named) / "config.json").is_file()
    return _cached(named if here or not named.endswith("/export") else str(settings.base))


def _cached(name: str) -> str:
    """The folder that a hub id was downloaded to, if it was; the name itself otherwise. Asks no network."""
    if name == "tiny" or Path(name).exists() or len(Path(name).parts) != 2:
        return name
    found = try_to_load_from_cache(name, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else name


def devices_of(settings: Any, gpus: int | None) -> tuple[int, str]:
    """How many, and how they share the work."""
    trainer = settings.trainer
    strategy = trainer.strategy if isinstance(trainer.strategy, str) else trainer.strategy.class_path
    own = trainer.devices
    if isinstance(own, str) and own in {"auto", "-1"}:
        own = max(1, torch.cuda.device_count()) if trainer.accelerator != "cpu" else 1
    count = gpus or (len(own) if isinstance(own, list) else int(own)) * int(trainer.num_nodes)
    if "FSDP" in strategy.upper() or "ModelParallel" in strategy:
        return count, "fsdp"
    return count, "ddp" if count > 1 else "single"


def counts_of(data: ClipDataModule, settings: Any, samples: dict[str, int], devices: int) -> Counts:
    """For the batch arithmetic."""
    trainer, grpo = settings.trainer, settings.stage == "grpo"
    model = settings.model.init_args
    train, val = samples["train"], samples["val"]
    if settings.stage == "verifier" and train and val:
        train, val = (len(labelled_sentences(data.source.samples(data.splits[part]))) for part in ("train", "val"))
    every = trainer.val_check_interval
    return Counts(
        stage=settings.stage,
        ranks=devices,
        batch=model.prompts_per_step if grpo else data.batch_size or DEFAULT_BATCH,
        train=train,
        val=val,
        group=model.generations_per_prompt if grpo else 1,
        micro=model.micro_batch_prompts if grpo else None,
        accumulate=trainer.accumulate_grad_batches,
        updates=model.updates_per_rollout if grpo else 1,
        max_steps=-1 if trainer.max_steps is None else trainer.max_steps,
        max_epochs=trainer.max_epochs,
        val_every=every if isinstance(every, int) and trainer.check_val_every_n_epoch is None else None,
        val_epochs=trainer.check_val_every_n_epoch or 1,
        eval_batch=data.eval_batch_size,
    )


def shape_of(settings: Any, tokens: Tokens, prompts: int, counts: Counts) -> Shape:
    """What one device works on in a step."""
    micro = min(prompts, counts.micro or prompts)
    new = settings.max_new_tokens
    media = tokens.patches, tokens.frames
    return Shape(prompts, counts.group, tokens.prompt, new, micro, *media, evaluated=min(counts.eval_batch, counts.val))


def plan_of(
    settings: Any, sizes: Sizes, counts: Counts, device: str, backbone: dict[str, Any], devices: int, strategy: str
) -> Plan:
    """How the run is set up."""
    model, grpo = settings.model.init_args, settings.stage == "grpo"
    size = BYTES[backbone.get("dtype") or "float32"]
    half = str(settings.trainer.precision).startswith(("bf16", "16"))
    offload = not isinstance(settings.trainer.strategy, str) and bool(
        plain(settings.trainer.strategy.get("init_args")).get("cpu_offload")
    )
    scored = grpo and (model.beta > 0 or bool(plain(model.rewards).get("care")))
    kept = scored and (sizes.rank == 0 or model.reference_decay is not None)
    return Plan(
        stage=settings.stage,
        size=size,
        activation=min(size, 2) if half else size,
        checkpointing=bool(backbone.get("gradient_checkpointing")),
        reference=kept,
        scores_reference=scored,
        prefix_sharing=bool(model.get("prefix_sharing", True)),
        devices=devices,
        strategy=strategy,
        cuda=device != "cpu",
        others=_weights_of(model.get("verifier")) + _weights_of(plain(model.judge.get("init_args")).get("pretrained")),
        offload=offload,
    )


def _weights_of(pretrained: str | None) -> int:
    """Bytes of a verifier's or judge's weights: of the files, or of a RoBERTa base where they are not at hand."""
    if pretrained is None:
        return 0
    files = list(Path(pretrained).glob("*.safetensors"))
    if files:
        return sum(one.stat().st_size for one in files)
    return 0 if pretrained.endswith("/export") else UNKNOWN_CLASSIFIER
