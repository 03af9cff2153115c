"""Labelled sentences for the verifier: those of `verifier build-data`, or anyone's own."""

from __future__ import annotations

from typing import Any

from erv_lightning.data.readers.files import known_label
from erv_lightning.data.readers.jsonl import JsonlClips, known_probs
from erv_lightning.data.sample import Sample
from erv_lightning.labels import get_label_space
from erv_lightning.text import split_sentences


class SentenceFiles(JsonlClips):
    """One JSONL file a split, one sentence a row: ``{"text": "She smiles.", "labels": ["happy"]}``.

    `labels` is a list or one word. A row may also have `probs`, a teacher's probability of each label
    (``{"happy": 0.9, …}``), and `id`, `label_space`, `dataset`, `clip` and `source`. Each sentence becomes a sample of
    its own, an explanation of one sentence whose label is the first of `labels`; nobody opens its clip.

    Args:
        root: folder of the files.
        pattern: file of a split.
        label_space: of rows that name none.
    """

    def __init__(self, root: str, pattern: str = "{split}.jsonl", label_space: str = "dfew") -> None:
        super().__init__(root, pattern, label_space)

    def _sample(self, row: Any, split: str, record: str) -> Sample:
        if not isinstance(row, dict):
            raise ValueError("a JSON object is needed")
        row = {key: value for key, value in row.items() if value is not None}
        _check(row)
        space = get_label_space(row.get("label_space", self.label_space))
        given = row["labels"] if isinstance(row["labels"], list) else [row["labels"]]
        labels = tuple(dict.fromkeys(known_label(space, label) for label in given))
        return Sample(
            id=str(row.get("id", record)),
            dataset=str(row.get("dataset", self.root.name)),
            clip=row.get("clip", ""),
            question=self.question,
            label_space=space.name,
            label=labels[0],
            split=split,
            explanation=row["text"],
            sentence_labels=(labels,),
            sentence_probs=(known_probs(space, row["probs"]),) if "probs" in row else (),
            source=row.get("source", ""),
            record=record,
        )


def _check(row: dict[str, Any]) -> None:
    """Raises ValueError for a row that is no labelled sentence."""
    if not isinstance(row.get("text"), str) or not isinstance(row.get("labels"), str | list):
        raise ValueError('a text under "text" is needed, and under "labels" a list of labels or one of them')
    wrong = [key for key in ("label_space", "clip", "source") if not isinstance(row.get(key, ""), str)]
    wrong += [] if isinstance(row.get("probs", {}), dict) else ["probs"]
    if wrong:
        raise ValueError(f"values of a wrong type under {wrong}")
    if not row["labels"]:
        raise ValueError("labels is empty: name the space's neutral label, or leave the row out")
    sentences = split_sentences(row["text"])
    if len(sentences) != 1:
        raise ValueError(
            f"text is {len(sentences)} sentences, and the reward reads one at a time: give each a row of its own"
            if sentences
            else "text is empty: leave the row out"
        )
