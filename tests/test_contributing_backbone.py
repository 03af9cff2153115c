"""The backbone that CONTRIBUTING.md shows is a whole one: it answers as its model does, trains and comes back."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from cli_fixtures import TINY, Checkout, losses
from torch.testing import assert_close
from transformers import Qwen2Config, Qwen2ForCausalLM

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.judges import GrammarJudge
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.models.tiny import CHAT_TEMPLATE, policy_tokenizer
from erv_lightning.modules import GRPOModule
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.rollout import Sampling, rollout

pytest_plugins = ("cli_fixtures",)

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## How to add a backbone\n")[1].split("\n## ")[0]
(CODE,), (OVERLAY,) = (re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL) for kind in ("python", "yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A language model of two layers."""
    tokenizer = policy_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                **sizes,
                vocab_size=len(tokenizer),
                num_key_value_heads=2,
                initializer_range=0.2,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    path = tmp_path_factory.mktemp("text")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class, from a file where the page has it put."""
    (tmp_path / "backbones").mkdir()
    (tmp_path / "backbones" / "text_only.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("backbones.text_only").TextBackbone
    for name in ("backbones", "backbones.text_only"):
        sys.modules.pop(name, None)


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
def test_it_says_what_its_model_says(made: Any, folder: str, shared: bool) -> None:
    policy = made(folder).eval()
    questions = ["Which emotion?", "Which emotion is the most obvious to you in this clip, and why?"]
    batch = policy.collate(["a", "b"], [policy.encode_prompt(question, None) for question in questions])
    drawn = rollout(policy, policy.embed(batch), batch, 1, Sampling(8, temperature=0.0), prefix_sharing=shared)
    logp, _ = completion_logps(policy, policy.embed(batch), batch, drawn.token_ids, drawn.mask, prefix_sharing=shared)
    for row, prompt in enumerate(policy.split(batch)):
        ids = prompt.input_ids[None]
        said = policy.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=8,
            do_sample=False,
            suppress_tokens=policy.unsayable_ids.tolist(),
        )
        assert drawn.token_ids[row][drawn.mask[row]].tolist() == said[0, ids.shape[1] :].tolist()
        own = policy.model(said).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
        expected = own.gather(-1, said[0, ids.shape[1] :, None]).squeeze(-1)
        assert_close(logp[row][drawn.mask[row]], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)])
def test_it_trains_by_grpo_and_comes_back(
    made: Any,
    folder: str,
    lora: LoraSpec | None,
    rl_data: Callable[..., ClipDataModule],
    grpo_trainer: Callable[..., L.Trainer],
    tmp_path: Path,
) -> None:
    module = GRPOModule(
        lambda: made(folder, lora=lora),
        GrammarJudge(),
        rewards={"format": 1.0, "accuracy": 1.0},
        prompts_per_step=2,
        generations_per_prompt=2,
        sampling=Sampling(6),
        evaluation=Sampling(4),
    )
    grpo_trainer(max_steps=2).fit(module, rl_data())
    module.export(tmp_path / "export")
    again = made(str(tmp_path / "export"))
    for name, value in made(folder).model.state_dict().items():
        assert_close(again.model.state_dict()[name], value, atol=1e-3, rtol=1e-2)  # as it was: nothing was earned


@pytest.mark.usefixtures("made")
def test_the_overlay_trains_it(checkout: Checkout, folder: str, tmp_path: Path) -> None:
    overlay = tmp_path / "text_only.yaml"
    settings = yaml.safe_load(OVERLAY) | {"base": folder}
    assert settings.pop("data") == {"modalities": ["text"]}  # the built-in clips have no subtitles
    overlay.write_text(yaml.safe_dump(settings))
    words = ("-c", overlay, "--runs", tmp_path / "runs", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0")
    outcome = checkout.run("fit", "-c", "configs/sft.yaml", *TINY, *words)
    assert outcome.status == 0, outcome.err
    assert len(losses(tmp_path / "runs" / "sft" / "default")) == 1
