"""`export`: transformers reads what the run had, from whole and from sharded checkpoints, or nothing is there."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_fixtures import TINY, Checkout
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
)

from erv_lightning.checkpoints import load_weights, read_checkpoint
from erv_lightning.commands.export import main
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec, PromptBatch
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import SFTModule
from erv_lightning.rl.logprobs import attention_mask
from erv_lightning.runs import RunFolder

pytest_plugins = ("cli_fixtures",)

LORA = LoraSpec(rank=4, alpha=16)
OVERLAY = "model: {init_args: {lr: 0.05, warmup: 0.0, backbone: {init_args: {lora: {rank: 4, alpha: 16}}}}}\n"
SHORT = ("--trainer.max_steps", "2", "--max_new_tokens", "4")
SENTENCES = ["The corners of the mouth curve up.", "His voice trembles, and so do his hands."]
Export = Callable[..., int]


@pytest.fixture(scope="module")
def runs(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of two steps: an SFT of all weights, one of adapters, a verifier."""
    root = tmp_path_factory.mktemp("exported") / "runs"
    overlay = root.with_name("lora.yaml")
    overlay.write_text(OVERLAY)
    for words in (("sft", "--name", "full"), ("sft", "-c", overlay, "--name", "lora"), ("verifier",)):
        stage, *more = words
        outcome = checkout.run("fit", "-c", f"configs/{stage}.yaml", *TINY, *more, "--runs", root, *SHORT)
        assert outcome.status == 0, outcome.err
    return root


@pytest.fixture
def export(checkout: Checkout) -> Export:
    """The command in the folder that the runs were started from."""

    def run(*words: str | Path) -> int:
        with contextlib.chdir(checkout.folder):
            return main([str(word) for word in words])

    return run


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> RunFolder:
    """The full SFT run, to be changed."""
    run = RunFolder(tmp_path / "runs", "sft", "copy")
    shutil.copytree(runs / "sft" / "full", run.path)
    return run


def of_the_run(checkpoint: Path, lora: LoraSpec | None) -> QwenOmniBackbone:
    """The policy of a run as the run has it: adapters beside the weights."""
    policy = QwenOmniBackbone("tiny", lora=lora)
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    found = policy.load_state_dict({name.removeprefix("policy."): value for name, value in saved.items()}, strict=False)
    assert not found.unexpected_keys
    return policy.eval()


def own_logits(policy: QwenOmniBackbone, batch: PromptBatch) -> Tensor:
    states = policy.hidden(policy.embed(batch), batch.position_ids, attention_mask(batch.attention_mask))
    return policy.logits(states)[batch.attention_mask.bool()]


def hub_logits(folder: Path, batch: PromptBatch) -> Tensor:
    model = AutoModelForMultimodalLM.from_pretrained(folder).eval()
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    logits: Tensor = model(**given, **batch.media).logits
    return logits[batch.attention_mask.bool()]


# -- the same model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "lora"), [("full", None), ("lora", LORA)])
@torch.no_grad()
def test_a_policy_gives_the_runs_logits_under_transformers(
    runs: Path, export: Export, prompts: PromptBatch, tmp_path: Path, name: str, lora: LoraSpec | None
) -> None:
    run = RunFolder(runs, "sft", name)
    assert export(run.path, "--to", tmp_path / "model") == 0

    expected = own_logits(of_the_run(run.best, lora), prompts)
    assert_close(hub_logits(tmp_path / "model", prompts), expected, atol=1e-5, rtol=1e-4)
    assert (expected - own_logits(QwenOmniBackbone("tiny").eval(), prompts)).abs().max() > 0.01  # it has learned
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert processor.tokenizer("<think>A smile.</think>").input_ids
    assert "README.md" in {path.name for path in (tmp_path / "model").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@torch.no_grad()
def test_a_verifier_gives_the_runs_logits_under_transformers(runs: Path, export: Export, tmp_path: Path) -> None:
    run = RunFolder(runs, "verifier", "default")
    assert export(run.path, "--to", tmp_path / "model", "--checkpoint", "best") == 0

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    saved = torch.load(run.best, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[f"verifier.model.{name}"]) for name, value in model.state_dict().items())
    logits = model(**tokenizer(SENTENCES, padding=True, return_tensors="pt")).logits
    assert_close(logits, EmotionVerifier.from_pretrained(str(run.export)).eval()(SENTENCES))  # the run's own export


@torch.no_grad()
def test_last_is_another_checkpoint_than_best_and_stands_in_for_it(
    copy: RunFolder, export: Export, prompts: PromptBatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = torch.load(copy.last, weights_only=True)
    saved["state_dict"] = {name: value + 0.1 for name, value in saved["state_dict"].items()}
    torch.save(saved, copy.last)
    expected = own_logits(of_the_run(copy.last, None), prompts)

    assert export(copy.path, "--to", tmp_path / "last", "--checkpoint", "last") == 0
    assert_close(hub_logits(tmp_path / "last", prompts), expected, atol=1e-4, rtol=1e-4)
    assert export(copy.path, "--to", tmp_path / "best") == 0
    assert (hub_logits(tmp_path / "best", prompts) - expected).abs().max() > 0.01
    copy.best.unlink()  # a run that was stopped before its first validation
    assert export(copy.path, "--to", tmp_path / "stopped") == 0
    assert torch.equal(hub_logits(tmp_path / "stopped", prompts), hub_logits(tmp_path / "last", prompts))
    assert (
        "The weights are those of `last.ckpt` after 2 optimiser steps" in (tmp_path / "stopped/README.md").read_text()
    )
    assert f"the policy of {copy.last}" in capsys.readouterr().out


def test_a_run_is_exported_from_anywhere_and_wherever_its_folder_went(
    runs: Path, copy: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths of a config begin where the run was started."""
    start = tmp_path / "start"
    moved = copy.path.rename(tmp_path / "moved")
    shutil.copytree(runs / "sft" / "full" / "export", start / "mine" / "sft" / "first" / "export")
    settings = yaml.safe_load((moved / "config.yaml").read_text())
    settings |= {"runs": "mine"}
    settings["model"]["init_args"]["backbone"]["init_args"]["pretrained"] = "mine/sft/first/export"
    (moved / "config.yaml").write_text(yaml.safe_dump(settings))

    monkeypatch.chdir(start)
    assert main([str(moved), "--to", "from-here"]) == 0
    shutil.move(moved, start / "mine" / "sft" / "second")
    monkeypatch.chdir(start / "mine" / "sft" / "second")
    assert main([".", "--to", str(start / "from-within")]) == 0
    assert (
        load_file(start / "from-here/model.safetensors").keys()
        == load_file(start / "from-within/model.safetensors").keys()
    )
    assert "# erv-sft-moved\n" in (start / "from-here" / "README.md").read_text()


# -- sharded ------------------------------------------------------------------------------------------------------

SHARDED = """
import os
import sys
import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from erv_lightning.models import QwenOmniBackbone


class Sharded(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.policy = None

    def configure_model(self):
        if self.policy is None:
            self.policy = QwenOmniBackbone("tiny")
            fully_shard(self.policy.model, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, index):
        return self.policy.model(input_ids=batch).logits.square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


folder = sys.argv[1]
module = Sharded()
strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
trainer = L.Trainer(
    accelerator="cpu", devices=2, strategy=strategy, max_steps=2, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
)
trainer.fit(module, torch.utils.data.DataLoader(torch.arange(100, 164).view(8, 8), batch_size=2))
trainer.save_checkpoint(f"{folder}/sharded.ckpt")
whole = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if trainer.is_global_zero:
    torch.save(whole, f"{folder}/whole.pt")
torch.distributed.barrier()
print("all is written", flush=True)
os._exit(0)  # torch's threads may still run when the interpreter ends as usual, and abort it now and then
"""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy's checkpoint as Lightning writes it in two processes with FSDP2, and whole.pt with the same weights."""
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "script.py").write_text(SHARDED)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", folder / "script.py", folder]
    with subprocess.Popen(
        [sys.executable, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            said = "time is up"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-4000:]
    assert len(list((folder / "sharded.ckpt").glob("*.distcp"))) == 2
    return folder


def test_a_sharded_checkpoint_reads_as_the_whole_model(sharded: Path) -> None:
    checkpoint = read_checkpoint(sharded / "sharded.ckpt")
    whole = torch.load(sharded / "whole.pt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert checkpoint["state_dict"].keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in checkpoint["state_dict"].items())
    assert read_checkpoint(sharded / "sharded.ckpt", weights=False) == {**checkpoint, "state_dict": {}}


@torch.no_grad()
def test_a_sharded_checkpoint_is_exported(
    copy: RunFolder, export: Export, sharded: Path, prompts: PromptBatch, tmp_path: Path
) -> None:
    copy.best.unlink()
    shutil.copytree(sharded / "sharded.ckpt", copy.best)
    assert export(copy.path, "--to", tmp_path / "model") == 0

    policy = QwenOmniBackbone("tiny")
    whole = torch.load(sharded / "whole.pt", weights_only=True)
    policy.load_state_dict({name.removeprefix("policy."): value for name, value in whole.items()})
    assert_close(hub_logits(tmp_path / "model", prompts), own_logits(policy.eval(), prompts), atol=1e-5, rtol=1e-4)


# -- all or nothing -----------------------------------------------------------------------------------------------


def test_an_export_that_fails_leaves_nothing_or_what_was_there(
    runs: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: SFTModule, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{")
        raise OSError("disk full")

    run = runs / "sft" / "full"
    assert export(run, "--to", tmp_path / "kept") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    monkeypatch.setattr(SFTModule, "export", fails)
    for name, more in (("new", ()), ("kept", ("--overwrite",))):
        with pytest.raises(OSError, match="disk full"):
            export(run, "--to", tmp_path / name, *more)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == before


def test_only_a_model_is_replaced_and_only_when_asked(copy: RunFolder, export: Export, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()  # an empty folder is no loss
    assert export(copy.path, "--to", model) == 0
    with pytest.raises(ValueError, match="holds a model already: add --overwrite"):
        export(copy.path, "--to", model)
    (model / "stale.bin").touch()
    assert export(copy.path, "--to", model, "--overwrite") == 0
    assert not (model / "stale.bin").exists()
    for other in (copy.path, tmp_path):
        with pytest.raises(ValueError, match="holds other things than a model"):
            export(copy.path, "--to", other, "--overwrite")
    assert copy.last.is_file()


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda run: shutil.rmtree(run.path), (), "no run folder"),
        (lambda run: run.config.unlink(), (), "is no run that could be exported"),
        (lambda run: shutil.rmtree(run.checkpoints), (), "neither best.ckpt nor last.ckpt"),
        (lambda run: None, ("--checkpoint", "other.ckpt"), "no checkpoint other.ckpt: give best, last or the path"),
        (lambda run: run.best.write_bytes(run.best.read_bytes()[:5000]), (), "best.ckpt is cut off or damaged"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    copy: RunFolder, export: Export, tmp_path: Path, change: Callable[[RunFolder], Any], words: Any, message: str
) -> None:
    change(copy)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export(copy.path, "--to", tmp_path / "model", *words)
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_of_another_model_is_refused_with_the_names_that_do_not_fit(
    runs: Path, export: Export, tmp_path: Path
) -> None:
    other = runs / "sft" / "lora" / "checkpoints" / "best.ckpt"
    with pytest.raises(ValueError, match=r"policy\.model\.\S+, \S+, \S+ and \d+ more missing; .*lora_A.* unknown"):
        export(runs / "sft" / "full", "--to", tmp_path / "model", "--checkpoint", other)


# -- checkpoints that are none ------------------------------------------------------------------------------------


class Program:
    """What a pickle can do to its reader."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def written(folder: Path, content: Any, **how: Any) -> Path:
    torch.save(content, folder / "file.ckpt", **how)
    return folder / "file.ckpt"


def bytes_in(folder: Path, content: bytes) -> Path:
    (folder / "file.ckpt").write_bytes(content)
    return folder / "file.ckpt"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.ckpt", "none.ckpt does not exist"),
        (lambda folder: bytes_in(folder, b""), "is empty"),
        (lambda folder: bytes_in(folder, b"epoch,step\n0,1\n"), "is no checkpoint"),
        (
            lambda folder: bytes_in(folder, written(folder, {"state_dict": {}}).read_bytes()[:300]),
            "is cut off or damaged",
        ),
        (lambda folder: bytes_in(folder, pickle.dumps(Program(folder / "ran"))), "is no checkpoint"),
        (lambda folder: written(folder, Program(folder / "ran")), "objects that run code"),
        (lambda folder: written(folder, nn.Linear(2, 2)), "objects that run code"),
        (lambda folder: written(folder, {"model": {"weight": torch.zeros(2)}}), "it holds no 'state_dict'"),
        (lambda folder: written(folder, [1, 2]), "it holds no 'state_dict'"),
        (lambda folder: folder, "a folder without '.metadata'"),
    ],
)
def test_what_is_no_checkpoint_gets_one_line_and_runs_nothing(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(make(tmp_path))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("__1_0.distcp", lambda content: content[: len(content) // 2], "is cut off or damaged"),
        ("__1_0.distcp", None, "is cut off or damaged"),
        ("meta.pt", None, "meta.pt is missing"),
        (".metadata", lambda content: content[:500], "its index cannot be read"),
        (".metadata", lambda content: pickle.dumps(Program(Path("ran"))), r"posix.system has no place in it"),
    ],
)
def test_a_damaged_sharded_checkpoint_gets_one_line_and_runs_nothing(
    sharded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    change: Callable[[bytes], bytes] | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sharded.ckpt"
    shutil.copytree(sharded / "sharded.ckpt", folder)
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(folder)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_change_nothing() -> None:
    module = nn.Linear(2, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrong: list[tuple[Mapping[str, Tensor], str]] = [
        ({"weight": torch.ones(3, 2)}, "bias missing"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(3), "head": torch.ones(1)}, "head unknown"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(3)}, r"weight \[2, 2\], not \[3, 2\] of another shape"),
    ]
    for weights, message in wrong:
        with pytest.raises(ValueError, match=f"run.ckpt is of another model than the run's config: .*{message}"):
            load_weights(module, weights, Path("run.ckpt"))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
