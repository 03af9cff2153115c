"""Sampling G completions a prompt: this project's rollout against transformers' `generate` on repeated prompts.

Both sample the same number of tokens from the built-in small policy with the same media; runs alternate A B A B, and
the ratio is taken pair by pair.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import track

from erv_lightning.data.media import Clip
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import PromptBatch
from erv_lightning.rl.rollout import Sampling, rollout

RESULTS = Path(__file__).parent / "results"
PROMPTS, TOKENS, PAIRS = 8, 64, 7


def _batch(backbone: QwenOmniBackbone) -> PromptBatch:
    generator = torch.Generator().manual_seed(0)
    prompts = []
    for _ in range(PROMPTS):
        frames = torch.randint(0, 256, (4, 3, 56, 56), dtype=torch.uint8, generator=generator)
        audio = 0.1 * torch.randn(16000, generator=generator)
        clip = Clip(frames, audio, sample_rate=16000, fps=4.0, has_audio=True)
        prompts.append(backbone.encode_prompt("Which emotion is the most obvious?", clip))
    return backbone.collate([str(index) for index in range(PROMPTS)], prompts)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.no_grad()
def measure(group: int) -> dict[str, float | int]:
    """Median seconds of both, and the median ratio of the pairs."""
    backbone = QwenOmniBackbone("tiny").eval()
    # Nobody stops early: both must do the same work.
    backbone.model.generation_config.eos_token_id = None
    backbone.tokenizer.eos_token = backbone.tokenizer.pad_token
    batch = _batch(backbone)
    repeated = {
        "input_ids": batch.input_ids.repeat_interleave(group, 0),
        "attention_mask": batch.attention_mask.repeat_interleave(group, 0),
        "video_second_per_grid": torch.full((PROMPTS * group,), 0.5),
    }
    per_prompt = batch.media["pixel_values_videos"].view(PROMPTS, -1, batch.media["pixel_values_videos"].shape[-1])
    repeated["pixel_values_videos"] = per_prompt.repeat_interleave(group, 0).flatten(0, 1)
    for name in ("video_grid_thw", "input_features", "feature_attention_mask"):
        repeated[name] = batch.media[name].repeat_interleave(group, 0)

    def ours() -> object:
        return rollout(backbone, backbone.embed(batch), batch, group, Sampling(TOKENS))

    def theirs() -> object:
        return backbone.model.generate(
            **repeated, do_sample=True, top_k=0, min_new_tokens=TOKENS, max_new_tokens=TOKENS, pad_token_id=0
        )

    ours(), theirs()  # warm up
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(PAIRS)]
    return {
        "group": group,
        "rollout_s": statistics.median(a for a, _ in times),
        "generate_s": statistics.median(b for _, b in times),
        "ratio": statistics.median(b / a for a, b in times),
    }


def main() -> None:
    rows = [measure(group) for group in track((1, 4, 8, 16), "rollout against generate")]
    RESULTS.mkdir(exist_ok=True)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    result = {"prompts": PROMPTS, "tokens": TOKENS, "pairs": PAIRS, "machine": machine, "rows": rows}
    (RESULTS / "rollout.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        f"`python -m benchmarks.run`: {PROMPTS} prompts, {TOKENS} new tokens each, medians of {PAIRS} alternating",
        f"pairs ({machine}).",
        "",
        "| completions a prompt | rollout, s | `generate`, s | ratio |",
        "|---|---|---|---|",
        *(f"| {r['group']} | {r['rollout_s']:.3f} | {r['generate_s']:.3f} | {r['ratio']:.2f}× |" for r in rows),
    ]
    (RESULTS / "rollout.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
