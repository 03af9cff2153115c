"""A run over two data sets: each keeps its own label space through rewards, judge and metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import pytest

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import MixedClips, SyntheticClips
from erv_lightning.judges import GrammarJudge, Judge, Verdicts, judge_each
from erv_lightning.labels import DFEW, MAFW, LabelSpace
from erv_lightning.modules import GRPOModule

TO_MAFW = {"happy": "happiness", "sad": "sadness", "angry": "anger"}


@pytest.fixture
def mixed(clips: SyntheticClips, listed: Any) -> MixedClips:
    """The built-in clips, and the same ones with the labels of MAFW."""

    def renamed(split: str) -> list[Any]:
        return [
            dataclasses.replace(
                one,
                dataset="mafw",
                label_space="mafw",
                label=TO_MAFW.get(one.label, one.label),
                # one label space more must not change what the sentences say
                sentence_labels=(),
            )
            for one in clips.samples(split)
        ]

    return MixedClips([clips, listed(rl=renamed("rl"), val=renamed("val"))], [1.0, 1.0])


def test_grpo_rewards_and_measures_each_clip_in_its_own_label_space(
    mixed: MixedClips,
    rl_data: Callable[..., ClipDataModule],
    make_grpo: Callable[..., GRPOModule],
    grpo_trainer: Callable[..., L.Trainer],
) -> None:
    class Rows(L.Callback):
        def __init__(self) -> None:
            self.seen: list[dict[str, Any]] = []

        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
            self.seen += module.rollouts

    rows = Rows()
    module = make_grpo(rewards={"accuracy": 1.0})
    trainer = grpo_trainer(max_steps=5, limit_val_batches=1.0, val_check_interval=5, callbacks=[rows])
    trainer.fit(module, rl_data(source=mixed))
    assert {row["dataset"] for row in rows.seen} == {"synthetic", "mafw"}
    for row in rows.seen:
        space = DFEW if row["dataset"] == "synthetic" else MAFW
        assert row["label_space"] == space.name
        assert row["label_id"] == space.id(row["label"])
        assert row["answer_id"] == space.id(row["answer"])
        assert row["rewards"]["accuracy"] == float(row["answer_id"] == row["label_id"] >= 0)
    assert any(row["rewards"]["accuracy"] for row in rows.seen if row["dataset"] == "mafw")
    metrics = trainer.callback_metrics
    for name in ("war", "uar", "eea", "epc", "fcr"):
        # half of the clips each
        both = (metrics[f"val/synthetic/{name}"] + metrics[f"val/mafw/{name}"]) / 2
        assert float(metrics[f"val/{name}"]) == pytest.approx(float(both), abs=1e-6)


class Recording(Judge):
    """Says the number of the call, and remembers what it was asked."""

    name = "recording"

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], str]] = []

    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        self.asked.append((list(explanations), space.name))
        return Verdicts([len(text) for text in explanations])


def test_a_judge_is_asked_once_for_each_label_space_and_its_verdicts_return_to_their_places() -> None:
    judge = Recording()
    assert judge_each(judge, ["a", "bb", "ccc"], [DFEW, MAFW, DFEW]) == [1, 2, 3]
    assert judge.asked == [(["a", "ccc"], "dfew"), (["bb"], "mafw")]
    assert judge_each(judge, [], []) == []
    text = "She smiles."
    assert judge_each(GrammarJudge(), [text, text], [DFEW, DFEW]) == GrammarJudge()([text, text], DFEW)
