"""Data sets as sources of samples: one file each."""

from erv_lightning.data.readers.cremad import CremaD
from erv_lightning.data.readers.dfew import Dfew
from erv_lightning.data.readers.emer import Emer
from erv_lightning.data.readers.jsonl import JsonlClips, ParquetClips
from erv_lightning.data.readers.mafw import Mafw
from erv_lightning.data.readers.meld import Meld
from erv_lightning.data.readers.mer2023 import Mer2023
from erv_lightning.data.readers.mer2024 import Mer2024
from erv_lightning.data.readers.merr import Merr
from erv_lightning.data.readers.mixed import MixedClips
from erv_lightning.data.readers.ovmerd import OvMerd
from erv_lightning.data.readers.r1_omni import R1Omni
from erv_lightning.data.readers.ravdess import Ravdess
from erv_lightning.data.readers.sentences import SentenceFiles
from erv_lightning.data.readers.sharded import ShardedClips
from erv_lightning.data.readers.synthetic import SyntheticClips

__all__ = [
    "CremaD",
    "Dfew",
    "Emer",
    "JsonlClips",
    "Mafw",
    "Meld",
    "Mer2023",
    "Mer2024",
    "Merr",
    "MixedClips",
    "OvMerd",
    "ParquetClips",
    "R1Omni",
    "Ravdess",
    "SentenceFiles",
    "ShardedClips",
    "SyntheticClips",
]
