"""What the readers' tests share: one real clip, put wherever a data set would have it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from erv_lightning.data.encode import write_mp4


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real mp4 of half a second, with sound. Tests only read it."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    pictures = np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3)).astype(np.uint8)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    write_mp4(path, pictures, tone.astype(np.float32), 12, 16000)
    return path


@pytest.fixture
def put_clip(clip_file: Path) -> Callable[[Path], Path]:
    """Copies the clip to a path, whose folders are made."""

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip_file, path)
        return path

    return put
