"""What a label is: the emotions of each data set, the words for them, and their place among GoEmotions.

Ids are positions. A text that names no label of the space has the id -1 everywhere in this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The words that mean the same emotion; the first is the emotion's name in the method's GoEmotions map.
_WORDS = (
    ("happiness", "happy", "joy", "joyful"),
    ("anger", "angry"),
    ("sadness", "sad"),
    ("neutral", "neutrality"),
    ("surprise", "surprised"),
    ("disgust", "disgusted"),
    ("fear", "fearful", "afraid", "scared"),
    ("contempt", "contemptuous"),
    ("anxiety", "anxious"),
    ("helplessness", "helpless"),
    ("disappointment", "disappointed"),
    ("worried", "worry"),
    ("calm",),
    ("doubt",),
)


@dataclass(frozen=True)
class LabelSpace:
    """The emotions a data set distinguishes.

    Attributes:
        name: what configs and samples call it, e.g. ``dfew``; lower case.
        names: the labels, lower case; a label's id is its position.
        synonyms: other words (lower case) for a label, each with the label it stands for.
        neutral: id of the neutral label.

    Raises:
        ValueError: for names that clash, synonyms that lead nowhere, or a neutral id outside the names.
    """

    name: str
    names: tuple[str, ...]
    synonyms: Mapping[str, str] = field(hash=False)
    neutral: int

    def __post_init__(self) -> None:
        problems = [
            f"{word!r} is not in plain lower case without surrounding space or a final full stop"
            for word in (self.name, *self.names, *self.synonyms)
            if not word or _plain(word) != word
        ]
        if len(set(self.names)) != len(self.names):
            problems.append(f"a name stands twice in {self.names}")
        problems += [f"synonym {word!r} is itself a name" for word in self.synonyms if word in self.names] + [
            f"synonym {word!r} stands for {name!r}, which is no name"
            for word, name in self.synonyms.items()
            if name not in self.names
        ]
        if not 0 <= self.neutral < len(self.names):
            problems.append(f"neutral = {self.neutral} is no id of {len(self.names)} names")
        if problems:
            raise ValueError(f"label space {self.name!r}: " + "; ".join(problems))

    def id(self, text: str) -> int:
        """The id of the label that a text names, -1 if it names none.

        Case, surrounding white space and one final full stop are ignored. The whole text must be one label or
        one
        synonym: two labels, or a label among other words, name none.
        """
        word = _plain(text)
        word = self.synonyms.get(word, word)
        return self.names.index(word) if word in self.names else -1


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").strip().lower()


def _synonyms(names: tuple[str, ...]) -> dict[str, str]:
    return {word: name for name in names for words in _WORDS if name in words for word in words if word != name}


def _space(name: str, *names: str, **more: str) -> LabelSpace:
    """A space with the synonyms that `_WORDS` has for its names, and `more` of its own: word → name."""
    return LabelSpace(name, names, {**_synonyms(names), **more}, names.index("neutral"))


DFEW = _space("dfew", "happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
MAFW = _space(
    "mafw",
    "anger",
    "disgust",
    "fear",
    "happiness",
    "neutral",
    "sadness",
    "surprise",
    "contempt",
    "anxiety",
    "helplessness",
    "disappointment",
)

_WORRY = {"anxiety": "worried", "anxious": "worried"}  # the sets that have "worried" have no "anxiety" beside it

EMER = _space("emer", "angry", "happy", "anxiety", "sad", "surprise", "neutral", worried="anxiety", worry="anxiety")
MER2023 = _space("mer2023", "neutral", "angry", "happy", "sad", "worried", "surprise", **_WORRY)  # MER2024 too
MERR = _space("merr", "neutral", "happy", "angry", "worried", "surprise", "sad", "fear", "doubt", "contempt", **_WORRY)
RAVDESS = _space("ravdess", "neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
CREMAD = _space("cremad", "angry", "disgust", "fear", "happy", "neutral", "sad")
MELD = _space("meld", "anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")

_SPACES: dict[str, LabelSpace] = {
    space.name: space for space in (DFEW, MAFW, EMER, MER2023, MERR, RAVDESS, CREMAD, MELD)
}


def get_label_space(name: str) -> LabelSpace:
    """The label space of that name, in any case. Raises ValueError, naming the known ones, for any other."""
    space = _SPACES.get(name.lower())
    if space is None:
        raise ValueError(
            f"no label space {name!r}; known: {', '.join(sorted(_SPACES))} "
            "(add your own with erv_lightning.labels.register_label_space)"
        )
    return space


def register_label_space(space: LabelSpace) -> LabelSpace:
    """Makes a space known to `get_label_space` in this process, and returns it.

    Registering an equal space again does nothing. Raises ValueError where the name is taken by another one.
    """
    if _SPACES.setdefault(space.name, space) != space:
        raise ValueError(f"label space {space.name!r} is already registered with other labels; rename yours")
    return space


GOEMOTIONS = (
    "admiration",
    "amusement",
    "anger",
    "annoyance",
    "approval",
    "caring",
    "confusion",
    "curiosity",
    "desire",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "excitement",
    "fear",
    "gratitude",
    "grief",
    "joy",
    "love",
    "nervousness",
    "optimism",
    "pride",
    "realization",
    "relief",
    "remorse",
    "sadness",
    "surprise",
    "neutral",
)
"""The 28 outputs of a GoEmotions classifier, in the data set's order."""

_TO_GOEMOTIONS = {
    "happiness": "joy",
    "anger": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "sadness": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
    "anxiety": "nervousness",
    "helplessness": "grief",
    "disappointment": "disappointment",
    "contempt": "disapproval",
    # beyond the method's table, for other data sets
    "worried": "nervousness",
    "calm": "relief",
    "doubt": "confusion",
}
_GOEMOTIONS_INDEX = {word: GOEMOTIONS.index(_TO_GOEMOTIONS[words[0]]) for words in _WORDS for word in words}


def goemotions_index(name: str) -> int:
    """The position in `GOEMOTIONS` that the method takes for an emotion of DFEW or MAFW (method: stage 2).

    For emotions of other data sets it is our choice. Other words for these emotions lead to the same place
    (``happy`` as ``happiness``). Raises ValueError, naming the emotions that have a place, for any other.
    """
    index = _GOEMOTIONS_INDEX.get(_plain(name))
    if index is None:
        raise ValueError(f"{name!r} has no place among GoEmotions; these have: {', '.join(_TO_GOEMOTIONS)}")
    return index
