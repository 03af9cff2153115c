"""What a rater sends, read with a limit on everything. Knows urlencoded bytes; no storage, no web framework."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

MAX_BODY = 16_384
"""Bytes of a request: the longest comment, every character of it percent-encoded, with room for the rest."""

MAX_COMMENT = 1_000
"""Characters of a comment."""

MAX_SECONDS = 86_400.0
"""A day: more than anybody looks at one page."""

SIDES = ("left", "right")
TIE = "tie"
UNCLEAR = -1
"""The id for an explanation that conveys no emotion, or none clearly."""

_MAX_FIELDS = 16


class FormError(ValueError):
    """A form that cannot be taken as it is; the message tells the rater why."""


@dataclass(frozen=True)
class Answer:
    """What a rater says of a page.

    Attributes:
        left, right: id of the emotion that each explanation conveys, −1 for none or unclear.
        preferred: which fits the clip better: "left", "right", or "tie" where that is allowed.
        comment: "" for none.
        seconds: how long the page was looked at, as the browser tells; None if it does not.
        watched: how many seconds of the clip were played, likewise.
    """

    left: int
    right: int
    preferred: str
    comment: str = ""
    seconds: float | None = None
    watched: float | None = None

    @property
    def judgement(self) -> tuple[int, int, str, str]:
        """What the rater decided, without what the browser measured."""
        return self.left, self.right, self.preferred, self.comment


def read_form(body: bytes) -> dict[str, str]:
    """The fields of an urlencoded body; of a field that stands twice the last.

    Raises:
        FormError: too long, too many fields, or not UTF-8.
    """
    if len(body) > MAX_BODY:
        raise FormError("This is more text than the form takes.")
    try:
        fields = parse_qs(
            body.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        raise FormError("The form could not be read.") from None
    return {name: values[-1] for name, values in fields.items()}


def read_answer(form: Mapping[str, str], labels: int, allow_tie: bool) -> Answer:
    """An answer from its fields.

    Args:
        form: `left` and `right` (an id), `preferred`, and perhaps `comment`, `seconds`, `watched`.
        labels: how many emotions there are.
        allow_tie: whether "tie" may be preferred.

    Raises:
        FormError: a question is not answered, or with something that was not offered.
    """
    ids = {str(value): value for value in range(UNCLEAR, labels)}
    offered = (*SIDES, TIE) if allow_tie else SIDES
    if form.get("left") not in ids or form.get("right") not in ids:
        raise FormError("Please choose an emotion for both explanations.")
    if form.get("preferred") not in offered:
        raise FormError("Please say which explanation fits the clip better.")
    comment = form.get("comment", "").replace("\r\n", "\n").replace("\0", "").strip()
    if len(comment) > MAX_COMMENT:
        raise FormError(f"The comment has {len(comment)} characters, please keep it below {MAX_COMMENT}.")
    return Answer(
        ids[form["left"]],
        ids[form["right"]],
        form["preferred"],
        comment,
        _seconds(form.get("seconds", "")),
        _seconds(form.get("watched", "")),
    )


def _seconds(text: str) -> float | None:
    """A measured time between nothing and a day; None for anything else, which loses no answer."""
    try:
        value = float(text[:32])
    except ValueError:
        return None
    return round(value, 1) if math.isfinite(value) and 0 <= value <= MAX_SECONDS else None
