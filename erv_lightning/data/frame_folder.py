"""Folders of frames, as DFEW publishes them: one picture a file, in natural order."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import av
import torch
import torchvision.io
from torch import Tensor

from erv_lightning.data.pyav_decoder import MAX_PIXELS

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
Folder = Path | zipfile.Path


def of(source: str | Path | bytes) -> Folder | None:
    """The folder that a path names, or that an archive's content holds; None for anything else."""
    if isinstance(source, bytes):
        return zipfile.Path(io.BytesIO(source)) if source[:4] == b"PK\x03\x04" else None
    return Path(source) if Path(source).is_dir() else None


def frames_in(folder: Folder) -> list[Any]:
    """The pictures of a folder, frame 10 after frame 9."""
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGES), key=_natural)


def _natural(path: Folder) -> list[Any]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def read_pictures(paths: list[Any], wanted: list[int]) -> Tensor:
    """The wanted frames, uint8 (T, 3, H, W).

    Raises:
        ValueError: a picture that cannot be decoded, or frames of several sizes.
    """
    images = {index: _read_image(paths[index]) for index in dict.fromkeys(wanted)}
    sizes = sorted({(image.shape[-2], image.shape[-1]) for image in images.values()})
    if len(sizes) > 1:
        raise ValueError(f"its frames have sizes {sizes}: all have to have the same")
    return torch.stack([images[index] for index in wanted])


def _read_image(path: Folder) -> Tensor:
    """One picture, uint8 (3, H, W)."""
    content = path.read_bytes()
    if path.suffix.lower() != ".bmp":
        try:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            pixels: Tensor = torchvision.io.decode_image(data, mode="RGB", apply_exif_orientation=True)
        except (RuntimeError, ValueError) as error:  # ValueError: an empty file
            raise ValueError(f"{path.name}: {error}") from error
        if pixels.shape[-2] * pixels.shape[-1] > MAX_PIXELS:
            raise ValueError(f"{path.name}: {pixels.shape[-1]} x {pixels.shape[-2]} pixels")
        return pixels
    with av.open(io.BytesIO(content)) as container:  # torchvision does not know bmp
        frame = next(container.decode(video=0))
        return torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).contiguous()
