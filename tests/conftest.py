"""What all tests share: small built-in clips, the tiny models, and a process left as it was found."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub client is imported
os.environ["WANDB_MODE"] = "offline"
os.environ["MPLBACKEND"] = "Agg"

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist

from erv_lightning.data.datamodule import ClipDataModule, labelled_sentences
from erv_lightning.data.encode import write_mp4
from erv_lightning.data.media import MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.sample import ClipSource, Sample
from erv_lightning.judges import GrammarJudge
from erv_lightning.labels import DFEW
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec, PromptBatch
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import GRPOModule, SFTModule
from erv_lightning.rl.rollout import Sampling

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it puts into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the models are tiny: a second thread mostly waits, and spins while others need the core

DECODE: dict[str, Any] = {"num_frames": 4, "frame_size": (56, 56)}  # as in the shipped configs


@pytest.fixture(autouse=True)
def tidy_process() -> Iterator[None]:
    """Starts from one random state; puts back the environment, Ctrl-C and random states; ends process groups."""
    environment, interrupt = dict(os.environ), signal.getsignal(signal.SIGINT)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, interrupt)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


# -- data ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> SyntheticClips:
    """56 real files, made once. Tests only read them."""
    source = SyntheticClips(root=str(tmp_path_factory.mktemp("clips")), train=28, rl=14, val=7, test=7)
    source.prepare()
    return source


@pytest.fixture
def make_data(clips: SyntheticClips) -> Callable[..., ClipDataModule]:
    """A data module over the small clips, or over another source."""

    def make(**settings: Any) -> ClipDataModule:
        defaults = {"source": clips, "batch_size": 4, "eval_batch_size": 4, **DECODE}
        return ClipDataModule(**{**defaults, **settings})

    return make


class ListedClips(ClipSource):
    """Samples that a test wrote down itself, by split."""

    def __init__(self, **splits: list[Sample]) -> None:
        self.splits = splits

    def samples(self, split: str) -> list[Sample]:
        return self.splits[split]


@pytest.fixture
def listed() -> type[ListedClips]:
    """A source of samples that the test names: `listed(train=[…], val=[…])`."""
    return ListedClips


@pytest.fixture
def mute_clip(tmp_path: Path) -> Path:
    """A clip of one second without an audio track."""
    pictures = np.random.default_rng(0).integers(0, 255, (12, 56, 56, 3)).astype(np.uint8)
    write_mp4(tmp_path / "mute.mp4", pictures, None, 12, 16000)
    return tmp_path / "mute.mp4"


@pytest.fixture(scope="session")
def prompts(backbone: QwenOmniBackbone, clips: SyntheticClips) -> PromptBatch:
    """Three prompts of different length, so that two are padded."""
    questions = ["Which emotion?", "Which emotion is the most obvious to you in this clip, and why?", "What?"]
    encoded = []
    for sample, question in zip(clips.samples("val"), questions, strict=False):
        clip = load_clip(sample.clip, MediaSettings(num_frames=4, frame_size=(56, 56)))
        encoded.append(backbone.encode_prompt(question, clip))
    return backbone.collate(["first", "second", "third"], encoded)


# -- models -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def backbone() -> QwenOmniBackbone:
    """The tiny policy with random weights, for tests that do not change it."""
    return QwenOmniBackbone("tiny").eval().requires_grad_(False)


@dataclass
class Taught:
    """A policy after a short cold start."""

    folder: Path
    losses: list[float]


@pytest.fixture(scope="session")
def taught(clips: SyntheticClips, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """The tiny policy after some steps on one batch, exported: it writes well-formed responses and ends them."""
    torch.manual_seed(0)
    losses: list[float] = []

    class Losses(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    module = SFTModule(lambda: QwenOmniBackbone("tiny"), GrammarJudge(), lr=3e-3, schedule="constant")
    data = ClipDataModule(clips, batch_size=7, keep_in_memory=True, **DECODE)
    root = tmp_path_factory.mktemp("taught")
    quiet_trainer(root, max_steps=45, overfit_batches=1, callbacks=[Losses()]).fit(module, data)
    module.export(root / "export")
    return Taught(root / "export", losses)


@pytest.fixture(scope="session")
def verifier_folder(clips: SyntheticClips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny verifier after a moment of training."""
    torch.manual_seed(0)
    sentences = labelled_sentences(clips.samples("train"))
    verifier = EmotionVerifier.tiny([sentence.text for sentence in sentences], DFEW.names)
    optimizer = torch.optim.AdamW(verifier.parameters(), lr=5e-3)
    targets = torch.zeros(len(sentences), len(DFEW.names))
    for row, sentence in enumerate(sentences):
        targets[row, [DFEW.id(label) for label in sentence.labels]] = 1.0
    for _ in range(30):
        logits = verifier([sentence.text for sentence in sentences])
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("verifier") / "export"
    verifier.save(folder)
    return folder


# -- training -----------------------------------------------------------------------------------------------------


def quiet_trainer(root: Path, **settings: Any) -> L.Trainer:
    """A trainer on the CPU that writes nothing of its own and does not validate unless told to."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": str(root),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "gradient_clip_val": 1.0,
    }
    return L.Trainer(**{**defaults, **settings})


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., L.Trainer]:
    """`quiet_trainer` in the test's own folder."""
    return lambda **settings: quiet_trainer(tmp_path, **settings)


# -- GRPO ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_grpo(taught: Taught) -> Callable[..., GRPOModule]:
    """GRPO from the taught policy with frozen towers: 4 completions for each of 4 prompts, rewards without verifier."""

    def make(
        lora: LoraSpec | None = None, freeze: tuple[Any, ...] = ("vision", "audio"), **settings: Any
    ) -> GRPOModule:
        defaults: dict[str, Any] = {
            "rewards": {"format": 1.0, "accuracy": 1.0},
            "prompts_per_step": 4,
            "generations_per_prompt": 4,
            "sampling": Sampling(60),
            "evaluation": Sampling(4),
            "lr": 1e-3,
            "schedule": "constant",
        }
        policy = lambda: QwenOmniBackbone(str(taught.folder), lora=lora, freeze=freeze)  # noqa: E731
        return GRPOModule(policy, GrammarJudge(), **{**defaults, **settings})

    return make


@pytest.fixture
def rl_data(make_data: Callable[..., ClipDataModule]) -> Callable[..., ClipDataModule]:
    """The clips of GRPO, in the batches that the module asks for."""
    return lambda **settings: make_data(**{"train_split": "rl", "batch_size": None, **settings})


@pytest.fixture
def grpo_trainer(make_trainer: Callable[..., L.Trainer]) -> Callable[..., L.Trainer]:
    """`make_trainer` without clipping, which GRPO does itself."""
    return lambda **settings: make_trainer(**{"gradient_clip_val": None, **settings})
