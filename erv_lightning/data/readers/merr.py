"""MERR: clips of MER2023-SEMI that Emotion-LLaMA's authors had described by models, with pseudo labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import ClipFolder, Row, collect, known_label, read_json
from erv_lightning.data.readers.mer2023 import subtitles
from erv_lightning.data.sample import QUESTION, Published, Sample
from erv_lightning.labels import MERR

DESCRIPTIONS = ("smp_reason_caption", "caption")  # of the fine and of the coarse file
COUNTS = {"MERR_fine_grained.json": 4487, "MERR_coarse_grained.json": 28618}


class Merr(AnnotatedClips):
    """Reads a JSON object, clip → ``pseu_emotion``, ``smp_reason_caption`` or ``caption``, and perhaps ``text``.

    Args:
        root: folder of the annotations and the clips.
        annotations: file in it; ``MERR_coarse_grained.json`` has more clips, whose descriptions are put together from
            single cues without an inference.
        question: what the policy is asked.
        holdout: share of the clips that are the split ``val`` instead.
    """

    parts: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(
        self,
        root: str,
        annotations: str = "MERR_fine_grained.json",
        question: str = QUESTION,
        holdout: float = 0.05,
    ) -> None:
        super().__init__(root, question, holdout)
        self.annotations = annotations

    def _read(self, part: str) -> list[Sample]:
        clips, spoken = ClipFolder(self.root, ("video", "videos", "clips", "test3", ".")), subtitles(self.root)

        def make(place: str, cells: dict[str, str]) -> Sample:
            name, label = cells["name"], known_label(MERR, cells["pseu_emotion"])
            explanation = next((cells[key].strip() for key in DESCRIPTIONS if cells.get(key, "").strip()), "")
            if not explanation:
                raise ValueError(f"no text under {' or '.join(DESCRIPTIONS)}")
            return Sample(
                id=name,
                dataset="merr",
                clip=clips.find(name),
                question=self.question,
                label_space=MERR.name,
                label=label,
                split=part,
                explanation=explanation,
                subtitle=cells.get("text", "").strip() or spoken.get(name, ""),
                record=place,
            )

        return collect(self._rows(), make)

    def _rows(self) -> Iterator[Row]:
        path = self.root / self.annotations
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"{str(path)!r} is no JSON object of clips: check data.source.init_args.annotations")
        for name, fields in content.items():
            texts = fields.items() if isinstance(fields, dict) else ()
            yield f"{path}:{name}", {**{key: text for key, text in texts if isinstance(text, str)}, "name": name}

    def _published(self, part: str) -> Published | None:
        count = COUNTS.get(Path(self.annotations).name)
        return None if count is None else Published(count)
