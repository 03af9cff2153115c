"""Batch arithmetic of a run: what a step, an epoch and the run hold. Pure functions over numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Counts:
    """What the settings say.

    Attributes:
        stage: ``sft``, ``verifier`` or ``grpo``.
        ranks: processes, one a device.
        batch: samples a step and process (SFT, verifier), prompts a step of all processes together (GRPO).
        group: G; micro: prompts at a time, of one process; None: all.
        accumulate: batches to an optimiser step; updates: optimiser steps to a rollout.
        train, val: samples.
        max_steps, max_epochs: of the trainer; −1 or None for no limit.
        val_every: batches between validations; None: val_epochs epochs.
        val_epochs: epochs between validations.
        eval_batch: samples a validation batch and process.
    """

    stage: str
    ranks: int
    batch: int
    train: int
    val: int
    group: int = 1
    micro: int | None = None
    accumulate: int = 1
    updates: int = 1
    max_steps: int = -1
    max_epochs: int | None = None
    val_every: int | None = None
    val_epochs: int = 1
    eval_batch: int = 32


@dataclass(frozen=True)
class Batches:
    """What follows."""

    samples_per_batch: int
    per_rank: int
    completions_per_batch: int
    completions_per_rank: int
    micro_batches: int
    batches_per_epoch: int
    steps_per_epoch: int
    steps: int
    batches: int
    epochs: float
    validations: int
    val_batches: int
    completions_total: int


def problems(counts: Counts) -> list[str]:
    """A line for each reason why no step can be taken."""
    found = []
    if counts.stage == "grpo" and counts.batch % counts.ranks:
        found.append(
            f"prompts_per_step is {counts.batch}, which {counts.ranks} processes cannot share evenly: take a multiple "
            f"of {counts.ranks}, such as --prompts_per_step {math.ceil(counts.batch / counts.ranks) * counts.ranks}"
        )
    together = counts.batch if counts.stage == "grpo" else counts.batch * counts.ranks
    if counts.train < together:
        found.append(
            f"the training split has {counts.train} samples, fewer than one batch of {together}: lower "
            f"{'prompts_per_step' if counts.stage == 'grpo' else 'batch_size'} to {max(1, counts.train)} or less"
        )
    return found


def work_out(counts: Counts) -> Batches:
    """The arithmetic; samples that do not divide are dropped in training, as the sampler does."""
    grpo = counts.stage == "grpo"
    per_rank = max(1, counts.batch // counts.ranks) if grpo else counts.batch
    together = per_rank * counts.ranks
    batches = counts.train // together
    steps_per_epoch = batches * counts.updates if grpo else math.ceil(batches / counts.accumulate)
    epochs = counts.max_epochs if counts.max_epochs is not None and counts.max_epochs >= 0 else None
    if counts.max_steps >= 0:
        steps = counts.max_steps if epochs is None else min(counts.max_steps, epochs * steps_per_epoch)
    else:
        steps = (1000 if epochs is None else epochs) * steps_per_epoch
    drawn = math.ceil(steps / counts.updates) if grpo else steps * counts.accumulate
    passed = drawn / batches if batches else 0.0
    validations = drawn // counts.val_every if counts.val_every else int(passed // counts.val_epochs)
    return Batches(
        samples_per_batch=together,
        per_rank=per_rank,
        completions_per_batch=together * counts.group,
        completions_per_rank=per_rank * counts.group,
        micro_batches=math.ceil(per_rank / (counts.micro or per_rank)),
        batches_per_epoch=batches,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        batches=drawn,
        epochs=passed,
        validations=validations,
        val_batches=math.ceil(counts.val / (counts.eval_batch * counts.ranks)),
        completions_total=drawn * together * counts.group + validations * counts.val,
    )


def as_json(batches: Batches) -> dict[str, float]:
    """Plain numbers."""
    return asdict(batches)
