"""The built-in data set: drawn faces and synthesised voices in real mp4 files, made once and kept."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from rich.progress import track

from erv_lightning.data.encode import write_mp4
from erv_lightning.data.grammar import EMOTIONS, PHRASES, Explanation, is_taught, write_explanation
from erv_lightning.data.sample import ClipSource, Sample
from erv_lightning.data.synthetic import EXPRESSION, FPS, SAMPLE_RATE, render

VERSION = 2  # of the generator: another version makes other clips, in another folder
QUESTION = "Which emotion is the most obvious?"  # short: the small policy reads it thousands of times


class SyntheticClips(ClipSource):
    """Seven DFEW emotions, balanced, in one-second clips; bit-identical wherever they are made.

    Args:
        root: where clips are kept.
        seed: of everything.
        train: clips of the cold start, with explanations.
        rl: clips for GRPO, with labels only.
        val, test: clips for evaluation, with truthful explanations.
        mislabelled: share of the training explanations that describe another, random emotion, as noisy annotation
            does; their labels stay true.
        misread: share of the phrases to which the sentence labels of ``train`` and ``val`` give another emotion, each
            phrase always the same one, as a teacher does who does not understand it. Chance mistakes, one here and one
            there, would average out over the many sentences that say the same. ``test`` stays true.
        misread_seed: which phrases. A larger share misreads the phrases of a smaller one, and more.
    """

    def __init__(
        self,
        root: str = "data/synthetic",
        seed: int = 0,
        train: int = 1400,
        rl: int = 420,
        val: int = 140,
        test: int = 350,
        mislabelled: float = 0.4,
        misread: float = 0.0,
        misread_seed: int = 0,
    ) -> None:
        if not (0 <= mislabelled <= 1 and 0 <= misread <= 1) or min(train, rl, val, test) < 0:
            raise ValueError("SyntheticClips needs counts ≥ 0, and mislabelled and misread between 0 and 1")
        self.seed, self.mislabelled = seed, mislabelled
        self.misread = misread_phrases(misread, misread_seed)
        self.counts = {"train": train, "rl": rl, "val": val, "test": test}
        self.folder = Path(root) / f"v{VERSION}-seed{seed}"

    def samples(self, split: str) -> list[Sample]:
        """Samples of ``train``, ``rl``, ``val`` or ``test``."""
        if split not in self.counts:
            raise ValueError(f"the built-in clips have no split {split!r}, only {', '.join(self.counts)}")
        labels = [_emotion(index) for index in range(self.counts[split])]
        described = self._described(split, labels)
        return [self._sample(split, index, label, described[index]) for index, label in enumerate(labels)]

    def prepare(self) -> None:
        """Makes the clips that are missing, in parallel. An interrupted call is completed by the next."""
        jobs = [
            (str(path), emotion, key)
            for split, count in self.counts.items()
            for path, emotion, key in self._jobs(split, count)
            if not path.exists()
        ]
        if not jobs:
            return
        for split in self.counts:
            (self.folder / split).mkdir(parents=True, exist_ok=True)
        workers = min(_cores(), len(jobs))
        # spawn: forking a process that already runs torch's threads can hang
        context = multiprocessing.get_context("spawn")
        title = f"making {len(jobs)} clips in {self.folder}"
        try:
            with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
                for _ in track(pool.map(_make, jobs, chunksize=8), title, total=len(jobs)):
                    pass
        except BrokenProcessPool:  # no workers to be had, e.g. called from a script without a main guard
            if multiprocessing.parent_process() is not None:
                raise
            for job in track([job for job in jobs if not Path(job[0]).exists()], title):
                _make(job)

    # -- what a clip is ------------------------------------------------------------------------------------------

    def _jobs(self, split: str, count: int) -> Iterator[tuple[Path, str, str]]:
        for index in range(count):
            yield self._path(split, index), _emotion(index), f"{self.seed}/{split}/{index}"

    def _path(self, split: str, index: int) -> Path:
        return self.folder / split / f"{split}-{index:04d}.mp4"

    def _described(self, split: str, labels: list[str]) -> list[str]:
        """The emotion that each explanation describes: the label, or for some training clips another one."""
        described = list(labels)
        if split != "train":
            return described
        rng = random.Random(f"mislabelled/{self.seed}")
        of_emotion = [[i for i, label in enumerate(labels) if label == emotion] for emotion in EXPRESSION]
        for indices in of_emotion:
            rng.shuffle(indices)
        # One of each emotion in turn, so that the noise is spread evenly over the emotions.
        order = [index for round_ in itertools.zip_longest(*of_emotion) for index in round_ if index is not None]
        for index in order[: round(self.mislabelled * len(labels))]:
            described[index] = rng.choice([emotion for emotion in EXPRESSION if emotion != labels[index]])
        return described

    def _sample(self, split: str, index: int, label: str, described: str) -> Sample:
        explanation, sentence_labels = "", tuple[tuple[str, ...] | None, ...]()
        if split != "rl":
            written = write_explanation(described, random.Random(f"{self.seed}/{split}/{index}"))
            misread: dict[str, str] = {} if split == "test" else self.misread
            explanation, sentence_labels = written.text, _labels(written, split == "train", misread)
        return Sample(
            id=f"{split}-{index:04d}",
            dataset="synthetic",
            clip=str(self._path(split, index)),
            question=QUESTION,
            label_space="dfew",
            label=label,
            split=split,
            explanation=explanation,
            sentence_labels=sentence_labels,
            record=f"built-in clip {split}-{index:04d}",
        )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _emotion(index: int) -> str:
    emotions = tuple(EXPRESSION)
    return emotions[index % len(emotions)]


def misread_phrases(share: float, seed: int = 0) -> dict[str, str]:
    """Phrases of the grammar with the wrong emotion that a poor teacher takes them for, as many of each emotion."""
    misread: dict[str, str] = {}
    for emotion, slots in PHRASES.items():
        rng = random.Random(f"misread/{seed}/{emotion}")
        phrases = [phrase for slot in slots.values() for phrase in slot]
        rng.shuffle(phrases)
        taken_for = [rng.choice([other for other in EMOTIONS if other != emotion]) for _ in phrases]
        misread |= dict(list(zip(phrases, taken_for, strict=True))[: round(share * len(phrases))])
    return misread


def _labels(written: Explanation, only_taught: bool, misread: Mapping[str, str]) -> tuple[tuple[str, ...] | None, ...]:
    """What each sentence conveys to the teacher; in training only for the phrases that the verifier may learn."""
    return tuple(
        (misread.get(sentence.phrase, sentence.emotion),) if is_taught(sentence.phrase) or not only_taught else None
        for sentence in written.sentences
    )


def _end_with_parent() -> None:
    """In a worker: Ctrl-C is the parent's to handle; a parent that is killed takes its workers with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _make(job: tuple[str, str, str]) -> None:
    """One clip; its random numbers depend on its own key alone, so the order of making does not matter."""
    path, emotion, key = job
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    frames, audio = render(emotion, np.random.default_rng(seed))
    write_mp4(Path(path), frames, audio, FPS, SAMPLE_RATE)
