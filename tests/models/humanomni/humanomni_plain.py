"""HumanOmni written down once more, from the description alone: functions of tensors under their published names.

No module, no class of transformers or timm, one clip at a time. `w` is the state dict, `name` the beginning of names.
"""

from __future__ import annotations

import math

import torch
from humanomni_published import Sizes
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]


# -- pieces ----------------------------------------------------------------------------------------------------------


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.2", gelu(linear(w, f"{name}.0", x)))


def layer_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    """Over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, causal: bool = False) -> Tensor:
    """(tokens, width) each; keys and values may have fewer heads."""
    width = query.shape[-1] // heads
    out = []
    for head in range(heads):
        other = head // (query.shape[-1] // key.shape[-1])
        mine = slice(head * width, (head + 1) * width)
        theirs = slice(other * width, (other + 1) * width)
        scores = query[:, mine] @ key[:, theirs].T / math.sqrt(width)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        out.append(scores.softmax(-1) @ value[:, theirs])
    return torch.cat(out, -1)


# -- projector -------------------------------------------------------------------------------------------------------


def pointwise(w: Weights, name: str, x: Tensor) -> Tensor:
    """A 1 × 1 convolution of (frames, channels, h, w)."""
    y = torch.einsum("oc,fchw->fohw", w[f"{name}.weight"][:, :, 0, 0], x)
    return y + w[f"{name}.bias"][:, None, None] if f"{name}.bias" in w else y


def norm_2d(w: Weights, name: str, x: Tensor) -> Tensor:
    """A layer norm over the channels of (frames, channels, h, w)."""
    return layer_norm(w, name, x.permute(0, 2, 3, 1), 1e-5).permute(0, 3, 1, 2)


def depthwise(w: Weights, name: str, x: Tensor) -> Tensor:
    """A 3 × 3 convolution of each channel by itself, over a border of zeros."""
    height, width = x.shape[2:]
    padded = functional.pad(x, (1, 1, 1, 1))
    kernel = w[f"{name}.weight"]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return sum(kernel[:, 0, i, j, None, None] * padded[:, :, i : i + height, j : j + width] for i, j in shifts)


def block(w: Weights, name: str, x: Tensor) -> Tensor:
    y = silu(norm_2d(w, f"{name}.conv1.bn", pointwise(w, f"{name}.conv1.conv", x)))
    y = silu(norm_2d(w, f"{name}.conv2.bn", depthwise(w, f"{name}.conv2.conv", y)))
    squeezed = silu(pointwise(w, f"{name}.se.fc1", y.mean((2, 3), keepdim=True)))
    y = y * torch.sigmoid(pointwise(w, f"{name}.se.fc2", squeezed))
    y = norm_2d(w, f"{name}.conv3.bn", pointwise(w, f"{name}.conv3.conv", y))
    if f"{name}.downsample.conv.weight" in w:
        x = norm_2d(w, f"{name}.downsample.bn", pointwise(w, f"{name}.downsample.conv", x))
    return silu(x + y)


def stage(w: Weights, name: str, x: Tensor, depth: int) -> Tensor:
    for number in range(1, depth + 1):
        x = block(w, f"{name}.b{number}", x)
    return x


def sampler(w: Weights, name: str, x: Tensor, padding: int) -> Tensor:
    """(T, H, h, w) → (T, H, h', w'): each step sees the frame before and its own, squares of 2 × 2 of both."""
    kernel, bias = w[f"{name}.0.weight"], w[f"{name}.0.bias"]
    padded = functional.pad(x, (padding,) * 4)
    before = torch.cat([torch.zeros_like(padded[:1]), padded[:-1]])
    height, width = ((side - 2) // 2 + 1 for side in padded.shape[2:])
    out = bias[:, None, None]
    for time, frames in enumerate((before, padded)):
        for i in range(2):
            for j in range(2):
                seen = frames[:, :, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
                out = out + torch.einsum("oc,tchw->tohw", kernel[:, :, time, i, j], seen)
    return silu(out)


def as_tokens(x: Tensor) -> Tensor:
    """(T, H, h, w) → (T·h·w, H), frame by frame, row by row."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def conv_branch(w: Weights, branch: str, x: Tensor, sizes: Sizes) -> Tensor:
    """(T, W, h, w) → (N, H)."""
    root = "model.mm_projector"
    padding = {"all_in_one_small": 0, "all_in_one": 1}[sizes.projector]
    x = stage(w, f"{root}.s1_{branch}", x, sizes.depth)
    x = sampler(w, f"{root}.sampler_{branch}", x, padding)
    x = stage(w, f"{root}.s2_{branch}", x, sizes.depth)
    return mlp(w, f"{root}.readout_{branch}", as_tokens(x))


def halved(x: Tensor) -> Tensor:
    """Bilinear resize of (T, H, h, w) to half the size, rounded up; corners are not aligned."""
    for axis in (2, 3):
        size = x.shape[axis]
        half = math.ceil(size / 2)
        lines = []
        for place in range(half):
            at = max((place + 0.5) * size / half - 0.5, 0.0)
            low = int(at)
            high = min(low + 1, size - 1)
            lines.append(x.select(axis, low) * (1 - (at - low)) + x.select(axis, high) * (at - low))
        x = torch.stack(lines, axis)
    return x


def face_branch(w: Weights, patches: Tensor) -> Tensor:
    """(T, P, W) → (N, H)."""
    grid = math.isqrt(patches.shape[1])
    x = mlp(w, "model.mm_projector.mlp_2xgelu_face", patches)
    return as_tokens(halved(x.reshape(len(x), grid, grid, -1).permute(0, 3, 1, 2)))


def gate(w: Weights, question: Tensor) -> Tensor:
    """BERT's [CLS] → three weights."""
    scores = torch.exp(mlp(w, "model.bert_gate", question))
    return scores / scores.sum()


def project(w: Weights, patches: Tensor, question: Tensor, sizes: Sizes) -> Tensor:
    grid = math.isqrt(patches.shape[1])
    frames = patches.reshape(len(patches), grid, grid, -1).permute(0, 3, 1, 2)
    g = gate(w, question)
    video, body = (conv_branch(w, branch, frames, sizes) for branch in ("video", "body"))
    return g[0] * video + g[1] * body + g[2] * face_branch(w, patches)


def project_audio(w: Weights, states: Tensor) -> Tensor:
    means = [states[start : start + 3].mean(0) for start in range(0, len(states) - 2, 3)]
    return mlp(w, "model.audio_projector", torch.stack(means))


# -- towers ----------------------------------------------------------------------------------------------------------


def siglip(w: Weights, frame: Tensor, sizes: Sizes) -> Tensor:
    """The hidden state before the last layer: (3, S, S) → (P, width)."""
    root, p = "model.vision_tower.vision_tower.vision_model", sizes.patch
    grid = sizes.image // p
    cut = frame.reshape(3, grid, p, grid, p).permute(1, 3, 0, 2, 4).reshape(grid * grid, -1)
    kernel = w[f"{root}.embeddings.patch_embedding.weight"].flatten(1)
    x = cut @ kernel.T + w[f"{root}.embeddings.patch_embedding.bias"]
    x = x + w[f"{root}.embeddings.position_embedding.weight"]
    for layer in range(sizes.vision.layers - 1):
        name = f"{root}.encoder.layers.{layer}"
        y = layer_norm(w, f"{name}.layer_norm1", x, 1e-6)
        parts = (linear(w, f"{name}.self_attn.{part}_proj", y) for part in "qkv")
        x = x + linear(w, f"{name}.self_attn.out_proj", attention(*parts, sizes.vision.heads))
        y = layer_norm(w, f"{name}.layer_norm2", x, 1e-6)
        x = x + linear(w, f"{name}.mlp.fc2", gelu_tanh(linear(w, f"{name}.mlp.fc1", y)))
    return x


def whisper(w: Weights, mel: Tensor, sizes: Sizes) -> Tensor:
    """(mels, frames) → (positions, width)."""
    root = "model.audio_tower.audio_tower.encoder"
    x = functional.conv1d(mel[None], w[f"{root}.conv1.weight"], w[f"{root}.conv1.bias"], padding=1)
    x = functional.conv1d(gelu(x), w[f"{root}.conv2.weight"], w[f"{root}.conv2.bias"], stride=2, padding=1)
    x = gelu(x)[0].T + w[f"{root}.embed_positions.weight"]
    for layer in range(sizes.audio.layers):
        name = f"{root}.layers.{layer}"
        y = layer_norm(w, f"{name}.self_attn_layer_norm", x, 1e-5)
        parts = (linear(w, f"{name}.self_attn.{part}_proj", y) for part in "qkv")
        x = x + linear(w, f"{name}.self_attn.out_proj", attention(*parts, sizes.audio.heads))
        y = layer_norm(w, f"{name}.final_layer_norm", x, 1e-5)
        x = x + linear(w, f"{name}.fc2", gelu(linear(w, f"{name}.fc1", y)))
    return layer_norm(w, f"{root}.layer_norm", x, 1e-5)


def bert(w: Weights, tokens: Tensor, sizes: Sizes) -> Tensor:
    """(tokens,) → the state of the first, (width,)."""
    root = "model.bert_model"
    x = w[f"{root}.embeddings.word_embeddings.weight"][tokens]
    x = x + w[f"{root}.embeddings.position_embeddings.weight"][: len(tokens)]
    x = layer_norm(
        w, f"{root}.embeddings.LayerNorm", x + w[f"{root}.embeddings.token_type_embeddings.weight"][0], 1e-12
    )
    for layer in range(sizes.bert.layers):
        name = f"{root}.encoder.layer.{layer}"
        parts = (linear(w, f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        y = linear(w, f"{name}.attention.output.dense", attention(*parts, sizes.bert.heads))
        x = layer_norm(w, f"{name}.attention.output.LayerNorm", x + y, 1e-12)
        y = linear(w, f"{name}.output.dense", gelu(linear(w, f"{name}.intermediate.dense", x)))
        x = layer_norm(w, f"{name}.output.LayerNorm", x + y, 1e-12)
    return x[0]


# -- language model --------------------------------------------------------------------------------------------------


def rms_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6) * w[f"{name}.weight"]


def rotate(x: Tensor, heads: int) -> Tensor:
    """Rotary positions 0, 1, … of (tokens, heads · width), base 1e6."""
    width = x.shape[-1] // heads
    angle = torch.outer(torch.arange(len(x)).float(), 1e6 ** -(torch.arange(0, width, 2) / width))[:, None]
    low, high = x.reshape(len(x), heads, width).split(width // 2, -1)
    turned = torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], -1)
    return turned.flatten(1)


def qwen2(w: Weights, x: Tensor, sizes: Sizes) -> Tensor:
    """Embeddings (tokens, H) → logits (tokens, V)."""
    for layer in range(sizes.text.layers):
        name = f"model.layers.{layer}"
        y = rms_norm(w, f"{name}.input_layernorm", x)
        query, key, value = (linear(w, f"{name}.self_attn.{part}_proj", y) for part in "qkv")
        query, key = rotate(query, sizes.text.heads), rotate(key, sizes.key_heads)
        x = x + linear(w, f"{name}.self_attn.o_proj", attention(query, key, value, sizes.text.heads, causal=True))
        y = rms_norm(w, f"{name}.post_attention_layernorm", x)
        gated = silu(linear(w, f"{name}.mlp.gate_proj", y)) * linear(w, f"{name}.mlp.up_proj", y)
        x = x + linear(w, f"{name}.mlp.down_proj", gated)
    return rms_norm(w, "model.norm", x) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def video_tokens(w: Weights, frames: Tensor, question: Tensor, sizes: Sizes) -> Tensor:
    """Frames (T, 3, S, S) and a question's BERT tokens → (N, H)."""
    patches = torch.stack([siglip(w, frame, sizes) for frame in frames])
    return project(w, patches, bert(w, question, sizes), sizes)


def logits(
    w: Weights,
    prompt: list[int | str],
    frames: Tensor | None,
    mel: Tensor | None,
    question: Tensor,
    sizes: Sizes,
) -> Tensor:
    """Of a prompt: token ids, and "video" and "audio" where all tokens of the clip belong."""
    parts = []
    for item in prompt:
        if item == "video":
            parts.append(video_tokens(w, frames, question, sizes))
        elif item == "audio":
            parts.append(project_audio(w, whisper(w, mel, sizes)))
        else:
            parts.append(w["model.embed_tokens.weight"][item][None])
    return qwen2(w, torch.cat(parts), sizes)
