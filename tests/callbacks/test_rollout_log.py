from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest

from erv_lightning.callbacks.rollouts import RolloutLog
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.explaining import explain
from erv_lightning.judges import GrammarJudge
from erv_lightning.labels import DFEW
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import GRPOModule, VerifierModule


def test_every_completion_is_a_line_with_its_clip_rewards_verdict_and_advantage(
    clips: SyntheticClips,
    make_grpo: Callable[..., GRPOModule],
    rl_data: Callable[..., ClipDataModule],
    grpo_trainer: Callable[..., L.Trainer],
    tmp_path: Path,
) -> None:
    path = tmp_path / "run" / "rollouts.jsonl"
    by_id = {sample.id: sample for sample in clips.samples("rl")}
    settings = {"rewards": {"format": 1.0, "accuracy": 2.0}, "prompts_per_step": 2, "generations_per_prompt": 3}
    for run in (1, 2):  # a second run goes on in the same file
        grpo_trainer(max_steps=2, callbacks=[RolloutLog(path)]).fit(make_grpo(beta=0.0, **settings), rl_data())
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == run * 2 * 2 * 3
    assert [row["step"] for row in rows[:12]] == [0] * 6 + [1] * 6
    assert [row["completion"] for row in rows] == [0, 1, 2] * 8
    for start in range(0, len(rows), 3):
        group = rows[start : start + 3]
        assert len({row["id"] for row in group}) == 1
        assert abs(sum(row["advantage"] for row in group)) < 1e-4
    for row in rows:
        sample = by_id[row["id"]]
        assert (row["clip"], row["label"], row["label_id"]) == (sample.clip, sample.label, DFEW.id(sample.label))
        assert row["answer_id"] == DFEW.id(row["answer"])
        assert row["rewards"] == {
            "format": float(row["well_formed"]),
            "accuracy": float(row["answer_id"] == row["label_id"]),
        }
        assert row["reward"] == row["rewards"]["format"] + 2 * row["rewards"]["accuracy"]
        assert row["judges"] == {"grammar": GrammarJudge()([row["explanation"]], DFEW)[0]}
        assert row["sentences"] is None


def test_a_row_says_what_the_rewarding_verifier_read_in_each_sentence(
    make_grpo: Callable[..., GRPOModule],
    rl_data: Callable[..., ClipDataModule],
    grpo_trainer: Callable[..., L.Trainer],
    verifier_folder: Path,
    tmp_path: Path,
) -> None:
    path, verifier = tmp_path / "rollouts.jsonl", EmotionVerifier.from_pretrained(str(verifier_folder))
    module = make_grpo(
        beta=0.0,
        rewards={"explanation": 1.0},
        verifier=str(verifier_folder),
        prompts_per_step=2,
        generations_per_prompt=3,
    )
    grpo_trainer(max_steps=1, callbacks=[RolloutLog(path)]).fit(module, rl_data())
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    assert any(row["sentences"] for row in rows)
    for row in rows:
        verdict = explain(row["explanation"], verifier, DFEW)
        assert [[DFEW.names[i] for i in one["labels"]] for one in row["sentences"]] == [
            list(one.labels) for one in verdict.sentences
        ]
        for one, other in zip(row["sentences"], verdict.sentences, strict=True):
            assert one["p"] == pytest.approx(max(other.probs.values()), abs=1e-3)


def test_other_stages_leave_no_rollouts(
    make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    log = RolloutLog(tmp_path / "rollouts.jsonl")
    make_trainer(max_steps=1, callbacks=[log]).fit(VerifierModule(), make_data(unit="sentences"))
    assert not log.path.exists()
