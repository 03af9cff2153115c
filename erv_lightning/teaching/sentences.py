"""The sentences of explanations: where each stands, and which are the same. Knows no teacher."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from erv_lightning.data.readers.files import raise_problems
from erv_lightning.data.sample import Sample
from erv_lightning.labels import LabelSpace, get_label_space
from erv_lightning.results import read_predictions
from erv_lightning.text import split_sentences


@dataclass(frozen=True)
class Mention:
    """A sentence where it stands in a clip's explanation.

    Attributes:
        id: ``<data set>/<clip's id>/<n>``, the n-th sentence of the clip's explanations, from 1 on.
        text: it, as the reward cuts it.
        dataset, clip, source: of the clip, see `Sample`.
        clip_label: the clip's own emotion, as the label space calls it, or else as its data set does; "" if unknown.
        labels: what the sample says that it conveys, labels of the space; None where nobody labelled it.
        probs: what the sample says of the labels' probabilities, in their order; None where it says nothing.
    """

    id: str
    text: str
    dataset: str
    clip: str
    source: str
    clip_label: str
    labels: tuple[str, ...] | None = None
    probs: tuple[float, ...] | None = None

    @property
    def clip_name(self) -> str:
        """``<data set>/<clip's id>``."""
        return self.id.rpartition("/")[0]


@dataclass(frozen=True)
class Distinct:
    """A sentence, once, with all the places where it stands.

    Attributes:
        key: its text without regard to case and white space; what makes two sentences equal.
        mentions: the first is the one that is kept.
    """

    key: str
    mentions: tuple[Mention, ...]

    @property
    def first(self) -> Mention:
        """The mention that is kept."""
        return self.mentions[0]

    @property
    def text(self) -> str:
        """As it first stands."""
        return self.first.text


def mentions(samples: Iterable[Sample], space: LabelSpace) -> list[Mention]:
    """Every sentence of the samples' explanations, in their order, with labels as `space` calls them.

    Of sentence labels those that the space has stay. Probabilities stay where they are of the same space.

    Raises:
        ValueError: sentence labels, or probabilities, that do not match the sentences in number; all of them.
    """
    found: list[Mention] = []
    counted: Counter[str] = Counter()
    problems = []
    for sample in samples:
        sentences, clip = split_sentences(sample.explanation), f"{sample.dataset}/{sample.id}"
        labels = sample.sentence_labels or (None,) * len(sentences)
        probs = sample.sentence_probs if sample.sentence_probs and sample.space == space else (None,) * len(sentences)
        if not len(sentences) == len(labels) == len(probs):
            given = f"{len(labels)} sentence labels and {len(probs)} probabilities"
            problems.append(f"{sample.record or clip}: {given} for {len(sentences)} sentences")
            continue
        for text, own, likely in zip(sentences, labels, probs, strict=True):
            counted[clip] += 1
            of_space = None if own is None else named(own, space)
            place = f"{clip}/{counted[clip]}"
            label = "".join(named([sample.label], space)) or sample.label
            found.append(Mention(place, text, sample.dataset, sample.clip, sample.source, label, of_space, likely))
    raise_problems(problems)
    return found


def named(labels: Iterable[str], space: LabelSpace) -> tuple[str, ...]:
    """Those of the labels that the space has, by its own names, each once."""
    ids = dict.fromkeys(space.id(label) for label in labels)
    return tuple(space.names[label] for label in ids if label >= 0)


def distinct(found: Iterable[Mention]) -> list[Distinct]:
    """The mentions with equal text together, in the order of their first ones."""
    places: dict[str, list[Mention]] = defaultdict(list)
    for mention in found:
        places[" ".join(mention.text.casefold().split())].append(mention)
    return [Distinct(key, tuple(same)) for key, same in places.items()]


def from_predictions(paths: Sequence[Path]) -> list[Sample]:
    """The explanations of predictions files, clips without one left out.

    Raises:
        ValueError: a file that is none of predictions.
        FileNotFoundError: one that is not there.
    """
    samples = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file {str(path)!r}: correct --predictions")
        frame = read_predictions(path).fillna("")
        for line, row in zip(frame.index, frame.to_dict("records"), strict=True):
            space = get_label_space(row["label_space"])
            samples.append(
                Sample(
                    id=row["id"],
                    dataset=str(row["dataset"]),
                    clip=str(row["clip"]),
                    question="",
                    label_space=space.name,
                    label=space.names[row["label_id"]] if row["label_id"] >= 0 else "",
                    split="predictions",
                    explanation=str(row.get("explanation", "")),
                    source=row["source"],
                    record=f"{path}:{line}",
                )
            )
    return [sample for sample in samples if sample.explanation.strip()]
