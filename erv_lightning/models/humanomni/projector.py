"""From what SigLIP, Whisper and BERT see to tokens of the language model.

Three branches read the same patches: `video` and `body`, convolutions over space and time, and `face`, patch by patch.
The question decides how they are mixed.

Legend: B clips, T frames, P patches of a frame (a square grid, row by row), W width of the vision tower, H hidden width
of the language model, N tokens of a clip.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from erv_lightning.models.humanomni.configuration import AUDIO_POOL, PROJECTORS, HumanOmniConfig

BRANCHES = ("video", "body", "face")  # in the order of the gate's outputs


def mlp(width: int, inner: int, out: int) -> nn.Sequential:
    """Linear, GELU, Linear; its tensors are ``0.weight``, ``0.bias``, ``2.weight`` and ``2.bias``."""
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, out))


def stage(depth: int, width: int, out: int) -> nn.Module:
    """A RegNet stage of depth-wise blocks with squeeze-and-excitation, (…, width, h, w) → (…, out, h, w).

    Raises:
        ValueError: timm is not installed.
    """
    try:
        from timm.layers.norm import LayerNorm2d
        from timm.models.regnet import RegStage
    except ImportError as error:
        raise ValueError("HumanOmni's projector needs timm: pip install 'erv-lightning[humanomni]'") from error
    # timm makes of LayerNorm2d its norm with an activation, whose epsilon is 1e-5.
    made: nn.Module = RegStage(depth, width, out, 1, 1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
    return made


class ConvBranch(GradientCheckpointingLayer):  # type: ignore[misc]
    """Stage, sampler, stage, readout: the branches `video` and `body`.

    Args:
        depth: blocks of each stage.
        width: W.
        hidden: H.
        padding: of the sampler, over time, height and width.
    """

    def __init__(self, depth: int, width: int, hidden: int, padding: tuple[int, int, int]) -> None:
        super().__init__()
        self.s1 = stage(depth, width, hidden)
        self.sampler = nn.Sequential(nn.Conv3d(hidden, hidden, 2, stride=(1, 2, 2), padding=padding), nn.SiLU())
        self.s2 = stage(depth, hidden, hidden)
        self.readout = mlp(hidden, hidden, hidden)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, W, h, w) → (B, N, H)."""
        clips, steps = frames.shape[:2]
        x = self.s1(frames.flatten(0, 1))  # (B·T, H, h, w)
        x = x.reshape(clips, steps, *x.shape[1:])
        x = self.sampler(x.transpose(1, 2))  # (B, H, T + 1, h', w')
        x = x[:, :, :steps]  # padding on both ends of time makes one step too many
        x = self.s2(x.transpose(1, 2).flatten(0, 1))  # (B·T, H, h', w')
        tokens: Tensor = self.readout(x.flatten(2).transpose(1, 2))  # (B·T, h'·w', H)
        return tokens.reshape(clips, -1, tokens.shape[-1])


class FaceBranch(nn.Module):
    """An MLP on every patch, then half the grid."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mlp = mlp(width, hidden, hidden)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, T, P, W) → (B, N, H)."""
        clips, steps, count, _ = patches.shape
        grid = math.isqrt(count)
        x = self.mlp(patches).transpose(2, 3)  # (B, T, H, P)
        x = x.reshape(clips * steps, -1, grid, grid)
        half = (math.ceil(grid / 2),) * 2
        x = nn.functional.interpolate(x, size=half, mode="bilinear", align_corners=False)
        return x.flatten(2).transpose(1, 2).reshape(clips, steps * half[0] * half[1], -1)


class VisualProjector(nn.Module):
    """The three branches, and the gate that mixes them by the question."""

    def __init__(self, config: HumanOmniConfig) -> None:
        super().__init__()
        depth, padding = PROJECTORS[config.projector_type]
        width, hidden = config.vision_config.hidden_size, config.text_config.hidden_size
        self.video = ConvBranch(depth, width, hidden, padding)
        self.body = ConvBranch(depth, width, hidden, padding)
        self.face = FaceBranch(width, hidden)
        self.gate = mlp(config.question_config.hidden_size, config.gate_width, len(BRANCHES))

    def forward(self, patches: Tensor, question: Tensor) -> Tensor:
        """A clip's tokens.

        Args:
            patches: (B, T, P, W).
            question: BERT's [CLS], (B, width of BERT).

        Returns:
            (B, N, H).
        """
        grid = math.isqrt(patches.shape[2])
        frames = patches.transpose(2, 3).reshape(*patches.shape[:2], -1, grid, grid)  # (B, T, W, h, w)
        weights = self.gate(question).softmax(-1)[:, :, None, None]  # (B, 3, 1, 1)
        branches = torch.stack([self.video(frames), self.body(frames), self.face(patches)], dim=1)
        mixed: Tensor = (weights * branches).sum(1)
        return mixed


class AudioProjector(nn.Module):
    """The mean of every three states, then an MLP."""

    def __init__(self, config: HumanOmniConfig) -> None:
        super().__init__()
        hidden = config.text_config.hidden_size
        self.mlp = mlp(config.audio_config.d_model, hidden, hidden)

    def forward(self, states: Tensor) -> Tensor:
        """Whisper's states (B, S, width) → (B, S // 3, H)."""
        pooled = nn.functional.avg_pool1d(states.transpose(1, 2), AUDIO_POOL)
        tokens: Tensor = self.mlp(pooled.transpose(1, 2))
        return tokens
