"""`fit`, `validate`, `test` and `predict`: a LightningCLI whose runs have their own folders and readable errors."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from erv_lightning import config_files
from erv_lightning.callbacks.export import ExportBest
from erv_lightning.callbacks.guard import NonFiniteGuard
from erv_lightning.callbacks.interrupt import SaveOnInterrupt
from erv_lightning.callbacks.predictions import PredictionWriter
from erv_lightning.callbacks.rollouts import RolloutLog
from erv_lightning.csv_log import RunCSVLogger
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.errors import ConfigError, ParseError, explain_parse_error
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.modules import GRPOModule, SFTModule, VerifierModule
from erv_lightning.runs import RunFolder

# What tells a good checkpoint, by stage.
BEST_BY = {"sft": "val/fcr", "grpo": "val/fcr", "verifier": "val/f1_macro"}

# Overlays that a stage hands on to the stages it builds on, by config group.
HANDED_ON = {"sft": {"model", "data", "judge", "trainer"}, "verifier": {"data", "trainer"}}


# Settings of a run that belong to neither trainer, model nor data: default and meaning.
_SETTINGS = {
    "name": ("default", "name of the run within its stage"),
    "runs": ("runs", "folder that holds the runs of all stages"),
    "base": ("tiny", "model that SFT starts from: tiny, a folder or a hub id"),
    "from_sft": ("default", "name of the SFT run that GRPO starts from"),
    "from_verifier": ("default", "name of the verifier run that GRPO uses"),
}


class _Parser(LightningArgumentParser):
    """A parser that answers mistakes with one line instead of a usage page."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ParseError(message) from ex


def _known_keys() -> set[str]:
    """Every setting's name, for suggestions."""
    takers = (L.Trainer, ClipDataModule, SFTModule, VerifierModule, GRPOModule, QwenOmniBackbone)
    return {name for taker in takers for name in inspect.signature(taker).parameters} | set(_SETTINGS)


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
        parser.add_argument("--name", type=str, default="default", help="name of the run within its stage")
        parser.add_argument("--runs", type=str, default="runs", help="folder that holds the runs of all stages")
        parser.add_argument(
            "--base", type=str, default="tiny", help="model that SFT starts from: tiny, folder or hub id"
        )
        parser.add_argument("--from_sft", type=str, default="default", help="name of the SFT run that GRPO starts from")
        parser.add_argument("--from_verifier", type=str, default="default", help="name of the verifier run GRPO uses")
        parser.add_argument("--max_new_tokens", type=int, default=512, help="longest response, in tokens")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    @property
    def settings(self) -> Namespace:
        """The parsed settings of the chosen verb."""
        return self.config[self.config.subcommand]

    def before_instantiate_classes(self) -> None:
        """Makes room for the run and trains the stages it builds on, before any model is loaded."""
        settings = self.settings
        self.run = RunFolder(Path(settings.runs), self.stage, settings.name)
        if self.subcommand == "fit":
            self._train_what_is_missing()
            self._open_run_folder()
        elif settings.get("ckpt_path") is None:
            if not self.run.best.is_file():
                raise ConfigError(
                    f"{self.run.best} does not exist: train this run first (fit with the same configs and name), or "
                    "give --ckpt_path"
                )
            settings["ckpt_path"] = str(self.run.best)
        if settings.get("ckpt_path") == "last":
            settings["ckpt_path"] = str(self.run.last)

    @rank_zero_only
    def _open_run_folder(self) -> None:
        settings = self.settings
        if settings.trainer.fast_dev_run:  # leaves no files
            return
        if settings.get("ckpt_path") is None:
            aside = self.run.set_aside()
            if aside is not None:
                rank_zero_info(
                    f"an earlier run {self.run.path} was moved to {aside}; to go on with it instead, name it and add "
                    "--ckpt_path last"
                )
        self.run.path.mkdir(parents=True, exist_ok=True)
        dump = self.parser.dump(self.config, skip_none=False, format="yaml")
        resolved: dict[str, Any] = yaml.safe_load(dump)[self.config.subcommand]
        resolved.pop("config", None)
        self.run.config.write_text(
            f"# resolved; run it again: python -m erv_lightning fit -c {self.run.config}\n"
            + yaml.safe_dump(resolved, sort_keys=False)
        )

    @rank_zero_only
    def _train_what_is_missing(self) -> None:
        """Runs `fit` of an earlier stage for every export in the settings that does not exist yet."""
        for path in sorted(_strings(self.settings.model)):
            run = RunFolder.of_export(path)
            if run is None or run.export.is_dir():
                continue
            config = Path(self.files[0].path).parent / f"{run.stage}.yaml"
            if run.stage == self.stage or not config.is_file():
                raise ConfigError(f"{path} does not exist, and there is no {config} to make it with")
            overlays = [file.path for file in self.files if file.group in HANDED_ON[run.stage]]
            given = [word for file in (str(config), *overlays) for word in ("-c", file)]
            command = [
                sys.executable,
                "-m",
                "erv_lightning",
                "fit",
                *given,
                "--name",
                run.name,
                "--runs",
                str(run.root),
            ]
            rank_zero_info(f"{run.export} is not there yet: training it first with\n  {' '.join(command[1:])}")
            status = subprocess.run(command, check=False).returncode
            if status != 0:
                raise ConfigError(
                    f"the {run.stage} stage did not finish (exit status {status}), so this one cannot start"
                )

    # -- building --------------------------------------------------------------------------------------------

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer with the run folder's logger and callbacks beside the user's own."""
        trainer = self._get(self.config_init, "trainer")
        # A resumed run goes on in the files it finds.
        resumed = self.subcommand == "fit" and self.settings.get("ckpt_path") is not None
        csv = RunCSVLogger(self.run.path, resume=resumed)
        chosen = trainer.get("logger")
        others = chosen if isinstance(chosen, list) else [chosen] if isinstance(chosen, Logger) else []
        loggers = [csv, *others] if self.subcommand == "fit" else False
        self.interrupt = SaveOnInterrupt(self.run.last)
        best = ModelCheckpoint(
            dirpath=self.run.checkpoints,
            filename="best",
            monitor=BEST_BY[self.stage],
            mode="max",
            save_last=True,
            enable_version_counter=False,
        )
        callbacks: list[L.Callback] = [
            best,
            LearningRateMonitor("step"),
            NonFiniteGuard(self.run.path / "bad_batches"),
            self.interrupt,
            RolloutLog(self.run.path / "rollouts.jsonl"),
            PredictionWriter(self.run),
            ExportBest(self.run),
        ]
        if self.subcommand != "fit" or trainer.get("fast_dev_run"):
            callbacks = [PredictionWriter(self.run)]
        own = trainer.get("callbacks") or []
        return super().instantiate_trainer(
            logger=loggers, callbacks=[*own, *callbacks], default_root_dir=str(self.run.path), **kwargs
        )


def _strings(value: Any) -> set[str]:
    """Every string in nested settings."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return set().union(*(_strings(item) for item in value.values())) if value else set()
    if isinstance(value, (list, tuple)):
        return set().union(*(_strings(item) for item in value)) if value else set()
    return set()


def main(argv: list[str]) -> int:
    """Runs one of the four verbs; returns the exit status."""
    if not {"-h", "--help"} & set(argv):
        files = config_files.read(config_files.paths_in(argv))
        stage = config_files.stage_of(files)
    else:
        files, stage = [], "sft"
    cli: ErvCLI = ErvCLI.__new__(ErvCLI)  # at hand below even when its constructor, which runs the verb, raises
    try:
        cli.__init__(argv, files, stage)  # type: ignore[misc]
    except ParseError as error:
        contents = {file.path: file.content for file in files}
        raise ConfigError(explain_parse_error(str(error), _known_keys(), contents)) from error
    except SystemExit as stop:
        interrupt = getattr(cli, "interrupt", None)
        return 130 if interrupt is not None and interrupt.interrupted else int(stop.code or 0)
    return 0
