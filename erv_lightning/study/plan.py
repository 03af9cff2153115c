"""The settings of a study, and what a rater has before them. Knows no storage and no web page."""

from __future__ import annotations

from dataclasses import dataclass

from erv_lightning.study.assignment import instruction
from erv_lightning.study.items import Item


@dataclass(frozen=True)
class Plan:
    """The settings of a study.

    Attributes:
        arms: names of A and B; raters never see them.
        per_item: how many raters each clip is to have.
        per_rater: how many clips a rater sees, attention checks aside.
        attention: how many attention checks each rater gets.
        allow_tie: whether raters may prefer neither explanation.
        seed: of all that is drawn.
        max_raters: how many may consent.
        expire_minutes: an unanswered clip is given to someone else after this time.
        title: what the consent page calls the study.
        contact: whom to ask, "" for nobody.
        consent: the researcher's own words on the consent page, "" for none.
    """

    arms: tuple[str, str]
    per_item: int = 3
    per_rater: int = 20
    attention: int = 2
    allow_tie: bool = False
    seed: int = 0
    max_raters: int = 200
    expire_minutes: float = 60.0
    title: str = "How well do explanations fit emotions?"
    contact: str = ""
    consent: str = ""

    @property
    def total(self) -> int:
        """Pages of a rater."""
        return self.per_rater + self.attention


@dataclass(frozen=True)
class Task:
    """A page that a rater has before them.

    Attributes:
        key: names the page; random.
        position: 0 for a rater's first page.
        item: the clip.
        a_left: whether arm A stands on the left.
        check_label: of an attention check, id of the emotion that is asked for.
    """

    key: str
    position: int
    item: Item
    a_left: bool
    check_label: int | None

    @property
    def texts(self) -> tuple[str, str]:
        """What stands on the left and on the right."""
        a = self.item.a.explanation if self.check_label is None else instruction(self.item.labels[self.check_label])
        return (a, self.item.b.explanation) if self.a_left else (self.item.b.explanation, a)
