"""How fast explanations are judged and counted: the judge and the metrics beside one pipeline call a sentence.

    python -m benchmarks.evaluate [--explanations 20000] [--rounds 5] [--pipeline-sample 500]

Both sides read explanations of the built-in grammar with the same small verifier, on the same threads, in turn, and
must name the same emotions. The grammar repeats its sentences, and equal ones are scored once; so that this is not the
whole gain, a second row has a number in each sentence that no other has.
Results: benchmarks/results/evaluate.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers
from rich.progress import Progress
from torch import Tensor
from torchmetrics import MetricCollection
from transformers import pipeline

from erv_lightning.data.grammar import corpus, read_emotion, write_explanation
from erv_lightning.judges import VerifierJudge
from erv_lightning.labels import DFEW
from erv_lightning.metrics import (
    ExplanationEmotionAccuracy,
    ExplanationPredictionConsistency,
    FaithfulConsistencyRate,
    UnweightedAverageRecall,
    WeightedAverageRecall,
)
from erv_lightning.models import EmotionVerifier
from erv_lightning.text import split_sentences

RESULTS = Path(__file__).parent / "results"
THREADS = 2
TRAINING_STEPS = 40
RIGHT_ANSWERS = 0.8


@dataclass
class Clips:
    """N explanations with the answers and labels of their clips; label ids, (N,)."""

    texts: list[str]
    preds: Tensor
    target: Tensor

    def first(self, size: int) -> Clips:
        return Clips(self.texts[:size], self.preds[:size], self.target[:size])


def make_clips(size: int, unique: bool, seed: int = 0) -> Clips:
    """Explanations as the grammar writes them; `unique`: each of their sentences ends in a number of its own."""
    rng, number = random.Random(seed), count()
    target = [rng.randrange(len(DFEW.names)) for _ in range(size)]
    preds = [label if rng.random() < RIGHT_ANSWERS else rng.randrange(len(DFEW.names)) for label in target]
    written = [write_explanation(DFEW.names[label], rng) for label in target]
    texts = [
        " ".join(f"{one.text[:-1]} {next(number)}." if unique else one.text for one in explanation.sentences)
        for explanation in written
    ]
    return Clips(texts, torch.tensor(preds), torch.tensor(target))


def make_verifier(folder: str) -> None:
    """The built-in small verifier, taught the grammar's sentences so that labels mean something."""
    sentences = corpus()
    verifier = EmotionVerifier.tiny(sentences, DFEW.names)
    emotions = [read_emotion(sentence) for sentence in sentences]
    truth = torch.tensor([[float(emotion == name) for name in DFEW.names] for emotion in emotions])
    optimiser = torch.optim.Adam(verifier.parameters(), lr=3e-3)
    for _ in range(TRAINING_STEPS):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(verifier(sentences), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    verifier.save(Path(folder))


def make_metrics() -> MetricCollection:
    return MetricCollection(
        {
            "EEA": ExplanationEmotionAccuracy(),
            "EPC": ExplanationPredictionConsistency(),
            "FCR": FaithfulConsistencyRate(),
            "WAR": WeightedAverageRecall(),
            "UAR": UnweightedAverageRecall(len(DFEW.names)),
        }
    )


# -- the two sides ------------------------------------------------------------------------------------------------


@dataclass
class Stopwatch:
    """Adds up the seconds inside calls."""

    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            started = perf_counter()
            result = call(*args, **kwargs)
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - started
            return result

        return watched


class Ours:
    """`VerifierJudge` and the metrics, over all explanations at once."""

    def __init__(self, folder: str) -> None:
        self.judge, self.metrics, self.watch = VerifierJudge(folder), make_metrics(), Stopwatch()
        self.judge.read([], DFEW)  # loads the verifier
        verifier = self.judge._verifier
        assert verifier is not None
        verifier.tokenizer = self.watch.timed("tokenizer", verifier.tokenizer)
        verifier.model.forward = self.watch.timed("model", verifier.model.forward)
        self._count = self.watch.timed("metrics", lambda *ids: self.metrics(*ids))

    def run(self, clips: Clips) -> tuple[list[int], dict[str, float]]:
        """Labels and metrics."""
        labels = self.judge.read(clips.texts, DFEW).label_ids
        counted = self._count(clips.preds, torch.tensor(labels), clips.target)
        return labels, {name: value.item() for name, value in counted.items()}


class Theirs:
    """transformers' pipeline, called for one sentence after the other, its scores averaged over an explanation."""

    def __init__(self, folder: str) -> None:
        self.classify = pipeline("text-classification", folder, device="cpu")
        self.metrics = make_metrics()

    def run(self, clips: Clips) -> tuple[list[int], dict[str, float]]:
        """Labels and metrics."""
        labels = [self._label(text) for text in clips.texts]
        counted = self.metrics(clips.preds, torch.tensor(labels), clips.target)
        return labels, {name: value.item() for name, value in counted.items()}

    def _label(self, text: str) -> int:
        sums = dict.fromkeys(DFEW.names, 0.0)
        for sentence in split_sentences(text):
            for one in self.classify(sentence, top_k=None):
                sums[one["label"]] += one["score"]
        return DFEW.names.index(max(sums, key=sums.__getitem__))


# -- measuring ----------------------------------------------------------------------------------------------------


def in_turn(ours: Ours, theirs: Theirs, clips: Clips, sample: Clips) -> dict[str, Any]:
    """One round: seconds of both sides an explanation, and where ours went."""
    ours.watch.seconds.clear()
    started = perf_counter()
    our_labels, metrics = ours.run(clips)
    middle = perf_counter()
    their_labels, _ = theirs.run(sample)
    our_s, their_s = middle - started, perf_counter() - middle
    other = sum(a != b for a, b in zip(our_labels, their_labels, strict=False))
    if other:
        raise ValueError(f"{other} of {len(their_labels)} explanations got another label from the pipeline")
    parts = {name: seconds / our_s for name, seconds in ours.watch.seconds.items()}
    return {
        "ours": our_s / len(clips.texts),
        "theirs": their_s / len(sample.texts),
        "parts": parts | {"rest": 1 - sum(parts.values())},
        "metrics": metrics,
    }


def summary(name: str, clips: Clips, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds."""
    sentences = [sentence for text in clips.texts for sentence in split_sentences(text)]
    ratios = [one["theirs"] / one["ours"] for one in rounds]
    return {
        "sentences": name,
        "number": len(sentences),
        "different": len(set(sentences)),
        "ours_explanations_s": 1 / statistics.median(one["ours"] for one in rounds),
        "pipeline_explanations_s": 1 / statistics.median(one["theirs"] for one in rounds),
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "shares": {part: statistics.median(one["parts"][part] for one in rounds) for part in rounds[0]["parts"]},
        "metrics": rounds[0]["metrics"],
    }


def measure(explanations: int, rounds: int, sample: int, tick: Callable[[], None]) -> list[dict[str, Any]]:
    """Both kinds of explanations, each side once without counting and then in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_verifier(folder)
        ours, theirs = Ours(folder), Theirs(folder)
        for name in ("repeated", "unique"):
            clips = make_clips(explanations, unique=name == "unique")
            in_turn(ours, theirs, clips.first(sample), clips.first(min(20, sample)))
            measured = []
            for _ in range(rounds):
                measured.append(in_turn(ours, theirs, clips, clips.first(sample)))
                tick()
            rows.append(summary(name, clips, measured))
    return rows


# -- the report ---------------------------------------------------------------------------------------------------


def markdown(report: dict[str, Any]) -> str:
    """The tables."""
    parts = ("tokenizer", "model", "metrics", "rest")
    lines = [
        "# How fast explanations are judged",
        "",
        f"Made by `{report['command']}` on {report['machine']}: {report['explanations']:,} explanations of three "
        f"sentences, the built-in verifier, `VerifierJudge` and EEA, EPC, FCR, WAR, UAR. Beside it "
        f'`pipeline("text-classification")`, called once a sentence on {report["pipeline_sample"]:,} of them: the same '
        f"model, the same labels. {report['rounds']} rounds in turn, medians; the ratio is the median over the rounds.",
        "",
        "| sentences | different ones | ours, explanations/s | pipeline, explanations/s | ratio | its range |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {row['number']:,}, {row['sentences']} | {row['different']:,} | {row['ours_explanations_s']:,.0f} "
            f"| {row['pipeline_explanations_s']:,.0f} | **{row['ratio']:.1f}×** "
            f"| {min(row['ratios']):.1f}–{max(row['ratios']):.1f} |"
            for row in report["rows"]
        ),
        "",
        "Equal sentences are scored once; in the second row there are none. Where our time goes:",
        "",
        "| sentences | tokenizer | model | metrics | splitting, sorting, averaging |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {row['sentences']} | " + " | ".join(f"{row['shares'].get(part, 0):.1%}" for part in parts) + " |"
            for row in report["rows"]
        ),
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate")
    parser.add_argument("--explanations", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pipeline-sample", type=int, default=500, help="explanations that the pipeline reads a round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    sample, threads = min(args.pipeline_sample, args.explanations), torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with Progress() as bar:
        task = bar.add_task("evaluate", total=2 * args.rounds)
        rows = measure(args.explanations, args.rounds, sample, lambda: bar.advance(task))
    torch.set_num_threads(threads)
    report = {
        "command": " ".join(["python -m benchmarks.evaluate", *argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {THREADS} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}",
        "explanations": args.explanations,
        "pipeline_sample": sample,
        "rounds": args.rounds,
        "rows": rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "evaluate.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "evaluate.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
