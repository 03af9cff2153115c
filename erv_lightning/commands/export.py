"""`python -m erv_lightning export RUN --to DIR`: a run's model as transformers reads it, and its model card."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from erv_lightning import config_files
from erv_lightning.errors import ConfigError
from erv_lightning.runs import RunFolder

if TYPE_CHECKING:
    from erv_lightning.callbacks.export import Stage
    from erv_lightning.data.datamodule import ClipDataModule

_PROGRAM = "python -m erv_lightning export"


def main(argv: list[str]) -> int:
    """Exports; returns the exit code."""
    args = _parser().parse_args(argv)
    # What can be said before anything heavy is imported.
    run = _run(args.run)
    path = _checkpoint(run, args.checkpoint)
    _check_target(args.to, args.overwrite)
    files = config_files.read([str(run.config)])
    stage = config_files.stage_of(files)

    from erv_lightning.callbacks.export import write_model
    from erv_lightning.checkpoints import WEIGHTS, load_weights, read_checkpoint
    from erv_lightning.model_card import Weights, model_card

    checkpoint = read_checkpoint(path)
    here = RunFolder(Path(os.path.abspath(run.root)), run.stage, run.name)
    with contextlib.chdir(_started_in(here, files[0])):
        module, card = _module(here, files), model_card(here, Weights.of(path.absolute(), checkpoint))
    load_weights(module, checkpoint[WEIGHTS], path)
    write_model(module.export, card, args.to)
    Console(highlight=False).print(
        f"wrote {args.to}: the {'verifier' if stage == 'verifier' else 'policy'} of {path}, and its card, README.md",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _started_in(run: RunFolder, config: config_files.ConfigFile) -> Path:
    """The folder that a run was started in, where the relative paths of its config begin; this one if nobody can tell.

    Args:
        run: with an absolute path.
        config: its own.
    """
    root = Path(str(config.content.get("runs", "")))
    end, stages = (*root.parts, str(config.content["stage"])), run.path.parent.parts
    return Path(*stages[: -len(end)]) if stages[-len(end) :] == end and not root.is_absolute() else Path.cwd()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Writes the model of a run, finished or not, as transformers reads it, adapters merged, with a "
        "model card that says what it was trained on, how, and how good it is.",
        epilog=f"example: {_PROGRAM} runs/grpo/default --to models/erv",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder, e.g. runs/grpo/default")
    add("--to", type=Path, required=True, metavar="DIR", help="folder to write; it is complete or not there")
    add(
        "--checkpoint",
        default="",
        metavar="WHICH",
        help="best, last, or a checkpoint's path, sharded ones too (default: best, or last where there is no best yet)",
    )
    add("--overwrite", action="store_true", help="replace an exported model that is there already")
    return parser


def _run(path: Path) -> RunFolder:
    """The run in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder {path}")
    if not (path / "config.yaml").is_file():
        raise FileNotFoundError(f"{path / 'config.yaml'} does not exist: {path} is no run that could be exported")
    # As the user wrote it, for messages; "." and the like by their full names.
    given = path if len(path.parts) > 2 and ".." not in path.parts else path.resolve()
    return RunFolder(Path(*given.parts[:-2]), given.parts[-2], given.parts[-1])


def _checkpoint(run: RunFolder, which: str) -> Path:
    """The checkpoint to export.

    Raises:
        FileNotFoundError: it does not exist.
    """
    named = {"best": run.best, "last": run.last}
    if not which:
        there = [path for path in named.values() if path.exists()]
        if not there:
            raise FileNotFoundError(f"{run.checkpoints} holds neither best.ckpt nor last.ckpt: train the run first")
        return there[0]
    path = named.get(which) or Path(which)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}: give best, last or the path of one with --checkpoint")
    return path


def _check_target(folder: Path, overwrite: bool) -> None:
    """Whether a folder may be written.

    Raises:
        ConfigError: it holds something, and is no model that may be replaced.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give another folder with --to")
    if not any(folder.iterdir()):
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds other things than a model, and stays as it is: give another folder with --to"
        )
    if not overwrite:
        raise ConfigError(
            f"{folder} holds a model already: add --overwrite to replace it, or give another folder with --to"
        )


# -- the module of a run, without a trainer ------------------------------------------------------------------------


class _Data:
    """As much of a trainer as the verifier asks for."""

    def __init__(self, datamodule: ClipDataModule) -> None:
        self.datamodule = datamodule


def _module(run: RunFolder, files: list[config_files.ConfigFile]) -> Stage:
    """The network of a run's config, with the weights that it started from.

    Raises:
        ValueError: what it started from is not there.
    """
    from erv_lightning.configured import read
    from erv_lightning.modules import VerifierModule

    parts = read(["-c", str(run.config)], files)
    data, module = parts.data, parts.module
    if isinstance(module, VerifierModule):
        trainer: Any = _Data(data)  # the built-in verifier makes its tokenizer from the training sentences
        module._trainer = trainer  # the setter keeps a weak reference
        module.setup("validate")
    else:
        module.configure_model()
    return module.eval()
