"""One whole GRPO step, side by side: this project, TRL on the same text model, and the naive way on the omni policy.

    python -m benchmarks.grpo_step [--only trl omni scaling cuda]

Both sides take their steps in turn, A B A B, each in a process of its own, on the same prompts; the table gives medians
and the median of the pairs' ratios. Results: benchmarks/results/grpo_step.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from rich.progress import Progress

from benchmarks import omni_step, text_task
from benchmarks.grpo_step_table import markdown
from benchmarks.sides import Side, in_turn
from benchmarks.text_policy import TextPolicy
from benchmarks.work import Decoder, Work, decode_bytes, repeated, shared
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.rollout import Sampling, rollout

Tick = Callable[[], None]
RESULTS = Path(__file__).parent / "results"
PROMPTS = 4
# prompt tokens → counted pairs
TRL_PAIRS = {64: 7, 512: 7, 2048: 5, 4096: 3}
# frames, pixels, seconds of audio → counted pairs
CLIPS = {(4, 56, 1.0): 7, (8, 112, 5.0): 7, (16, 224, 5.0): 5}
GROUPS, GROUP_PROMPT = (1, 4, 8, 16, 32), 512
LENGTHS = (64, 256, 1024, 2048, 4096)
CUDA_TASK = omni_step.Task(
    prompts=4, new_tokens=256, frames=8, size=224, seconds=5.0, scale="half_billion", device="cuda", dtype="bfloat16"
)
# bytes per second and bfloat16 operations per second that the makers state (dense, without sparsity)
LIMITS = {"H100": (3.35e12, 989e12), "H200": (4.8e12, 989e12), "A100": (2.04e12, 312e12)}


# -- measuring ----------------------------------------------------------------------------------------------------


def compare(ours: tuple[str, list[str]], theirs: tuple[str, list[str]], count: int, tick: Tick) -> dict[str, Any]:
    """Seconds, their ratio, and peak memory of two sides, each a module and its arguments."""
    sides = [Side(*one) for one in (ours, theirs)]
    pairs = in_turn(*sides, count, tick)
    for side in sides:
        side.close()
    row: dict[str, Any] = {"pairs": count, "ratio": statistics.median(b / a for a, b in pairs)}
    row["ratios"] = [round(b / a, 3) for a, b in pairs]
    for index, name in enumerate(("ours", "theirs")):
        row[f"{name}_s"] = statistics.median(pair[index] for pair in pairs)
        row[f"{name}_last"] = sides[index].last
    return row


def against_trl(progress: Progress) -> list[dict[str, Any]]:
    """The small Qwen2 of `text_task`, this project against TRL's `GRPOTrainer`."""
    bar = progress.add_task("against TRL", total=sum(TRL_PAIRS.values()) + len(TRL_PAIRS))
    decoder = Decoder.of(text_task.make_model(seed=0).config)
    rows = []
    for length, count in TRL_PAIRS.items():
        words = ["--prompts", str(PROMPTS), "--prompt", str(length)]
        sides = ("benchmarks.our_step", words), ("benchmarks.trl_step", words)
        row = {"prompt": length, **compare(*sides, count, lambda: progress.advance(bar))}
        rows.append(row | _work(decoder, PROMPTS, length, text_task.GROUP, text_task.NEW_TOKENS))
    return rows


def _work(decoder: Decoder, prompts: int, length: int, group: int, new: int) -> dict[str, float]:
    once, each = (how(decoder, prompts, length, group, new) for how in (shared, repeated))
    return {
        "ours_tokens": once.sampled_tokens + once.update_tokens,
        "theirs_tokens": each.sampled_tokens + each.update_tokens,
        "ours_gflop": (once.sampling + once.update) / 1e9,
        "theirs_gflop": (each.sampling + each.update) / 1e9,
    }


def omni_pair(task: omni_step.Task, count: int, tick: Tick) -> dict[str, Any]:
    """The omni policy on clips, this project against the naive step."""
    words = [word for name, value in asdict(task).items() for word in (f"--{name}", str(value))]
    sides = [("benchmarks.omni_step", ["--side", side, *words]) for side in ("ours", "naive")]
    cpu = replace(task, device="cpu", dtype="float32", scale="tiny")
    prompt = omni_step.make_batch(omni_step.make_policy(cpu), cpu).input_ids.shape[1]
    return {**asdict(task), "prompt": prompt, **compare(*sides, count, tick)}  # type: ignore[misc]


def against_naive(progress: Progress) -> list[dict[str, Any]]:
    """Clips of three sizes, on the CPU."""
    bar = progress.add_task("omni policy", total=sum(CLIPS.values()) + len(CLIPS))
    return [
        omni_pair(omni_step.Task(frames=frames, size=size, seconds=seconds), count, lambda: progress.advance(bar))
        for (frames, size, seconds), count in CLIPS.items()
    ]


def _engine_seconds(length: int, group: int, repeats: int) -> dict[str, float]:
    """Sampling and update (forward and backward) of the engine alone, median seconds."""
    policy = TextPolicy(text_task.make_model(seed=0))
    batch = policy.prompt_batch(text_task.make_prompts(PROMPTS, length, seed=0))
    sampling = Sampling(text_task.NEW_TOKENS)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        drawn = rollout(policy, policy.embed(batch).detach(), batch, group, sampling)
        middle = time.perf_counter()
        logp, _ = completion_logps(policy, policy.embed(batch), batch, drawn.token_ids, drawn.mask, entropy=True)
        logp.mean().backward()  # type: ignore[no-untyped-call]
        times.append((middle - start, time.perf_counter() - middle))
    sampled, updated = zip(*times[1:], strict=True)
    return {"sampling_s": statistics.median(sampled), "update_s": statistics.median(updated)}


def scaling(progress: Progress) -> list[dict[str, Any]]:
    """How the engine's time grows with G, and with the prompt."""
    cases = [(GROUP_PROMPT, group) for group in GROUPS] + [(length, text_task.GROUP) for length in LENGTHS]
    bar = progress.add_task("scaling", total=len(cases))
    decoder = Decoder.of(text_task.make_model(seed=0).config)
    rows = []
    for length, group in cases:
        row = {"prompt": length, "group": group, **_engine_seconds(length, group, 3 if length > 2000 else 5)}
        rows.append(row | _work(decoder, PROMPTS, length, group, text_task.NEW_TOKENS))
        progress.advance(bar)
    return rows


def on_cuda(progress: Progress) -> list[dict[str, Any]]:
    """The omni policy of half a billion text parameters in bfloat16; nothing without a CUDA device."""
    if not torch.cuda.is_available():
        return []
    count = 3
    bar = progress.add_task("CUDA", total=count + 1)
    row = omni_pair(CUDA_TASK, count, lambda: progress.advance(bar))
    row["device_name"] = torch.cuda.get_device_name()
    for side, name in (("ours", "ours"), ("theirs", "naive")):
        row[f"{name}_peak_memory_gb"] = row[f"{side}_last"]["cuda_gb"]
    return [row | _limits(row)]


def _limits(row: dict[str, Any]) -> dict[str, float]:
    """Tokens per second, utilisation, and how far both parts are from what the device allows."""
    config = omni_step.make_policy(replace(CUDA_TASK, device="cpu")).model.config.text_config
    decoder, task = Decoder.of(config), CUDA_TASK
    shape = (task.prompts, row["prompt"], task.group, task.new_tokens)
    work: Work = shared(decoder, *shape)
    parts = row["ours_last"]["parts"]
    found = {"sampled_tokens_per_s": task.prompts * task.group * task.new_tokens / parts["generate"]}
    known = next((limits for name, limits in LIMITS.items() if name in row["device_name"]), None)
    if known is not None:
        bytes_per_s, operations_per_s = known
        least = task.new_tokens * decode_bytes(decoder, *shape, size=2) / bytes_per_s
        found |= {
            "decode_limit_s": least,
            "decode_to_limit": parts["generate"] / least,
            "update_utilisation": work.update / operations_per_s / parts["update"],
        }
    return found


def main(argv: list[str] | None = None) -> None:
    """Measures, and writes the results; parts that are not asked for keep their last numbers."""
    parts: dict[str, Callable[[Progress], list[dict[str, Any]]]] = {
        "trl": against_trl,
        "omni": against_naive,
        "scaling": scaling,
        "cuda": on_cuda,
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grpo_step", description=main.__doc__)
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    arguments = parser.parse_args(argv)
    path = RESULTS / "grpo_step.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    result["command"] = "python -m benchmarks.grpo_step"
    result["machine"] = (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, lightning {lightning.__version__}"
    )
    RESULTS.mkdir(exist_ok=True)
    with Progress() as progress:
        for name in arguments.only:
            result[name] = parts[name](progress)
            path.write_text(json.dumps(result, indent=1) + "\n")
    result["task"] = {"prompts": PROMPTS, "group": text_task.GROUP, "new_tokens": text_task.NEW_TOKENS}
    result["cuda_task"] = asdict(CUDA_TASK)
    path.write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "grpo_step.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
