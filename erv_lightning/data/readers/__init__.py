"""Data sets as sources of samples: one file each."""

from erv_lightning.data.readers.jsonl import JsonlClips
from erv_lightning.data.readers.synthetic import SyntheticClips

__all__ = ["JsonlClips", "SyntheticClips"]
