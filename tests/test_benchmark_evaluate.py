"""The benchmark of judging runs, both sides read the same, and its page says what its numbers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import evaluate
from erv_lightning.data.grammar import read_emotion
from erv_lightning.labels import DFEW
from erv_lightning.text import split_sentences

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_a_small_run_writes_numbers_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(evaluate, "THREADS", 1)  # tests may run side by side
    words = ["--explanations", "40", "--rounds", "2", "--pipeline-sample", "5", "--out", str(tmp_path)]
    evaluate.main(words)

    report: dict[str, Any] = json.loads((tmp_path / "evaluate.json").read_text(encoding="utf-8"))
    assert report["command"] == " ".join(["python -m benchmarks.evaluate", *words])
    assert f"{evaluate.THREADS} threads" in report["machine"]
    repeated, unique = report["rows"]
    assert repeated["different"] < repeated["number"] == 120
    assert unique["different"] == unique["number"] == 120
    for row in report["rows"]:
        assert len(row["ratios"]) == 2
        assert all(row[key] > 0 for key in ("ours_explanations_s", "pipeline_explanations_s", "ratio"))
        assert set(row["shares"]) == {"tokenizer", "model", "metrics", "rest"}
        assert sum(row["shares"].values()) == pytest.approx(1, abs=0.2)  # medians, each of its own
        assert row["metrics"]["EEA"] > 1 / len(DFEW.names)
        assert row["metrics"]["FCR"] <= min(row["metrics"]["EEA"], row["metrics"]["WAR"]) < 1
    assert (tmp_path / "evaluate.md").read_text(encoding="utf-8") == evaluate.markdown(report)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("unique", [False, True])
def test_its_explanations_convey_the_label_of_their_clip(unique: bool) -> None:
    clips = evaluate.make_clips(60, unique)
    assert [DFEW.id(read_emotion(text) or "") for text in clips.texts] == clips.target.tolist()
    sentences = [sentence for text in clips.texts for sentence in split_sentences(text)]
    assert len(sentences) == 180
    assert (len(set(sentences)) == 180) == unique


def test_sides_that_do_not_read_the_same_are_no_comparison() -> None:
    class Right(evaluate.Ours):
        def __init__(self) -> None:
            self.watch = evaluate.Stopwatch()

        def run(self, clips: evaluate.Clips) -> tuple[list[int], dict[str, float]]:
            return clips.target.tolist(), {}

    class Nonsense(evaluate.Theirs):
        def __init__(self) -> None:
            pass

        def run(self, clips: evaluate.Clips) -> tuple[list[int], dict[str, float]]:
            return [7] * len(clips.texts), {}

    clips = evaluate.make_clips(3, unique=False)
    with pytest.raises(ValueError, match="2 of 2 explanations got another label"):
        evaluate.in_turn(Right(), Nonsense(), clips, clips.first(2))


def test_the_page_is_the_one_that_its_numbers_make() -> None:
    report = json.loads((RESULTS / "evaluate.json").read_text(encoding="utf-8"))
    assert (RESULTS / "evaluate.md").read_text(encoding="utf-8") == evaluate.markdown(report)
