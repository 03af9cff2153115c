"""Says why nothing is learned, while the run can still be stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

PREFIX = "train/"
NEARLY_ALL = 0.9  # this share of groups or completions makes a cause
COLLAPSED = 0.01  # nats per token; below, sampling says the same thing every time
NO_GRADIENT = 1e-12

# The rewards that a task is solved by. Others may be penalties, which are never "right".
_TASK = ("format", "accuracy", "explanation")


class LearningWatch(L.Callback):
    """Warns once when so many optimiser steps in a row taught nothing, with the likely cause and its fix.

    A step teaches nothing where in each of its batches every group's rewards are equal (``train/frac_reward_zero_std``
    1), or where no gradient arrives (``train/grad_norm`` 0). A gradient that is not finite is the `NonFiniteGuard`'s
    business. A step that teaches something ends the stretch; the next stretch warns again. Stages that log neither
    metric are left alone.

    Args:
        patience: steps in a row; without gradient accumulation a step is a training batch.

    Raises:
        ValueError: for a patience below 1.
    """

    def __init__(self, patience: int = 20) -> None:
        if patience < 1:
            raise ValueError(f"patience {patience} is no number of steps: give at least 1")
        self.patience = patience
        self._step = 0
        self._all_equal = True  # in the batches of the step so far
        self._forget()

    def _forget(self) -> None:
        self.since, self.steps, self.warned = 0, 0, False
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """The stretch so far: a resumed run goes on counting, and does not warn again."""
        return {
            "since": self.since,
            "steps": self.steps,
            "warned": self.warned,
            "sums": dict(self._sums),
            "counts": dict(self._counts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `state_dict`."""
        self.since, self.steps, self.warned = state["since"], state["steps"], state["warned"]
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Remembers the step as metrics.csv and rollouts.jsonl count it: at the batch's end it is one further."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Counts the step, and warns when the patience is over."""
        metrics = trainer.callback_metrics
        self._all_equal &= float(metrics.get(f"{PREFIX}frac_reward_zero_std", 0.0)) == 1.0
        if trainer.global_step == self._step:
            return  # gradients are still being accumulated, and the norm is the last step's
        no_gradient = float(metrics.get(f"{PREFIX}grad_norm", 1.0)) <= NO_GRADIENT
        taught, self._all_equal = not (self._all_equal or no_gradient), True
        if taught:
            self._forget()
        else:
            self._count(metrics)

    def _count(self, metrics: Mapping[str, Tensor]) -> None:
        if self.steps == 0:
            self.since = self._step
        self.steps += 1
        for name, value in metrics.items():
            if _matters(name) and not value.isnan():  # NaN: a reward that applied to no completion of the batch
                short = name.removeprefix(PREFIX)
                self._sums[short] = self._sums.get(short, 0.0) + float(value)
                self._counts[short] = self._counts.get(short, 0) + 1
        if self.steps >= self.patience and not self.warned:
            self.warned = True
            means = {name: total / self._counts[name] for name, total in self._sums.items()}
            rank_zero_warn(f"nothing learned in {self.steps} steps since step {self.since}: {likely_cause(means)}")


def _matters(name: str) -> bool:
    """Whether `likely_cause` reads a metric: each costs a look at the device."""
    known = ("entropy", "completions/clipped_ratio", "frac_reward_zero_std", "grad_norm")
    short = name.removeprefix(PREFIX)
    return short != name and (short in known or short.endswith(("/all_right", "/all_wrong")))


# -- causes -------------------------------------------------------------------------------------------------------

Means = Mapping[str, float]


def _all_right(means: Means) -> bool:
    right = [name for name in means if name.endswith("/all_right")]
    right = [name for name in right if name.split("/")[1] in _TASK] or right
    return bool(right) and all(means[name] >= NEARLY_ALL for name in right)


def _collapsed(means: Means) -> bool:
    return means.get("entropy", math.inf) < COLLAPSED


def _cut_off(means: Means) -> bool:
    return means.get("completions/clipped_ratio", 0.0) >= NEARLY_ALL


def _gradient_lost(means: Means) -> bool:
    return means.get("frac_reward_zero_std", 1.0) < 1.0 and means.get("grad_norm", 1.0) <= NO_GRADIENT


def _all_wrong(name: str) -> Callable[[Means], bool]:
    return lambda means: means.get(f"rewards/{name}/all_wrong", 0.0) >= NEARLY_ALL


# The first that holds is named. The order matters: a collapsed policy may also run into the limit, and what is cut off
# has neither form nor answer.
_CAUSES: tuple[tuple[Callable[[Means], bool], str], ...] = (
    (
        _all_right,
        "nearly all completions earn every reward, the clips are too easy: use another data.train_split, raise "
        "model.init_args.sampling.temperature or set model.init_args.resample_groups",
    ),
    (
        _collapsed,
        "entropy is near 0, the policy has collapsed onto one response: start again with a lower model.init_args.lr, "
        "a higher beta or a higher sampling.temperature",
    ),
    (
        _cut_off,
        "nearly all completions are cut off before their end: raise model.init_args.sampling.max_new_tokens",
    ),
    (
        _gradient_lost,
        "rewards differ but no gradient arrives: look at what model.init_args.backbone leaves trainable (freeze, "
        "lora), and whether all completions with an advantage are masked",
    ),
    (
        _all_wrong("format"),
        "hardly any completion has the form that is asked for, the cold start does not produce it: train SFT longer "
        "(runs/sft), or start from another run with --from_sft",
    ),
    (
        _all_wrong("accuracy"),
        "hardly any answer is right, the prompts are too hard or their labels belong to another label space than the "
        "cold start's: compare answer and label in rollouts.jsonl",
    ),
    (
        _all_wrong("explanation"),
        "the verifier finds the label in hardly any explanation: try it on explanations from rollouts.jsonl, and train "
        "it on sentences like theirs (runs/verifier)",
    ),
)
_OTHERWISE = "the completions of a prompt all earn the same: raise model.init_args.generations_per_prompt"


def likely_cause(means: Means) -> str:
    """The likely cause and its fix, in one line, for steps that taught nothing.

    Args:
        means: metric, without prefix → mean over the steps. Read are ``rewards/{name}/{all_right,all_wrong}``,
            ``entropy``, ``completions/clipped_ratio``, ``frac_reward_zero_std`` and ``grad_norm``; each may be missing.
    """
    return next((cause for holds, cause in _CAUSES if holds(means)), _OTHERWISE)
