"""The tables of the step benchmark, from its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---:|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _pair_cells(row: dict[str, Any]) -> list[str]:
    spread = f"{min(row['ratios']):.1f}–{max(row['ratios']):.1f}"
    memory = [f"{row[f'{side}_last']['peak_gb']:.2f}" for side in ("ours", "theirs")]
    return [f"{row['ours_s']:.2f}", f"{row['theirs_s']:.2f}", f"**{row['ratio']:.1f}×**", spread, *memory]


def markdown(result: dict[str, Any]) -> str:
    """The page."""
    pair_head = ["ratio", "its range", "ours, GB", "other, GB"]
    counts = result["task"]
    task = f"{counts['prompts']} prompts, G = {counts['group']}, {counts['new_tokens']} new tokens"
    lines = [f"`{result['command']}`, {result['machine']}.", ""]
    lines += ["## Against TRL", ""]
    lines += [
        f"A Qwen2 of 4 layers of width 128, float32, {task}; one whole step of each in turn: sampling, rewards,",
        "loss, backward, optimiser. Medians; the ratio is the median over the pairs. GB: each process's peak resident",
        "memory. Tokens and GFLOP: what has to go through the decoder, counted (`benchmarks/work.py`).",
        "TRL is as released, with settings chosen for its speed (`benchmarks/trl_step.py`): about 20,000 tokens in a",
        "pass, gradients accumulated.",
        "",
    ]
    lines += _table(
        ["prompt", "ours, s", "TRL, s", *pair_head[:3], "TRL, GB", "tokens, ours", "TRL", "GFLOP, ours", "TRL"],
        [
            [
                str(row["prompt"]),
                *_pair_cells(row),
                f"{row['ours_tokens']:,}",
                f"{row['theirs_tokens']:,}",
                f"{row['ours_gflop']:.1f}",
                f"{row['theirs_gflop']:.1f}",
            ]
            for row in result.get("trl", [])
        ],
    )
    lines += ["## The omni policy against the naive step", ""]
    lines += [
        f"The built-in Qwen2.5-Omni, float32, {task}. The naive step repeats prompt, pixels and audio for each",
        "completion.",
        "",
    ]
    lines += _table(
        ["clip", "prompt", "ours, s", "naive, s", *pair_head[:3], "naive, GB"],
        [
            [
                f"{row['frames']} × {row['size']}², {row['seconds']:.0f} s",
                str(row["prompt"]),
                *_pair_cells(row),
            ]
            for row in result.get("omni", [])
        ],
    )
    lines += ["## How time grows", ""]
    lines += [
        f"The engine alone on the text model, {counts['prompts']} prompts, {counts['new_tokens']} new tokens; beside",
        "it, how many times the tokens and operations a repeated prompt would take.",
        "",
    ]
    lines += _table(
        ["prompt", "G", "sampling, s", "update, s", "tokens", "GFLOP", "repeated: tokens", "GFLOP"],
        [
            [
                str(row["prompt"]),
                str(row["group"]),
                f"{row['sampling_s']:.2f}",
                f"{row['update_s']:.2f}",
                f"{row['ours_tokens']:,}",
                f"{row['ours_gflop']:.1f}",
                f"{row['theirs_tokens'] / row['ours_tokens']:.1f}×",
                f"{row['theirs_gflop'] / row['ours_gflop']:.1f}×",
            ]
            for row in result.get("scaling", [])
        ],
    )
    lines += ["## On CUDA", "", *_cuda_lines(result["cuda_task"], result.get("cuda", []))]
    return "\n".join(lines) + "\n"


def _cuda_lines(task: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    what = [
        "A Qwen2.5-Omni thinker of about 0.5 billion text parameters with random weights, bfloat16,",
        f"{task['prompts']} clips of {task['frames']} frames of {task['size']}² and {task['seconds']:.0f} s of audio,",
        f"G = {task['group']}, {task['new_tokens']} new tokens.",
    ]
    shown = {
        "ours_s": "step, ours, s",
        "theirs_s": "step, naive, s",
        "ratio": "ratio",
        "sampled_tokens_per_s": "sampling, tokens/s",
        "decode_limit_s": "sampling at the limit of memory bandwidth, s",
        "decode_to_limit": "sampling, times that limit",
        "update_utilisation": "update, share of the device's bfloat16 operations",
        "ours_peak_memory_gb": "peak memory, ours, GB",
        "naive_peak_memory_gb": "peak memory, naive, GB",
    }
    row = rows[0] if rows else {}
    cells = [[name, f"{row[key]:.3g}" if key in row else "not measured"] for key, name in shown.items()]
    return [*what, "", *_table(["", row.get("device_name", "no GPU at hand")], cells)]
