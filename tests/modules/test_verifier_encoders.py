"""Encoders that people start a verifier from: tiny ones of the same classes, read, trained and exported."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.testing import assert_close
from transformers import (
    DebertaV2Config,
    DebertaV2Model,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.grammar import corpus
from erv_lightning.labels import DFEW
from erv_lightning.models.tiny import tiny_verifier
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import VerifierModule

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}
PIECES = 200


def deberta_v3(folder: Path) -> None:
    """As microsoft/deberta-v3-base lies on the hub: float16, a sentencepiece vocabulary, no architectures."""
    sentencepiece = pytest.importorskip("sentencepiece")
    special = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]", "bos_piece": "[CLS]"}
    special |= {"eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, vocab_size=PIECES, minloglevel=2, **special
    )
    folder.mkdir()
    (folder / "spm.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    attention = {"relative_attention": True, "position_buckets": 16, "share_att_key": True, "pos_att_type": "p2c|c2p"}
    layout = {"position_biased_input": False, "type_vocab_size": 0, "norm_rel_ebd": "layer_norm"}
    config = DebertaV2Config(vocab_size=PIECES + 8, **SIZES, **attention, **layout)
    DebertaV2Model(config).half().save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    del written["architectures"]
    (folder / "config.json").write_text(json.dumps(written))


def modernbert(folder: Path) -> None:
    tokenizer = words(folder)
    special = {"bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 1, "sep_token_id": 1}
    config = ModernBertConfig(
        vocab_size=len(tokenizer), **SIZES, pad_token_id=tokenizer.pad_token_id, max_position_embeddings=64, **special
    )
    ModernBertForMaskedLM(config).save_pretrained(folder)


def roberta(folder: Path) -> None:
    tokenizer = words(folder)
    config = RobertaConfig(vocab_size=len(tokenizer), **SIZES, pad_token_id=tokenizer.pad_token_id, type_vocab_size=1)
    RobertaForMaskedLM(config).save_pretrained(folder)


def words(folder: Path) -> Any:
    _, tokenizer = tiny_verifier(corpus(), DFEW.names, 0)
    tokenizer.save_pretrained(folder)
    return tokenizer


ENCODERS = {"deberta_v3": deberta_v3, "modernbert": modernbert, "roberta": roberta}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_becomes_a_verifier(
    name: str, tmp_path: Path, make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer]
) -> None:
    ENCODERS[name](tmp_path / "encoder")
    data = make_data(unit="sentences", batch_size=16, eval_batch_size=16)
    module = VerifierModule(str(tmp_path / "encoder"), lr=5e-3)
    trainer = make_trainer(max_epochs=25)
    trainer.fit(module, data)
    assert module.verifier is not None
    assert module.verifier.labels == DFEW.names
    assert {weight.dtype for weight in module.verifier.parameters()} == {torch.float32}
    texts = [one.text for one in data.sentences("train")]
    said = module.verifier.eval().probs(texts).argmax(1)
    right = [DFEW.names[label] in one.labels for label, one in zip(said, data.sentences("train"), strict=True)]
    assert sum(right) / len(right) > 0.5  # it learns: chance is 1/7
    module.export(tmp_path / "export")
    again = EmotionVerifier.from_pretrained(str(tmp_path / "export")).eval()
    assert_close(again.probs(texts), module.verifier.probs(texts), atol=1e-5, rtol=1e-4)
    assert again.calibrated


def test_an_encoders_new_outputs_depend_on_the_seed_alone(tmp_path: Path) -> None:
    roberta(tmp_path / "encoder")
    first, torch_state = EmotionVerifier.from_pretrained(str(tmp_path / "encoder"), DFEW.names), torch.get_rng_state()
    torch.rand(3)
    again = EmotionVerifier.from_pretrained(str(tmp_path / "encoder"), DFEW.names)
    other = EmotionVerifier.from_pretrained(str(tmp_path / "encoder"), DFEW.names, seed=1)
    weights = [one.model.classifier.out_proj.weight for one in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.set_rng_state(torch_state)
    drawn = torch.rand(1)
    torch.set_rng_state(torch_state)
    EmotionVerifier.from_pretrained(str(tmp_path / "encoder"), DFEW.names)
    assert torch.equal(torch.rand(1), drawn)  # the global random state is as it was


def test_an_encoder_is_no_verifier_where_one_is_to_be_used(tmp_path: Path) -> None:
    roberta(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"is no classifier but \['RobertaForMaskedLM'\]: train one from it"):
        EmotionVerifier.from_pretrained(str(tmp_path / "encoder"))


def test_a_missing_sentencepiece_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deberta_v3(tmp_path / "encoder")
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    monkeypatch.setattr("erv_lightning.models.verifier.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package sentencepiece: pip install 'erv-lightning\[deberta\]'"):
        EmotionVerifier.from_pretrained(str(tmp_path / "encoder"), DFEW.names)
