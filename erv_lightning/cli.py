"""`fit`, `validate`, `test` and `predict`: a LightningCLI whose runs have their own folders and readable errors."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from erv_lightning import config_files
from erv_lightning.callbacks.bad_clips import BadClipLog
from erv_lightning.callbacks.export import ExportBest
from erv_lightning.callbacks.guard import NonFiniteGuard
from erv_lightning.callbacks.interrupt import SaveOnInterrupt
from erv_lightning.callbacks.last import LastCheckpoint
from erv_lightning.callbacks.learning import LearningWatch
from erv_lightning.callbacks.predictions import PredictionWriter
from erv_lightning.callbacks.resume_state import LINES, ResumeState, cut_logs
from erv_lightning.callbacks.rollouts import RolloutLog
from erv_lightning.callbacks.throughput import DecodeClock
from erv_lightning.callbacks.verifier_report import VerifierReport
from erv_lightning.callbacks.wandb_rollouts import WandbRollouts, continue_wandb
from erv_lightning.checkpoint_io import AtomicCheckpointIO
from erv_lightning.checkpoints import read_checkpoint
from erv_lightning.csv_log import RunCSVLogger
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import JsonlClips, SyntheticClips
from erv_lightning.errors import ConfigError, ParseError, explain_parse_error
from erv_lightning.judges import VerifierJudge
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.modules import GRPOModule, SFTModule, VerifierModule
from erv_lightning.prerequisites import DEFAULT_BASE, train_missing
from erv_lightning.rl.reward_terms import ExplanationRule
from erv_lightning.rl.rollout import Sampling
from erv_lightning.runs import RunFolder

# What tells a good checkpoint, by stage.
BEST_BY = {"sft": "val/fcr", "grpo": "val/fcr", "verifier": "val/f1_macro"}

# Settings of a run that belong to neither trainer, model nor data: default and meaning.
_SETTINGS = {
    "name": ("default", "name of the run within its stage"),
    "runs": ("runs", "folder that holds the runs of all stages"),
    "base": (DEFAULT_BASE, "model that SFT starts from: tiny, a folder or a hub id"),
    "from_sft": ("default", "name of the SFT run that GRPO starts from"),
    "from_verifier": ("default", "name of the verifier run that GRPO uses"),
    "sft_config": ("", "what a missing SFT run is trained with; by default sft.yaml beside this config"),
    "verifier_config": ("", "what a missing verifier run is trained with; by default verifier.yaml beside this config"),
}

# Numbers that configs refer to, so that one overlay can serve several stages: default and meaning.
_COUNTS = {
    "max_new_tokens": (512, "longest response, in tokens"),
    "batch_size": (None, "SFT and verifier: samples in memory at a time, on each device"),
    "accumulate": (1, "SFT: such batches to a step"),
    "prompts_per_step": (16, "GRPO: prompts to a rollout, all processes together"),
    "micro_batch_prompts": (None, "GRPO: prompts in memory at a time during the update; null: all"),
}


class _NoAdvertisements(logging.Filter):
    """Drops Lightning's tips for other products of its maker."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "try installing [lit" not in record.getMessage()


class _Parser(LightningArgumentParser):
    """A parser that answers mistakes with one line instead of a usage page."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ParseError(message) from ex


def _known_keys() -> set[str]:
    """Every setting's name, for suggestions."""
    modules = (L.Trainer, ClipDataModule, SFTModule, VerifierModule, GRPOModule)
    parts = (QwenOmniBackbone, LoraSpec, SyntheticClips, JsonlClips, VerifierJudge, Sampling, ExplanationRule)
    names = {name for taker in (*modules, *parts) for name in inspect.signature(taker).parameters}
    return names | set(_SETTINGS) | set(_COUNTS) | {"stage", "seed_everything", "ckpt_path"}


class ErvCLI(LightningCLI):
    """The four Lightning verbs over one of the three stages."""

    def __init__(self, argv: list[str], files: list[config_files.ConfigFile], stage: str) -> None:
        self.files, self.stage = files, stage
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        super().__init__(
            L.LightningModule,
            ClipDataModule,
            subclass_mode_model=True,
            save_config_callback=None,
            parser_class=_Parser,
            parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={"use_distributed_sampler": False, "log_every_n_steps": 1},
            args=argv,
        )

    # -- settings --------------------------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Stage, name and what several parts of a config refer to."""
        parser.add_argument("--stage", type=Literal["sft", "verifier", "grpo"], help="which stage this config is for")
        for name, (count, meaning) in _COUNTS.items():
            parser.add_argument(f"--{name}", type=int | None, default=count, help=meaning)
        for name, (default, meaning) in _SETTINGS.items():
            parser.add_argument(f"--{name}", type=str, default=default, help=meaning)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    @property
    def settings(self) -> Namespace:
        """The parsed settings of the chosen verb."""
        settings: Namespace = self.config[self.config.subcommand]
        return settings

    def before_instantiate_classes(self) -> None:
        """Trains the stages that the run builds on, and finds its checkpoint, before any model is loaded."""
        settings = self.settings
        self.check_settings()
        self.run = RunFolder(Path(settings.runs), self.stage, settings.name)
        if self.subcommand == "fit":
            rank_zero_only(train_missing)(settings, self.stage, self.files)
        elif settings.get("ckpt_path") is None:
            if not self.run.best.exists():
                raise ConfigError(
                    f"{self.run.best} does not exist: train this run first (fit with the same configs and name), or "
                    "give --ckpt_path"
                )
            settings["ckpt_path"] = str(self.run.best)
        if self.subcommand == "fit" and settings.get("ckpt_path") is None and self.run.last.exists() and _requeued():
            settings["ckpt_path"] = "last"
        if settings.get("ckpt_path") == "last":
            settings["ckpt_path"] = str(self.run.last)
            if not self.run.last.exists():
                raise ConfigError(
                    f"{self.run.last} does not exist: there is nothing to go on with, leave --ckpt_path out"
                )
        settings["weights_only"] = True  # a checkpoint is data: none of ours needs code to be read
        checkpoint = settings.get("ckpt_path")
        if checkpoint is not None and "://" not in checkpoint and not Path(checkpoint).exists():
            raise ConfigError(f"checkpoint {checkpoint!r} does not exist: correct --ckpt_path, or leave it out")
        saved = read_checkpoint(Path(checkpoint), weights=False) if checkpoint and "://" not in checkpoint else {}
        self.log_lines: dict[str, int] = saved.get(LINES, {})
        if saved and self.subcommand == "fit" and "loops" not in saved:
            raise ConfigError(f"{checkpoint} holds weights alone: a run cannot go on from it")

    def check_settings(self) -> None:
        """What no single file or type can tell.

        Raises:
            ConfigError: another stage on the command line than in the files, or a name that is no folder's.
        """
        settings = self.settings
        if settings.stage != self.stage:
            raise ConfigError(
                f"--stage {settings.stage}, but the config files are for stage {self.stage!r}: give "
                f"-c configs/{settings.stage}.yaml instead"
            )
        if self.stage == "grpo":
            self._check_grpo()
        for key in ("name", "from_sft", "from_verifier"):
            value = settings[key]
            if value in {"", ".", ".."} or Path(value).name != value:
                raise ConfigError(f"{key} {value!r} names no run: it is one folder's name, without '/'")

    def _check_grpo(self) -> None:
        """GRPO takes its optimiser steps itself.

        Raises:
            ConfigError: a trainer setting that would have no say.
        """
        trainer = self.settings.trainer
        instead: dict[str, str] = {}
        if trainer.gradient_clip_val is not None:
            instead["trainer.gradient_clip_val"] = "model.init_args.max_grad_norm"
        if trainer.accumulate_grad_batches != 1:
            instead["trainer.accumulate_grad_batches"] = "micro_batch_prompts"
        if self.settings.data.batch_size is not None:
            instead["data.batch_size"] = "prompts_per_step (all processes together)"
        if instead:
            raise ConfigError(
                "; ".join(f"GRPO does not know {key}: set {other} instead" for key, other in instead.items())
            )

    @rank_zero_only
    def before_fit(self) -> None:
        """Makes room for the run, once everything it needs has been built without an error."""
        settings = self.settings
        if settings.trainer.fast_dev_run:  # leaves no files
            return
        if settings.get("ckpt_path") is None:
            self.aside = aside = self.run.set_aside()
            self.began = True
            if aside is not None:
                rank_zero_info(
                    f"an earlier run {self.run.path} was moved to {aside}; to go on with it instead, name it and add "
                    "--ckpt_path last"
                )
        self.run.path.mkdir(parents=True, exist_ok=True)
        dump = self.parser.dump(self.config, skip_none=False, format="yaml")
        resolved: dict[str, Any] = yaml.safe_load(dump)[self.config.subcommand]
        for how in ("config", "ckpt_path", "weights_only"):  # say how the run was started, not what it is
            resolved.pop(how, None)
        self.run.config.write_text(
            f"# resolved; run it again: python -m erv_lightning fit -c {self.run.config}\n"
            + yaml.safe_dump(resolved, sort_keys=False),
            encoding="utf-8",
        )
        for logger in self.trainer.loggers[1:]:  # beside the CSV file, whose folder has config.yaml
            # Under one key: a W&B sweep locks the keys it sets itself.
            logger.log_hyperparams({"config": resolved})

    def put_back(self) -> None:
        """Undoes `before_fit` for a run that failed before its first step: nothing was made, nothing is moved."""
        if not getattr(self, "began", False) or self.trainer.global_step > 0 or not self.trainer.is_global_zero:
            return
        shutil.rmtree(self.run.path, ignore_errors=True)
        if self.aside is not None:
            self.aside.rename(self.run.path)
            rank_zero_info(f"the earlier run is back in {self.run.path}")

    # -- building --------------------------------------------------------------------------------------------

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer with the run folder's logger and callbacks beside the user's own."""
        trainer = self._get(self.config_init, "trainer")
        # A resumed run goes on in the files it finds.
        resumed = self.subcommand == "fit" and self.settings.get("ckpt_path") is not None
        if resumed and self.run.holds(self.settings.ckpt_path):
            rank_zero_only(cut_logs)(self.run.path, self.log_lines)
        csv = RunCSVLogger(self.run.path, resume=resumed)
        chosen = trainer.get("logger")
        others = chosen if isinstance(chosen, list) else [chosen] if isinstance(chosen, Logger) else []
        if resumed and self.run.holds(self.settings.ckpt_path):
            continue_wandb(others, self.run.path)
        loggers = [csv, *others] if self.subcommand == "fit" else False
        last = LastCheckpoint(self.run.last)
        self.interrupt = SaveOnInterrupt(last)
        best = ModelCheckpoint(
            dirpath=self.run.checkpoints,
            filename="best",
            monitor=BEST_BY[self.stage],
            mode="max",
            enable_version_counter=False,
        )
        callbacks: list[L.Callback] = [
            ResumeState(self.run.path),  # first: other callbacks log as a step begins
            best,
            last,
            LearningRateMonitor("step"),
            NonFiniteGuard(self.run.path / "bad_batches"),
            RolloutLog(self.run.path / "rollouts.jsonl"),
            LearningWatch(),
            DecodeClock(),
            BadClipLog(self.run.path / "bad_clips.jsonl"),
            self.interrupt,  # after the logs: it may end the run
            PredictionWriter(self.run),
            ExportBest(self.run),
        ]
        if self.subcommand != "fit" or trainer.get("fast_dev_run"):
            callbacks = [PredictionWriter(self.run)]
        if self.subcommand == "test" and self.stage == "verifier" and not trainer.get("fast_dev_run"):
            callbacks.append(VerifierReport(self.run))
        if self.subcommand != "fit" and not trainer.get("fast_dev_run"):
            callbacks.append(BadClipLog(self.run.path / "bad_clips.jsonl"))
        own = trainer.get("callbacks") or []
        own = own if isinstance(own, list) else [own]
        if self.subcommand == "fit" and not any(isinstance(one, WandbRollouts) for one in own):
            callbacks.append(WandbRollouts())
        return super().instantiate_trainer(
            logger=loggers,
            callbacks=[*callbacks, *own],
            plugins=[AtomicCheckpointIO(), *(trainer.get("plugins") or [])],
            default_root_dir=str(self.run.path),
            **kwargs,
        )


def _requeued() -> bool:
    """Whether SLURM has started this job before: the same command then goes on with the run."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


@contextmanager
def explained(files: list[config_files.ConfigFile]) -> Iterator[None]:
    """Turns the parser's pages into one line."""
    try:
        yield
    except ParseError as error:
        contents = {file.path: file.content for file in files}
        raise ConfigError(explain_parse_error(str(error), _known_keys(), contents)) from error
    except ValueError as error:
        # A class that refuses its settings: the parser hides what it said among much else.
        if "Union subtypes" in str(error):
            raise ConfigError(explain_parse_error(str(error), _known_keys(), {})) from error
        raise


def main(argv: list[str], files: list[config_files.ConfigFile], stage: str) -> int:
    """Runs one of the four verbs over checked config files; returns the exit status."""
    for package in ("lightning.pytorch.utilities", "lightning.fabric.utilities", "lightning_utilities.core"):
        logging.getLogger(f"{package}.rank_zero").addFilter(_NoAdvertisements())
    cli: ErvCLI = ErvCLI.__new__(ErvCLI)  # at hand below even when its constructor, which runs the verb, raises
    with explained(files):
        try:
            cli.__init__(argv, files, stage)  # type: ignore[misc]
        except ParseError:
            raise
        except MisconfigurationException as error:  # Lightning's word for a trainer that cannot be
            cli.put_back()
            raise ConfigError(f"trainer (accelerator, devices, strategy): {error}") from error
        except Exception:
            cli.put_back()
            raise
        except SystemExit as stop:
            cli.put_back()  # stopped before the first step
            heard = getattr(getattr(cli, "interrupt", None), "signal", None)
            if heard is None and isinstance(stop.__context__, KeyboardInterrupt):
                heard = signal.SIGINT
            return int(stop.code or 0) if heard is None else 128 + heard  # as a shell has it
    return 0
