"""From explanations to a data set of labelled sentences, and the numbers that its card tells. Writes nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from erv_lightning.data.sample import Sample
from erv_lightning.errors import ConfigError
from erv_lightning.labels import LabelSpace
from erv_lightning.teaching.agreement import Labels, compare, holding
from erv_lightning.teaching.ledger import Lesson
from erv_lightning.teaching.selection import PARTS, balanced, check_fractions, groups, parts_of
from erv_lightning.teaching.sentences import Distinct, Mention, distinct, mentions
from erv_lightning.teaching.teachers import SampleTeacher, Teacher, Told

Row = dict[str, Any]
Watch = Callable[[str, int], Told]  # a teacher's name and how many sentences it labels → what it reports to


@dataclass(frozen=True)
class Plan:
    """How the data set is made.

    Attributes:
        space: the labels that count.
        fractions: of train, val and test.
        seed: of the splits and of the balance.
        per_label: most training sentences that hold a label; None: the median; 0: all there are.
        limit: label so many sentences at most, for a trial; None: all.

    Raises:
        ValueError: fractions that are none.
    """

    space: LabelSpace
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0
    per_label: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        check_fractions(self.fractions)

    @property
    def wanted(self) -> list[str]:
        """The splits with a share."""
        return [part for part, fraction in zip(PARTS, self.fractions, strict=True) if fraction]


@dataclass(frozen=True)
class Built:
    """The data set.

    Attributes:
        rows: split → its rows, one a sentence; no sentence and no clip is in two splits.
        numbers: plain JSON types, which `card.json` holds.
    """

    rows: dict[str, list[Row]]
    numbers: dict[str, Any]


@dataclass(frozen=True)
class _Labelled:
    """A sentence in its split, with what the first teacher says."""

    mention: Mention
    group: str
    part: str
    lesson: Lesson


def build(samples: Sequence[Sample], teachers: Sequence[Teacher], plan: Plan, watch: Watch) -> Built:
    """Cuts, labels, thins and splits.

    Args:
        samples: clips with explanations; others are passed over.
        teachers: the first one's labels are taken, the others' compared with them. At least one.
        plan: how.
        watch: told of the progress of each teacher.

    Raises:
        ValueError: no explanation, or a split without sentences; before anyone is asked, as far as can be known then.
        ConnectionError: a judge's endpoint is out of reach.
    """
    every = mentions(samples, plan.space)
    if not every:
        raise ConfigError("there is no explanation to cut into sentences: EMER, MERR and predictions have some")
    found = distinct(every)
    sentences = found[: plan.limit]
    group_of = dict(zip((mention.id for mention in every), groups(every), strict=True))
    names = [group_of[one.first.id] for one in sentences]
    parts = parts_of(names, plan.fractions, plan.seed)
    _check_parts(parts, names, plan)
    lessons = {one.name: one.lessons(sentences, watch(one.name, len(sentences))) for one in teachers}
    first = lessons[teachers[0].name]
    rated = [
        _Labelled(one.first, group, part, lesson)
        for one, group, part, lesson in zip(sentences, names, parts, first, strict=True)
    ]
    labelled = [one for one in rated if one.lesson.labels]
    _check_parts([one.part for one in labelled], names, plan, f"{teachers[0].name} gives too few sentences a label: ")
    train = {one.mention.id: one.lesson.labels for one in labelled if one.part == "train"}
    stay, limit = balanced(train, plan.per_label, plan.seed)
    thinned = train.keys() - stay
    kept = [one for one in labelled if one.mention.id not in thinned]
    numbers = {
        **_of_plan(plan, limit),
        **_of_sentences(every, len(found), teachers[0], rated),
        "splits": {part: _of_part(part, labelled, kept, plan.space) for part in plan.wanted},
        "teachers": [_of_teacher(one, sentences, lessons[one.name], plan.space) for one in teachers],
        "agreement": [{"with": one.name, **_compared(first, lessons[one.name], plan.space)} for one in teachers[1:]],
    }
    return Built({part: [_row(one, plan.space) for one in kept if one.part == part] for part in plan.wanted}, numbers)


def _check_parts(parts: Sequence[str], names: Sequence[str], plan: Plan, why: str = "") -> None:
    if empty := [part for part in plan.wanted if part not in parts]:
        raise ConfigError(
            f"{why}the split {empty[0]!r} would be empty, of {len(parts)} sentences from {len(set(names))} clips or "
            "sources: give more explanations, a larger share in --fractions (or 0: no such split), or another --seed"
        )


def _row(one: _Labelled, space: LabelSpace) -> Row:
    mention, probs = one.mention, one.lesson.probs
    likely = {} if probs is None else {"probs": dict(zip(space.names, probs, strict=True))}
    return {
        "id": mention.id,
        "text": mention.text,
        "labels": list(one.lesson.labels),
        **likely,
        "label_space": space.name,
        "dataset": mention.dataset,
        "clip": mention.clip,
        "source": mention.source,
        "clip_label": mention.clip_label,
    }


# -- numbers -------------------------------------------------------------------------------------------------------


def _of_plan(plan: Plan, limit: int) -> dict[str, Any]:
    fractions = dict(zip(PARTS, plan.fractions, strict=True))
    of_labels = {"label_space": plan.space.name, "labels": list(plan.space.names)}
    return {**of_labels, "fractions": fractions, "seed": plan.seed, "per_label": limit, "limit": plan.limit}


def _of_sentences(every: Sequence[Mention], found: int, teacher: Teacher, rated: Sequence[_Labelled]) -> dict[str, Any]:
    return {
        "clips": len({one.clip_name for one in every}),
        "datasets": dict(Counter(one.dataset for one in every)),
        "sentences": len(every),
        "distinct": found,
        "asked": len(rated),
        "conflicts": teacher.conflicts,
        "without_label": sum(not one.lesson.labels for one in rated),
        "with_probs": any(one.lesson.probs is not None for one in rated),
    }


def _of_part(part: str, labelled: Sequence[_Labelled], kept: Sequence[_Labelled], space: LabelSpace) -> dict[str, Any]:
    before, after = ([one for one in those if one.part == part] for those in (labelled, kept))
    clips = {one.mention.clip_name for one in after}
    return {
        "sentences": len(after),
        "clips": len(clips),
        "groups": len({one.group for one in after}),
        "sentences_per_clip": len(after) / len(clips),
        "labels": _counted(after, space),
        "before_balancing": {"sentences": len(before), "labels": _counted(before, space)},
    }


def _counted(those: Sequence[_Labelled], space: LabelSpace) -> dict[str, int]:
    counts = Counter(label for one in those for label in one.lesson.labels)
    return {name: counts[name] for name in space.names}


def _of_teacher(
    teacher: Teacher, sentences: Sequence[Distinct], lessons: Sequence[Lesson], space: LabelSpace
) -> dict[str, Any]:
    sets = _sets(lessons)
    counted, share = holding(sets, [one.first.clip_label for one in sentences], space.names)
    given = [any(mention.labels is not None for mention in one.mentions) for one in sentences]
    own = SampleTeacher("labels", space).lessons(sentences, lambda _: None)
    pairs = [pair for pair, there in zip(zip(own, lessons, strict=True), given, strict=True) if there]
    return {
        "name": teacher.name,
        "settings": teacher.settings(),
        "without_label": sum(not one for one in sets),
        "several_labels": sum(len(one) > 1 for one in sets),
        "clip_label": {"sentences": counted, "share": share},
        "sentence_labels": _compared([one for one, _ in pairs], [one for _, one in pairs], space) if pairs else None,
    }


def _compared(a: Sequence[Lesson], b: Sequence[Lesson], space: LabelSpace) -> dict[str, Any]:
    return asdict(compare(_sets(a), _sets(b), space.names))


def _sets(lessons: Sequence[Lesson]) -> list[Labels]:
    return [frozenset(one.labels) for one in lessons]
