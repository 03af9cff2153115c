from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    jaccard_score,
    precision_recall_fscore_support,
)
from torch.testing import assert_close

from erv_lightning.callbacks.export import ExportBest
from erv_lightning.callbacks.verifier_report import VerifierReport
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.sample import ClipSource
from erv_lightning.judges import GrammarJudge
from erv_lightning.labels import DFEW
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import SFTModule, VerifierModule
from erv_lightning.report.teacher import agreement, distance
from erv_lightning.report.verifier import PAPER_RULE, Scored, _paper_sets, assess, markdown
from erv_lightning.rl.reward_terms import ExplanationRule
from erv_lightning.rl.rewards import label_sets
from erv_lightning.rl.rollout import Sampling
from erv_lightning.runs import RunFolder
from erv_lightning.text import split_sentences

FILES = {
    *("verifier_report.json", "verifier_report.md"),
    *("verifier_report_pr.png", "verifier_report_reliability.png", "verifier_report_robustness.png"),
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "verifier", "test")


def report_of(
    run: RunFolder, module: L.LightningModule, data: ClipDataModule, make_trainer: Callable[..., L.Trainer]
) -> tuple[dict[str, Any], dict[str, float]]:
    trainer = make_trainer(callbacks=[VerifierReport(run, seconds=0.01)])
    trainer.test(module, data, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return json.loads((run.path / "verifier_report.json").read_text(encoding="utf-8")), metrics


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_the_report_agrees_with_the_tests_metrics_and_with_scikit_learn(
    task: Any,
    run: RunFolder,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    verifier_folder: Path,
) -> None:
    data = make_data(unit="sentences", test_split="train")
    report, metrics = report_of(run, VerifierModule(str(verifier_folder), task=task), data, make_trainer)
    assert {path.name for path in run.path.iterdir()} == FILES
    rule = next(iter(report["f1"]))
    for average in ("macro", "micro"):
        assert report["f1"][rule][average] == pytest.approx(metrics[f"test/f1_{average}"], abs=1e-6)

    sentences = [one for one in data.sentences("test") if one.labels or task == "multi_label"]
    assert report["sentences"] == len(sentences)
    true = np.array([[int(name in one.labels) for name in DFEW.names] for one in sentences])
    logits = EmotionVerifier.from_pretrained(str(verifier_folder)).eval().logits([one.text for one in sentences])
    probs = (logits.sigmoid() if task == "multi_label" else logits.softmax(1)).numpy()
    said = probs > 0.5 if task == "multi_label" else np.eye(7)[probs.argmax(1)]
    wanted = precision_recall_fscore_support(true, said, zero_division=np.nan)
    for k, name in enumerate(DFEW.names):
        of = report["classes"][name]
        assert of["sentences"] == true[:, k].sum()
        for key, values in zip(("precision", "recall"), wanted, strict=False):
            assert (of[key] is None and math.isnan(values[k])) or of[key] == pytest.approx(values[k])
        assert of["average_precision"] == pytest.approx(average_precision_score(true[:, k], probs[:, k]), abs=1e-6)


def test_the_page_and_the_numbers_tell_of_pairs_calibration_and_speed(
    run: RunFolder,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    verifier_folder: Path,
) -> None:
    module = VerifierModule(str(verifier_folder))
    report, _ = report_of(run, module, make_data(unit="sentences"), make_trainer)
    assert [one["pair"] for one in report["confusion"]] == [["fear", "surprise"], ["angry", "disgust"]]
    assert set(report["reliability"]) == {"raw", "calibrated"}
    assert report["reliability"]["calibrated"]["temperature"] == report["calibration"]["temperature"]
    assert set(report["calibration"]["thresholds"]) == set(DFEW.names)
    assert [one["batch"] for one in report["speed"]] == [1, 64]
    assert all(one["sentences_per_s"] > 0 and one["batches"] >= 3 for one in report["speed"])
    page = (run.path / "verifier_report.md").read_text(encoding="utf-8")
    assert report["machine"] in page
    assert all(f"![{picture}]({picture})" in page for picture in FILES if picture.endswith(".png"))
    assert all(f"\n## {title}\n" in page for title in ("Robustness", "Agreement with the teacher"))
    assert "No test sentence has a teacher's probabilities" in page
    assert module.verifier is not None
    assert not module.verifier.calibrated


def test_without_validation_sentences_it_says_that_nothing_is_calibrated(
    run: RunFolder,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    verifier_folder: Path,
) -> None:
    data = make_data(unit="sentences", val_split="rl")
    report, _ = report_of(run, VerifierModule(str(verifier_folder)), data, make_trainer)
    assert "calibration" not in report
    assert set(report["reliability"]) == {"raw"}
    assert "the 'rl' split has no labelled sentences" in report["notes"][0]


def test_a_trained_verifier_is_exported_with_the_calibration_that_its_test_reports(
    run: RunFolder, make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer]
) -> None:
    data = make_data(unit="sentences", batch_size=4)
    module = VerifierModule(lr=1e-3)
    trainer = make_trainer(max_steps=3, callbacks=[ExportBest(run)])
    run.path.mkdir(parents=True)
    run.config.write_text("stage: verifier\n")
    trainer.fit(module, data)
    make_trainer(callbacks=[VerifierReport(run, seconds=0)]).test(VerifierModule(str(run.export)), data, verbose=False)
    report = json.loads((run.path / "verifier_report.json").read_text(encoding="utf-8"))
    assert report["speed"] == []
    exported = EmotionVerifier.from_pretrained(str(run.export)).eval()
    assert exported.temperature == pytest.approx(report["calibration"]["temperature"], rel=1e-4)
    assert_close(exported.thresholds(DFEW), torch.tensor(list(report["calibration"]["thresholds"].values())))
    texts = [one.text for one in data.sentences("val")]
    assert torch.equal(exported.probs(texts), exported.logits(texts).sigmoid())


def test_two_processes_write_the_report_of_one(
    run: RunFolder,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    verifier_folder: Path,
) -> None:
    reports = []
    for settings in ({}, {"strategy": "ddp_fork", "devices": 2}):
        trainer = make_trainer(callbacks=[VerifierReport(run, seconds=0)], **settings)
        trainer.test(VerifierModule(str(verifier_folder)), make_data(unit="sentences"), verbose=False)
        reports.append((run.path / "verifier_report.json").read_text(encoding="utf-8"))
        (run.path / "verifier_report.json").unlink()
    assert reports[0] == reports[1]


def test_a_policy_gets_no_report(
    run: RunFolder, make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer]
) -> None:
    module = SFTModule(lambda: QwenOmniBackbone("tiny"), GrammarJudge(), evaluation=Sampling(3))
    make_trainer(callbacks=[VerifierReport(run)]).test(module, make_data(), verbose=False)
    assert not run.path.exists()


def test_confusion_by_hand() -> None:
    # labels a, b: said where the logit is positive
    logits = np.array([[1.0, -1], [-1, 1], [1, 1], [-1, -1], [1, -1], [1, -1], [1, -1]])
    targets = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [1, 1], [0, 0]])
    report = assess(Scored(logits, targets), ["a", "b"], "sigmoid", pairs=[(0, 1)])
    assert report["confusion"][0]["said"] == {
        "a": {"first only": 1, "second only": 1, "both": 1, "neither": 0},
        "b": {"first only": 1, "second only": 0, "both": 0, "neither": 1},
    }
    # a: said 5 of which true 3, true 4; b: said 2 of which 0 true, true 3
    assert report["f1"]["above 0.5"] == pytest.approx({"macro": 0.5 * (6 / 9), "micro": 6 / 14})
    assert "| a | 1 | 1 | 1 | 0 |" in markdown({**report, "space": "two"}, {})


def test_the_papers_rule_is_the_explanation_rewards() -> None:
    rule = ExplanationRule()
    assert (rule.threshold, rule.max_labels) == PAPER_RULE
    probs = (torch.rand(200, 7) ** 3).double().mul(10).round() / 10  # with ties
    assert _paper_sets(probs.numpy()).tolist() == label_sets(probs, rule.threshold, rule.max_labels).tolist()


def test_agreement_with_the_labels_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true, said = rng.random((80, 3)) < 0.4, rng.random((80, 3)) < 0.4
    true[:, 2] = said[:, 2] = True
    of = agreement({"a rule": said}, true, ["a", "b", "c"])["a rule"]
    assert of["exact"]["value"] == pytest.approx(accuracy_score(true, said))
    assert of["jaccard"] == pytest.approx(jaccard_score(true, said, average="samples"))
    for k, name in enumerate("ab"):
        assert of["kappa"][name] == pytest.approx(cohen_kappa_score(true[:, k], said[:, k]))
    assert math.isnan(of["kappa"]["c"])


def test_distance_from_a_teacher_is_scipys_over_the_sentences_that_have_one() -> None:
    rng = np.random.default_rng(0)
    probs, taught = rng.random((30, 4)).round(1), rng.random((30, 4)).round(1)  # with ties
    given = [tuple(row) if n % 3 else None for n, row in enumerate(taught.tolist())]
    rows = [n for n in range(30) if n % 3]
    of = distance(probs, given)
    assert of is not None
    assert of["sentences"] == 20
    assert of["mean_absolute_difference"] == pytest.approx(np.abs(probs[rows] - taught[rows]).mean())
    assert of["pearson"] == pytest.approx(pearsonr(probs[rows].ravel(), taught[rows].ravel()).statistic)
    assert of["spearman"] == pytest.approx(spearmanr(probs[rows].ravel(), taught[rows].ravel()).statistic)
    assert of["same_likeliest"]["value"] == np.mean(probs[rows].argmax(1) == taught[rows].argmax(1))
    assert distance(probs, [None] * 30) is None
    flat = distance(probs, [(0.5,) * 4] * 30)
    assert flat is not None
    assert math.isnan(flat["pearson"])


def test_a_verifier_agrees_with_itself_as_its_teacher(
    run: RunFolder,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    verifier_folder: Path,
    clips: SyntheticClips,
    listed: Callable[..., ClipSource],
) -> None:
    verifier = EmotionVerifier.from_pretrained(str(verifier_folder)).eval()
    taught = []
    for sample in clips.samples("test"):
        probs = verifier.probs(split_sentences(sample.explanation))
        labels = [tuple(DFEW.names[int(k)] for k in (row > 0.5).nonzero()) for row in probs]
        rows = [tuple(row) for row in probs.tolist()]
        taught.append(replace(sample, sentence_labels=tuple(labels), sentence_probs=(None, *rows[1:])))
    source = listed(train=clips.samples("train"), val=clips.samples("val"), test=taught)
    report, _ = report_of(
        run, VerifierModule(str(verifier_folder)), make_data(source=source, unit="sentences"), make_trainer
    )
    of = report["teacher"]
    assert of["labels"]["above 0.5"]["exact"]["value"] == 1
    assert of["labels"]["above 0.5"]["jaccard"] == 1
    assert all(kappa in (1, None) for kappa in of["labels"]["above 0.5"]["kappa"].values())
    assert of["probabilities"]["sentences"] == 2 * len(taught)
    assert of["probabilities"]["mean_absolute_difference"] < 1e-6
    assert of["probabilities"]["same_likeliest"]["value"] == 1
    assert of["probabilities"]["spearman"] == pytest.approx(1, abs=1e-3)
    assert "| all labels | 14 |" in (run.path / "verifier_report.md").read_text(encoding="utf-8")


def test_robustness_can_be_left_out_and_sentences_be_fewer(
    run: RunFolder,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    verifier_folder: Path,
) -> None:
    reports = []
    for perturbed in (0, 5):
        trainer = make_trainer(callbacks=[VerifierReport(run, seconds=0, perturbed=perturbed)])
        trainer.test(VerifierModule(str(verifier_folder)), make_data(unit="sentences"), verbose=False)
        reports.append(json.loads((run.path / "verifier_report.json").read_text(encoding="utf-8")))
        assert (run.path / "verifier_report_robustness.png").exists() == bool(perturbed)
    assert "robustness" not in reports[0]
    assert reports[1]["robustness"]["sentences"] == 5
    novelty = reports[1]["robustness"]["novelty"]
    assert novelty["seen"]["sentences"] + novelty["unseen"]["sentences"] == reports[1]["sentences"]


@pytest.mark.parametrize("settings", [{"seconds": -1.0}, {"seconds": math.inf}, {"perturbed": -1}])
def test_impossible_settings_are_refused(settings: dict[str, Any], run: RunFolder) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
        VerifierReport(run, **settings)
