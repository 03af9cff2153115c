"""What a config describes, built without being run: its data, its module without weights, its prompts."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, cast

from jsonargparse import Namespace

from erv_lightning import config_files
from erv_lightning.callbacks.export import Stage
from erv_lightning.cli import ErvCLI, explained
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.models.backbone import Backbone


@dataclass(frozen=True)
class Configured:
    """The parts of a run.

    Attributes:
        data: the data module.
        module: the stage, whose network no trainer has built yet.
        settings: everything, resolved.
    """

    data: ClipDataModule
    module: Stage
    settings: Namespace


class _PartsCLI(ErvCLI):
    """The same settings, of which only the parts are built; nothing runs."""

    def before_instantiate_classes(self) -> None:
        """Trains nothing first."""
        self.check_settings()

    def instantiate_classes(self) -> None:
        """No trainer."""
        self.config_init = self.parser.instantiate_classes(self.config)

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


def read(argv: list[str], files: list[config_files.ConfigFile]) -> Configured:
    """The parts of a run that is not run.

    Args:
        argv: words of the command line, as for `fit`.
        files: the config files among them.

    Raises:
        ConfigError: settings that do not fit.
    """
    with explained(files):
        cli = _PartsCLI(["fit", *argv], files, config_files.stage_of(files))
    data, module = cli._get(cli.config_init, "data"), cli._get(cli.config_init, "model")
    return Configured(cast("ClipDataModule", data), cast("Stage", module), cli.settings)


def prompt_encoder(settings: Namespace) -> Any:
    """What makes the prompts of a run, without weights.

    Raises:
        ValueError: the policy's processor is not there.
    """
    made, init_args = backbone_of(settings)
    return made.prompt_encoder(**init_args)


def backbone_of(settings: Namespace) -> tuple[type[Backbone], dict[str, Any]]:
    """The class of a run's policy, and its arguments."""
    backbone = settings.model.init_args.backbone
    module, _, name = backbone.class_path.rpartition(".")
    return getattr(importlib.import_module(module), name), dict(backbone.get("init_args") or {})
