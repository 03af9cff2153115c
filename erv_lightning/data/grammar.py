"""The language of the built-in explanations: it writes them, and read backwards it judges them.

An explanation is "In the video, <cue>. In the audio, <cue>. Together, <conclusion>." Every phrase belongs to one
emotion only, so that text can be read back without a model. Knows emotions (DFEW's names), no label ids, no clips and
no torch.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

from erv_lightning.text import split_sentences

Slot = Literal["video", "audio", "conclusion"]

# The first opener of a slot is the usual one.
OPENERS: dict[Slot, tuple[str, ...]] = {
    "video": ("In the video", "On screen"),
    "audio": ("In the audio", "By ear"),
    "conclusion": ("Together", "Overall"),
}
_USUAL = 0.8  # probability of the usual opener

TAUGHT_FRACTION = 0.7

PHRASES: dict[str, dict[Slot, tuple[str, ...]]] = {
    "happy": {
        "video": (
            "a broad smile lifts both cheeks",
            "the smile is warm and the cheeks are raised",
            "the corners of the mouth curl up into a smile",
            "the face beams and the head bounces with delight",
            "a bright grin spreads across the whole face",
            "the lips part in a cheerful grin",
        ),
        "audio": (
            "the voice is lively and rings with delight",
            "a cheerful melody runs through every word",
            "the speech is quick with a merry lilt",
            "the tone is bright and almost sings",
            "the words bounce along in a merry tone",
            "the voice rises and falls in a playful melody",
        ),
        "conclusion": (
            "these cues show a person who feels happy",
            "the smile and the merry voice speak of joy",
            "this is a happy moment full of delight",
            "both signs point to cheerful joy",
            "everything here glows with joy and delight",
        ),
    },
    "sad": {
        "video": (
            "the corners of the mouth droop in sorrow",
            "the mouth turns down and the gaze is lowered",
            "the head sinks slowly and the eyelids droop",
            "the brows slant up in a sorrowful look",
            "heavy eyelids hang over a downcast gaze",
            "the downcast face sinks a little further",
        ),
        "audio": (
            "the voice is hushed and close to tears",
            "the words come out faint and sorrowful",
            "a weary sigh weighs on every word",
            "the tone is low, heavy and gloomy",
            "the voice fades away as if in tears",
            "the speech drags with a mournful sigh",
        ),
        "conclusion": (
            "these cues show a person who feels sad",
            "the drooping face and the faint voice speak of sorrow",
            "this is a sad moment full of grief",
            "both signs point to tearful sorrow",
            "everything here is weighed down by grief",
        ),
    },
    "neutral": {
        "video": (
            "the face is still and shows no expression",
            "the mouth stays straight and relaxed",
            "the brows rest level above calm eyes",
            "the features are relaxed and hardly move",
            "a calm gaze rests straight ahead",
            "the lips form a level and relaxed line",
        ),
        "audio": (
            "the voice is even and matter of fact",
            "the tone stays flat and steady",
            "the words follow at an even and ordinary pace",
            "the pitch hardly moves and stays level",
            "the speech is plain, calm and steady",
            "a flat and plain tone carries the sentence",
        ),
        "conclusion": (
            "these cues show a person who feels neutral",
            "the still face and the even voice speak of calm",
            "this is a neutral moment without strong feeling",
            "both signs point to a composed mind",
            "everything here is ordinary and balanced",
        ),
    },
    "angry": {
        "video": (
            "the brows are pulled together in a furious scowl",
            "a fierce glare comes from under lowered brows",
            "the jaw is clenched and the lips are pressed",
            "the teeth are clenched beneath a hard glare",
            "the scowl deepens and the head thrusts forward",
            "the eyes narrow into a hostile glare",
        ),
        "audio": (
            "the voice is loud and full of rage",
            "the words are shouted in a harsh voice",
            "a harsh and hostile tone hits every word",
            "the speech is loud, forceful and barks",
            "the volume bursts out in a furious shout",
            "the tone is harsh, hard and forceful",
        ),
        "conclusion": (
            "these cues show a person who feels angry",
            "the glare and the loud voice speak of rage",
            "this is an angry moment full of fury",
            "both signs point to furious rage",
            "everything here boils with fury",
        ),
    },
    "surprise": {
        "video": (
            "the eyes are wide open in astonishment",
            "the eyebrows shoot up and the jaw drops",
            "the mouth falls open in amazement",
            "the jaw drops below astonished eyes",
            "the raised eyebrows arch high with wonder",
            "an astonished look opens up the face",
        ),
        "audio": (
            "the voice leaps up in astonishment",
            "a sudden gasp lifts the pitch",
            "the words burst out with amazement",
            "the pitch jumps as at unexpected news",
            "the tone is excited and full of wonder",
            "the speech leaps with an astonished cry",
        ),
        "conclusion": (
            "these cues show a person who feels surprise",
            "the dropped jaw and the leaping voice speak of amazement",
            "this is a surprise that nobody expected",
            "both signs point to sudden astonishment",
            "everything here reacts to unexpected news",
        ),
    },
    "disgust": {
        "video": (
            "the nose wrinkles and the upper lip curls",
            "a sneer pulls up one side of the lip",
            "the lip curls in open distaste",
            "the wrinkled nose turns away in revulsion",
            "the mouth twists as at a foul smell",
            "the face is screwed up with revulsion",
        ),
        "audio": (
            "the voice drawls with distaste",
            "a drawn out groan drips with revulsion",
            "the words are stretched into a sneering drawl",
            "the tone is sour and repelled",
            "the vowels stretch into a groan of distaste",
            "the speech is slow, sour and scornful",
        ),
        "conclusion": (
            "these cues show a person who feels disgust",
            "the curled lip and the drawl speak of revulsion",
            "this is a moment of disgust and distaste",
            "both signs point to repelled revulsion",
            "everything here says that something is foul",
        ),
    },
    "fear": {
        "video": (
            "the wide eyes are filled with terror",
            "the face is frozen in a frightened stare",
            "the mouth trembles open in panic",
            "the wide eyes dart about in alarm",
            "a terrified stare stretches the whole face",
            "the head shivers and shrinks back in fright",
        ),
        "audio": (
            "the voice trembles with terror",
            "a shaky and breathless tone carries panic",
            "the words quiver and shake in alarm",
            "the pitch shivers high with fright",
            "the speech is breathless and shaky",
            "a frightened tremble runs through the voice",
        ),
        "conclusion": (
            "these cues show a person who feels fear",
            "the wide eyes and the trembling voice speak of terror",
            "this is a moment of fear and alarm",
            "both signs point to rising panic",
            "everything here warns of a danger",
        ),
    },
}

EMOTIONS = tuple(PHRASES)


@dataclass(frozen=True)
class ExplanationSentence:
    """One sentence of an explanation: its text, the phrase in it, and the emotion that the phrase conveys."""

    text: str
    phrase: str
    emotion: str


@dataclass(frozen=True)
class Explanation:
    """What `write_explanation` wrote: a sentence on the video, one on the audio, one conclusion."""

    sentences: tuple[ExplanationSentence, ...]

    @property
    def text(self) -> str:
        """The sentences, joined by blanks."""
        return " ".join(sentence.text for sentence in self.sentences)


def write_explanation(emotion: str, rng: random.Random) -> Explanation:
    """An explanation whose three sentences all convey one emotion, each phrase drawn with equal chances.

    Raises:
        ValueError: an emotion that the grammar has no phrases for.
    """
    if emotion not in PHRASES:
        raise ValueError(f"the grammar has no phrases for {emotion!r}; it knows {', '.join(EMOTIONS)}")
    sentences = []
    for slot, phrases in PHRASES[emotion].items():
        usual, *others = OPENERS[slot]
        opener = usual if rng.random() < _USUAL else rng.choice(others)
        phrase = rng.choice(phrases)
        sentences.append(ExplanationSentence(_sentence(opener, phrase), phrase, emotion))
    return Explanation(tuple(sentences))


def corpus() -> list[str]:
    """Every sentence that the grammar can say, in a fixed order."""
    return [
        _sentence(opener, phrase)
        for slots in PHRASES.values()
        for slot, phrases in slots.items()
        for phrase in phrases
        for opener in OPENERS[slot]
    ]


def is_taught(phrase: str) -> bool:
    """Whether the verifier's training sentences may use this phrase: a fixed 70 % of each emotion's in each slot."""
    return phrase in _TAUGHT


def read_emotion(text: str) -> str | None:
    """The emotion that an explanation conveys; None where the grammar cannot tell.

    A sentence votes for an emotion if it holds a phrase of that emotion and of no other, in whole words, whatever their
    case. The verdict needs the votes of more than half of all sentences, so that neither garbled text nor a few phrases
    among filler earn one.
    """
    votes = [_vote(sentence) for sentence in split_sentences(text)]
    for emotion in EMOTIONS:
        if 2 * votes.count(emotion) > len(votes):
            return emotion
    return None


def _vote(sentence: str) -> str | None:
    words = " ".join(sentence.lower().split())
    held = {_EMOTION_OF[phrase] for phrase in _ANY_PHRASE.findall(words)}
    return held.pop() if len(held) == 1 else None


def _sentence(opener: str, phrase: str) -> str:
    return f"{opener}, {phrase}."


def _taught() -> frozenset[str]:
    taught: list[str] = []
    for emotion, slots in PHRASES.items():
        for slot, phrases in slots.items():
            # seeding with a text goes through SHA-512: the same choice in every process
            rng = random.Random(f"taught/{emotion}/{slot}")
            taught += rng.sample(phrases, round(TAUGHT_FRACTION * len(phrases)))
    return frozenset(taught)


_TAUGHT = _taught()
_EMOTION_OF = {
    phrase: emotion for emotion, slots in PHRASES.items() for phrases in slots.values() for phrase in phrases
}
# a look-ahead finds overlapping phrases too
_ANY_PHRASE = re.compile(rf"(?<!\w)(?=({'|'.join(map(re.escape, _EMOTION_OF))})(?!\w))")
