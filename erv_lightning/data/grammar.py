"""The language of the built-in explanations, forwards (writing) and backwards (reading the emotion).

"In the video, <cue>. In the audio, <cue>. Together, <conclusion>." Every phrase belongs to exactly one emotion, and
no phrase is part of another, so that reading is exact.
"""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass

from erv_lightning.text import split_sentences

SLOTS = ("video", "audio", "conclusion")

OPENERS = {
    "video": ("In the video,", "On screen,"),
    "audio": ("In the audio,", "In the sound,"),
    "conclusion": ("Together,", "Overall,"),
}

# The paraphrases of one emotion share words: a verifier that learns from seven in ten has a fair chance at the rest.
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "happy": {
        "video": (
            "the mouth curves up into a broad smile",
            "the corners of the mouth lift and the cheeks rise",
            "a wide smile lights up the face",
            "the cheeks rise and the eyes crinkle",
            "the face beams with a cheerful smile",
            "a warm grin spreads over the face",
            "the eyes crinkle above a warm smile",
            "the lips part in a cheerful grin",
            "a broad grin lifts the cheeks",
            "the smiling mouth curves up with warmth",
        ),
        "audio": (
            "the voice is bright and cheerful",
            "the voice sings up and down with warmth",
            "a bright and bouncy melody carries the words",
            "the tone is cheerful and bouncy",
            "a warm and bright tone rings out",
            "the pitch dances in a cheerful melody",
            "the words bounce along with bright energy",
            "a sunny and warm melody fills the voice",
            "the voice rings out bright and sunny",
            "the tone bounces with sunny energy",
        ),
        "conclusion": (
            "these cues speak of joy and delight",
            "the person is full of delight",
            "all of this shows a cheerful and happy mood",
            "the signs agree on a sunny and joyful mood",
            "the person is glad and full of joy",
            "this is a moment of joy",
        ),
    },
    "sad": {
        "video": (
            "the corners of the mouth sink down",
            "the eyelids droop and the gaze falls",
            "the inner brows slant up in sorrow",
            "a drooping mouth weighs the face down",
            "the gaze falls and the head hangs low",
            "the drooping eyelids look heavy with tears",
            "the mouth sinks down in sorrow",
            "the head hangs low with heavy eyelids",
            "heavy sorrow pulls the face down",
            "the slanting brows look close to tears",
        ),
        "audio": (
            "the voice is quiet and full of sorrow",
            "the voice sinks low and close to tears",
            "a hushed and heavy tone drags along",
            "the tone is hushed as if close to tears",
            "the words come hushed and tearful",
            "a low and mournful tone sinks away",
            "the quiet words sound mournful and heavy",
            "sorrow makes the voice sink low",
            "the mournful voice sinks to a hush",
            "the heavy words come with a tearful hush",
        ),
        "conclusion": (
            "these cues speak of grief and sorrow",
            "the person is mournful and low",
            "all of this shows a sad and heavy heart",
            "the signs agree on deep sorrow",
            "the person carries a heavy grief",
            "this is a moment of grief",
        ),
    },
    "neutral": {
        "video": (
            "the face stays relaxed and still",
            "the mouth rests in a straight line",
            "the features stay even and calm",
            "a calm gaze rests on the camera",
            "the relaxed brows stay level",
            "the face shows no strong expression",
            "the straight mouth and level brows stay calm",
            "an even and plain expression rests on the face",
            "the plain features stay relaxed",
            "the level gaze stays even and still",
        ),
        "audio": (
            "the voice is even and calm",
            "the tone stays flat and plain",
            "the words come at an even pace",
            "a plain and steady tone carries the words",
            "the pitch stays level and steady",
            "the steady voice shows no strong colour",
            "the flat pitch keeps an even pace",
            "a calm and level tone goes on",
            "the voice stays plain and steady",
            "the pace stays calm and flat",
        ),
        "conclusion": (
            "these cues speak of a calm and even mood",
            "the person is calm and composed",
            "all of this shows a neutral state",
            "the signs agree on a composed and plain mood",
            "the person feels nothing in particular",
            "this is an even and composed moment",
        ),
    },
    "angry": {
        "video": (
            "the brows press down into a hard glare",
            "a hard glare fixes on the camera",
            "the jaw is clenched and the lips press tight",
            "the clenched jaw and lowered brows look fierce",
            "a fierce scowl tightens the face",
            "the lips press tight under a fierce glare",
            "the lowered brows meet in a scowl",
            "the face hardens into a fierce scowl",
            "the clenched teeth show under a glare",
            "a tight jaw hardens the face",
        ),
        "audio": (
            "the voice is loud and harsh",
            "the words burst out harsh and sharp",
            "a loud and fierce tone attacks",
            "the tone is sharp and full of force",
            "the voice shouts with fierce force",
            "harsh words hammer out loud",
            "the sharp voice hammers on with force",
            "a shouting and harsh tone bursts out",
            "the loud words attack like blows",
            "the voice attacks with a harsh bark",
        ),
        "conclusion": (
            "these cues speak of rage and fury",
            "the person is furious",
            "all of this shows an angry and fierce temper",
            "the signs agree on rising rage",
            "the person is boiling with fury",
            "this is a moment of rage",
        ),
    },
    "surprise": {
        "video": (
            "the eyes fly open and the brows shoot up",
            "the mouth drops open in astonishment",
            "the brows shoot up high above round eyes",
            "the jaw drops in sudden astonishment",
            "round eyes and a dropped jaw meet the camera",
            "the eyes grow round with astonishment",
            "the mouth forms a sudden round gasp",
            "the raised brows and round mouth look astonished",
            "the face jumps open in a sudden gasp",
            "the jaw drops and the brows shoot up",
        ),
        "audio": (
            "the voice leaps up in a sudden gasp",
            "a sudden leap of pitch breaks in",
            "the pitch leaps high with astonishment",
            "the tone jumps up with an astonished gasp",
            "the words leap out all of a sudden",
            "an astonished cry leaps up",
            "the voice jumps high in astonishment",
            "a gasping leap of the voice stands out",
            "the pitch jumps up all of a sudden",
            "the astonished words tumble out in a gasp",
        ),
        "conclusion": (
            "these cues speak of astonishment",
            "the person is astonished and caught off guard",
            "all of this shows a sudden surprise",
            "the signs agree on something unexpected",
            "the person did not expect this at all",
            "this is an unexpected and astonishing moment",
        ),
    },
    "disgust": {
        "video": (
            "the nose wrinkles and the lip curls",
            "the upper lip curls with distaste",
            "a wrinkled nose twists the face",
            "the face twists away in distaste",
            "the lip curls as if at a foul smell",
            "the wrinkled nose shows deep distaste",
            "the mouth twists as if at a foul taste",
            "the nose wrinkles as if at a foul smell",
            "the curled lip twists with aversion",
            "the face recoils with a wrinkled nose",
        ),
        "audio": (
            "the voice drawls with distaste",
            "a slow and grating drawl drags on",
            "the words drawl out in aversion",
            "the tone is grating and full of aversion",
            "the drawling voice groans with distaste",
            "a grating groan drags through the words",
            "the words are spat out in a slow drawl",
            "the voice groans as if at a foul taste",
            "a drawling tone spits the words out",
            "the grating voice recoils from the words",
        ),
        "conclusion": (
            "these cues speak of revulsion",
            "the person is repelled and full of aversion",
            "all of this shows disgust and aversion",
            "the signs agree on revulsion",
            "the person finds something foul",
            "this is a moment of revulsion",
        ),
    },
    "fear": {
        "video": (
            "the eyes are wide with alarm",
            "the wide eyes dart about in alarm",
            "the lips tremble and the face tenses",
            "the face freezes in dread",
            "a frightened stare widens the eyes",
            "the trembling lips pull back in dread",
            "the head shrinks back in alarm",
            "the frozen stare looks frightened",
            "the tense face shakes with dread",
            "the frightened eyes stare and tremble",
        ),
        "audio": (
            "the voice trembles with dread",
            "the voice shakes and quivers",
            "a quivering and high tone shakes",
            "the tone quivers as if in danger",
            "the words come trembling and frightened",
            "a shaky and frightened breath is heard",
            "the pitch quivers in alarm",
            "the shaky words tremble with alarm",
            "the quivering voice sounds frightened",
            "a trembling whimper shakes the voice",
        ),
        "conclusion": (
            "these cues speak of terror and dread",
            "the person is frightened and in danger",
            "all of this shows fear and alarm",
            "the signs agree on terror",
            "the person dreads what may come",
            "this is a moment of terror",
        ),
    },
}


@dataclass(frozen=True)
class Explanation:
    """An explanation as written: its text and, sentence by sentence, the phrase used."""

    text: str
    phrases: tuple[str, ...]


def write_explanation(emotion: str, rng: random.Random) -> Explanation:
    """An explanation of one emotion in three sentences.

    Args:
        emotion: a DFEW name.
        rng: chooses paraphrases and openers.
    """
    phrases = tuple(rng.choice(PHRASES[emotion][slot]) for slot in SLOTS)
    openers = [rng.choice(OPENERS[slot]) for slot in SLOTS]
    text = " ".join(f"{opener} {phrase}." for opener, phrase in zip(openers, phrases, strict=True))
    return Explanation(text, phrases)


def corpus() -> list[str]:
    """Every sentence that the grammar can say, in a fixed order."""
    return [
        f"{opener} {phrase}."
        for slots in PHRASES.values()
        for slot in SLOTS
        for opener in OPENERS[slot]
        for phrase in slots[slot]
    ]


@functools.cache
def _taught() -> frozenset[str]:
    taught: list[str] = []
    for emotion, slots in PHRASES.items():
        for slot, phrases in slots.items():
            # A string seeds Python's generator the same way in every process.
            chosen = random.Random(f"taught/{emotion}/{slot}").sample(phrases, round(0.7 * len(phrases)))
            taught += chosen
    return frozenset(taught)


def is_taught(phrase: str) -> bool:
    """Whether the verifier's training sentences may hold this phrase: a fixed 70 % of each bank."""
    return phrase in _taught()


@functools.cache
def _owners() -> dict[str, str]:
    return {f" {phrase} ": emotion for emotion, slots in PHRASES.items() for bank in slots.values() for phrase in bank}


def read_emotion(text: str) -> str | None:
    """The emotion that an explanation conveys, or None.

    A sentence votes for an emotion if it holds a phrase of that emotion and none of another. The verdict needs the
    votes of more than half of all sentences, so garbled or unknown text earns nothing.
    """
    sentences = split_sentences(text)
    votes: dict[str, int] = {}
    for sentence in sentences:
        words = f" {' '.join(re.findall(r'[a-z]+', sentence.lower()))} "
        emotions = {emotion for phrase, emotion in _owners().items() if phrase in words}
        if len(emotions) == 1:
            (emotion,) = emotions
            votes[emotion] = votes.get(emotion, 0) + 1
    return next((emotion for emotion, count in votes.items() if 2 * count > len(sentences)), None)
