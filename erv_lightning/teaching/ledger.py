"""What a teacher has said, in a file that only grows: no sentence is asked again when the command runs again.

It knows keys and what is filed under them; who the teacher is, is not its business.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of a sentence.

    Attributes:
        labels: names of the label space, the surest first; none where it conveys none.
        probs: how likely each label of the space is, in its order; None where the teacher has no probabilities.
    """

    labels: tuple[str, ...] = ()
    probs: tuple[float, ...] | None = None


def lesson_key(asked: Mapping[str, Any]) -> str:
    """What a lesson is filed under: the SHA-256 of all that decides it, as JSON."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Ledger:
    """The lessons of one teacher by key, one line of JSON each.

    A process may be killed at any moment: a last line that is not whole is cut off when the file is read again. Lines
    of other settings stay, and count again when those come back.

    Args:
        path: the file; it and its folder are made with the first lesson.

    Raises:
        ValueError: another line than the last cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lessons: dict[str, Lesson] = {}
        if path.is_file():
            self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._lessons

    def __getitem__(self, key: str) -> Lesson:
        return self._lessons[key]

    def add(self, lessons: Mapping[str, Lesson], texts: Sequence[str]) -> None:
        """Files lessons under their keys; they are on disk when it returns.

        Args:
            lessons: by key.
            texts: the sentence of each, for human readers.
        """
        lines = [
            json.dumps({"key": key, "text": text, **_as_json(lesson)}, ensure_ascii=False) + "\n"
            for (key, lesson), text in zip(lessons.items(), texts, strict=True)
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write("".join(lines).encode(errors="replace"))  # half a surrogate pair has no UTF-8
            file.flush()
            os.fsync(file.fileno())
        self._lessons.update(lessons)

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                row = json.loads(line)
                probs = None if row.get("probs") is None else tuple(map(float, row["probs"]))
                self._lessons[row["key"]] = Lesson(tuple(row["labels"]), probs)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{self.path}:{number} is no label of a sentence: delete the line, and the sentence is asked again"
                ) from error
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))


def _as_json(lesson: Lesson) -> dict[str, Any]:
    labels = {"labels": list(lesson.labels)}
    return labels if lesson.probs is None else {**labels, "probs": list(lesson.probs)}
