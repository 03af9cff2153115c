"""The colours that stand for labels, on a terminal and in a page. The label's name always stands beside its colour."""

from __future__ import annotations

from erv_lightning.labels import LabelSpace

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#F0E442", "#0072B2", "#CC79A7")
"""Okabe and Ito's, for any colour vision; a space with more labels starts anew."""

QUIET = "#999999"
"""Neutral, and what is no label."""


def label_colour(label: int, space: LabelSpace) -> str:
    """The colour of a label id."""
    return QUIET if label in (space.neutral, -1) else COLOURS[(label - (label > space.neutral)) % len(COLOURS)]


def label_colours(space: LabelSpace) -> list[str]:
    """The colour of each label of a space, by its id."""
    return [label_colour(label, space) for label in range(len(space.names))]
