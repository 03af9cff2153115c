from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from erv_lightning.callbacks.learning import LearningWatch, likely_cause

MakeTrainer = Callable[..., L.Trainer]
EQUAL = {"frac_reward_zero_std": 1.0}
MIXED = {"frac_reward_zero_std": 0.75}


class Scripted(L.LightningModule):
    """Logs in each batch what a test wrote down for it."""

    def __init__(self, script: Sequence[dict[str, float]]) -> None:
        super().__init__()
        self.script, self.weight, self.batch = script, torch.nn.Parameter(torch.ones(())), 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log_dict({f"train/{name}": value for name, value in self.script[self.batch].items()})
        self.batch += 1
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def run(make_trainer: MakeTrainer) -> Callable[..., list[str]]:
    """Trains over a script and returns the warnings of the watch."""

    def train(watch: LearningWatch, script: Sequence[dict[str, float]], **settings: Any) -> list[str]:
        module = Scripted(script)
        trainer = make_trainer(max_epochs=1, callbacks=[watch], **settings)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(module, DataLoader(list(range(len(script)))))  # type: ignore[arg-type]
        assert module.batch == len(script)
        return [str(one.message) for one in caught if "nothing learned" in str(one.message)]

    return train


# -- when ---------------------------------------------------------------------------------------------------------


def test_it_warns_once_a_stretch_and_names_its_first_step(run):
    script = [MIXED, MIXED, *[EQUAL] * 9, MIXED, EQUAL, EQUAL, MIXED, *[EQUAL] * 3]
    lines = run(LearningWatch(3), script)
    assert [line.split(":")[0] for line in lines] == [
        "nothing learned in 3 steps since step 2",
        "nothing learned in 3 steps since step 15",
    ]
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize("norm", [0.0, 1e-13])
def test_steps_without_a_gradient_teach_nothing(norm, run):
    (line,) = run(LearningWatch(2), [{**MIXED, "grad_norm": norm}] * 2)
    assert "rewards differ but no gradient arrives" in line


@pytest.mark.parametrize(
    "metrics",
    [MIXED, {**MIXED, "grad_norm": 1e-6}, {**MIXED, "grad_norm": math.nan}, {"loss": 0.0}, {"reward": 0.0}],
    ids=["mixed", "small gradient", "nan is the guard's", "another stage", "no sign"],
)
def test_it_is_silent_where_something_is_learned_or_nothing_known(metrics, run):
    assert run(LearningWatch(2), [metrics] * 6) == []


def test_with_accumulation_one_batch_with_unequal_rewards_saves_its_step(run):
    norm = {"grad_norm": 0.5}
    script = [{**one, **norm} for one in [MIXED, EQUAL] * 6]
    assert run(LearningWatch(2), script, accumulate_grad_batches=2) == []
    script = [{**one, **norm} for one in [MIXED, EQUAL, *[EQUAL] * 4]]
    (line,) = run(LearningWatch(2), script, accumulate_grad_batches=2)
    assert line.startswith("nothing learned in 2 steps since step 1:")


def test_a_gradient_of_the_step_before_says_nothing_about_the_batches_since(run):
    # the norm is logged with the optimiser step; until the next one the old 0 is all that can be read
    script = [*[MIXED] * 3, {**MIXED, "grad_norm": 0.0}, *[MIXED] * 3, {**MIXED, "grad_norm": 1.0}]
    assert run(LearningWatch(2), script, accumulate_grad_batches=4) == []


def test_the_cause_is_read_from_the_means_over_the_stretch(run):
    def batch(clipped: float, own: float = math.nan) -> dict[str, float]:
        return {**EQUAL, "completions/clipped_ratio": clipped, "rewards/own/all_right": own}

    (line,) = run(LearningWatch(2), [{**MIXED, "completions/clipped_ratio": 0.0}, batch(0.85), batch(0.97)])
    assert "raise model.init_args.sampling.max_new_tokens" in line  # mean 0.91; the batch before does not count
    (line,) = run(LearningWatch(2), [batch(0.8), batch(0.97)])
    assert "raise model.init_args.generations_per_prompt" in line
    (line,) = run(LearningWatch(3), [batch(0.0), batch(0.0, own=0.95), batch(0.0)])
    assert "too easy" in line  # of the batches in which the reward applied


def test_a_resumed_run_goes_on_counting(run, make_trainer: MakeTrainer, tmp_path: Path):
    class Save(L.Callback):
        def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    script = [MIXED, *[{**EQUAL, "entropy": 0.001}] * 5]
    data: Any = DataLoader(list(range(6)))
    watch = LearningWatch(4)
    make_trainer(max_steps=4, callbacks=[watch, Save()]).fit(Scripted(script), data)
    assert (watch.steps, watch.warned) == (3, False)

    resumed, module = LearningWatch(4), Scripted(script[4:])
    with pytest.warns(UserWarning, match=r"nothing learned in 4 steps since step 1: entropy is near 0"):
        make_trainer(max_steps=6, callbacks=[resumed, Save()]).fit(
            module, data, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True
        )
    assert (resumed.since, resumed.steps, resumed.warned) == (1, 5, True)

    again = LearningWatch(4)
    again.load_state_dict(resumed.state_dict())
    assert run(again, [EQUAL] * 3) == []  # it has been said


def test_a_patience_of_no_step_is_refused():
    with pytest.raises(ValueError, match="patience 0 is no number of steps"):
        LearningWatch(0)


# -- why ----------------------------------------------------------------------------------------------------------

RIGHT = {f"rewards/{name}/all_right": 1.0 for name in ("format", "accuracy", "explanation")}


@pytest.mark.parametrize(
    ("means", "fix"),
    [
        ({"completions/clipped_ratio": 0.95}, "max_new_tokens"),
        ({"rewards/format/all_wrong": 0.95}, "train SFT longer (runs/sft)"),
        ({"rewards/accuracy/all_wrong": 0.95}, "another label space"),
        ({"rewards/explanation/all_wrong": 0.95}, "(runs/verifier)"),
        (RIGHT, "another data.train_split"),
        ({**RIGHT, "rewards/format/all_right": 0.5}, "generations_per_prompt"),
        ({"entropy": 0.005}, "a lower model.init_args.lr"),
        ({"entropy": 0.5}, "generations_per_prompt"),
        ({"frac_reward_zero_std": 0.5, "grad_norm": 0.0}, "leaves trainable"),
        ({"frac_reward_zero_std": 1.0, "grad_norm": 0.0}, "generations_per_prompt"),
        ({"rewards/accuracy/all_wrong": 0.5, "rewards/accuracy/all_right": 0.5}, "generations_per_prompt"),
        ({}, "generations_per_prompt"),
    ],
)
def test_each_cause_has_its_fix(means, fix):
    assert fix in likely_cause(means)
    assert "\n" not in likely_cause(means)


@pytest.mark.parametrize(
    ("means", "fix"),
    [
        # one response again and again until the limit: more tokens would not help
        ({"entropy": 0.001, "completions/clipped_ratio": 1.0, "rewards/format/all_wrong": 1.0}, "collapsed"),
        # what is cut off has neither form nor answer
        (
            {"completions/clipped_ratio": 1.0, "rewards/format/all_wrong": 1.0, "rewards/accuracy/all_wrong": 1.0},
            "cut off",
        ),
        # without the form there is no answer to read
        ({"rewards/format/all_wrong": 1.0, "rewards/accuracy/all_wrong": 1.0}, "cold start"),
        # one right response every time is no harm done
        ({**RIGHT, "entropy": 0.001}, "too easy"),
        # a penalty is 0 at best and so never "right"
        ({**RIGHT, "rewards/overlong/all_right": 0.0, "rewards/overlong/all_wrong": 1.0}, "too easy"),
    ],
)
def test_of_several_causes_the_one_that_explains_the_others_is_named(means, fix):
    assert fix in likely_cause(means)
