"""The JSON that R1-Omni, HumanOmni and ERV train on: a video and a conversation of one question and one answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import Row, collect, known_label, read_json
from erv_lightning.data.sample import QUESTION, Sample
from erv_lightning.labels import get_label_space
from erv_lightning.text import parse_response

MEDIA = re.compile(r"<(?:video|audio|image)>\s*")


class R1Omni(AnnotatedClips):
    """Reads lists of ``{"video": …, "conversations": [{"from": "human", …}, {"from": "gpt", …}]}``.

    The answer is ``<think>…</think>\\n<answer>…</answer>`` for SFT, the bare label for GRPO. The question is what the
    human says without the media tags.

    Args:
        root: folder of the JSON files.
        files: file of each split, e.g. ``{train: emer.json}``; without ``val``, training clips make one.
        label_space: of the answers: ``emer``, ``dfew``, ``mafw``, …
        dataset: what the samples' data set is called; by default as the label space.
        media_root: folder that video paths are relative to; by default `root`.
        strip: cut off the beginning of every video path, such as the authors' own folder in published files.
        holdout: share of the training clips that are the split ``val`` instead.
    """

    def __init__(
        self,
        root: str,
        files: dict[str, str],
        label_space: str = "emer",
        dataset: str = "",
        media_root: str = "",
        strip: str = "",
        holdout: float = 0.05,
    ) -> None:
        super().__init__(root, QUESTION, holdout)
        if not files:
            raise ValueError("R1Omni needs a file: set data.source.init_args.files, e.g. {train: emer.json}")
        self.parts = tuple(files)  # type: ignore[misc]  # as many as there are files
        self.files, self.space = dict(files), get_label_space(label_space)
        self.dataset, self.strip = dataset or self.space.name, strip
        self.media_root = Path(media_root or root)

    def _read(self, part: str) -> list[Sample]:
        def make(place: str, cells: dict[str, str]) -> Sample:
            video, question = self._video(cells["video"]), MEDIA.sub("", cells["human"]).strip()
            explanation, answer = _taken_apart(cells["gpt"])
            if not question:
                raise ValueError("the human asks nothing")
            return Sample(
                id=video,
                dataset=self.dataset,
                clip=str(self.media_root / video),
                question=question,
                label_space=self.space.name,
                label=known_label(self.space, answer),
                split=part,
                explanation=explanation,
                record=place,
            )

        return collect(_rows(self.root / self.files[part]), make)

    def _video(self, path: str) -> str:
        """A video path without its beginning."""
        if not path.startswith(self.strip):
            raise ValueError(f"video {path!r} does not begin with data.source.init_args.strip {self.strip!r}")
        return path.removeprefix(self.strip).lstrip("/") if self.strip else path


def _rows(path: Path) -> Iterator[Row]:
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{str(path)!r} is no JSON list of records: check data.source.init_args.files")
    for number, record in enumerate(content):
        fields: Mapping[str, Any] = record if isinstance(record, dict) else {}
        turns = fields.get("conversations")
        cells: dict[str, str] = {}
        for turn in turns if isinstance(turns, list) else ():
            if isinstance(turn, dict) and isinstance(turn.get("value"), str):
                cells.setdefault(str(turn.get("from")), turn["value"])  # the first turn of each
        if isinstance(fields.get("video"), str):
            cells["video"] = fields["video"]
        yield f"{path}:{number}", cells


def _taken_apart(text: str) -> tuple[str, str]:
    """Explanation and answer of a gpt turn; a text without tags is the answer."""
    if "<think>" not in text and "<answer>" not in text:
        return "", text
    response = parse_response(text)
    if not response.answer:
        raise ValueError("gpt gives no answer: one <answer>…</answer> is needed")
    return response.explanation, response.answer
