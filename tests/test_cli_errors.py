"""Mistakes of users: one line that names the thing, the place and the way out, exit status 2, and nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_fixtures import FEW, SHORT, Checkout

from erv_lightning.data.readers import SyntheticClips
from erv_lightning.models.verifier import EmotionVerifier

pytest_plugins = ("cli_fixtures",)

SFT = ("fit", "-c", "configs/sft.yaml")
GRPO = ("fit", "-c", "configs/grpo.yaml")
VERIFIER = ("fit", "-c", "configs/verifier.yaml")
LONGEST = 700  # characters that a person still reads; the paths of tests are long


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """A run folder that a mistake must not touch; the test fails if it was moved or anything stands beside it."""
    runs = tmp_path / "runs"
    for stage in ("sft", "verifier", "grpo"):
        (runs / stage / "default" / "checkpoints").mkdir(parents=True)
        (runs / stage / "default" / "metrics.csv").write_text("epoch,step\n0,0\n")
    before = sorted(runs.rglob("*"))
    yield runs
    assert sorted(runs.rglob("*")) == before
    assert (runs / "sft" / "default" / "metrics.csv").read_text() == "epoch,step\n0,0\n"


@pytest.fixture
def fails(checkout: Checkout, kept: Path) -> Callable[..., str]:
    """Runs a command that must fail, and returns its one line."""

    def run(*words: str | Path) -> str:
        line = checkout.run(*words, "--runs", kept).error
        assert len(line) < LONGEST, line
        return line

    return run


def assert_names(line: str, *parts: str | Path) -> None:
    missing = [str(part) for part in parts if str(part) not in line]
    assert not missing, line


# -- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("--trainer.max_stepz", "'max_steps'"),
        ("--model.lrr", "'lr'"),
        ("--model.init_args.shedule", "'schedule'"),
        ("--data.batchsize", "'batch_size'"),
        ("--data.source.init_args.tran", "'train'"),
        ("--nmae", "'name'"),
    ],
)
def test_an_unknown_key_on_the_command_line_is_named_with_a_suggestion(
    fails: Callable[..., str], key: str, suggestion: str
) -> None:
    assert_names(fails(*SFT, key, "4"), key.split(".")[-1].strip("-"), "did you mean", suggestion)


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("trainer:\n  max_step: 4\n", "trainer.max_step", "'max_steps'"),
        ("model:\n  init_args:\n    genrations_per_prompt: 4\n", "genrations_per_prompt", "'generations_per_prompt'"),
        ("data:\n  num_frame: 4\n", "data.num_frame", "'num_frames'"),
        ("max_new_token: 4\n", "max_new_token", "'max_new_tokens'"),
    ],
)
def test_an_unknown_key_in_a_file_is_named_with_the_file_and_a_suggestion(
    fails: Callable[..., str], tmp_path: Path, text: str, key: str, suggestion: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    line = fails(*GRPO, "-c", tmp_path / "mine.yaml")
    assert_names(line, key, tmp_path / "mine.yaml", "did you mean", suggestion)


@pytest.mark.parametrize("key", ["--nam", "--trainer.max_ste", "--model.generations", "--see"])
def test_an_abbreviated_key_is_not_guessed(fails: Callable[..., str], key: str) -> None:
    assert_names(fails(*GRPO, key, "4"), "unknown key", key.removeprefix("--"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_steps", "many"),
        ("model.lr", "fast"),
        ("data.unit", "sounds"),
        ("data.frame_size", "56"),
        ("trainer.precision", "7"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_its_key(fails: Callable[..., str], key: str, value: str) -> None:
    assert_names(fails(*SFT, f"--{key}", value), f"{key}:", f"got {value!r}")


def test_a_value_of_a_wrong_type_in_a_file_is_named_with_the_file(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer:\n  max_steps: many\n")
    line = fails(*SFT, "-c", tmp_path / "mine.yaml")
    assert_names(line, "trainer.max_steps", "'many'", tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.batch_size", "0"),
        ("data.eval_batch_size", "0"),
        ("data.num_frames", "0"),
        ("data.unit", "sentences"),
        ("trainer.devices", "0"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_its_key(fails: Callable[..., str], key: str, value: str) -> None:
    assert_names(fails(*SFT, *FEW, *SHORT, f"--{key}", value), key.split(".")[-1])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--model.class_path", "erv_lightning.modules.Nope"), ("model", "erv_lightning.modules.Nope")),
        (("--data.source.class_path", "nowhere.Clips"), ("data.source", "nowhere")),
        (("--data.source", "SyntheticClip"), ("data.source", "SyntheticClip")),
    ],
)
def test_an_unknown_class_is_named_with_its_key(
    fails: Callable[..., str], words: tuple[str, ...], named: tuple[str, ...]
) -> None:
    assert_names(fails(*SFT, *words), *named)


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/b"])
def test_a_name_that_is_no_folder_name_is_refused(fails: Callable[..., str], name: str) -> None:
    assert_names(fails(*SFT, *FEW, *SHORT, "--name", name), "name", repr(name))


def test_a_word_too_many_is_named(fails: Callable[..., str]) -> None:
    assert_names(fails(*SFT, "quickly"), "'quickly'")


def test_an_unknown_verb_is_answered_with_the_known_ones(checkout: Checkout) -> None:
    assert_names(checkout.run("train", "-c", "configs/sft.yaml").error, "'train'", "fit", "test", "compare", "demo")


# -- files -------------------------------------------------------------------------------------------------------


def test_all_bad_files_are_named_in_one_line(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("stage: sft\nmodel:\n  betas: [1, 2\nname: x\n")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    (tmp_path / "list.yaml").write_text("- stage\n- sft\n")
    files = [word for name in ("gone", "broken", "empty", "list") for word in ("-c", tmp_path / f"{name}.yaml")]
    line = fails(*SFT, *files)

    assert_names(line, *files[1::2], "does not exist", "no valid YAML at line 4", "holds no settings")


def test_c_without_a_file_is_answered_with_an_example(checkout: Checkout) -> None:
    assert_names(checkout.run("fit", "-c").error, "-c needs a file", "configs/grpo.yaml")


def test_two_stages_in_one_command_are_both_named_with_their_files(fails: Callable[..., str]) -> None:
    line = fails(*SFT, "-c", "configs/reward/accuracy_only.yaml")
    assert_names(line, "'configs/sft.yaml' is for 'sft'", "'configs/reward/accuracy_only.yaml' is for stage 'grpo'")


def test_another_stage_on_the_command_line_is_refused(fails: Callable[..., str]) -> None:
    assert_names(fails(*SFT, *FEW, *SHORT, "--stage", "grpo"), "grpo", "sft")


@pytest.mark.parametrize("words", [(), ("-c", "configs/trainer/cpu.yaml")])
def test_a_command_without_a_stage_is_told_which_there_are(fails: Callable[..., str], words: tuple[str, ...]) -> None:
    assert_names(fails("fit", *words), "stage", "configs/sft.yaml", "configs/verifier.yaml", "configs/grpo.yaml")


def test_an_unknown_stage_is_answered_with_the_known_ones(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("stage: dpo\n")
    assert_names(fails("fit", "-c", tmp_path / "mine.yaml"), tmp_path / "mine.yaml", "'dpo'", "sft, verifier, grpo")


# -- what a run needs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_measuring_a_run_that_was_never_trained_says_what_to_do(fails: Callable[..., str], verb: str) -> None:
    assert_names(fails(verb, "-c", "configs/sft.yaml"), "sft/default/checkpoints/best.ckpt", "fit", "--ckpt_path")


def test_going_on_without_a_checkpoint_says_what_to_do(fails: Callable[..., str]) -> None:
    assert_names(fails(*SFT, "--ckpt_path", "last"), "sft/default/checkpoints/last.ckpt", "leave --ckpt_path out")


def test_a_checkpoint_that_is_not_there_is_named(fails: Callable[..., str], tmp_path: Path) -> None:
    assert_names(fails(*SFT, *FEW, *SHORT, "--ckpt_path", tmp_path / "gone.ckpt"), tmp_path / "gone.ckpt")


def test_a_base_model_that_is_not_there_is_named(fails: Callable[..., str], tmp_path: Path) -> None:
    assert_names(fails(*SFT, *FEW, *SHORT, "--base", tmp_path / "gone"), tmp_path / "gone")


def test_a_hub_model_that_cannot_be_fetched_is_named(fails: Callable[..., str]) -> None:
    assert_names(fails(*SFT, *FEW, *SHORT, "--base", "nobody/nothing"), "nobody/nothing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_gpu_overlay_on_a_machine_without_one_says_so(fails: Callable[..., str]) -> None:
    assert_names(fails(*SFT, *FEW, *SHORT, "-c", "configs/trainer/gpu.yaml"), "gpu")


# -- clips and records of one's own ------------------------------------------------------------------------------


@pytest.fixture
def own(clips: SyntheticClips, tmp_path: Path) -> Path:
    """A small data set of the user's, and the overlay `data/own.yaml` that selects it. One batch an epoch."""
    (tmp_path / "data").mkdir()
    rows = []
    for sample in clips.samples("train")[:4]:
        shutil.copy(sample.clip, tmp_path / Path(sample.clip).name)
        row = {"clip": Path(sample.clip).name, "label": sample.label, "explanation": "She smiles. Her voice is bright."}
        rows.append({**row, "sentence_labels": [["happy"], ["happy"]]})
    for split in ("train", "val", "test"):
        write_rows(tmp_path, rows, split)
    source = {"class_path": "erv_lightning.data.readers.JsonlClips", "init_args": {"root": str(tmp_path)}}
    data = {"source": source, "train_split": "train", "keep_in_memory": False}
    overlay = {"batch_size": 4, "prompts_per_step": 4, "data": data}
    (tmp_path / "data" / "own.yaml").write_text(yaml.safe_dump(overlay))
    return tmp_path


def read_rows(own: Path, split: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (own / f"{split}.jsonl").read_text().splitlines()]


def write_rows(own: Path, rows: list[Any], split: str = "train") -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (own / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines))


def use(own: Path) -> tuple[str | Path, ...]:
    return "-c", own / "data" / "own.yaml", *SHORT


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_missing_clip_is_named_with_its_record(fails: Callable[..., str], own: Path, workers: str) -> None:
    (own / read_rows(own)[2]["clip"]).unlink()
    line = fails(*SFT, *use(own), "--data.num_workers", workers)

    assert_names(line, own / read_rows(own)[2]["clip"], own / "train.jsonl:3", "does not exist", "take the record out")


def test_a_cut_off_clip_is_named_with_its_record(fails: Callable[..., str], own: Path) -> None:
    clip = own / read_rows(own)[1]["clip"]
    clip.write_bytes(clip.read_bytes()[:2000])
    line = fails(*SFT, *use(own))

    assert_names(line, clip, own / "train.jsonl:2", "cannot be decoded", "take the record out")


def test_all_bad_rows_are_named_with_their_lines(fails: Callable[..., str], own: Path) -> None:
    rows: list[Any] = read_rows(own)
    rows[0]["label"] = "glad to see you"
    del rows[1]["clip"]
    write_rows(own, [*rows, "{not JSON", [1, 2]])
    line = fails(*SFT, *use(own))

    assert_names(line, *(own / f"train.jsonl:{number}:" for number in (1, 2, 5, 6)), "'glad to see you'", "'clip'")


def test_a_split_without_a_file_is_named(fails: Callable[..., str], own: Path) -> None:
    (own / "val.jsonl").unlink()
    assert_names(fails(*SFT, *use(own)), own / "val.jsonl", "'val'")


def test_a_split_without_rows_is_named(fails: Callable[..., str], own: Path) -> None:
    write_rows(own, [])
    assert_names(fails(*SFT, *use(own)), "'train'")


def test_rows_without_explanations_are_refused_by_sft(fails: Callable[..., str], own: Path) -> None:
    write_rows(own, [{"clip": row["clip"], "label": row["label"]} for row in read_rows(own)])
    assert_names(fails(*SFT, *use(own)), own / "train.jsonl", "no explanation")


def test_rows_without_sentence_labels_are_refused_by_the_verifier(fails: Callable[..., str], own: Path) -> None:
    write_rows(own, [{"clip": row["clip"], "label": row["label"]} for row in read_rows(own)])
    assert_names(fails(*VERIFIER, *use(own)), "'train'", "no labelled sentences")


# -- GRPO --------------------------------------------------------------------------------------------------------


def grpo_on(own: Path, verifier: str | Path, *words: str | Path) -> tuple[str | Path, ...]:
    models = ("--model.backbone.init_args.pretrained", "tiny", "--model.verifier", verifier)
    return *GRPO, *use(own), *models, "--model.generations_per_prompt", "2", "--max_new_tokens", "8", *words


FREE = ("--model.rewards", "{accuracy: 1.0}")  # asks no verifier


def test_a_verifier_with_other_labels_than_the_data_is_refused(fails: Callable[..., str], own: Path) -> None:
    EmotionVerifier.tiny(["a smile"], ["happy", "sad"]).save(own / "two")
    line = fails(*grpo_on(own, own / "two"))

    assert_names(line, "'happy', 'sad'", "'fear'", "'dfew'", "train a verifier")


def test_a_verifier_that_is_not_there_is_named(fails: Callable[..., str], own: Path) -> None:
    assert_names(fails(*grpo_on(own, own / "gone")), own / "gone")


def test_an_explanation_reward_without_a_verifier_is_refused(fails: Callable[..., str], own: Path) -> None:
    assert_names(fails(*grpo_on(own, "null")), "model.init_args.verifier")


def test_a_group_of_one_is_refused(fails: Callable[..., str], own: Path) -> None:
    line = fails(*grpo_on(own, own, "--model.generations_per_prompt", "1"))
    assert_names(line, "generations_per_prompt ≥ 2")


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("trainer.gradient_clip_val", "0.5", "model.init_args.max_grad_norm"),
        ("trainer.accumulate_grad_batches", "2", "micro_batch_prompts"),
    ],
)
def test_a_trainers_setting_that_has_no_say_in_grpo_is_answered_with_the_one_that_has(
    fails: Callable[..., str], key: str, value: str, instead: str
) -> None:
    assert_names(fails(*GRPO, *FEW, *SHORT, f"--{key}", value), key, instead)


def test_all_settings_that_have_no_say_in_grpo_are_named_at_once(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer: {gradient_clip_val: 1.0, accumulate_grad_batches: 4}\n")
    line = fails(*GRPO, *FEW, *SHORT, "-c", tmp_path / "mine.yaml")
    assert_names(line, "trainer.gradient_clip_val", "max_grad_norm", "trainer.accumulate_grad_batches", "micro_batch")


def test_a_batch_size_beside_the_prompts_of_a_step_is_refused(fails: Callable[..., str], own: Path) -> None:
    line = fails(*grpo_on(own, "null", *FREE, "--data.batch_size", "3"))
    assert_names(line, "GRPO does not know data.batch_size", "prompts_per_step")


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("objective.loss_type", "ppo", ("'ppo'", "grpo, dr_grpo, dapo, bnpo, gspo, cispo")),
        ("objective.kl", "k4", ("'k4'", "k1, k2, k3")),
        ("objective.epsilon_low", "1.5", ("epsilon_low", "1.5")),
        ("scale_rewards", "sum", ("'group', 'batch', 'none'", "'sum'")),
        ("prefix_sharing", "maybe", ("bool", "'maybe'")),
        ("prompts_per_step", "0", ("is 0", "at least 1")),
        ("micro_batch_prompts", "0", ("is 0", "at least 1")),
        ("updates_per_rollout", "0", ("is 0", "at least 1")),
    ],
)
def test_a_setting_of_grpo_that_cannot_be_is_named_with_what_can(
    fails: Callable[..., str], own: Path, key: str, value: str, known: tuple[str, ...]
) -> None:
    line = fails(*grpo_on(own, "null", *FREE, f"--model.init_args.{key}", value))
    assert_names(line, key.split(".")[-1], *known)


def test_more_prompts_to_a_step_than_there_are_are_refused(fails: Callable[..., str], own: Path) -> None:
    line = fails(*grpo_on(own, "null", *FREE, "--prompts_per_step", "5"))
    assert_names(line, "'train' split gives 4 samples", "one batch of 5", "prompts_per_step")


def test_a_backbone_that_cannot_share_prefixes_is_told_how_to_go_on(
    fails: Callable[..., str], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "plain.py").write_text(
        "from erv_lightning.models import QwenOmniBackbone\n\n\n"
        "class Plain(QwenOmniBackbone):\n    shares_prefixes = False\n"
    )
    monkeypatch.syspath_prepend(str(own))
    line = fails(*grpo_on(own, "null", *FREE, "--model.backbone.class_path", "plain.Plain"))
    assert_names(line, "Plain", "model.init_args.prefix_sharing: false")


REWARDS = """\
import torch

def nan(completions):
    return torch.full((len(completions.responses),), float("nan"))

def too_few(completions):
    return torch.zeros(1)
"""


@pytest.mark.parametrize(
    ("function", "named"),
    [
        ("nan", ("not finite", "reward")),
        ("too_few", ("'mine'", "shape (1,)", "(8,)")),
        ("gone", ("'mine'", "rewards.py:gone", "file.py:function")),
    ],
)
def test_a_reward_of_ones_own_that_does_not_work_is_named(
    fails: Callable[..., str], own: Path, function: str, named: tuple[str, ...]
) -> None:
    (own / "rewards.py").write_text(REWARDS)
    settings = {"rewards": {"mine": 1.0}, "reward_functions": {"mine": f"{own / 'rewards.py'}:{function}"}}
    (own / "reward.yaml").write_text(yaml.safe_dump({"model": {"init_args": settings}}))

    assert_names(fails(*grpo_on(own, "null"), "-c", own / "reward.yaml"), *named)


def test_a_reward_that_nobody_defines_is_answered_with_the_known_ones(fails: Callable[..., str], own: Path) -> None:
    (own / "reward.yaml").write_text("model:\n  init_args:\n    rewards: {humour: 1.0}\n")
    line = fails(*grpo_on(own, "null"), "-c", own / "reward.yaml")

    assert_names(line, "humour", "accuracy", "explanation", "format", "reward_functions")


# -- numbers -----------------------------------------------------------------------------------------------------


def test_ten_steps_in_a_row_without_a_finite_gradient_end_the_run_with_one_line(
    checkout: Checkout, tmp_path: Path
) -> None:
    words = (*SFT, *FEW, *SHORT, "--model.lr", "1e30", "--trainer.max_steps", "30", "--trainer.val_check_interval", "7")
    with pytest.warns(UserWarning, match="gradient not finite"):
        line = checkout.run(*words, "--trainer.limit_val_batches", "0", "--runs", tmp_path).error

    run = tmp_path / "sft" / "default"
    assert_names(line, "10 steps in a row", run / "bad_batches", "model.init_args.lr")
    dumped = sorted((run / "bad_batches").glob("step-*.json"))
    assert len(dumped) == 10
    assert len(json.loads(dumped[0].read_text())["batches"][0]) == 4
