"""The three stages through the command line on a few clips: what each leaves behind, and that it can be used again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_fixtures import TEST_CLIPS, TINY, Checkout, Outcome, losses, read_csv, read_jsonl
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from erv_lightning.runs import STAGES

pytest_plugins = ("cli_fixtures",)

SFT = ("fit", "-c", "configs/sft.yaml", *TINY)
GRPO = ("fit", "-c", "configs/grpo.yaml", *TINY)
STEPS, PROMPTS, GENERATIONS = 4, 4, 8  # of the first command: overlay, overlay, configs/grpo.yaml

ALWAYS = {"epoch", "step", "lr-AdamW", "train/loss"}
MEASURED = {f"val/{metric}" for metric in ("war", "uar", "eea", "epc", "fcr")}
COLUMNS = {
    "sft": ALWAYS | MEASURED,
    "verifier": ALWAYS | {"val/f1_macro", "val/f1_micro"},
    "grpo": ALWAYS
    | MEASURED
    | {"train/reward", "train/reward_std", "train/kl", "train/entropy", "train/frac_reward_zero_std"}
    | {f"train/rewards/{name}/mean" for name in ("format", "accuracy", "explanation")}
    | {f"train/rewards/{name}/{share}" for name in ("format", "accuracy") for share in ("all_right", "all_wrong")}
    | {f"train/completions/{name}" for name in ("mean_length", "clipped_ratio", "mean_terminated_length")}
    | {f"train/timing_s/{part}" for part in ("decode", "generate", "reward", "reference", "update", "judge")}
    | {"train/step_time", "train/perf/throughput", "train/perf/peak_memory_gb", "train/grad_norm", "train/num_tokens"}
    | {f"train/clip_ratio/{bound}_mean" for bound in ("low", "high", "region")}
    | {f"train/explanations/{name}" for name in ("words", "sentences", "distinct_2", "emotion_word_rate")}
    | {"train/judge/accuracy", "train/judge/reward_gap"},
}
CLOCKS = ("train/timing_s/", "train/step_time", "train/perf/")  # no two runs take the same time
PREDICTION = {
    "id",
    "dataset",
    "clip",
    "question",
    "label",
    "response",
    "explanation",
    "answer",
    "answer_id",
    "label_id",
}
ROLLOUT = {"step", "id", "clip", "label", "completion", "explanation", "answer", "tokens", "truncated"} | {
    "reward",
    "rewards",
    "advantage",
}


@pytest.fixture
def runs(trained: Checkout) -> Path:
    return trained.folder / "runs"


def fit(checkout: Checkout, *words: str | Path) -> Outcome:
    outcome = checkout.run(*words)
    assert outcome.status == 0, outcome.err
    return outcome


# -- the first command ever --------------------------------------------------------------------------------------


def test_grpo_as_the_first_command_trains_what_it_builds_on_and_says_so(first_command: Outcome) -> None:
    assert first_command.status == 0, first_command.err
    for stage in ("sft", "verifier"):
        assert f"runs/{stage}/default/export is not there yet: training it first" in first_command.err
    assert "Traceback" not in first_command.err


def test_grpo_does_not_train_again_what_is_there(trained: Checkout) -> None:
    outcome = fit(trained, *GRPO, "--name", "next", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0")

    assert "training it first" not in outcome.err
    assert not (trained.folder / "runs" / "sft" / "default.1").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_leaves_metrics_with_the_promised_columns(runs: Path, stage: str) -> None:
    rows = read_csv(runs / stage / "default" / "metrics.csv")

    assert COLUMNS[stage] - set(rows[0]) == set()
    for column in COLUMNS[stage]:
        assert any(row[column] for row in rows), f"{column} is empty"
    assert len(losses(runs / stage / "default")) == STEPS
    measured = [row for row in rows if row["val/f1_macro" if stage == "verifier" else "val/fcr"]]
    assert len(measured) == STEPS // 2


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_leaves_checkpoints_that_load_without_running_code(runs: Path, stage: str) -> None:
    for name in ("best", "last"):
        file = runs / stage / "default" / "checkpoints" / f"{name}.ckpt"
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        assert checkpoint["state_dict"]
    assert checkpoint["global_step"] == STEPS
    assert sorted(path.name for path in file.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_exported_policy_is_the_best_checkpoint_in_the_layout_of_transformers(runs: Path, stage: str) -> None:
    run = runs / stage / "default"
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(run / "export")
    processor = Qwen2_5OmniProcessor.from_pretrained(run / "export")

    best = torch.load(run / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, best[f"policy.model.{name}"]), name
    assert len(processor.tokenizer) == model.config.text_config.vocab_size


def test_the_exported_verifier_is_a_multi_label_classifier_of_transformers(runs: Path) -> None:
    folder = runs / "verifier" / "default" / "export"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    encoded = AutoTokenizer.from_pretrained(folder)(["The mouth curves up."], return_tensors="pt")

    assert model.config.problem_type == "multi_label_classification"
    assert model(**encoded).logits.shape == (1, 7)
    assert model.config.id2label[0] == "happy"


@pytest.mark.parametrize("stage", STAGES)
def test_the_saved_config_is_resolved_and_makes_the_same_run_again(trained: Checkout, runs: Path, stage: str) -> None:
    file = runs / stage / "default" / "config.yaml"
    saved = yaml.safe_load(file.read_text())
    again = trained.run("fit", "-c", file, "--print_config")

    assert again.status == 0, again.err
    assert "${" not in file.read_text()
    printed = yaml.safe_load(again.out)
    assert {key: printed[key] for key in saved} == saved


def test_the_rollouts_hold_every_completion_with_its_rewards(runs: Path) -> None:
    rows = read_jsonl(runs / "grpo" / "default" / "rollouts.jsonl")

    assert len(rows) == STEPS * PROMPTS * GENERATIONS
    assert ROLLOUT - set(rows[0]) == set()
    assert sorted({row["step"] for row in rows}) == list(range(STEPS))
    for start in range(0, len(rows), GENERATIONS):
        group = rows[start : start + GENERATIONS]
        assert len({(row["step"], row["id"], row["clip"]) for row in group}) == 1
        assert [row["completion"] for row in group] == list(range(GENERATIONS))
        assert sum(row["advantage"] for row in group) == pytest.approx(0, abs=1e-4)
    assert all(set(row["rewards"]) == {"format", "accuracy", "explanation"} for row in rows)
    assert all(row["reward"] == pytest.approx(sum(row["rewards"].values()), abs=1e-5) for row in rows)


def test_the_rollouts_come_from_clips_that_the_cold_start_has_not_seen(runs: Path) -> None:
    ids = {row["id"] for row in read_jsonl(runs / "grpo" / "default" / "rollouts.jsonl")}

    assert ids == {f"rl-{index:04d}" for index in range(12)}


# -- measuring ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tested(trained: Checkout) -> Path:
    """The runs after `test`."""
    for stage in STAGES:
        outcome = trained.run("test", "-c", f"configs/{stage}.yaml", *TINY)
        assert outcome.status == 0, outcome.err
    return trained.folder / "runs"


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_test_writes_every_clip_once_and_in_order(tested: Path, stage: str) -> None:
    rows = read_jsonl(tested / stage / "default" / "predictions.jsonl")

    assert [row["id"] for row in rows] == [f"test-{index:04d}" for index in range(TEST_CLIPS)]
    assert all(PREDICTION - set(row) == set() for row in rows)
    assert all(isinstance(row["answer_id"], int) and isinstance(row["label_id"], int) for row in rows)
    assert all(list(row["judges"]) == ["grammar"] for row in rows)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_summary_is_what_the_predictions_say(tested: Path, stage: str) -> None:
    rows = read_jsonl(tested / stage / "default" / "predictions.jsonl")
    summary = json.loads((tested / stage / "default" / "summary.json").read_text())

    def share(right: Any) -> Any:
        return pytest.approx(sum(map(bool, map(right, rows))) / TEST_CLIPS, abs=1e-6)

    assert summary["test/war"] == share(lambda row: row["answer_id"] == row["label_id"])
    assert summary["test/eea"] == share(lambda row: row["judges"]["grammar"] == row["label_id"])
    assert summary["test/epc"] == share(lambda row: row["judges"]["grammar"] == row["answer_id"] != -1)
    assert summary["test/fcr"] == share(lambda row: row["judges"]["grammar"] == row["answer_id"] == row["label_id"])
    assert {"test/uar", "test/fcr_given_correct"} < set(summary)


def test_testing_the_verifier_writes_its_f1(tested: Path) -> None:
    summary = json.loads((tested / "verifier" / "default" / "summary.json").read_text())

    assert set(summary) == {"test/f1_macro", "test/f1_micro"}
    assert not (tested / "verifier" / "default" / "predictions.jsonl").exists()


def test_predict_writes_what_test_writes_but_measures_nothing(trained: Checkout, tested: Path, tmp_path: Path) -> None:
    best = tested / "sft" / "default" / "checkpoints" / "best.ckpt"
    words = ("predict", "-c", "configs/sft.yaml", *TINY, "--ckpt_path", best, "--runs", tmp_path)
    fit(trained, *words)

    predicted, expected = (root / "sft" / "default" / "predictions.jsonl" for root in (tmp_path, tested))
    assert predicted.read_bytes() == expected.read_bytes()
    assert not (tmp_path / "sft" / "default" / "summary.json").exists()


def test_validate_prints_the_metrics_and_changes_no_run(trained: Checkout, tested: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tested.rglob("*")}
    outcome = fit(trained, "validate", "-c", "configs/sft.yaml", *TINY)

    assert all(metric in outcome.out for metric in MEASURED)
    assert {path: path.stat().st_mtime_ns for path in tested.rglob("*")} == before


def test_evaluate_tests_a_run_that_has_no_predictions_yet(trained: Checkout, tested: Path, tmp_path: Path) -> None:
    run = tmp_path / "sft" / "fresh"
    shutil.copytree(tested / "sft" / "default", run, ignore=shutil.ignore_patterns("predictions.jsonl", "summary.json"))

    outcome = trained.run("evaluate", run, "--draws", "100")

    assert outcome.status == 0, outcome.err
    summary = json.loads((tested / "sft" / "default" / "summary.json").read_text())
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert found["clips"] == TEST_CLIPS
    assert found["judge"] == "grammar"
    for key in ("war", "uar", "eea", "epc", "fcr", "fcr_given_correct"):
        assert (found[key] or 0) == pytest.approx(summary[f"test/{key}"], abs=1e-6)  # null and 0 are both 0/0
    assert (run / "predictions.jsonl").read_bytes() == (tested / "sft" / "default" / "predictions.jsonl").read_bytes()


def test_tested_runs_can_be_compared(trained: Checkout, tested: Path, tmp_path: Path) -> None:
    outcome = fit(trained, "compare", "runs/sft/default", "runs/grpo/default", "--out", tmp_path, "--draws", "50")

    saved = json.loads((tmp_path / "comparison.json").read_text())
    summary = json.loads((tested / "grpo" / "default" / "summary.json").read_text())
    assert saved["clips"] == TEST_CLIPS
    assert [arm["name"] for arm in saved["arms"]] == ["sft/default", "grpo/default"]
    assert saved["arms"][1]["metrics"]["fcr"]["value"] == pytest.approx(summary["test/fcr"])
    assert (tmp_path / "comparison.md").is_file()
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert "WAR" in outcome.out


# -- running again -----------------------------------------------------------------------------------------------


def test_a_second_run_of_a_name_moves_the_first_aside_whole(checkout: Checkout, tmp_path: Path) -> None:
    words = (*SFT, "--runs", tmp_path, "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0")
    fit(checkout, *words)
    run = tmp_path / "sft" / "default"
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = fit(checkout, *words, "--seed_everything", "1")

    aside = tmp_path / "sft" / "default.1"
    assert f"{run} was moved to {aside}" in outcome.err
    assert {path.relative_to(aside): path.read_bytes() for path in aside.rglob("*") if path.is_file()} == before
    assert losses(run) != losses(aside)


@pytest.mark.parametrize("command", [SFT, GRPO], ids=["sft", "grpo"])
def test_the_same_seed_makes_the_same_run_and_another_seed_another(trained: Checkout, command: tuple[str, ...]) -> None:
    short = ("--trainer.max_steps", "2", "--max_new_tokens", "12")
    for name, seed in (("once", "3"), ("twice", "3"), ("other", "4")):
        fit(trained, *command, *short, "--name", name, "--seed_everything", seed)

    runs = trained.folder / "runs" / Path(command[2]).stem
    metrics = {
        name: [
            {key: value for key, value in row.items() if not key.startswith(CLOCKS)}
            for row in read_csv(runs / name / "metrics.csv")
        ]
        for name in ("once", "twice", "other")
    }
    weights = {name: load_file(runs / name / "export" / "model.safetensors") for name in metrics}
    assert metrics["once"] == metrics["twice"] != metrics["other"]
    assert all(torch.equal(weight, weights["twice"][name]) for name, weight in weights["once"].items())
    if command is SFT:  # an untrained policy earns nothing, so two steps of GRPO leave it as it was
        assert any(not torch.equal(weight, weights["other"][name]) for name, weight in weights["once"].items())


def test_one_batch_leaves_no_files_but_the_clips(checkout: Checkout, tmp_path: Path) -> None:
    def files() -> set[Path]:
        return {path for path in checkout.folder.rglob("*") if path.suffix != ".mp4" and path.is_file()}

    before = files()
    words = ("-c", "configs/debug/one_batch.yaml", "--runs", tmp_path / "runs", "--max_new_tokens", "12")
    fit(checkout, *SFT, *words)

    assert files() == before
    assert list(tmp_path.iterdir()) == []


def test_wandb_logs_offline_without_an_account_and_beside_the_csv_file(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    words = ("-c", "configs/logger/wandb.yaml", "--runs", tmp_path / "runs", "--trainer.max_steps", "1")
    try:
        fit(checkout, *SFT, *words, "--trainer.limit_val_batches", "0")
    finally:
        wandb.finish()

    assert len(losses(tmp_path / "runs" / "sft" / "default")) == 1
    assert list((tmp_path / "runs" / "wandb").glob("offline-run-*/run-*.wandb"))
