"""`python -m erv_lightning explain "text"`: what the verifier thinks of an explanation, sentence by sentence."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from erv_lightning.errors import ConfigError
from erv_lightning.labels import get_label_space

_PROGRAM = "python -m erv_lightning explain"
DEFAULT = Path("runs/verifier/default/export")


def main(argv: list[str]) -> int:
    """Prints the verdicts; returns the exit code."""
    args = _parser().parse_args(argv)
    space = get_label_space(args.label_space)
    texts = list(_texts(args))  # before the heavy imports
    place = args.verifier or str(DEFAULT)
    if args.verifier is None and not DEFAULT.is_dir():
        raise ConfigError(
            f"{DEFAULT} does not exist: train it (fit -c configs/verifier.yaml), or give --verifier FOLDER or a hub id"
        )
    from erv_lightning.explaining import explain
    from erv_lightning.models.verifier import EmotionVerifier
    from erv_lightning.report.explanation import rendered, to_json
    from erv_lightning.rl.reward_terms import ExplanationRule

    verifier = EmotionVerifier.from_pretrained(place).requires_grad_(False).eval()
    rule = ExplanationRule(args.threshold, args.max_labels, args.calibrated)
    console = Console(highlight=False)
    for name, text in texts:
        verdict = explain(text, verifier, space, label=args.label, rule=rule)
        if args.json:
            print(json.dumps({"name": name, **to_json(verdict)}, ensure_ascii=False))
            continue
        if name:
            console.print(name, style="bold", markup=False)
        console.print(rendered(verdict, space))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Shows which emotions the verifier reads in each sentence of an explanation.",
        epilog=f'example: {_PROGRAM} "He smiles broadly. The voice trembles." --label happy',
    )
    add = parser.add_argument
    add("text", nargs="?", help="the explanation; - reads standard input")
    add("--file", type=Path, metavar="FILE", help="a text file, or rows with `explanation` (.jsonl)")
    add("--verifier", metavar="FOLDER", help=f"folder or hub id (default: {DEFAULT})")
    add("--label-space", default="dfew", metavar="NAME", help="labels that matter (default: %(default)s)")
    add("--label", metavar="NAME", help="the true emotion: also shows what each explanation reward pays")
    add("--threshold", type=float, default=0.1, help="least probability of a label (default: %(default)s, the paper's)")
    add("--max-labels", type=int, default=2, metavar="N", help="of one sentence (default: %(default)s, the paper's)")
    add("--calibrated", action="store_true", help="probabilities and thresholds as fitted on validation sentences")
    add("--json", action="store_true", help="one JSON object an explanation, for scripts")
    return parser


def _texts(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Names and explanations; one explanation alone needs no name."""
    if (args.text is None) == (args.file is None):
        raise ConfigError("give one of the two: the explanation, or --file FILE")
    if args.text is not None:
        yield "", sys.stdin.read() if args.text == "-" else args.text
        return
    if not args.file.is_file():
        raise FileNotFoundError(f"no file {str(args.file)!r}: correct --file")
    content = args.file.read_text(encoding="utf-8-sig")
    if args.file.suffix != ".jsonl":
        yield "", content
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _row(line, f"{args.file}:{number}")


def _row(line: str, place: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        return f"{row.get('id', place)}", str(row["explanation"])
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{place}: no JSON object with `explanation`") from error
