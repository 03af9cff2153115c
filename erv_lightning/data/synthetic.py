"""Drawn faces and synthesised voices: one-second clips of seven emotions, each from its own seed.

Surprise and fear share a face, and so do angry and disgust: only sound tells them apart. Happy and surprise share a
voice, and so do sad and neutral: only sight tells them apart. No torch in here: worker processes start fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from erv_lightning.data.encode import ByteArray, FloatArray

SIZE = 112  # pixels, square
FPS = 12
SECONDS = 1.0
SAMPLE_RATE = 16000
ZOOM = 1.3  # the face fills the picture, as in the face crops of the real data sets
SUPERSAMPLING = 2  # drawn larger and scaled down, for smooth edges

# emotion → (face, voice)
EXPRESSION = {
    "happy": ("smile", "lively"),
    "sad": ("droop", "quiet"),
    "neutral": ("flat", "quiet"),
    "angry": ("frown", "loud"),
    "surprise": ("wide", "lively"),
    "disgust": ("frown", "drawl"),
    "fear": ("wide", "tremble"),
}


@dataclass(frozen=True)
class Face:
    """How far each feature moves from rest at full intensity."""

    mouth_curve: float = 0.0  # > 0: corners up
    mouth_open: float = 0.08  # of the mouth's width
    mouth_width: float = 1.0
    brow_lift: float = 0.0
    brow_slant: float = 0.0  # > 0: inner ends up, < 0: inner ends down
    eye_open: float = 1.0
    cheeks: float = 0.0
    wrinkle: float = 0.0  # of the nose
    nod: float = 0.0  # head movement down over the clip, in face heights
    jolt: float = 0.0  # growth of the head, as when it comes nearer


FACES = {
    "smile": Face(
        mouth_curve=0.9, mouth_open=0.22, mouth_width=1.25, brow_lift=0.2, eye_open=0.7, cheeks=1.0, nod=-0.04
    ),
    "droop": Face(mouth_curve=-0.8, mouth_width=0.85, brow_lift=0.1, brow_slant=0.9, eye_open=0.5, nod=0.12),
    "flat": Face(),
    "frown": Face(
        mouth_curve=-0.35, mouth_open=0.05, mouth_width=0.9, brow_lift=-0.5, brow_slant=-1.0, eye_open=0.75, wrinkle=1.0
    ),
    "wide": Face(mouth_open=0.85, mouth_width=0.62, brow_lift=1.0, eye_open=1.6, jolt=0.08),
}


@dataclass(frozen=True)
class Voice:
    """What a way of speaking does to a speaker's rest."""

    pitch: float  # factor on the base pitch
    melody: float  # depth of the pitch contour, as a fraction
    glide: float  # change of pitch from start to end, as a fraction
    rate: float  # syllables a second
    energy: float  # loudness, 1 = full
    tilt: float  # how fast harmonics fall off; lower is sharper
    tremor: float = 0.0  # depth of an 11 Hz shake of pitch and loudness
    growl: float = 0.0  # depth of a 35 Hz beat
    breath: float = 0.02  # noise


VOICES = {
    "lively": Voice(pitch=1.35, melody=0.28, glide=0.1, rate=6.0, energy=0.6, tilt=1.0),
    "quiet": Voice(pitch=0.85, melody=0.03, glide=-0.08, rate=3.0, energy=0.18, tilt=1.9),
    "loud": Voice(pitch=1.1, melody=0.08, glide=-0.05, rate=4.5, energy=1.0, tilt=0.45, breath=0.05),
    "drawl": Voice(pitch=0.75, melody=0.05, glide=-0.3, rate=1.8, energy=0.5, tilt=1.1, growl=0.8),
    "tremble": Voice(pitch=1.2, melody=0.05, glide=0.05, rate=3.5, energy=0.35, tilt=1.4, tremor=0.9, breath=0.08),
}


def render(emotion: str, rng: np.random.Generator) -> tuple[ByteArray, FloatArray]:
    """One clip of an emotion: frames (12, 112, 112, 3) uint8 and audio (16000,) float32.

    Args:
        emotion: a DFEW name.
        rng: everything individual about the clip comes from here.
    """
    face, voice = EXPRESSION[emotion]
    # Some people show less than others: faint expressions and voices are what makes clips hard.
    heard = _part_way(_REST, VOICES[voice], rng.uniform(0.1, 1.1))
    return _draw_clip(FACES[face], rng), _speak(heard, rng)


_REST = Voice(pitch=1.0, melody=0.08, glide=0.0, rate=3.8, energy=0.5, tilt=1.1)

_Manner = TypeVar("_Manner", Face, Voice)


def _part_way(rest: _Manner, full: _Manner, share: float) -> _Manner:
    """A face or voice part of the way from rest to its full expression."""
    mixed = {name: getattr(rest, name) + share * (getattr(full, name) - getattr(rest, name)) for name in vars(rest)}
    return replace(rest, **mixed)


# -- sight -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Person:
    """What stays the same through a clip."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    background: tuple[int, int, int]
    centre: tuple[float, float]
    width: float
    height: float
    eye: float
    gap: float
    brow: float
    fringe: float


SKINS = ((250, 220, 195), (238, 200, 168), (225, 180, 143), (205, 158, 120), (180, 132, 98), (158, 114, 84))
HAIRS = ((35, 28, 24), (62, 42, 30), (92, 62, 38), (70, 70, 74))


def _person(rng: np.random.Generator) -> _Person:
    light = rng.uniform(0.88, 1.05)
    skin, hair = SKINS[rng.integers(len(SKINS))], HAIRS[rng.integers(len(HAIRS))]
    return _Person(
        skin=_shade(skin, light),
        hair=_shade(hair, light),
        background=_shade(tuple(int(v) for v in rng.integers(110, 190, 3)), light),
        centre=(0.5 + rng.uniform(-0.04, 0.04), 0.5 + rng.uniform(-0.03, 0.03)),
        width=rng.uniform(0.29, 0.35),
        height=rng.uniform(0.38, 0.43),
        eye=rng.uniform(0.078, 0.094),
        gap=rng.uniform(0.13, 0.15),
        brow=rng.uniform(0.03, 0.04),
        fringe=rng.uniform(0.1, 0.2),
    )


def _draw_clip(face: Face, rng: np.random.Generator) -> ByteArray:
    person = _person(rng)
    count = int(FPS * SECONDS)
    intensity = rng.uniform(0.05, 1.0)
    onset, length = rng.uniform(-0.2, 0.1), rng.uniform(0.15, 0.4)
    sway, blink = rng.uniform(-0.015, 0.015), int(rng.integers(-6, count))
    grain = rng.normal(0, 3, (count, SIZE, SIZE, 1))
    frames = []
    for index in range(count):
        time = index / count
        share = float(np.clip((time - onset) / length, 0, 1)) * intensity
        now = _part_way(Face(), face, share)
        if index == blink:
            now = replace(now, eye_open=0.1)
        frames.append(_draw(person, now, sway * np.sin(2 * np.pi * time), time))
    return np.clip(np.stack(frames) + grain, 0, 255).astype(np.uint8)


def _draw(person: _Person, face: Face, sway: float, time: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    full = SIZE * SUPERSAMPLING
    image = Image.new("RGB", (full, full), person.background)
    pen = ImageDraw.Draw(image)
    scale = full * ZOOM * (1 + face.jolt)
    x0, y0 = (person.centre[0] + sway) * full, (person.centre[1] + face.nod * time) * full

    def at(x: float, y: float) -> tuple[float, float]:
        return x0 + x * scale, y0 + y * scale

    def oval(x: float, y: float, rx: float, ry: float, fill: tuple[int, int, int]) -> None:
        pen.ellipse([at(x - rx, y - ry), at(x + rx, y + ry)], fill=fill)

    dark, w, h = _shade(person.skin, 0.72), person.width, person.height
    oval(0, -0.05, w * 1.12, h * 1.1, person.hair)
    oval(0, 0, w, h, person.skin)
    pen.chord([at(-w * 0.98, -h), at(w * 0.98, -h + 2 * h * 0.9)], 200, 340, fill=person.skin)
    pen.pieslice([at(-w, -h * 1.03), at(w, -h * 1.03 + person.fringe * 2)], 180, 360, fill=person.hair)
    _eyes(oval, pen, at, person, face, scale)
    # nose, and its wrinkles
    pen.line([at(0, -0.02), at(-0.022, 0.07), at(0.015, 0.078)], fill=dark, width=round(0.012 * scale))
    if face.wrinkle > 0.1:
        for line in range(3):
            y, reach = -0.045 + 0.022 * line, 0.032 * face.wrinkle
            pen.line([at(-reach, y + 0.012), at(0, y), at(reach, y + 0.012)], fill=dark, width=round(0.009 * scale))
    if face.cheeks > 0.1:
        rosy = _mix(person.skin, (235, 110, 110), 0.35 * face.cheeks)
        for side in (-1, 1):
            oval(side * w * 0.58, 0.1, 0.055, 0.04, rosy)
    _mouth(pen, at, face, scale, dark)
    small = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float64)


def _eyes(oval: Any, pen: ImageDraw.ImageDraw, at: Any, person: _Person, face: Face, scale: float) -> None:
    for side in (-1, 1):
        x, y, r = side * person.gap, -0.09, person.eye
        oval(x, y, r, r * 0.62 * face.eye_open, (250, 250, 250))
        iris = min(r * 0.42, r * 0.6 * face.eye_open)
        oval(x, y, iris, iris, (45, 35, 30))
        # brows: the inner end moves with the slant
        lift = y - 0.085 - 0.055 * face.brow_lift
        inner, outer = lift - 0.045 * face.brow_slant, lift + 0.02 * face.brow_slant
        ends = [at(x - side * r * 1.1, inner), at(x + side * r * 1.2, outer)]
        pen.line(ends, fill=_shade(person.hair, 0.8), width=round(person.brow * 1.3 * scale))


def _mouth(pen: ImageDraw.ImageDraw, at: Any, face: Face, scale: float, dark: tuple[int, int, int]) -> None:
    """Lips as two curves between the corners; dark between them where they part."""
    reach, y = 0.14 * face.mouth_width, 0.2
    steps = np.linspace(-1, 1, 25)
    middle = y + 0.11 * face.mouth_curve * (0.5 - steps**2)  # corners above the middle for a smile
    part = 0.13 * face.mouth_open * np.sqrt(1 - steps**2)
    upper = [at(reach * s, m - 0.35 * p) for s, m, p in zip(steps, middle, part, strict=True)]
    lower = [at(reach * s, m + p) for s, m, p in zip(steps, middle, part, strict=True)]
    pen.polygon([*upper, *reversed(lower)], fill=(95, 25, 30))
    lip = _mix(dark, (170, 50, 55), 0.6)
    pen.line(upper, fill=lip, width=round(0.03 * scale), joint="curve")
    pen.line(lower, fill=lip, width=round(0.034 * scale), joint="curve")


def _shade(colour: tuple[int, ...], factor: float) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(value * factor, 0, 255)) for value in colour)
    return red, green, blue


def _mix(one: tuple[int, int, int], other: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (int(a + share * (b - a)) for a, b in zip(one, other, strict=True))
    return red, green, blue


# -- sound -------------------------------------------------------------------------------------------------------

VOWELS = ((730, 1090), (530, 1840), (390, 1990), (570, 840), (440, 1020))  # first two formants, in Hz


def _speak(voice: Voice, rng: np.random.Generator) -> FloatArray:
    """A harmonic source with formants, in syllables: (16000,) float32."""
    count = int(SAMPLE_RATE * SECONDS)
    time = np.arange(count) / SAMPLE_RATE
    own = rng.uniform(0.85, 1.15, 6)  # how this speaker differs
    base = rng.uniform(105, 215) * voice.pitch * own[0] ** 0.5
    shake = np.sin(2 * np.pi * 11 * own[5] * time + rng.uniform(0, 6.28))
    contour = np.sin(2 * np.pi * rng.uniform(1.5, 2.5) * time + rng.uniform(0, 6.28))
    pitch = base * (1 + voice.melody * own[1] * contour + voice.glide * (time - 0.5) + 0.05 * voice.tremor * shake)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    syllable = 2 * np.pi * voice.rate * own[2] * time + rng.uniform(0, 6.28)
    envelope = 0.15 + 0.85 * np.clip(0.5 - 0.5 * np.cos(syllable), 0, 1) ** 0.7
    envelope *= 1 - 0.5 * voice.tremor * (0.5 + 0.5 * shake)
    envelope *= 1 - 0.5 * voice.growl * (0.5 + 0.5 * np.sin(2 * np.pi * 35 * own[3] * time))
    vowels = rng.integers(len(VOWELS), size=12)
    formants = np.array(VOWELS)[vowels[(syllable / (2 * np.pi)).astype(int) % 12]] * own[4] ** 0.5
    wave = np.zeros(count)
    for harmonic in range(1, 25):
        at = harmonic * pitch
        gain = sum(np.exp(-(((at - formants[:, f]) / (140 + 60 * f)) ** 2)) for f in range(2)) + 0.08
        wave += np.where(at < 7000, gain * harmonic**-voice.tilt * np.sin(harmonic * phase), 0.0)
    wave *= envelope / np.abs(wave).max()
    wave = voice.energy * own[3] * wave + voice.breath * envelope * rng.normal(0, 1, count)
    wave += 0.01 * rng.normal(0, 1, count)  # the room
    clipped: FloatArray = np.clip(wave, -1, 1).astype(np.float32)
    return clipped
