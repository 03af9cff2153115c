from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L

from erv_lightning.callbacks.rollouts import RolloutLog
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.judges import GrammarJudge
from erv_lightning.labels import DFEW
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


def test_other_stages_leave_no_rollouts(
    make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    log = RolloutLog(tmp_path / "rollouts.jsonl")
    make_trainer(max_steps=1, callbacks=[log]).fit(VerifierModule(), make_data(unit="sentences"))
    assert not log.path.exists()
