"""Who sees what: the next clip of a rater, the side of each arm, the place of attention checks. Pure; knows no storage.

Every clip is to be rated equally often, each arm to stand on the left as often as on the right, for every clip and for
every rater. A check is a clip where an instruction stands in place of the explanation of arm A.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """How often a clip is taken.

    Attributes:
        item: its number.
        given: how many raters have answered it, or have it before them.
        lean: how many of these see arm A on the left, minus those that see it on the right.
    """

    item: int
    given: int
    lean: int


@dataclass(frozen=True)
class Choice:
    """What a rater sees next.

    Attributes:
        item: the clip's number.
        a_left: whether arm A stands on the left.
    """

    item: int
    a_left: bool


def choose(loads: Sequence[Load], lean: int, per_item: int, rng: random.Random) -> Choice | None:
    """The next clip of a rater: of those taken least, one that evens out the sides of the clip, then of the rater.

    Args:
        loads: of the clips that the rater has not seen.
        lean: of the rater, as of a clip.
        per_item: how often a clip is to be taken.
        rng: decides between equals.

    Returns:
        None where every clip is taken often enough.
    """
    candidates = [
        ((load.given, abs(load.lean + side), abs(lean + side), rng.random()), Choice(load.item, side > 0))
        for load in loads
        if load.given < per_item
        for side in (1, -1)
    ]
    return min(candidates, key=lambda one: one[0])[1] if candidates else None


def check_positions(clips: int, checks: int, rng: random.Random) -> list[int]:
    """Where checks stand among the clips of a rater: ascending positions from 1 on, never the first page.

    Args:
        clips: how many clips are to be rated, at least 1.
        checks: how many checks there are beside them.
        rng: draws them.
    """
    return sorted(rng.sample(range(1, clips + checks), checks))


def instruction(label: str) -> str:
    """What a check says in place of arm A's explanation."""
    return (
        "This is not an explanation of the clip. It is here to see whether these texts are read. "
        f"For the emotion that this text conveys, please choose “{label}”, and then say that the other text fits the "
        "clip better."
    )


def passed(label: int, conveyed_a: int, preferred: str) -> bool:
    """Whether a check was answered as asked: the emotion's id for arm A, and arm "b" preferred."""
    return conveyed_a == label and preferred == "b"
