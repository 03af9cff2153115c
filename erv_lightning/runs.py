"""The layout of a run's folder, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STAGES = ("sft", "verifier", "grpo")


@dataclass(frozen=True)
class RunFolder:
    """`<root>/<stage>/<name>/` and what stands in it."""

    root: Path
    stage: str
    name: str

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.root / self.stage / self.name

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """`best.ckpt` by the stage's metric, and `last.ckpt`."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation metric."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    def holds(self, checkpoint: str) -> bool:
        """Whether a checkpoint is one of this run's."""
        return Path(checkpoint).resolve().parent == self.checkpoints.resolve()

    @property
    def export(self) -> Path:
        """The best model in Hugging Face's layout; there once the run has finished."""
        return self.path / "export"

    @property
    def predictions(self) -> Path:
        """Each response with the judges' verdicts, one row a clip."""
        return self.path / "predictions.jsonl"

    def set_aside(self) -> Path | None:
        """Moves an earlier run of this name to `<name>.1` (or `.2`, …); returns where, or None if there was none."""
        if not self.path.exists():
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.name}.{number}")).exists():
            number += 1
        self.path.rename(aside)
        return aside

    @classmethod
    def of_export(cls, path: str) -> RunFolder | None:
        """The run that makes an exported model, if the path reads `<root>/<stage>/<name>/export`."""
        parts = Path(path).parts
        if len(parts) < 4 or parts[-1] != "export" or parts[-3] not in STAGES:
            return None
        return cls(Path(*parts[:-3]), parts[-3], parts[-2])
