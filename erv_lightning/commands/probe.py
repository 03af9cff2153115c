"""`evaluate --probe-verifier`: which reward and which judge takes gamed explanations for good ones."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from erv_lightning.errors import ConfigError
from erv_lightning.judges.spec import make_judge
from erv_lightning.labels import get_label_space
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.probes import run_probes
from erv_lightning.report.probes import Probing, facts, markdown, tables, to_json, verdicts

DEFAULT = Path("runs/verifier/default/export")


def probe(args: argparse.Namespace, command: str) -> int:
    """Runs the probes that `evaluate` was asked for; returns the exit code."""
    space = get_label_space(args.label_space)
    judges = [make_judge(spec) for spec in args.judge]
    place = args.verifier or (str(DEFAULT) if DEFAULT.is_dir() else "")
    if not place and not judges:
        raise ConfigError(f"{DEFAULT} does not exist: give --verifier FOLDER, or --judge JUDGE, or both")
    verifier = EmotionVerifier.from_pretrained(place).requires_grad_(False).eval() if place else None
    probing = Probing(command, place, space.name, tuple(run_probes(space, verifier, judges)))
    console = Console(highlight=False)
    for table in tables(probing):
        console.print(table)
    for line in verdicts(probing):
        console.print(line, markup=False)
    console.print(facts(probing), style="dim", markup=False)
    _write(probing, args, console)
    return 0


def _write(probing: Probing, args: argparse.Namespace, console: Console) -> None:
    out = args.out or Path("runs/probes")
    out.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(to_json(probing), indent=2, ensure_ascii=False) + "\n"
    (out / "probes.md").write_text(markdown(probing), encoding="utf-8")
    for path in (out / "probes.json", *([args.json] if args.json else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(numbers, encoding="utf-8")
    for name in ("probes.md", "probes.json"):
        console.print(f"wrote {out / name}", markup=False, soft_wrap=True)
