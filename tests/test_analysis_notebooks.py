"""What the notebooks call: the four cells, gains by class, before and after, verifier and judges, sweeps, ablations."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import wandb

from erv_lightning import analysis
from erv_lightning.analysis import (
    CELLS,
    ablation_table,
    before_after,
    bootstrap,
    class_gains,
    four_cells,
    load_arms,
    sweep_table,
    verifier_against_judges,
    verifier_quality_table,
)
from erv_lightning.judges import GrammarJudge
from erv_lightning.results import Arm

Row = tuple[int, int, int]  # label, answer, what the judge read


def write_run(run: Path, rows: Sequence[Row], texts: Sequence[str] | None = None) -> Path:
    run.mkdir(parents=True)
    lines = [
        {
            "id": f"{i:03d}",
            "dataset": "synthetic",
            "clip": f"clips/{i}.mp4",
            "label_space": "dfew",
            "label_id": label,
            "answer_id": answer,
            "explanation": texts[i] if texts else f"explanation {i}",
            "judges": {"grammar": read},
        }
        for i, (label, answer, read) in enumerate(rows)
    ]
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def arm_of(folder: Path, name: str, *seeds: Sequence[Row]) -> Arm:
    runs = [write_run(folder / "grpo" / f"{name}-seed{i}", rows) for i, rows in enumerate(seeds)]
    (arm,) = load_arms(runs)
    return arm


def test_the_facade_names_only_what_there_is():
    assert sorted(analysis.__all__) == sorted(set(analysis.__all__))
    assert all(hasattr(analysis, name) for name in analysis.__all__)


# -- the four cells -----------------------------------------------------------------------------------------------

# right and coherent, right and not, wrong and coherent, wrong and not, no answer (which nothing agrees with)
EACH_CELL: list[Row] = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (0, -1, -1)]


def test_every_response_falls_into_one_of_the_four_cells(tmp_path):
    table = four_cells(arm_of(tmp_path, "a", EACH_CELL), "grammar", draws=50)
    assert tuple(table["cell"]) == CELLS
    assert table["clips"].tolist() == [1, 1, 1, 2]
    assert table["share"].tolist() == [0.2, 0.2, 0.2, 0.4]
    assert table["seeds"].tolist() == [(0.2,), (0.2,), (0.2,), (0.4,)]
    assert (table["low"] <= table["share"]).all()
    assert (table["share"] <= table["high"]).all()


def test_shares_are_means_over_seeds_and_clips_count_all_of_them(tmp_path):
    right, wrong = [(0, 0, 0)] * 4, [(0, 1, 0)] * 4
    table = four_cells(arm_of(tmp_path, "a", right, wrong), "grammar", draws=50)
    assert table["clips"].tolist() == [4, 0, 0, 4]
    assert table["share"].tolist() == [0.5, 0.0, 0.0, 0.5]
    assert table["seeds"].tolist() == [(1.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 1.0)]


def test_right_and_coherent_is_what_fcr_counts(tmp_path):
    arm = arm_of(tmp_path, "a", EACH_CELL)
    fcr = bootstrap([arm], "grammar", draws=300)[arm.name].estimates()["fcr"]
    cell = four_cells(arm, "grammar", draws=300).iloc[0]
    assert (cell["share"], cell["low"], cell["high"]) == (fcr.value, fcr.low, fcr.high)


# -- class by class -----------------------------------------------------------------------------------------------


def test_gains_are_of_the_clips_of_each_class(tmp_path):
    before = [(0, 0, 1)] * 4 + [(1, 1, 1)] * 2
    after = [(0, 0, 0)] * 3 + [(0, 0, 1)] + [(1, 1, 1)] * 2
    gains = class_gains(arm_of(tmp_path, "b", after), arm_of(tmp_path, "a", before), "grammar", "fcr", draws=200)
    assert gains["label"].tolist() == ["happy", "sad"]
    assert gains["clips"].tolist() == [4, 2]
    assert gains["baseline"].tolist() == [0.0, 1.0]
    assert gains["arm"].tolist() == [0.75, 1.0]
    assert gains["gain"].tolist() == [0.75, 0.0]
    assert gains["low"].tolist()[1] == gains["high"].tolist()[1] == 0.0  # nothing ever differs there
    # 2^6 swaps, of which the 3 changed clips all swap or none: 16 of 64, times two classes
    assert gains["p_holm"].tolist() == pytest.approx([0.5, 1.0])


def test_a_class_has_no_uar_and_arms_must_share_their_clips(tmp_path):
    arm = arm_of(tmp_path, "a", EACH_CELL)
    with pytest.raises(ValueError, match="'uar' is no metric of a single class; choose one of war, eea, epc, fcr"):
        class_gains(arm, arm, "grammar", "uar")
    with pytest.raises(ValueError, match="tested on different clips"):
        class_gains(arm, arm_of(tmp_path, "b", EACH_CELL[:3]), "grammar")


# -- single clips -------------------------------------------------------------------------------------------------

BEFORE: list[Row] = [(0, 0, 1), (0, 0, 1), (1, 1, 1), (1, 1, 2), (2, 1, 1), (2, 2, 2)]
AFTER: list[Row] = [(0, 0, 0), (0, 0, 0), (1, 1, 0), (1, 1, 1), (2, 2, 2), (2, 1, 1)]


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        ("repaired", ["000", "003", "001"]),  # the first of each class before the second of any
        ("undone", ["002"]),
        ("gained", ["000", "003", "004", "001"]),
        ("lost", ["002", "005"]),
    ],
)
def test_examples_are_the_first_of_each_class_in_turn(tmp_path, kind, ids):
    before, after = arm_of(tmp_path, "a", BEFORE), arm_of(tmp_path, "b", AFTER)
    table = before_after(before, after, "grammar", n=9, kind=kind)
    assert table["id"].tolist() == ids
    assert table.attrs["found"] == len(ids)
    assert before_after(before, after, "grammar", n=1, kind=kind)["id"].tolist() == ids[:1]


def test_an_example_shows_answer_reading_and_explanation_of_both(tmp_path):
    table = before_after(arm_of(tmp_path, "a", BEFORE), arm_of(tmp_path, "b", AFTER), "grammar", n=1, kind="undone")
    assert table.to_dict("records") == [
        {
            "id": "002",
            "dataset": "synthetic",
            "clip": "clips/2.mp4",
            "label": "sad",
            "before_answer": "sad",
            "before_read": "sad",
            "before_explanation": "explanation 2",
            "after_answer": "sad",
            "after_read": "happy",
            "after_explanation": "explanation 2",
        }
    ]
    with pytest.raises(ValueError, match="'better' is no kind of change"):
        before_after(arm_of(tmp_path, "c", BEFORE), arm_of(tmp_path, "d", AFTER), "grammar", kind="better")  # type: ignore[arg-type]


def test_examples_compare_runs_of_the_same_seed(tmp_path):
    same = [(label, label, label) for label, _, _ in BEFORE]
    before = arm_of(tmp_path, "a", same, BEFORE)
    after = arm_of(tmp_path, "b", same, AFTER)
    assert before_after(before, after, "grammar", kind="undone").empty
    assert before_after(before, after, "grammar", kind="undone", seed=1)["id"].tolist() == ["002"]


# -- verifier and judges ------------------------------------------------------------------------------------------


def test_a_verifier_that_reads_as_the_judge_agrees_fully_and_leaves_the_tables_alone(tmp_path):
    texts = ["She weeps.", "A broad smile on his face.", "The face beams and the head bounces with delight."]
    read = GrammarJudge()(texts, analysis_space())
    run = write_run(tmp_path / "grpo" / "a-seed0", [(0, 0, label) for label in read], texts)
    (arm,) = load_arms([run])
    verifier = GrammarJudge()
    verifier.name = "verifier"
    table = verifier_against_judges([arm], verifier, ["grammar"])
    assert table["arm"].tolist() == [arm.name] * 2
    assert table["measure"].tolist() == ["equal: verifier and grammar", "Cohen's κ: verifier and grammar"]
    assert table["value"].iloc[0] == 1.0
    assert all(list(row) == ["grammar"] for row in arm.predictions[0]["judges"])


def analysis_space() -> Any:
    from erv_lightning.labels import DFEW

    return DFEW


# -- sweeps -------------------------------------------------------------------------------------------------------

CONTENT = {"method": "random", "metric": {"name": "val/fcr", "goal": "maximize"}, "seed": 0}


def trial(name: str, beta: float, state: str, values: list[float]) -> dict[str, Any]:
    return {"id": name, "params": {"model.init_args.beta": beta, "trainer.max_steps": 4}, "state": state} | {
        "values": values,
        "pid": 1,
    }


def write_sweep(folder: Path, content: dict[str, Any], trials: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"sweep": content}, *trials]))
    return folder


def test_a_local_sweep_is_a_row_a_trial_the_best_first(tmp_path):
    folder = write_sweep(
        tmp_path / "s",
        CONTENT,
        [
            trial("s-001", 0.1, "running", []),
            trial("s-001", 0.1, "finished", [0.2, 0.4, 0.3]),
            trial("s-002", 0.2, "finished", [0.5]),
            trial("s-003", 0.3, "failed", []),
        ],
    )
    table = sweep_table(folder)
    assert table["trial"].tolist() == ["s-002", "s-001", "s-003"]
    assert table["beta"].tolist() == [0.2, 0.1, 0.3]
    assert table["best"].tolist()[:2] == [0.5, 0.4]
    assert table["last"].tolist()[:2] == [0.5, 0.3]
    assert math.isnan(table["best"].iloc[2])
    assert table.attrs == {"metric": "val/fcr", "parameters": ["beta", "trainer.max_steps"]}


def test_where_less_is_better_the_least_is_best(tmp_path):
    content = {**CONTENT, "metric": {"name": "val/loss", "goal": "minimize"}}
    rows = [trial("s-001", 0.1, "finished", [0.9, 0.4]), trial("s-002", 0.2, "finished", [0.3, 0.6])]
    table = sweep_table(write_sweep(tmp_path / "s", content, rows))
    assert table[["trial", "best"]].values.tolist() == [["s-002", 0.3], ["s-001", 0.4]]


def test_half_a_line_at_the_end_is_left_out_and_other_files_are_refused(tmp_path):
    folder = write_sweep(tmp_path / "s", CONTENT, [trial("s-001", 0.1, "finished", [0.5])])
    with (folder / "sweep.jsonl").open("a") as file:
        file.write('{"id": "s-002", "par')
    assert sweep_table(folder)["trial"].tolist() == ["s-001"]
    with pytest.raises(FileNotFoundError, match=r"no file .*sweep --local writes it"):
        sweep_table(tmp_path)
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match=r"other\.jsonl is no sweep\.jsonl"):
        sweep_table(tmp_path / "other.jsonl")


class FakeSweepRun:
    """A run of `FakeSweep`, with what is asked of `wandb.apis.public.Run`."""

    state = "finished"

    def __init__(self, name: str, beta: float, values: list[float]) -> None:
        self.id, self.config, self._values = name, {"model.init_args.beta": beta, "config": {}}, values

    def scan_history(self, keys: list[str] | None = None, page_size: int = 1000) -> Any:
        assert keys == ["val/fcr"]
        return iter([{"val/fcr": value} for value in self._values])


class FakeSweep:
    """What is asked of `wandb.apis.public.Sweep`."""

    config = {**CONTENT, "parameters": {"model.init_args.beta": {"min": 0, "max": 1}}}  # noqa: RUF012
    runs = [FakeSweepRun("x", 0.1, [0.1, 0.7]), FakeSweepRun("y", 0.9, [0.2])]  # noqa: RUF012


class FakeApi:
    """`wandb.Api`."""

    def sweep(self, path: str = "") -> FakeSweep:
        assert path == "team/project/s1"
        return FakeSweep()


def test_a_sweep_on_wandbs_server_gives_the_same_table(monkeypatch):
    assert list(inspect.signature(wandb.Api.sweep).parameters)[:2] == ["self", "path"]
    real = wandb.apis.public.Sweep
    assert hasattr(real, "config")
    assert "self.runs = " in inspect.getsource(real.__init__)
    monkeypatch.setattr(wandb, "Api", FakeApi)
    table = sweep_table("wandb:team/project/s1")
    assert table.values.tolist() == [["x", "finished", 0.1, 0.7, 0.7], ["y", "finished", 0.9, 0.2, 0.2]]
    with pytest.raises(ValueError, match="wandb:s1 names no sweep"):
        sweep_table("wandb:s1")


# -- rewards ------------------------------------------------------------------------------------------------------


def with_rewards(arm: Arm, rewards: str) -> Arm:
    for run in arm.runs:
        (run / "config.yaml").write_text(f"model:\n  init_args:\n    lr: 0.1\n{rewards}")
    return arm


def test_arms_stand_beside_the_rewards_that_they_were_trained_with(tmp_path):
    sft = with_rewards(arm_of(tmp_path, "sft", [(0, 0, 1), (0, 1, 1)]), "")
    rewards = "    rewards: {format: 1.0, accuracy: 0.0, explanation: 0.5}\n"
    erv = with_rewards(arm_of(tmp_path, "erv", [(0, 0, 0), (0, 1, 1)]), rewards)
    table = ablation_table([sft, erv], "grammar", ["war", "fcr"], draws=50)
    assert table[["arm", "rewards", "metric", "value"]].values.tolist() == [
        ["grpo/sft", "none", "war", 0.5],
        ["grpo/sft", "none", "fcr", 0.0],
        ["grpo/erv", "format + 0.5 × explanation", "war", 0.5],
        ["grpo/erv", "format + 0.5 × explanation", "fcr", 0.5],
    ]
    assert table["seeds"].tolist() == [(0.5,), (0.0,), (0.5,), (0.5,)]


def test_a_run_without_a_config_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a-seed0/config\.yaml does not exist; training writes it"):
        ablation_table([arm_of(tmp_path, "a", EACH_CELL)], "grammar", draws=10)


def test_the_verifier_study_is_a_row_for_each_noise_reward_and_metric():
    path = Path(__file__).parents[1] / "docs" / "results" / "verifier_quality.json"
    report = json.loads(path.read_text())
    table = verifier_quality_table(path)
    rewards = ["SFT", "format + accuracy", *report["settings"]["variants"]]
    assert table["noise"].unique().tolist() == report["settings"]["noise"]
    assert sorted(table["reward"].unique()) == sorted(rewards)
    one = table[(table["noise"] == 40) & (table["reward"] == "paper") & (table["metric"] == "fcr")].iloc[0]
    published = report["cells"]["paper"]["40"]["metrics"]["fcr"]
    assert (one["value"], one["low"], one["high"]) == tuple(published[key] for key in ("value", "low", "high"))
    assert one["verifier_f1"] == pytest.approx(sum(report["verifiers"]["40"]) / 3)
