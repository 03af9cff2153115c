from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from sklearn.metrics import f1_score
from torch.testing import assert_close

from erv_lightning.data.datamodule import ClipDataModule, SentenceBatch
from erv_lightning.labels import DFEW, GOEMOTIONS
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import VerifierModule

MakeTrainer = Callable[..., L.Trainer]


class Watch(L.Callback):
    def __init__(self) -> None:
        self.batches: list[SentenceBatch] = []
        self.losses: list[float] = []
        self.modes: list[bool] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_before_backward(self, trainer: L.Trainer, module: Any, loss: torch.Tensor) -> None:
        self.losses.append(float(loss.detach()))
        self.modes.append(module.verifier.model.training)


@pytest.fixture
def sentences(make_data: Callable[..., ClipDataModule]) -> Callable[..., ClipDataModule]:
    return lambda **settings: make_data(unit="sentences", **{"batch_size": 16, "eval_batch_size": 16, **settings})


def test_training_lowers_the_loss_and_the_export_is_what_was_trained(
    sentences: Callable[..., ClipDataModule], make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    watch, module = Watch(), VerifierModule(lr=5e-3)
    data = sentences()
    make_trainer(max_epochs=8, callbacks=[watch]).fit(module, data)
    assert all(math.isfinite(loss) for loss in watch.losses)
    assert watch.losses[-1] < 0.7 * watch.losses[0]
    assert module.verifier is not None
    module.export(tmp_path / "export")
    again = EmotionVerifier.from_pretrained(str(tmp_path / "export"))
    texts = [sentence.text for sentence in data.sentences("val")]
    assert again.labels == DFEW.names
    assert_close(again.probs(texts), module.verifier.eval().probs(texts))


def test_the_loss_is_binary_cross_entropy_over_the_data_sets_labels(
    sentences: Callable[..., ClipDataModule], make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    # 28 outputs, of which the seven of the method's table learn
    data, watch = sentences(), Watch()
    goemotions = EmotionVerifier.tiny([one.text for one in data.sentences("train")], GOEMOTIONS)
    goemotions.model.config.hidden_dropout_prob = goemotions.model.config.attention_probs_dropout_prob = 0.0
    goemotions.save(tmp_path)
    make_trainer(max_steps=1, callbacks=[watch]).fit(VerifierModule(str(tmp_path)), data)
    table = ["joy", "sadness", "neutral", "anger", "surprise", "disgust", "fear"]
    terms = []
    for sentence in watch.batches[0].sentences:
        probs = goemotions.eval().probs([sentence.text])[0]
        for name, output in zip(DFEW.names, table, strict=True):
            p = float(probs[GOEMOTIONS.index(output)])
            terms.append(-math.log(p if name in sentence.labels else 1 - p))
    assert watch.losses[0] == pytest.approx(sum(terms) / len(terms), abs=1e-4)


def test_a_classifier_read_from_a_folder_trains_in_training_mode(
    sentences: Callable[..., ClipDataModule], make_trainer: MakeTrainer, verifier_folder: Path
) -> None:
    watch = Watch()
    make_trainer(max_steps=1, callbacks=[watch]).fit(VerifierModule(str(verifier_folder)), sentences())
    assert watch.modes == [True]


def test_validation_is_f1_at_one_half(
    sentences: Callable[..., ClipDataModule], make_trainer: MakeTrainer, verifier_folder: Path
) -> None:
    module, data = VerifierModule(str(verifier_folder)), sentences(val_split="train", eval_batch_size=11)
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.validate(module, data, verbose=False)
    labelled = data.sentences("val")
    truth = [[int(name in sentence.labels) for name in DFEW.names] for sentence in labelled]
    said = EmotionVerifier.from_pretrained(str(verifier_folder)).eval().probs([one.text for one in labelled]) > 0.5
    for average in ("macro", "micro"):
        wanted = f1_score(truth, said.int().tolist(), average=average, zero_division=0)
        assert float(trainer.callback_metrics[f"val/f1_{average}"]) == pytest.approx(wanted, abs=1e-6)
    assert 0.1 < float(trainer.callback_metrics["val/f1_macro"]) < 1


def test_a_checkpoint_of_the_built_in_verifier_restores_for_a_test(
    sentences: Callable[..., ClipDataModule], make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    data = sentences(test_split="train")
    trained, restored = VerifierModule(lr=5e-3), VerifierModule(seed=9)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(trained, data)
    trainer.save_checkpoint(tmp_path / "verifier.ckpt")
    scores = []
    for module, checkpoint in ((trained, None), (restored, str(tmp_path / "verifier.ckpt"))):
        tester = make_trainer()
        tester.test(module, data, ckpt_path=checkpoint, verbose=False)
        scores.append(dict(tester.callback_metrics))
    assert scores[0] == scores[1]
    for name, value in trained.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name])


def test_a_classifier_of_other_labels_is_refused(
    sentences: Callable[..., ClipDataModule], make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    EmotionVerifier.tiny(["A smile."], ["positive", "negative"]).save(tmp_path)
    with pytest.raises(ValueError, match=r"knows \['positive', 'negative'\], but the data's label space 'dfew'"):
        make_trainer(max_steps=1).fit(VerifierModule(str(tmp_path)), sentences())


def test_a_split_without_labelled_sentences_is_named(
    sentences: Callable[..., ClipDataModule], make_trainer: MakeTrainer
) -> None:
    with pytest.raises(ValueError, match="the 'rl' split has no labelled sentences"):
        make_trainer(max_steps=1).fit(VerifierModule(), sentences(train_split="rl"))
