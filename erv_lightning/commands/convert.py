"""`python -m erv_lightning convert humanomni PATH --out DIR`: a published checkpoint in the layout of transformers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from erv_lightning.errors import ConfigError

if TYPE_CHECKING:
    from erv_lightning.models.humanomni.conversion import Conversion

_PROGRAM = "python -m erv_lightning convert"


def main(argv: list[str]) -> int:
    """Converts; returns the exit code."""
    args = _parser().parse_args(argv)
    named = {"vision": args.vision_tower, "audio": args.audio_tower, "question": args.question_encoder}
    towers = {name: folder for name, folder in named.items() if folder is not None}
    # What can be said before anything heavy is imported.
    if not (args.path / "config.json").is_file():
        raise FileNotFoundError(f"{args.path / 'config.json'} does not exist: {args.path} is no published checkpoint")
    _check_target(args.out, args.force, [args.path, *towers.values()])

    from erv_lightning.callbacks.export import write_model
    from erv_lightning.models.humanomni.conversion import Conversion

    conversion = Conversion(args.path, towers)
    write_model(conversion.save, _card(conversion, args.path), args.out)
    say = Console(highlight=False)
    say.print(f"wrote {args.out}: {len(conversion.names)} tensors of {args.path}", markup=False, soft_wrap=True)
    if conversion.dropped:
        say.print(f"left behind, unused: {', '.join(conversion.dropped)}", markup=False, soft_wrap=True)
    for what in conversion.missing:
        say.print(f"no processor, it lacks {what}", markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Writes a published HumanOmni, R1-Omni or ERV checkpoint as transformers reads it: "
        "configuration, weights, and the processor where its parts are found. Nothing is downloaded.",
        epilog=f"example: {_PROGRAM} humanomni R1-Omni-0.5B --vision-tower siglip-base-patch16-224 "
        "--audio-tower whisper-large-v3 --question-encoder bert-base-uncased --out models/r1-omni",
    )
    add = parser.add_argument
    add("family", choices=("humanomni",), help="what it is a checkpoint of")
    add("path", type=Path, metavar="PATH", help="its folder: config.json, and weights as safetensors or .bin")
    where = "(default: the folder that PATH's config.json names)"
    add("--vision-tower", type=Path, metavar="DIR", help=f"folder of its SigLIP; the configuration is enough {where}")
    add("--audio-tower", type=Path, metavar="DIR", help=f"folder of its Whisper; the configuration is enough {where}")
    add(
        "--question-encoder",
        type=Path,
        metavar="DIR",
        help="folder of its BERT, configuration and tokenizer (default: bert-base-uncased, here or in PATH)",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write; it is complete or not there")
    add("--force", action="store_true", help="replace whatever DIR holds")
    return parser


def _check_target(folder: Path, force: bool, inputs: list[Path]) -> None:
    """Whether a folder may be written.

    Raises:
        ConfigError: it holds something, or is around what is read.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give another folder with --out")
    here = folder.resolve()
    for path in (*inputs, Path.cwd()):
        if here in (path.resolve(), *path.resolve().parents):
            raise ConfigError(f"{folder} would take the place of {path}: give another folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise ConfigError(f"{folder} is not empty: add --force to replace it, or give another folder with --out")


def _card(conversion: Conversion, source: Path) -> str:
    """The folder's README.md."""
    config = conversion.config
    return f"""---
library_name: transformers
---

# {source.name}, converted

The weights of the published HumanOmni checkpoint `{source.name}`, unchanged, under the names of erv_lightning; its
license and terms go on to apply.

```python
from erv_lightning.models.humanomni import HumanOmniForConditionalGeneration

model = HumanOmniForConditionalGeneration.from_pretrained("…")
```

| | |
|---|---|
| language model | Qwen2, hidden width {config.text_config.hidden_size}, {config.text_config.num_hidden_layers} layers |
| projector | {config.projector_type} |
| tokens of a clip | video {config.video_tokens} ({config.num_frames} frames), audio {config.audio_tokens} |
"""
