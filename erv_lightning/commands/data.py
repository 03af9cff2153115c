"""`python -m erv_lightning data check|export|optimize -c CONFIG …`: a data set before and beside its runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from erv_lightning import config_files
from erv_lightning.commands.arguments import count

if TYPE_CHECKING:
    from erv_lightning.data.datamodule import ClipDataModule
    from erv_lightning.data.sample import Sample


def main(argv: list[str]) -> int:
    """Runs one of the sub-verbs; what argparse does not know goes to the config parser."""
    args, rest = _parser().parse_known_args(argv)
    files = config_files.read(config_files.paths_in(rest))
    config_files.stage_of(files)  # before the heavy imports
    from erv_lightning.configured import read

    parts = read(rest, files)
    data, settings = parts.data, parts.settings
    data.source.prepare()
    if args.what == "check":
        return _check(args, data, settings)
    return (_export if args.what == "export" else _optimize)(args, data)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m erv_lightning data",
        description="Looks at the data of a config, or writes it in another form. Configs and settings as for fit.",
        epilog="example: python -m erv_lightning data check -c configs/sft.yaml -c configs/data/jsonl.yaml",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="what", required=True)
    check = verbs.add_parser("check", help="counts, clips that cannot be used, lengths, leaks", allow_abbrev=False)
    check.add_argument("--json", action="store_true", help="one JSON object on standard output, for scripts")
    check.add_argument("--no-media", action="store_true", help="read the annotations only")
    check.add_argument("--limit", type=count, metavar="N", help="look at the first N clips of each split only")
    check.add_argument("--workers", type=int, default=_cores(), metavar="N", help="processes (default: %(default)s)")
    export = verbs.add_parser("export", help="write a split as .jsonl or .parquet", allow_abbrev=False)
    export.add_argument("--split", required=True, help="e.g. train")
    export.add_argument("--to", type=Path, required=True, metavar="FILE")
    optimize = verbs.add_parser("optimize", help="write LitData shards for object storage", allow_abbrev=False)
    optimize.add_argument("--to", type=Path, required=True, metavar="DIR")
    optimize.add_argument("--shard-mb", type=int, default=64, metavar="N", help="of a shard (default: %(default)s)")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _splits(data: ClipDataModule) -> list[str]:
    """The splits of the config, each once."""
    return list(dict.fromkeys(data.splits.values()))


def _readable(data: ClipDataModule) -> tuple[dict[str, list[Sample]], str]:
    """The samples of each split. `fit` needs no test split, so one that is not there is said and nothing more."""
    train, val, test = data.splits["train"], data.splits["val"], data.splits["test"]
    samples = {split: data.source.samples(split) for split in dict.fromkeys((train, val))}
    if test in samples:
        return samples, ""
    try:
        samples[test] = data.source.samples(test)
    except ValueError as error:
        return samples, f"no test split: {error}"
    return samples, ""


def _check(args: argparse.Namespace, data: ClipDataModule, settings: Any) -> int:
    """Exit status 1 where something would break a run."""
    from erv_lightning.configured import prompt_encoder
    from erv_lightning.data.check import Prober, check
    from erv_lightning.report.data_check import print_report

    samples, absent = _readable(data)
    probes: dict[str, Sequence[Any]] = {}
    why = ""
    if data.unit == "clips" and not args.no_media:
        try:
            encoder = prompt_encoder(settings)
        except ValueError as error:
            encoder, why = None, f"prompts were not measured: {error}"
        rules = data.rules if encoder is None else data.rules.read_by(encoder)
        prober = Prober(rules, data.source.media, encoder)
        console = Console(stderr=True)
        for split, those in samples.items():
            looked_at = list(islice(those, args.limit))
            found = prober.all(looked_at, args.workers)
            probes[split] = list(track(found, f"{split}: {len(looked_at)} clips", len(looked_at), console=console))
    report = check(data.source, {str(part): split for part, split in data.splits.items()}, samples, probes, data.rules)
    report["problems"] += _needs(settings, data, samples)
    report["warnings"] += [line for line in (why, absent) if line]
    if args.json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        print_report(report, Console(highlight=False))
    return 1 if report["problems"] else 0


def _needs(settings: Any, data: ClipDataModule, samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """What a stage asks of its samples beyond their clips."""
    from erv_lightning.data.datamodule import DEFAULT_BATCH, labelled_sentences

    stage, train, val = settings.stage, data.splits["train"], data.splits["val"]
    problems = []
    silent = [sample.record or sample.id for sample in samples[train] if not sample.explanation]
    if stage == "sft" and silent:
        problems.append(f"{train}: {len(silent)} samples without an explanation, which SFT learns: {silent[0]}, …")
    if stage == "verifier":
        return [
            f"{split}: no labelled sentences, which the verifier learns"
            for split in (train, val)
            if not labelled_sentences(samples[split])
        ]
    batch = settings.prompts_per_step if stage == "grpo" else data.batch_size or DEFAULT_BATCH
    if 0 < len(samples[train]) < batch:
        problems.append(f"{train}: {len(samples[train])} samples, fewer than one batch of {batch}")
    return problems


def _export(args: argparse.Namespace, data: ClipDataModule) -> int:
    from erv_lightning.data.export import write_samples

    samples = data.source.samples(args.split)
    write_samples(samples, args.to)
    print(f"wrote {len(samples)} samples to {args.to}", file=sys.stderr)
    return 0


def _optimize(args: argparse.Namespace, data: ClipDataModule) -> int:
    from rich.progress import Progress

    from erv_lightning.data.shards import write_shards

    if args.shard_mb < 1:
        raise ValueError(f"--shard-mb is {args.shard_mb}, it must be at least 1")
    samples = {split: data.source.samples(split) for split in _splits(data)}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task(f"writing {args.to}", total=sum(map(len, samples.values())))
        write_shards(samples, args.to, args.shard_mb, lambda: progress.advance(bar))
    print(f"wrote {', '.join(samples)} to {args.to}: read it with configs/data/shards.yaml", file=sys.stderr)
    return 0
