"""Clips that lie about: files and folders that nobody annotated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erv_lightning.data.sample import QUESTION, Sample
from erv_lightning.labels import get_label_space

SUFFIXES = frozenset({".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm", ".flv", ".wmv", ".mpg", ".mpeg", ".ts"})
NO_LABEL = ""


def found_clips(places: Sequence[Path], question: str = QUESTION, label_space: str = "dfew") -> list[Sample]:
    """A sample without a label for every clip, in the order of the places, and of the names within a folder.

    Args:
        places: files of any ending, and folders, which are searched with all that is in them for `SUFFIXES`; hidden
            files are left out. A clip that is named twice counts once.
        question: what the policy is asked.
        label_space: the emotions that its answers are looked up in.

    Raises:
        FileNotFoundError: a place that is not there.
        ValueError: no clip in any of them, or no such label space.
    """
    space = get_label_space(label_space)
    paths: dict[Path, None] = {}
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"no file or folder {place}")
        paths |= dict.fromkeys(_inside(place) if place.is_dir() else [place])
    if not paths:
        where = ", ".join(map(str, places))
        raise ValueError(f"no clip in {where}: files that end in {', '.join(sorted(SUFFIXES))} are looked for")
    return [
        Sample(str(path), "found", str(path), question, space.name, NO_LABEL, "predict", record=str(path))
        for path in paths
    ]


def _inside(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
