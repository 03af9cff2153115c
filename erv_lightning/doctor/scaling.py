"""The table of docs/scaling.md: GRPO of larger models on more devices, all of it computed.

    python -m erv_lightning.doctor.scaling

Writes the table to standard output; a test holds the page to it.
"""

from __future__ import annotations

from erv_lightning.doctor.memory import Plan, Shape, estimate
from erv_lightning.doctor.sizes import sizes_of
from erv_lightning.doctor.time import DEVICES, USABLE, seconds
from erv_lightning.models.backbone import LoraSpec

MODELS = {"7B": "Qwen/Qwen2.5-Omni-7B", "30B-A3B": "Qwen/Qwen3-Omni-30B-A3B-Instruct"}
GPUS = (8, 32, 128, 512)
DEVICE = DEVICES["H100"]
# Two prompts a device, one at a time in the update; 8 frames of 224 × 224 pixels and 5 s of sound; G 8, 512 tokens.
SHAPE = Shape(prompts=2, group=8, prompt=441, new_tokens=512, micro=1, patches=1024, frames=500)


def rows() -> list[str]:
    """A line of the table for each model, what trains, strategy and number of devices."""
    lines = []
    for name, pretrained in MODELS.items():
        for lora in (LoraSpec(rank=16), None):
            sizes = sizes_of(pretrained, lora, ("vision", "audio"))
            for strategy in ("ddp", "fsdp"):
                for gpus in GPUS:
                    plan = Plan(
                        "grpo", 2, 2, checkpointing=True, reference=lora is None, devices=gpus, strategy=strategy,
                        cuda=True, others=500_000_000,
                    )  # fmt: skip
                    peak = estimate(sizes, SHAPE, plan).peak / 1e9
                    fits = peak <= USABLE * DEVICE.memory / 1e9
                    step = sum(seconds(sizes, SHAPE, plan, DEVICE).values())
                    drawn = gpus * SHAPE.prompts * SHAPE.group
                    time = f"{step:.1f} | {drawn / step:.0f}" if fits else "– | –"
                    lines.append(
                        f"| {name} | {'LoRA' if lora else 'all'} | {strategy} | {gpus} | {gpus * SHAPE.prompts} "
                        f"| {peak:.0f} | {'yes' if fits else 'no'} | {time} |"
                    )
    return lines


def table() -> str:
    """The whole table."""
    head = ("decoder", "trains", "strategy", "GPUs", "prompts a step", "peak, GB", "fits 80 GB", "s a step")
    names = (*head, "completions a second")
    return "\n".join([f"| {' | '.join(names)} |", "|" + "---|" * len(names), *rows()])


if __name__ == "__main__":
    print(table())
