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
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.testing import assert_close

from erv_lightning.data.datamodule import ClipDataModule, Sentence, SentenceBatch
from erv_lightning.labels import DFEW, GOEMOTIONS
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import VerifierModule
from erv_lightning.modules.verifier_losses import balanced_weights, distillation_loss, verifier_loss

LN3 = math.log(3)
# probabilities by hand: σ(ln 3) = 3/4, σ(−ln 3) = 1/4; softmax(ln 3, 0, 0) = (3/5, 1/5, 1/5)
LOGITS = torch.tensor([[LN3, 0.0, 0.0], [LN3, -LN3, 0.0]])
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
P_TRUE = [[3 / 4, 1 / 2, 1 / 2], [1 / 4, 1 / 4, 1 / 2]]  # of what is true, by output
WEIGHTS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
WEIGHT = [[4, 2, 3], [1, 5, 3]]  # of each output, by its target


def sentences_of(make_data: Callable[..., ClipDataModule], **settings: Any) -> ClipDataModule:
    return make_data(unit="sentences", **{"batch_size": 16, "eval_batch_size": 16, **settings})


# -- by hand ------------------------------------------------------------------------------------------------------


def test_the_default_is_torchs_binary_cross_entropy_to_the_bit() -> None:
    logits, targets = torch.randn(9, 7), (torch.rand(9, 7) > 0.7).float()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert torch.equal(verifier_loss(logits, targets), wanted)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_multi_label_loss_is_what_a_loop_says(gamma: float, weighted: bool) -> None:
    terms = [
        (w if weighted else 1) * (1 - p) ** gamma * -math.log(p)
        for ps, ws in zip(P_TRUE, WEIGHT, strict=True)
        for p, w in zip(ps, ws, strict=True)
    ]
    said = verifier_loss(LOGITS, TARGETS, weights=WEIGHTS if weighted else None, gamma=gamma)
    assert float(said) == pytest.approx(sum(terms) / 6, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_single_label_loss_is_what_a_hand_says(gamma: float, weighted: bool) -> None:
    # one label; two that share; none, which is left out
    logits = torch.tensor([[LN3, 0.0, 0.0], [LN3, 0.0, 0.0], [5.0, 0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    w = [4, 5, 6] if weighted else [1, 1, 1]
    first = -math.log(3 / 5) * (2 / 5) ** gamma * w[0]
    third = -math.log(1 / 5) * (4 / 5) ** gamma * w[2]
    said = verifier_loss(logits, targets, "single_label", weights=WEIGHTS if weighted else None, gamma=gamma)
    assert float(said) == pytest.approx((first + (first + third) / 2) / 2, rel=1e-5)


def test_the_plain_single_label_loss_is_torchs_cross_entropy() -> None:
    logits, label = torch.randn(9, 7), torch.randint(7, (9,))
    targets = torch.nn.functional.one_hot(label, 7).float()
    assert_close(verifier_loss(logits, targets, "single_label"), torch.nn.functional.cross_entropy(logits, label))


def test_a_batch_without_a_label_costs_nothing_and_has_a_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = verifier_loss(logits, torch.zeros(2, 3), "single_label", gamma=1.0)
    loss.backward()
    assert logits.grad is not None
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_the_gradient_is_finite_however_sure_the_classifier_is(task: Any, gamma: float) -> None:
    for size in (0.0, 1.0, 20.0, 200.0):
        for sign in (1, -1):
            logits = (sign * size * torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -1.0]])).requires_grad_()
            loss = verifier_loss(logits, TARGETS, task, weights=WEIGHTS, gamma=gamma)
            loss.backward()
            assert logits.grad is not None
            assert loss.isfinite()
            assert logits.grad.isfinite().all()


def test_a_focal_loss_has_the_gradient_of_finite_differences() -> None:
    logits = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 0, 0], [1, 0, 1], [0, 0, 0]], dtype=torch.float64)
    for task in ("multi_label", "single_label"):
        assert torch.autograd.gradcheck(
            lambda z, task=task: verifier_loss(z, targets, task, weights=WEIGHTS.double(), gamma=1.5), logits
        )


# -- class weights ------------------------------------------------------------------------------------------------


def test_multi_label_weights_are_scikit_learns_for_each_output() -> None:
    targets = torch.tensor([[1.0, 0, 1, 0], [1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0]])
    weights = balanced_weights(targets, "multi_label")
    for label in (0, 1):
        wanted = compute_class_weight("balanced", classes=np.array([0, 1]), y=targets[:, label].int().tolist())
        assert weights[:, label].tolist() == pytest.approx(wanted.tolist())
    assert weights[:, 2:].tolist() == [[1, 1], [1, 1]]  # always, and never


def test_single_label_weights_are_scikit_learns_and_shared_labels_count_by_share() -> None:
    ids = [0, 0, 0, 2]
    weights = balanced_weights(torch.eye(3)[ids], "single_label")[1]
    wanted = compute_class_weight("balanced", classes=np.array([0, 2]), y=ids)
    assert weights.tolist() == pytest.approx([wanted[0], 1, wanted[1]])
    # three sentences with a label, counts (1.5, 1.5) over two labels, one without
    shared = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    assert balanced_weights(shared, "single_label")[1].tolist() == [1, 1]


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_balanced_weights_leave_the_loss_of_an_ignorant_classifier_as_it_is(task: Any) -> None:
    targets = torch.nn.functional.one_hot(torch.tensor([0] * 9 + [1] * 3 + [2]), 3).float()
    logits = torch.zeros_like(targets)
    plain, weighted = (verifier_loss(logits, targets, task, weights=w) for w in (None, balanced_weights(targets, task)))
    assert_close(plain, weighted)


# -- through the module -------------------------------------------------------------------------------------------


class Batches(L.Callback):
    def __init__(self) -> None:
        self.batches: list[SentenceBatch] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_before_backward(self, trainer: L.Trainer, module: Any, loss: Tensor) -> None:
        self.losses.append(float(loss.detach()))


def still(verifier: EmotionVerifier) -> EmotionVerifier:
    """Without dropout, so that a test can do the same forward."""
    verifier.model.config.hidden_dropout_prob = verifier.model.config.attention_probs_dropout_prob = 0.0
    return verifier


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_training_weighs_by_the_training_sentences(
    task: Any, make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    data, watch = sentences_of(make_data), Batches()
    train = data.sentences("train")
    verifier = still(EmotionVerifier.tiny([one.text for one in train], DFEW.names)).eval()
    verifier.save(tmp_path)
    module = VerifierModule(str(tmp_path), task=task, class_weights="balanced", focal_gamma=2.0)
    make_trainer(max_steps=1, callbacks=[watch]).fit(module, data)

    def targets(sentences: list[Sentence]) -> Tensor:
        return torch.tensor([[float(name in one.labels) for name in DFEW.names] for one in sentences])

    batch = watch.batches[0].sentences
    logits = verifier.logits([one.text for one in batch])
    wanted = verifier_loss(logits, targets(batch), task, weights=balanced_weights(targets(train), task), gamma=2.0)
    assert watch.losses[0] == pytest.approx(float(wanted), abs=1e-4)


def test_a_single_label_verifier_is_exported_as_one_and_its_probabilities_sum_to_one(
    make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    data, watch, module = sentences_of(make_data), Batches(), VerifierModule(lr=5e-3, task="single_label")
    make_trainer(max_epochs=30, callbacks=[watch]).fit(module, data)
    assert watch.losses[-1] < 0.7 * watch.losses[0]
    module.export(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == "single_label_classification"
    again, texts = EmotionVerifier.from_pretrained(str(tmp_path)).eval(), [one.text for one in data.sentences("val")]
    assert_close(again.probs(texts).sum(1), torch.ones(len(texts)))
    assert_close(again.probs(texts), again.logits(texts).softmax(1))


def test_its_f1_is_of_the_likeliest_label(
    make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer], verifier_folder: Path
) -> None:
    data = sentences_of(make_data, val_split="train", eval_batch_size=11)
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.validate(VerifierModule(str(verifier_folder), task="single_label"), data, verbose=False)
    labelled = [one for one in data.sentences("val") if one.labels]
    truth = [[int(name in one.labels) for name in DFEW.names] for one in labelled]
    best = EmotionVerifier.from_pretrained(str(verifier_folder)).eval().probs([one.text for one in labelled]).argmax(1)
    said = torch.nn.functional.one_hot(best, len(DFEW.names)).tolist()
    for average in ("macro", "micro"):
        wanted = f1_score(truth, said, average=average, zero_division=0)
        assert float(trainer.callback_metrics[f"val/f1_{average}"]) == pytest.approx(wanted, abs=1e-6)


def test_outputs_that_a_single_label_verifier_never_chose_from_get_no_probability(
    make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    data = sentences_of(make_data)
    texts = [one.text for one in data.sentences("train")]
    EmotionVerifier.tiny(texts, GOEMOTIONS).save(tmp_path / "go")
    module = VerifierModule(str(tmp_path / "go"), task="single_label")
    make_trainer(max_steps=1).fit(module, data)
    module.export(tmp_path / "export")
    again = EmotionVerifier.from_pretrained(str(tmp_path / "export")).eval()
    own = again.output_index(DFEW)
    assert_close(again.probs(texts)[:, own].sum(1), torch.ones(len(texts)))
    assert_close(again.probs(texts)[:, own], again.logits(texts)[:, own].softmax(1))


def test_the_multi_label_export_adds_a_calibration_and_nothing_else(
    make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    module = VerifierModule()
    make_trainer(max_steps=1).fit(module, sentences_of(make_data))
    module.export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert {name for name in config if name.startswith("erv_")} == {"erv_calibration"}
    again = EmotionVerifier.from_pretrained(str(tmp_path)).eval()
    assert torch.equal(again.probs(["A smile."]), again.logits(["A smile."]).sigmoid())


def test_all_wrong_options_are_named_at_once() -> None:
    wrong: Any = {"task": "two", "class_weights": "some", "focal_gamma": -1.0}
    with pytest.raises(ValueError, match=r"model.task is 'two'.*model.class_weights is 'some'.*model.focal_gamma"):
        VerifierModule(**wrong)


# -- calibration in the config ------------------------------------------------------------------------------------


def test_a_calibration_travels_with_the_model_and_applies_only_when_asked(tmp_path: Path) -> None:
    texts = ["A smile.", "A flat voice."]
    verifier = EmotionVerifier.tiny(texts, GOEMOTIONS).eval()
    assert not verifier.calibrated
    raw = verifier.probs(texts)
    verifier.calibrate(2.0, {"joy": 0.25, **{name: 0.5 for name in GOEMOTIONS if name != "joy"}})
    verifier.save(tmp_path)
    again = EmotionVerifier.from_pretrained(str(tmp_path)).eval()
    assert_close(again.probs(texts), raw)
    assert_close(again.probs(texts, calibrated=True), (verifier.logits(texts) / 2).sigmoid())
    assert again.thresholds(DFEW).tolist() == [0.25] + [0.5] * 6


def test_what_is_not_calibrated_says_so() -> None:
    verifier = EmotionVerifier.tiny(["A smile."], DFEW.names).eval()
    with pytest.raises(ValueError, match="no erv_calibration"):
        verifier.probs(["A smile."], calibrated=True)
    with pytest.raises(ValueError, match=r"temperature 0.0 is not above 0; threshold of 'joy', which is no output"):
        verifier.calibrate(0.0, {"joy": 0.5})
    verifier.calibrate(1.5)
    with pytest.raises(ValueError, match="no thresholds for"):
        verifier.thresholds(DFEW)


# -- a teacher ----------------------------------------------------------------------------------------------------


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def softmax(z: list[float]) -> list[float]:
    return [math.exp(one) / sum(map(math.exp, z)) for one in z]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_the_distance_from_a_teacher_is_what_a_loop_says(task: Any, temperature: float) -> None:
    logits = [[LN3, 0.0, -1.0], [0.3, -LN3, 2.0]]
    teacher = [[0.9, 0.2, 0.4], [0.1, 0.7, 0.3]]
    if task == "multi_label":
        pairs = [
            (sigmoid(math.log(q / (1 - q)) / temperature), sigmoid(z / temperature))
            for zs, qs in zip(logits, teacher, strict=True)
            for z, q in zip(zs, qs, strict=True)
        ]
        terms = [q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)) for q, p in pairs]
        expected = sum(terms) / 6
    else:
        rows = [
            (softmax([math.log(q) / temperature for q in qs]), softmax([z / temperature for z in zs]))
            for zs, qs in zip(logits, teacher, strict=True)
        ]
        expected = sum(q * math.log(q / p) for qs, ps in rows for q, p in zip(qs, ps, strict=True)) / 2
    said = distillation_loss(torch.tensor(logits), torch.tensor(teacher), task, temperature)
    assert float(said) == pytest.approx(temperature**2 * expected, rel=1e-4)


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_a_student_that_says_what_the_teacher_says_is_at_no_distance(task: Any) -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    teacher = logits.detach().sigmoid() if task == "multi_label" else logits.detach().softmax(1)
    distance = distillation_loss(logits, teacher, task, 3.0)
    distance.backward()
    assert float(distance.detach()) == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert_close(logits.grad, torch.zeros(5, 7), atol=1e-6, rtol=0)


def test_a_teacher_that_is_certain_costs_a_finite_loss() -> None:
    logits = torch.tensor([[50.0, -50.0]], requires_grad=True)
    distance = distillation_loss(logits, torch.tensor([[0.0, 1.0]]))
    distance.backward()
    assert math.isfinite(float(distance.detach()))
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("distill", [0.25, 1.0])
def test_labels_and_teacher_share_the_loss(
    distill: float, make_trainer: Callable[..., L.Trainer], listed: Any, clips: Any, verifier_folder: Path
) -> None:
    samples = [
        replace(
            sample,
            sentence_probs=tuple(
                None if row % 3 == 0 else tuple(0.9 if name == "sad" else 0.1 * k for k, name in enumerate(DFEW.names))
                for row, _ in enumerate(sample.sentence_labels)
            ),
        )
        for sample in clips.samples("train")
    ]
    data = ClipDataModule(listed(train=samples, val=samples), unit="sentences", batch_size=12)
    watch = Losses()
    module = VerifierModule(str(verifier_folder), distill=distill, distill_temperature=2.0, lr=0.0)
    make_trainer(max_steps=1, callbacks=[watch]).fit(module, data)
    (batch, loss, logits) = watch.seen[0]
    taught = [row for row, one in enumerate(batch.sentences) if one.probs is not None]
    assert 0 < len(taught) < len(batch)
    targets = torch.tensor([[float(name in one.labels) for name in DFEW.names] for one in batch.sentences])
    teacher = torch.tensor([batch.sentences[row].probs for row in taught])
    hard = verifier_loss(logits, targets)
    soft = distillation_loss(logits[taught], teacher, temperature=2.0)
    assert loss == pytest.approx(float((1 - distill) * hard + distill * soft), rel=1e-4)
    assert float(watch.logged["train/distillation"]) == pytest.approx(float(soft), rel=1e-4)


class Losses(L.Callback):
    """Batches with their loss and the logits that gave it."""

    def __init__(self) -> None:
        self.seen: list[tuple[SentenceBatch, float, Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        module.verifier.eval()  # no dropout: the same logits again

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            logits = module.verifier([one.text for one in batch.sentences])[:, module.outputs]
        self.seen.append((batch, float(outputs["loss"]), logits))
        self.logged = dict(trainer.callback_metrics)


def test_without_a_teacher_there_is_nothing_to_distil(
    make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer]
) -> None:
    with pytest.raises(ValueError, match="distill needs teacher probabilities"):
        make_trainer(max_steps=1).fit(VerifierModule(distill=0.5), sentences_of(make_data))
    with pytest.raises(ValueError, match=r"distill is 2: it must be between 0 and 1; .*distill_temperature is 0"):
        VerifierModule(distill=2, distill_temperature=0)
