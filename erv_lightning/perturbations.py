"""Ways to change a sentence whose labels are known: denied, in other words, shuffled, cut. Pure text, no model.

Every perturbation knows what should become of the labels, so that a verifier can be judged by what it says afterwards.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from erv_lightning.data.datamodule import Sentence
from erv_lightning.data.grammar import OPENERS
from erv_lightning.labels import LabelSpace

Kind = Literal["negation", "paraphrase", "word order", "fragment", "spelling"]
Wanted = Literal["go", "stay", "open"]

_NEGATIONS = ("It is not true that", "There is no sign that", "It would be wrong to say that")
_CARRIERS = ("Looking closely,", "It is plain to see that", "As far as anyone can tell,", "What stands out is that")
_NOISE = (" …", " [inaudible]", " - - -", " (00:12)", " uh, well")

# Everyday words that convey no emotion themselves, and others for them.
SYNONYMS = {
    "video": "footage",
    "clip": "recording",
    "audio": "audio track",
    "cues": "clues",
    "signs": "hints",
    "face": "visage",
    "brows": "eyebrows",
    "eyebrows": "brows",
    "gaze": "look",
    "look": "gaze",
    "corners": "edges",
    "voice": "way of speaking",
    "tone": "timbre",
    "speech": "talking",
    "words": "remarks",
    "sentence": "phrase",
    "speaks": "talks",
    "speak": "talk",
    "speaking": "talking",
    "speaker": "talker",
    "person": "human being",
    "man": "guy",
    "woman": "lady",
    "child": "kid",
    "moment": "situation",
    "show": "reveal",
    "shows": "reveals",
    "appear": "seem",
    "appears": "seems",
    "seem": "appear",
    "seems": "appears",
    "indicates": "suggests",
    "suggests": "indicates",
    "begin": "start",
    "begins": "starts",
    "both": "the two",
    "everything": "all",
    "whole": "complete",
    "big": "large",
    "large": "big",
    "small": "little",
    "very": "really",
    "slowly": "gradually",
    "quick": "fast",
    "quickly": "fast",
    "suddenly": "all at once",
    "slightly": "a little",
    "under": "beneath",
    "beneath": "under",
    "below": "under",
    "above": "over",
    "tightly": "firmly",
}


@dataclass(frozen=True)
class Perturbation:
    """A way to change a sentence.

    Attributes:
        name: of the row.
        kind: what it tests.
        what: what is done, for people.
        wanted: whether a good verifier's labels ``stay`` or ``go``; ``open`` where it depends on the sentence.
        write: (sentence, random state) → its text, changed; None, or an equal text, where there is nothing to change.
    """

    name: str
    kind: Kind
    what: str
    wanted: Wanted
    write: Callable[[Sentence, random.Random], str | None]


def _denied(sentence: Sentence, rng: random.Random) -> str:
    return f"{rng.choice(_NEGATIONS)} {_inside(sentence.text)}"


def _denied_by_name(sentence: Sentence, rng: random.Random) -> str:
    return f"The emotion is not {' and not '.join(sentence.labels)}."


def _carried(sentence: Sentence, rng: random.Random) -> str:
    return f"{rng.choice(_CARRIERS)} {_inside(sentence.text)}"


def _inside(text: str) -> str:
    """How a sentence starts after other words; "I" and what is in capitals stay."""
    first = text.split(maxsplit=1)[:1]
    return text if first and first[0].isupper() else text[:1].lower() + text[1:]


def _other_opener(sentence: Sentence, rng: random.Random) -> str | None:
    for openers in OPENERS.values():
        for opener in openers:
            if sentence.text.startswith(f"{opener},"):
                return rng.choice([one for one in openers if one != opener]) + sentence.text.removeprefix(opener)
    return None


def _other_words(sentence: Sentence, rng: random.Random) -> str:
    def exchanged(word: re.Match[str]) -> str:
        other = SYNONYMS.get(word[0].lower(), word[0])
        return other[:1].upper() + other[1:] if word[0][0].isupper() else other

    return re.sub(r"[^\W\d_]+", exchanged, sentence.text)


def _shuffled(sentence: Sentence, rng: random.Random) -> str | None:
    words = [word.strip(".,;:!?").lower() for word in sentence.text.split()]
    if len(set(words)) < 3:
        return None
    rng.shuffle(words)
    return " ".join(words) + "."


def _first_half(sentence: Sentence, rng: random.Random) -> str | None:
    words = sentence.text.split()
    return " ".join(words[: len(words) // 2]).rstrip(",;:") or None


def _second_half(sentence: Sentence, rng: random.Random) -> str | None:
    words = sentence.text.split()
    return " ".join(words[len(words) // 2 :]) if len(words) > 1 else None


PERTURBATIONS = (
    Perturbation("denied", "negation", "a negation put before the sentence", "go", _denied),
    Perturbation("denied by name", "negation", "a sentence that only denies the label", "go", _denied_by_name),
    Perturbation("carrier phrase", "paraphrase", "an empty phrase put before the sentence", "stay", _carried),
    Perturbation("other opener", "paraphrase", "the built-in openers exchanged", "stay", _other_opener),
    Perturbation("other words", "paraphrase", "synonyms for words without emotion", "stay", _other_words),
    Perturbation("shuffled", "word order", "the words in random order", "open", _shuffled),
    Perturbation("first half", "fragment", "the first half of the words", "open", _first_half),
    Perturbation("second half", "fragment", "the second half of the words", "open", _second_half),
    Perturbation("no full stop", "spelling", "without the end mark", "stay", lambda s, _: s.text.rstrip(".!?")),
    Perturbation("lower case", "spelling", "all in small letters", "stay", lambda s, _: s.text.lower()),
    Perturbation("upper case", "spelling", "all in capitals", "stay", lambda s, _: s.text.upper()),
    Perturbation(
        "noise", "spelling", "signs of a transcript at the end", "stay", lambda s, r: s.text + r.choice(_NOISE)
    ),
)


def distinct(sentences: Sequence[Sentence], most: int, seed: int) -> tuple[list[Sentence], int]:
    """At most so many different labelled sentences, drawn at random, in order; and how many there are.

    Equal ones count once: they would make intervals too narrow.
    """
    different = list({(one.text, one.labels): one for one in sentences if one.labels}.values())
    rng = random.Random(f"{seed}/sentences")
    drawn = sorted(rng.sample(range(len(different)), min(most, len(different))))
    return [different[index] for index in drawn], len(different)


def perturbed(
    perturbation: Perturbation, sentences: Sequence[Sentence], space: LabelSpace, seed: int
) -> list[tuple[Sentence, str]]:
    """Sentences with their changed texts, which depend on seed, perturbation and text alone.

    Left out: sentences in which there is nothing to change, and denials of neutral, which convey nothing definite.
    """
    pairs = []
    for sentence in sentences:
        if perturbation.wanted == "go" and space.neutral in map(space.id, sentence.labels):
            continue
        text = perturbation.write(sentence, random.Random(f"{seed}/{perturbation.name}/{sentence.text}"))
        if text and text != sentence.text:
            pairs.append((sentence, text))
    return pairs
