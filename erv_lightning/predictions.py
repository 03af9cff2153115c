"""What a row of predictions.jsonl is. Knows no model, no judge and no tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erv_lightning.text import parse_response

if TYPE_CHECKING:
    from erv_lightning.data.sample import Sample


def prediction(sample: Sample, text: str) -> dict[str, Any]:
    """A row of predictions.jsonl for a response to a sample, before any judge has read it."""
    response = parse_response(text)
    return {
        "id": sample.id,
        "dataset": sample.dataset,
        "clip": sample.clip,
        "source": sample.source,
        "question": sample.question,
        "label": sample.label,
        "label_space": sample.label_space,
        "response": text,
        "explanation": response.explanation,
        "answer": response.answer,
        "answer_id": sample.space.id(response.answer),
        "label_id": sample.space.id(sample.label),
        "well_formed": response.well_formed,
        "judges": {},
    }
