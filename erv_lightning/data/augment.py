"""Placeholder until augmentation lands."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from erv_lightning.data.media import Clip


def augment(
    clip: Clip, video_transforms: Sequence[nn.Module], audio_transforms: Sequence[nn.Module], key: str
) -> Clip:
    """The clip as it is."""
    return clip
