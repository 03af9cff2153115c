"""Teachers: who says which emotions a sentence conveys. A judge of the evaluation, or what the samples say themselves.

A teacher knows sentences and a label space; what becomes of its labels is not its business.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from erv_lightning.errors import ConfigError, outside
from erv_lightning.judges.grammar import GrammarJudge
from erv_lightning.judges.protocol import Judge
from erv_lightning.judges.spec import KINDS, make_judge, told_by
from erv_lightning.labels import LabelSpace
from erv_lightning.teaching.ledger import Ledger, Lesson, lesson_key
from erv_lightning.teaching.sentences import Distinct, Mention, named

BATCH = 20  # sentences between two writes of the ledger; a chat judge has a progress bar of its own for more
DIGITS = 6  # of a probability
OfSamples = Literal["labels", "clip"]
_OF_SAMPLES: tuple[OfSamples, ...] = get_args(OfSamples)

Told = Callable[[int], None]  # called with the number of sentences that were labelled just now


@dataclass(frozen=True)
class Rule:
    """Which labels a sentence has, as in the explanation reward.

    Attributes:
        threshold: least probability, exclusive, in [0, 1].
        max_labels: most labels of one sentence, at least 1.

    Raises:
        ValueError: out of range.
    """

    threshold: float = 0.1
    max_labels: int = 2

    def __post_init__(self) -> None:
        limits = {"threshold": (self.threshold, 0.0, 1.0), "max-labels": (self.max_labels, 1.0, None)}
        if wrong := outside({f"--{name}": limit for name, limit in limits.items()}):
            raise ConfigError("; ".join(wrong))


@dataclass
class Teacher(ABC):
    """Labels sentences.

    Attributes:
        name: what its labels are filed under.
        conflicts: sentences of which it found several label sets at several clips.
    """

    name: str
    conflicts: int = field(default=0, init=False)

    @abstractmethod
    def lessons(self, sentences: Sequence[Distinct], told: Told) -> list[Lesson]:
        """The labels of each sentence, in the order given."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides its labels, as plain JSON, for the card."""

    def report(self) -> str:
        """What it has to say of its own work, such as tokens and cost; "" for nothing."""
        return ""


# -- what the samples say ------------------------------------------------------------------------------------------


@dataclass
class SampleTeacher(Teacher):
    """Takes the labels that come with the samples: costs nothing and asks nobody.

    Where equal sentences come with several label sets, the most frequent one counts, of equal ones the first.

    Attributes:
        name: ``labels`` takes the samples' `sentence_labels`; ``clip`` gives each sentence its clip's label, weakly.
        space: the labels that count.
    """

    name: OfSamples
    space: LabelSpace

    def lessons(self, sentences: Sequence[Distinct], told: Told) -> list[Lesson]:
        """No labels for a sentence that nobody labelled, or whose labels are not in the space."""
        said = [[one for mention in each.mentions if (one := self._said(mention)) is not None] for each in sentences]
        self.conflicts = sum(len({frozenset(one.labels) for one in those}) > 1 for those in said)
        told(len(sentences))
        return [_most_frequent(those) for those in said]

    def settings(self) -> dict[str, Any]:
        """Where the labels come from."""
        return {"labels": "of the samples' sentences" if self.name == "labels" else "of the samples' clips"}

    def _said(self, mention: Mention) -> Lesson | None:
        if self.name == "labels":
            return None if mention.labels is None else Lesson(mention.labels, mention.probs)
        labels = named([mention.clip_label], self.space)
        return Lesson(labels) if labels else None


def _most_frequent(lessons: Sequence[Lesson]) -> Lesson:
    """The first lesson with the most frequent label set; an empty one where there is none."""
    counts = Counter(frozenset(one.labels) for one in lessons)  # in the order of the lessons, as `most` takes them
    most = max(counts, key=lambda labels: counts[labels], default=frozenset[str]())
    return next((one for one in lessons if frozenset(one.labels) == most), Lesson())


# -- judges --------------------------------------------------------------------------------------------------------


@dataclass
class JudgeTeacher(Teacher):
    """Asks a judge for the emotions of each sentence, and writes down what it says as it comes.

    Attributes:
        judge: who is asked.
        space: the labels that count.
        rule: how probabilities become labels.
        folder: of its ledger; None keeps nothing.
    """

    name: str
    judge: Judge
    space: LabelSpace
    rule: Rule
    folder: Path | None = None

    def lessons(self, sentences: Sequence[Distinct], told: Told) -> list[Lesson]:
        """Those that the ledger has, and the others asked for, a batch at a time."""
        ledger = Ledger(self._path()) if self.folder else None
        keys = self._keys(sentences)
        found = {key: ledger[key] for key in keys if key in ledger} if ledger else {}
        told(len(found))
        waiting = [(key, one.text) for key, one in zip(keys, sentences, strict=True) if key not in found]
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            texts = [text for _, text in batch]
            new = dict(zip((key for key, _ in batch), self._ask(texts), strict=True))
            if ledger:
                ledger.add(new, texts)
            found |= new
            told(len(batch))
        return [found[key] for key in keys]

    def settings(self) -> dict[str, Any]:
        """Those of the judge, and the rule."""
        return {**self.judge.settings(), **asdict(self.rule)}

    def report(self) -> str:
        """What the judge says of its work."""
        return told_by(self.judge)

    def _ask(self, texts: Sequence[str]) -> list[Lesson]:
        sets = self.judge.conveyed(texts, self.space, self.rule.threshold, self.rule.max_labels)
        labels = [tuple(self.space.names[label] for label in ids) for ids in sets.label_ids]
        if sets.probs is None:
            return [Lesson(one) for one in labels]
        rows = [tuple(round(p, DIGITS) for p in row) for row in sets.probs.tolist()]
        return [Lesson(one, row if one else None) for one, row in zip(labels, rows, strict=True)]

    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / (re.sub(r"[^\w.=-]+", "_", self.name) + ".jsonl")

    def _keys(self, sentences: Sequence[Distinct]) -> list[str]:
        labels = {"space": self.space.name, "names": self.space.names}
        asked = {"judge": self.settings(), "weights": _fingerprint(self.settings()), **labels}
        return [lesson_key({**asked, "text": one.key}) for one in sentences]


def _fingerprint(settings: dict[str, Any]) -> list[tuple[str, int, int]]:
    """The files of a classifier in a folder: one that was trained again in the same place is another teacher."""
    folder = Path(str(settings.get("pretrained", "")))
    if not settings.get("pretrained") or not folder.is_dir():
        return []
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def make_teachers(specs: Sequence[str], space: LabelSpace, rule: Rule, folder: Path | None) -> list[Teacher]:
    """Teachers by the words of a command line.

    Args:
        specs: ``labels``, ``clip``, or a judge as `make_judge` takes it.
        space: the labels that count.
        rule: how probabilities become labels.
        folder: where judges write down what they say.

    Raises:
        ValueError: none, words that stand for no teacher, or two teachers of one name.
    """
    if not specs:
        raise ConfigError(f"no teacher: name who labels the sentences, --teacher {_known()}")
    teachers: list[Teacher] = []
    for spec in specs:
        teachers.append(_make(spec, space, rule, folder))
    counts = Counter(teacher.name for teacher in teachers)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ConfigError(f"two teachers are called {twice[0]!r}: put another name before one, --teacher NAME=…")
    return teachers


def _make(spec: str, space: LabelSpace, rule: Rule, folder: Path | None) -> Teacher:
    for own in _OF_SAMPLES:
        if spec == own:
            return SampleTeacher(own, space)
    words = re.sub(r"^[\w.-]+=", "", spec)
    kind, _, value = words.partition(":")
    if words != GrammarJudge.name and not (kind in KINDS and value) and not words.endswith((".yaml", ".yml")):
        raise ConfigError(f"no teacher {spec!r}; one of these is needed: {_known()}")
    judge = make_judge(spec)
    return JudgeTeacher(judge.name, judge, space, rule, folder)


def _known() -> str:
    judges = [GrammarJudge.name, *(f"{kind}:VALUE" for kind in KINDS), "FILE.yaml"]
    return f"{', '.join(judges)} as for evaluate --judge; or labels, or clip"
