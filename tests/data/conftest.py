from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from erv_lightning.data.encode import write_mp4
from erv_lightning.data.readers import SyntheticClips


@pytest.fixture(scope="session")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> SyntheticClips:
    """A small data set of real files, made once for all tests that only read it."""
    source = SyntheticClips(root=str(tmp_path_factory.mktemp("synthetic")), train=280, rl=7, val=14, test=140)
    source.prepare()
    return source


@pytest.fixture
def ramp_clip(tmp_path: Path) -> Path:
    """Twelve grey frames, each 20 brighter than the one before, and a 440 Hz tone of one second."""
    frames = np.stack([np.full((32, 48, 3), 20 * index, np.uint8) for index in range(12)])
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    write_mp4(tmp_path / "ramp.mp4", frames, tone.astype(np.float32), 12, 16000)
    return tmp_path / "ramp.mp4"
