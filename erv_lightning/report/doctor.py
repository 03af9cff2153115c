"""What `doctor` found, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def text(report: Mapping[str, Any]) -> str:
    """Batches, tokens, memory and time, then warnings and problems, which come last to be seen."""
    lines = [*_batches(report)]
    if "memory" in report:
        lines += [*_tokens(report), *_memory(report), *_time(report)]
    found = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines += ["", f"Versions: {found}"]
    lines += [f"warning: {line}" for line in report["warnings"]]
    lines += [f"problem: {line}" for line in report["problems"]]
    if not report["problems"]:
        lines.append("nothing here would keep the run from working")
    return "\n".join(lines)


def _batches(report: Mapping[str, Any]) -> Iterator[str]:
    b, grpo = report["batches"], report["stage"] == "grpo"
    yield f"Batches ({report['stage']}, {report['devices']} × {report['device']['name']}, {report['strategy']})"
    what = "prompts" if grpo else "sentences" if report["stage"] == "verifier" else "samples"
    yield f"  batch: {b['samples_per_batch']} {what}, {b['per_rank']} a device"
    if grpo:
        yield (
            f"  completions: {b['completions_per_batch']}, {b['completions_per_rank']} a device, in "
            f"{b['micro_batches']} micro-batches"
        )
    yield f"  epoch: {b['batches_per_epoch']} batches, {b['steps_per_epoch']} optimiser steps"
    yield f"  run: {b['steps']} optimiser steps, {b['batches']} batches, {b['epochs']:.1f} epochs"
    yield f"  validation: {b['validations']} times {b['val_batches']} batches a device"


def _tokens(report: Mapping[str, Any]) -> Iterator[str]:
    t = report["tokens"]
    source = f"the longest of {t['measured']} clips" if t["measured"] else "from the settings, no clip was read"
    yield ""
    yield f"Tokens ({source})"
    yield f"  prompt: {t['prompt']}, of which media {t['media']}; completion: at most {t['completion']}"
    yield f"  packed row of a micro-batch: {t['packed_row']}"


def _memory(report: Mapping[str, Any]) -> Iterator[str]:
    m, sizes = report["memory"], report["sizes"]
    yield ""
    yield f"Memory of a device, GB (estimated; sizes from {sizes['assumed']})"
    yield f"  parameters: {sizes['parameters'] / 1e6:.1f} M, trained {sizes['trained'] / 1e6:.1f} M"
    for name, value in m["parts"].items():
        if value:
            yield f"  {name:20} {value / 1e9:10.3f}"
    for name, value in m["phases"].items():
        yield f"  peak of {name:12} {value / 1e9:10.3f}"
    yield f"  {'peak of all':20} {m['peak'] / 1e9:10.3f}   of {m['room'] / 1e9:.1f} usable"
    others = ", ".join(f"{way} {value / 1e9:.3f}" for way, value in report["with_other_strategies"].items())
    yield f"  peak by strategy: {others}"
    others = ", ".join(f"{way} {value / 1e9:.3f}" for way, value in report["with_other_settings"].items())
    yield f"  peak with: {others}"
    yield from (f"  fits with {way}" for way in report["ways_out"])


def _time(report: Mapping[str, Any]) -> Iterator[str]:
    seconds, a, device = report["seconds"], report["assumptions"], report["device"]
    yield ""
    limits = f"{device['operations'] / 1e12:g} Tflop/s, {device['bandwidth'] / 1e12:g} TB/s"
    yield f"Time (estimated for {device['name']}: {limits})"
    parts = ", ".join(f"{name} {value:.2g} s" for name, value in seconds.items() if name != "step")
    run = seconds["step"] * report["batches"]["batches"] / 3600
    yield f"  step: {seconds['step']:.3g} s ({parts}); run: {run:.2f} h"
    yield (
        f"  assumed: {a['compute']:.0%} of the operations, {a['bandwidth']:.0%} of the bandwidth, {a['link']:.0%} of "
        f"the links ({device['link'] / 1e9:g} GB/s in a node, {a['between_nodes'] / 1e9:g} between nodes)"
    )
    yield "  not counted: decoding clips, rewards, judge, validation"
