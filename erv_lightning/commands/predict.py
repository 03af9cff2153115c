"""`python -m erv_lightning predict CLIP|FOLDER … --model MODEL`: emotion and explanation of any clips."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from erv_lightning.commands.arguments import count
from erv_lightning.data.readers.found import found_clips
from erv_lightning.errors import ConfigError
from erv_lightning.labels import get_label_space

if TYPE_CHECKING:
    from erv_lightning.answering import Answers, Policy
    from erv_lightning.data.sample import Sample

_PROGRAM = "python -m erv_lightning predict"
_AFTER = (
    f"examples: {_PROGRAM} clips/ --model runs/grpo/default;  {_PROGRAM} one.mp4 --model models/erv --num-frames 16. "
    f"The test split of a config instead:  {_PROGRAM} -c configs/grpo.yaml"
)


def main(argv: list[str]) -> int:
    """Answers what is not yet answered; returns the exit code, 1 where a clip could not be used."""
    args = _parser().parse_args(argv)
    found = found_clips(args.clips, args.question or "", args.label_space or "dfew")  # before the heavy imports
    done = _answered(args.out)
    left = [sample for sample in found if sample.id not in done]
    console = Console(highlight=False)
    if len(left) < len(found):
        console.print(f"{len(found) - len(left)} of {len(found)} clips stand in {args.out} already", style="dim")
    if not left:
        return 0
    from erv_lightning.answering import answers, read_policy

    policy = read_policy(args.model, args.device, _overrides(args))
    left = [_asked(sample, policy, args) for sample in left]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    bad = 0
    with args.out.open("a", encoding="utf-8") as file, _bar(len(left)) as bar:
        task = bar.add_task("clips", total=len(left))
        for batch in answers(policy, left, batch_size=args.batch_size, workers=args.workers, seed=args.seed):
            for row in batch.rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            _show(batch, console)
            bad += len(batch.bad)
            bar.advance(task, len(batch.rows) + len(batch.bad))
    console.print(f"wrote {args.out}", markup=False, soft_wrap=True)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Names the emotion in clips and explains it, clip by clip. Clips that stand in the file already "
        "are not answered again: after Ctrl-C the same command goes on.",
        epilog=_AFTER,
    )
    add = parser.add_argument
    add("clips", nargs="+", type=Path, metavar="CLIP|FOLDER", help="media files, or folders of them, searched whole")
    add("--model", required=True, metavar="MODEL", help="a run folder, an exported model, or a hub id")
    add("--out", type=Path, default=Path("predictions.jsonl"), metavar="FILE", help="rows (default: %(default)s)")
    own = "(default: the run's own, else "
    add("--question", metavar="TEXT", help=f"what is asked {own}the paper's)")
    add("--label-space", metavar="NAME", help=f"emotions that answers are looked up in {own}dfew)")
    add("--num-frames", type=count, metavar="N", help=f"of a clip {own}8)")
    add("--max-new-tokens", type=count, metavar="N", help=f"of a response {own}512)")
    add("--temperature", type=float, metavar="T", help=f"0: the likeliest response {own}0.3)")
    add("--top-p", type=float, metavar="P", help=f"nucleus {own}0.9)")
    add("--modalities", nargs="+", choices=("video", "audio"), help=f"what is read {own}both)")
    add("--batch-size", type=count, default=8, metavar="N", help="clips at a time (default: %(default)s)")
    add("--workers", type=int, default=0, metavar="N", help="processes that decode (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the responses (default: %(default)s)")
    add("--device", metavar="NAME", help="e.g. cuda:1 (default: a GPU where there is one)")
    return parser


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    names = ("num_frames", "modalities", "max_new_tokens", "temperature", "top_p")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _asked(sample: Sample, policy: Policy, args: argparse.Namespace) -> Sample:
    """The sample with the model's own question and emotions where the command line names none."""
    from dataclasses import replace

    space = get_label_space(args.label_space or policy.label_space)
    return replace(sample, question=args.question or policy.question, label_space=space.name)


def _answered(path: Path) -> set[str]:
    """Ids of the clips that a file has; a torn last line, as a killed process leaves it, is cut off.

    Raises:
        ConfigError: a file that holds other things.
    """
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        done = {str(json.loads(line)["id"]) for line in whole.decode("utf-8").splitlines() if line.strip()}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no file of predictions: name another one with --out") from error
    if len(whole) < len(content):
        path.write_bytes(whole)
    return done


def _bar(total: int) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=total < 2 or not console.is_terminal, transient=True)


def _show(batch: Answers, console: Console) -> None:
    for row in batch.rows:
        heard = " (no audio track: silence was heard)" if row["id"] in batch.silent else ""
        known = row["answer_id"] >= 0
        answer = row["answer"] or "no answer"
        console.print(Text(row["clip"], style="bold").append(heard, style="dim"), soft_wrap=True)
        console.print(Text("  ").append(answer, style="bold green" if known else "bold yellow"), soft_wrap=True)
        console.print(Text(row["explanation"] or row["response"]), style="dim" if not known else "", soft_wrap=True)
    for one in batch.bad:
        print(f"left out: {one.reason}", file=sys.stderr)


def is_for_clips(argv: Sequence[str]) -> bool:
    """Whether these are words for this verb, and not for the prediction of a config's test split."""
    return bool(argv) and (not argv[0].startswith("-") or "--model" in argv or argv[0] in {"-h", "--help"})
