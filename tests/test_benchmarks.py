"""The benchmarks run, both sides do the same work, and the tables say only what was measured."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import omni_step, text_task
from benchmarks.grpo_step_table import markdown
from benchmarks.our_step import text_steps
from benchmarks.sides import Side, Steps, in_turn
from benchmarks.work import Decoder, repeated, shared
from erv_lightning.rl.logprobs import completion_logps

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_our_step_samples_every_token_and_trains(capsys: pytest.CaptureFixture[str]) -> None:
    ours = text_steps(text_task.make_prompts(2, 16, seed=0))
    before = [parameter.clone() for parameter in ours.module.make_backbone().trainable()]
    ours.run(Steps(2))

    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(reports) == 2
    for report in reports:
        assert 0 < sum(report["parts"].values()) <= report["seconds"]
        assert report["peak_gb"] > 0
    rows = ours.module.rollouts
    assert [row["tokens"] for row in rows] == [text_task.NEW_TOKENS] * 2 * text_task.GROUP
    assert len({row["reward"] for row in rows}) > 1
    assert any(not torch.equal(a, b) for a, b in zip(before, ours.module.backbone.trainable(), strict=True))


def test_two_processes_step_in_turn() -> None:
    words = ["--prompts", "1", "--group", "2", "--new_tokens", "3"]
    sides = [Side("benchmarks.omni_step", ["--side", side, *words]) for side in ("ours", "naive")]
    ticks: list[int] = []
    pairs = in_turn(*sides, 2, lambda: ticks.append(1))
    for side in sides:
        assert set(side.last["parts"]) >= {"generate", "update"}
        side.close()
        assert side.process.returncode == 0
    assert len(pairs) == 2
    assert len(ticks) == 3  # the warm-up too
    assert all(seconds > 0 for pair in pairs for seconds in pair)


def test_the_naive_step_repeats_the_media_and_asks_for_the_same_log_probabilities() -> None:
    task = omni_step.Task(prompts=2, group=3, new_tokens=5)
    naive, batch = omni_step.make("naive", task)
    assert isinstance(naive, omni_step.NaiveSteps)
    assert len(naive.inputs["input_features"]) == 6
    ids = naive._generate()
    backbone = naive.backbone
    ours, _ = completion_logps(backbone, backbone.embed(batch), batch, ids, torch.ones_like(ids, dtype=torch.bool))
    torch.testing.assert_close(naive._logps(ids), ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("prompts", "length", "group", "new"), [(1, 3, 2, 4), (2, 5, 3, 1)])
def test_the_counted_work_is_that_of_a_loop_over_tokens(prompts: int, length: int, group: int, new: int) -> None:
    decoder = Decoder(linear=7, head=11, width=2, layers=3, kv_width=1)

    def forward(rows: int, completions: int, last_layer: bool) -> int:
        """Of `rows` prompts with so many completions each, whose last token predicts nothing."""
        operations = 0
        for _ in range(rows):
            for position, layer in product(range(length), range(decoder.layers)):
                looks = last_layer or layer < decoder.layers - 1 or position == length - 1
                operations += 4 * decoder.width * (position + 1) * looks
            operations += 2 * decoder.linear * length
            for _, step in product(range(completions), range(new)):
                operations += 2 * decoder.head
                if step < new - 1:
                    operations += 2 * decoder.linear + 4 * decoder.width * decoder.layers * (length + step + 1)
        return operations

    assert shared(decoder, prompts, length, group, new).update == 3 * forward(prompts, group, False)
    assert repeated(decoder, prompts, length, group, new).update == 3 * forward(prompts * group, 1, True)


def result() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "grpo_step.json").read_text(encoding="utf-8"))
    return found


def test_the_page_is_the_one_that_its_numbers_make() -> None:
    assert (RESULTS / "grpo_step.md").read_text(encoding="utf-8") == markdown(result())


def test_what_was_not_measured_says_so() -> None:
    bare = result() | {"cuda": []}
    assert markdown(bare).count("not measured") == 9
    assert "no GPU at hand" in markdown(bare)
