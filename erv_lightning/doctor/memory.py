"""Memory of a device by part and by phase of a step: pure functions over sizes, in bytes.

What autograd keeps of a layer was read off transformers' decoder and our attention, and is held to it by a test that
counts saved tensors; benchmarks/memory.py holds the peaks to what training takes. Legend: e bytes of a number, P
prompts of T tokens on this device, G completions each of C tokens, L tokens of a packed row, H width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from erv_lightning.doctor.sizes import Sizes, Tower
from erv_lightning.rl.logprobs import CHUNK_SCORES

WIDE = 4  # bytes of a float32


@dataclass(frozen=True)
class Shape:
    """What one device works on in a step.

    Attributes:
        prompts: P; group: G, 1 in SFT; prompt: T; new_tokens: C, the most.
        micro: prompts in memory at a time during reference and update.
        patches, frames: picture patches and spectrum frames of a clip.
        evaluated: samples of a validation batch; 0 leaves validation out.
    """

    prompts: int
    group: int
    prompt: int
    new_tokens: int
    micro: int
    patches: int = 0
    frames: int = 0
    evaluated: int = 0

    @property
    def row(self) -> int:
        """Tokens of a micro-batch's packed row: the prompt once, each completion without its last token."""
        return self.micro * (self.prompt + self.group * (self.new_tokens - 1))

    def repeated_row(self) -> int:
        """The same where every completion has its own padded row."""
        return self.micro * self.group * (self.prompt + self.new_tokens)


@dataclass(frozen=True)
class Plan:
    """How the run is set up.

    Attributes:
        stage: ``sft`` or ``grpo``.
        size: bytes of a weight; activation: of an activation, less under mixed precision.
        checkpointing: recompute decoder activations in backward.
        reference: a copy of the trained weights is kept (full training with a KL term).
        scores_reference: the reference's log-probabilities are computed.
        prefix_sharing: see `GRPOModule`.
        devices: that share the work; strategy: ``single``, ``ddp`` or ``fsdp``.
        cuda: a GPU, where keys stay unrepeated and the optimiser works on all tensors at once.
        others: bytes of verifier and judge.
        offload: FSDP2 keeps the shards in the host's memory.
    """

    stage: str = "grpo"
    size: int = WIDE
    activation: int = WIDE
    checkpointing: bool = False
    reference: bool = False
    scores_reference: bool = True
    prefix_sharing: bool = True
    devices: int = 1
    strategy: str = "single"
    cuda: bool = False
    others: int = 0
    offload: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes by part, and the peak of each phase."""

    parts: dict[str, float]
    phases: dict[str, float]

    @property
    def peak(self) -> float:
        """Of all phases."""
        return max(self.phases.values())


def layer_activations(sizes: Sizes, plan: Plan) -> float:
    """Bytes that one decoder layer keeps for backward, per token.

    Two norms: input and its scale in float32, the normalised where the norm's weight trains, the output for the linear
    maps. Attention: queries, keys, values, output and log-sum-exps; on the CPU keys are repeated for every query head.
    MLP: gate, its SiLU, up and their product. Adapters: the output of A at each of seven linear maps.
    """
    e, trains = plan.activation, sizes.language_trains
    norms = 2 * (sizes.hidden * (WIDE + e + e * trains) + WIDE)
    keys = sizes.kv if plan.cuda else sizes.query
    attention = e * 2 * (sizes.query + keys) + WIDE * sizes.heads
    return norms + attention + 4 * e * sizes.ffn + 7 * e * sizes.rank


def layer_gradients(sizes: Sizes, plan: Plan) -> float:
    """Bytes alive while one layer runs backward, per token: gradients of the MLP's inner widths and of the residual."""
    return plan.activation * (2 * sizes.ffn + 2 * sizes.hidden)


def layer_forward(sizes: Sizes, plan: Plan) -> float:
    """Bytes alive while one layer runs without gradient, per token: residual, norm, and three of the MLP's width."""
    return plan.activation * (3 * sizes.hidden + 3 * sizes.ffn)


def row_activations(sizes: Sizes, shape: Shape, plan: Plan) -> tuple[float, float]:
    """Bytes kept for the backward of one micro-batch's decoder, and those of the layer that is computed again."""
    row = shape.row if plan.prefix_sharing else shape.repeated_row()
    e, each = plan.activation, layer_activations(sizes, plan)
    # embeddings put together, rotary tables, the last norm
    around = 3 * e * sizes.hidden + 2 * e * sizes.head + (WIDE + 2 * e) * sizes.hidden
    layers = sizes.layers * (e * sizes.hidden if plan.checkpointing else each)
    mask = 0 if plan.prefix_sharing else row * (shape.prompt + shape.new_tokens)
    return row * (around + layers) + mask, row * each if plan.checkpointing else 0.0


def scores(sizes: Sizes, shape: Shape, plan: Plan) -> tuple[float, float]:
    """Vocabulary scores of a micro-batch: bytes at the peak of the chunk's forward, and those kept for backward.

    With entropies: the scores in the activation's type and four float32 copies (scaled, probabilities, masked,
    products). One chunk keeps its scores, several are computed again (`rl/logprobs.py`).
    """
    tokens = shape.micro * shape.group * shape.new_tokens
    chunk = min(tokens, max(1, CHUNK_SCORES // sizes.vocabulary)) * sizes.vocabulary
    states = tokens * sizes.hidden * plan.activation
    copies = 4 if plan.stage == "grpo" else 2
    kept = chunk * plan.activation if chunk == tokens * sizes.vocabulary else 0
    return chunk * (plan.activation + copies * WIDE) + states, kept + states


def tower_activations(tower: Tower, tokens: int, plan: Plan, vision: bool) -> float:
    """Bytes that a tower which trains keeps for backward; with checkpointing the inputs of its layers and one layer.

    Vision: two RMS norms, four of the width in attention and its joined output, a gated MLP, the merger. Audio: two
    layer norms, the same attention, a plain MLP, three convolution outputs per spectrum frame (two tokens' worth each).
    """
    e, width = plan.activation, tower.width
    if vision:
        layer, ends = 2 * width * (WIDE + 2 * e) + 5 * width * e + 4 * tower.ffn * e, 5 * width * e
    else:
        layer, ends = 4 * width * e + 5 * width * e + 2 * tower.ffn * e, 10 * width * e
    layers = tower.layers * width * e + layer if plan.checkpointing else tower.layers * layer
    return tokens * (layers + ends)


def cache(sizes: Sizes, shape: Shape, plan: Plan) -> tuple[float, float]:
    """Keys and values of the prompts, and what is reserved for the completions."""
    each = 2 * sizes.kv * sizes.layers * plan.activation
    rows = shape.prompts * shape.group
    if not plan.prefix_sharing:
        return shape.prompts * shape.prompt * each, rows * (shape.prompt + shape.new_tokens - 1) * each
    return shape.prompts * shape.prompt * each, rows * (shape.new_tokens - 1) * each


def generation(sizes: Sizes, shape: Shape, plan: Plan) -> float:
    """Bytes of the rollout beside the weights: the larger of reading the prompts and drawing tokens.

    Reading: the row's cache is alive until it stands one place per prompt and the completions' is reserved. Drawing:
    scores, log-probabilities and probabilities, then both in float64 (`rl/rollout.py`), and the attention's scores.
    """
    prompts, completions = cache(sizes, shape, plan)
    rows, tokens = shape.prompts * shape.group, shape.prompts * shape.prompt
    forward = tokens * (layer_forward(sizes, plan) + 3 * sizes.hidden * plan.activation)
    reading = max(prompts + forward, (2 if plan.prefix_sharing else 1) * prompts + completions)
    drawing = rows * sizes.vocabulary * (2 * plan.activation + 6 * WIDE)
    looking = 3 * rows * sizes.heads * (shape.prompt + shape.new_tokens) * WIDE
    copied = prompts if plan.prefix_sharing else 0
    return max(reading, copied + completions + max(drawing, looking))


def media(sizes: Sizes, shape: Shape, plan: Plan, pixels: int = 1176) -> tuple[float, float]:
    """What the towers read (float32 patches of `pixels` numbers, spectra), and the features they make."""
    read = shape.prompts * (shape.patches * pixels + shape.frames * 128) * WIDE
    tokens = shape.patches // sizes.vision.merge + shape.frames // 4
    return read, shape.prompts * tokens * sizes.hidden * plan.activation


def towers(sizes: Sizes, shape: Shape, plan: Plan) -> tuple[float, float]:
    """Bytes that the towers take while they run without gradient, and those they keep if they train."""
    patches, steps = shape.prompts * shape.patches, shape.prompts * shape.frames // 2
    passing = max(
        patches * (4 * sizes.vision.width + 3 * sizes.vision.ffn) * plan.activation,
        steps * (7 * sizes.audio.width + 2 * sizes.audio.ffn) * plan.activation,
    )
    kept = 0.0
    if sizes.vision.trains:
        kept += tower_activations(sizes.vision, patches, plan, vision=True)
    if sizes.audio.trains:
        kept += tower_activations(sizes.audio, steps, plan, vision=False)
    return passing, kept


def held(sizes: Sizes, plan: Plan) -> dict[str, float]:
    """Bytes that stay for the whole run, by part.

    Weights, gradients and two AdamW moments, in the weights' type; sharded under FSDP2 (Zhao et al., arXiv 2304.11277).
    DDP keeps gradients a second time, in its buckets. A mixed-precision run casts weights once per forward.
    """
    share = plan.devices if plan.strategy == "fsdp" else 1
    shards = 0 if plan.offload and plan.strategy == "fsdp" else 1
    trained = sizes.trained * plan.size / share
    return {
        "weights": shards * sizes.parameters * plan.size / share,
        "gradients": shards * trained,
        "optimiser states": shards * 2 * trained,
        "kept reference": trained if plan.reference else 0.0,
        "DDP buckets": trained if plan.strategy == "ddp" and plan.devices > 1 else 0.0,
        "verifier and judge": float(plan.others),
    }


def gathered(sizes: Sizes, plan: Plan) -> tuple[float, float]:
    """Weights that FSDP2 puts together: in training two layers and the root, in a rollout all of them."""
    cast = sizes.parameters * plan.activation if plan.activation < plan.size else 0
    if plan.strategy != "fsdp":
        return cast, cast
    # two layers and their gradients; of the casts as much as two layers need
    training = 4 * sizes.layer * plan.size + sizes.root * plan.size + min(cast, 2 * sizes.layer * plan.activation)
    return training, sizes.parameters * plan.size + cast


def estimate(sizes: Sizes, shape: Shape, plan: Plan) -> Memory:
    """Memory of one device in a steady step: the optimiser's moments are there from its beginning."""
    parts = held(sizes, plan)
    static = sum(parts.values()) - parts["gradients"]
    in_training, in_rollout = gathered(sizes, plan)
    read, features = media(sizes, shape, plan)
    passing, tower_kept = towers(sizes, shape, plan)
    row = shape.row if plan.prefix_sharing else shape.repeated_row()
    chunk, chunk_kept = scores(sizes, shape, plan)
    kept, again = row_activations(sizes, shape, plan)
    kept += tower_kept
    backward = row * layer_gradients(sizes, plan) + again
    several = shape.micro < shape.prompts  # then gradients are there before a backward begins
    head = sizes.vocabulary * sizes.hidden * plan.size if sizes.language_trains else 0
    # the scores go before the layers are computed again
    learning = kept + max(chunk, backward + (0 if plan.checkpointing else chunk_kept), 2 * chunk_kept + head)
    learning += parts["gradients"] if several else 0
    stepping = parts["gradients"] + (sizes.trained if plan.cuda else 2 * sizes.largest) * plan.size / (
        plan.devices if plan.strategy == "fsdp" else 1
    )
    phases = {"update": static + in_training + read + features + max(learning, stepping)}
    if plan.stage == "grpo":
        resting = static + parts["gradients"] + read + features
        drawn = generation(sizes, shape, plan)
        phases = {"generate": resting + in_rollout + max(passing, drawn), **phases}
        if plan.scores_reference:
            forward = row * (layer_forward(sizes, plan) + 3 * sizes.hidden * plan.activation)
            swapped = sizes.largest * plan.size
            scored = scores(sizes, shape, replace(plan, stage="sft"))[0] + row * sizes.hidden * plan.activation
            phases["reference"] = resting + in_training + max(forward, scored, swapped)
    if shape.evaluated:
        rows = replace(shape, prompts=shape.evaluated, group=1)
        drawn = max(towers(sizes, rows, plan)[0], generation(sizes, rows, plan))
        phases["validate"] = static + parts["gradients"] + in_rollout + sum(media(sizes, rows, plan)) + drawn
    prompts, completions = cache(sizes, shape, plan)
    parts |= {
        "activations": kept + again,
        "logits chunk": chunk,
        "KV cache": prompts + completions if plan.stage == "grpo" else 0.0,
        "media": read + features,
        "gathered by FSDP2": in_rollout if plan.strategy == "fsdp" else 0.0,
    }
    return Memory(parts, phases)
