"""Seconds of a step, from counted operations and bytes and what a device's maker promises. Pure functions.

Counted as in benchmarks/work.py: 2 operations per weight and token, 4 per pair of tokens that see each other and width
of the queries; forward once. Backward is twice that, or once where only adapters train; checkpointing adds a forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from erv_lightning.doctor.memory import Plan, Shape
from erv_lightning.doctor.sizes import Sizes

NODE = 8  # devices that share a fast link
USABLE = 0.9  # of a GPU's memory: its context and fragments take the rest


@dataclass(frozen=True)
class Device:
    """Stated limits: dense bfloat16 operations and bytes a second, memory in bytes, bytes a second to a neighbour."""

    name: str
    operations: float
    bandwidth: float
    memory: float
    link: float


DEVICES = {
    one.name: one
    for one in (
        Device("H100", 989e12, 3.35e12, 80e9, 450e9),
        Device("H200", 989e12, 4.8e12, 141e9, 450e9),
        Device("A100", 312e12, 2.04e12, 80e9, 300e9),
        Device("L40S", 362e12, 0.864e12, 48e9, 32e9),
        Device("RTX4090", 165e12, 1.01e12, 24e9, 16e9),
        Device("cpu", 0.1e12, 0.02e12, 16e9, 1e9),
    )
}


@dataclass(frozen=True)
class Assumptions:
    """Shares of the stated limits that a run reaches.

    Attributes:
        compute: of the operations, in prefill, reference and update.
        bandwidth: of the bytes, while tokens are drawn.
        link: of the bytes between devices; between_nodes: bytes a second and device from node to node.
    """

    compute: float = 0.35
    bandwidth: float = 0.5
    link: float = 0.6
    between_nodes: float = 50e9


def forward(sizes: Sizes, tokens: float, pairs: float, scored: float) -> float:
    """Operations of one forward: tokens through the decoder, pairs that see each other, tokens that are scored."""
    linear = sizes.layers * sizes.layer_active * tokens + sizes.hidden * sizes.vocabulary * scored
    return 2 * linear + 4 * sizes.query * sizes.layers * pairs


def row_work(sizes: Sizes, shape: Shape, plan: Plan) -> float:
    """Operations of one forward over all of a device's prompts and completions."""
    length, group, fed = shape.prompt, shape.group, shape.new_tokens - 1
    rows = 1 if plan.prefix_sharing else group  # times that a prompt is computed
    pairs = rows * length * (length + 1) / 2 + group * (fed * length + fed * (fed + 1) / 2)
    tokens = rows * length + group * fed
    return shape.prompts * forward(sizes, tokens, pairs, group * shape.new_tokens)


def tower_work(sizes: Sizes, shape: Shape) -> float:
    """Operations of the media towers, once per clip."""
    vision = sizes.vision.parameters * shape.patches
    return 2 * shape.prompts * (vision + sizes.audio.parameters * shape.frames / 2)


def decode_bytes(sizes: Sizes, shape: Shape, plan: Plan) -> float:
    """Bytes read to draw one token of every row, on average: the weights that are touched, keys and values so far."""
    rows = shape.prompts * shape.group
    idle = sizes.layer - sizes.layer_active
    # experts: each of many rows chooses its own, so soon all are read
    layer = sizes.layer if rows > NODE else sizes.layer_active + idle * rows / (NODE + 1)
    copies = 1 if plan.prefix_sharing else shape.group
    keys = shape.prompts * shape.prompt * copies + rows * shape.new_tokens / 2
    head = sizes.hidden * sizes.vocabulary
    weights = plan.activation * (sizes.layers * layer + head)
    return weights + plan.activation * 2 * sizes.kv * sizes.layers * keys


def backward_factor(sizes: Sizes, plan: Plan) -> float:
    """Forwards that an update costs."""
    return (3 if sizes.language_trains else 2) + (1 if plan.checkpointing else 0)


def traffic(sizes: Sizes, shape: Shape, plan: Plan) -> float:
    """Bytes that a device exchanges in a step.

    DDP: gradients once, twice their size (ring all-reduce). FSDP2: weights gathered for the rollout and the reference,
    and twice in every micro-batch, whose gradients are scattered each time.
    """
    if plan.devices == 1 or plan.strategy == "single":
        return 0.0
    trained = sizes.trained * plan.size
    if plan.strategy == "ddp":
        return 2.0 * trained
    pieces = -(-shape.prompts // shape.micro)
    weights = sizes.parameters * plan.size
    around = (1 + pieces * plan.scores_reference) if plan.stage == "grpo" else 0
    return weights * (around + 2 * pieces) + trained * pieces


def seconds(
    sizes: Sizes, shape: Shape, plan: Plan, device: Device, assumed: Assumptions | None = None
) -> dict[str, float]:
    """Seconds of a step's parts on one device, all devices working side by side; their sum is the step's."""
    assumed = assumed or Assumptions()
    speed, read = device.operations * assumed.compute, device.bandwidth * assumed.bandwidth
    if plan.activation == 4 and device.name != "cpu":
        speed /= 2  # TF32 at best
    whole = row_work(sizes, shape, plan)
    towers = tower_work(sizes, shape)
    found: dict[str, float] = {}
    if plan.stage == "grpo":
        length = shape.prompt
        prefill = shape.prompts * forward(sizes, length, length * (length + 1) / 2, 1)
        token = shape.prompts * shape.group * forward(sizes, 1, length + shape.new_tokens / 2, 1)
        each = max(decode_bytes(sizes, shape, plan) / read, token / speed)
        found["generate"] = (towers + prefill) / speed + (shape.new_tokens - 1) * each
        if plan.scores_reference:
            found["reference"] = whole / speed
        found["update"] = whole * backward_factor(sizes, plan) / speed
    else:
        trains = sizes.vision.trains or sizes.audio.trains
        found["update"] = (whole * backward_factor(sizes, plan) + towers * (3 if trains else 1)) / speed
    link = device.link * assumed.link if plan.devices <= NODE else assumed.between_nodes * assumed.link
    if between := traffic(sizes, shape, plan):
        found["exchange"] = between / link
    return found
