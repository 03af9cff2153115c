"""Users' own clips: one JSONL file a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from erv_lightning.data.readers.files import known_label, raise_problems
from erv_lightning.data.sample import QUESTION, ClipSource, Sample
from erv_lightning.labels import get_label_space
from erv_lightning.text import split_sentences


class JsonlClips(ClipSource):
    """Rows with at least `clip` and `label`; docs/data.md lists the optional fields.

    Args:
        root: folder of the JSONL files; clip paths are relative to it.
        pattern: file of a split.
        label_space: of rows that name none.
        question: of rows that have none.
    """

    def __init__(
        self, root: str, pattern: str = "{split}.jsonl", label_space: str = "dfew", question: str = QUESTION
    ) -> None:
        self.root, self.pattern = Path(root), pattern
        self.label_space, self.question = label_space, question

    def samples(self, split: str) -> list[Sample]:
        """The rows of a split's file.

        Raises:
            ValueError: a missing file, or all bad rows at once, each with its line number.
        """
        path = self.root / self.pattern.format(split=split)
        if not path.is_file():
            raise ValueError(f"no file {str(path)!r} for the split {split!r}: check data.source.init_args.root")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{str(path)!r} is not UTF-8 text: save it as UTF-8") from error
        samples: dict[str, Sample] = {}
        problems = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                sample = self._sample(json.loads(line), split, f"{path}:{number}")
                if sample.id in samples:
                    raise ValueError(f"the id {sample.id!r} stands already at {samples[sample.id].record}")
                samples[sample.id] = sample
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
        raise_problems(problems)
        return list(samples.values())

    def _sample(self, row: Any, split: str, record: str) -> Sample:
        if not isinstance(row, dict):
            raise ValueError("a JSON object is needed")
        row = {key: value for key, value in row.items() if value is not None}
        missing = [key for key in ("clip", "label") if not isinstance(row.get(key), str)]
        if missing:
            raise ValueError(f"no text under {missing}")
        _check_types(row)
        space = get_label_space(row.get("label_space", self.label_space))
        sentence_labels = row.get("sentence_labels", [])
        sentences = len(split_sentences(row.get("explanation", "")))
        if sentence_labels and len(sentence_labels) != sentences:
            raise ValueError(f"{len(sentence_labels)} sentence labels for {sentences} sentences")
        return Sample(
            id=str(row.get("id", Path(record).name)),
            dataset=str(row.get("dataset", self.root.name)),
            clip=str(self.root / row["clip"]),
            question=row.get("question", self.question),
            label_space=space.name,
            label=known_label(space, row["label"]),
            split=split,
            explanation=row.get("explanation", ""),
            sentence_labels=tuple(
                None if labels is None else tuple(known_label(space, label) for label in labels)
                for labels in sentence_labels
            ),
            subtitle=row.get("subtitle", ""),
            fold=row.get("fold"),
            audio=str(self.root / row["audio"]) if row.get("audio") else "",
            record=record,
        )


def _check_types(row: dict[str, Any]) -> None:
    wrong = [
        key
        for key in ("question", "label_space", "explanation", "subtitle", "audio")
        if not isinstance(row.get(key, ""), str)
    ]
    wrong += ["fold"] if not isinstance(row.get("fold", 0), int) else []
    labels = row.get("sentence_labels", [])
    rows = labels if isinstance(labels, list) else [labels]
    if not all(one is None or (isinstance(one, list) and all(isinstance(name, str) for name in one)) for one in rows):
        wrong.append("sentence_labels")
    if wrong:
        raise ValueError(f"values of a wrong type under {wrong}")
