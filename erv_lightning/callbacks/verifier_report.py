"""Writes verifier_report.{json,md} and its figures after the `test` of a verifier."""

from __future__ import annotations

import copy
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.tensor import DTensor

from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules.verifier import VerifierModule
from erv_lightning.report.cells import plain
from erv_lightning.report.robustness import robustness_figure
from erv_lightning.report.teacher import agreement, distance
from erv_lightning.report.verifier import (
    CONFUSABLE,
    Scored,
    assess,
    counting,
    decisions,
    markdown,
    pr_figure,
    reliability_figure,
)
from erv_lightning.robustness import by_novelty, robustness
from erv_lightning.runs import RunFolder
from erv_lightning.stats.calibration import Link, fit_calibration, probabilities

if TYPE_CHECKING:
    from erv_lightning.data.datamodule import ClipDataModule, Sentence

NAME = "verifier_report"
BATCHES = (1, 64)  # of the speed test
_LEAST = 3  # batches, however slow


class VerifierReport(L.Callback):
    """What a verifier can do, measured on all sentences of the test split, calibrated on those of validation.

    Every process reads all sentences, so that a sharded classifier can take part; the first one writes. With
    `limit_test_batches` the report still is of the whole split.

    Args:
        run: whose folder it is written to.
        seconds: how long each batch size of the speed test may take; 0: no speed test.
        perturbed: how many different test sentences are changed and read again, some twelve times each; 0: none, and no
            numbers on robustness.

    Raises:
        ValueError: seconds or perturbed out of range.
    """

    def __init__(self, run: RunFolder, seconds: float = 2.0, perturbed: int = 500) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"VerifierReport: seconds is {seconds}: it must be at least 0")
        if perturbed < 0:
            raise ValueError(f"VerifierReport: perturbed is {perturbed}: it must be at least 0")
        self.run, self.seconds, self.perturbed = run, seconds, perturbed

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The report of a verifier; nothing for other modules."""
        if not isinstance(module, VerifierModule) or module.verifier is None:
            return
        data = cast("ClipDataModule", trainer.datamodule)  # type: ignore[attr-defined]
        with trainer.precision_plugin.forward_context():
            test = Scored(*module.scored(data.sentences("test")))
            val = self._validation(module, data)
            changed = self._changed(module, data)
        if not trainer.is_global_zero:
            return
        report = self._report(module, test, val)
        report |= self._beside(report, module.link, test, changed, data)
        report["machine"] = machine()
        if any(isinstance(weight, DTensor) for weight in module.verifier.parameters()):
            report["speed"] = []
            report["notes"].append("No speed: the classifier is sharded over processes.")
        else:
            report["speed"] = self._speed(module.verifier, data) if self.seconds else []
        rank_zero_info(f"verifier report: {self._write(report)}")

    def _validation(self, module: VerifierModule, data: ClipDataModule) -> Scored | str:
        """Validation sentences, or why there are none."""
        try:
            sentences = data.sentences("val")
        except ValueError as error:
            return str(error)
        return Scored(*module.scored(sentences))

    def _changed(self, module: VerifierModule, data: ClipDataModule) -> dict[str, Any] | None:
        """Robustness to changed sentences; every process reads the same."""
        assert module.verifier is not None
        if not self.perturbed:
            return None
        return robustness(module.verifier, module.space, data.sentences("test"), most=self.perturbed)

    def _speed(self, verifier: EmotionVerifier, data: ClipDataModule) -> list[dict[str, float]]:
        return speed(verifier, [sentence.text for sentence in data.sentences("test")], self.seconds)

    def _beside(
        self, report: dict[str, Any], link: Link, test: Scored, changed: dict[str, Any] | None, data: ClipDataModule
    ) -> dict[str, Any]:
        """What the test sentences themselves are needed for: the teacher, and what training had."""
        sentences, labels = data.sentences("test"), report["labels"]
        counted = counting(test, link)
        true, decided = counted.targets > 0, decisions(counted, labels, link, report.get("calibration"))
        taught = distance(probabilities(test.logits, link), [sentence.probs for sentence in sentences])
        found: dict[str, Any] = {"teacher": {"labels": agreement(decided, true, labels), "probabilities": taught}}
        if changed is not None:
            texts = [sentence.text for sentence in sentences if link == "sigmoid" or sentence.labels]
            known = {sentence.text for sentence in _training(data)}
            novelty = by_novelty(next(iter(decided.values())), true, texts, known) if known else None
            found["robustness"] = {**changed, "novelty": novelty}
        return found

    def _report(self, module: VerifierModule, test: Scored, val: Scored | str) -> dict[str, Any]:
        link, labels, notes, calibration = module.link, module.space.names, [], None
        try:
            if isinstance(val, str):
                raise ValueError(val)
            temperature, thresholds = fit_calibration(val.logits, val.targets, link)
            calibration = {
                "temperature": temperature,
                "thresholds": dict(zip(labels, thresholds.tolist(), strict=True)),
            }
        except ValueError as error:
            notes.append(f"Not calibrated: {error}.")
        pairs = [(module.space.id(a), module.space.id(b)) for a, b in CONFUSABLE]
        known = [pair for pair in pairs if min(pair) >= 0]
        report = {"space": module.space.name, **assess(test, labels, link, pairs=known, calibration=calibration)}
        if isinstance(val, Scored):
            report["validation_sentences"] = len(val.targets)
        return {**report, "notes": notes}

    def _write(self, report: dict[str, Any]) -> Path:
        folder = self.run.path
        folder.mkdir(parents=True, exist_ok=True)
        figures = {"pr": pr_figure(report), "reliability": reliability_figure(report)}
        if "robustness" in report:
            figures["robustness"] = robustness_figure(report["robustness"])
        for name, figure in figures.items():
            figure.savefig(folder / f"{NAME}_{name}.png", dpi=150)
        page = folder / f"{NAME}.md"
        page.write_text(markdown(report, {name: f"{NAME}_{name}.png" for name in figures}), encoding="utf-8")
        text = json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False)
        page.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
        return page


def _training(data: ClipDataModule) -> Sequence[Sentence]:
    """The training sentences; none where only the other splits have labelled ones."""
    try:
        return data.sentences("train")
    except ValueError:
        return ()


@torch.no_grad()
def speed(verifier: EmotionVerifier, texts: Sequence[str], seconds: float) -> list[dict[str, float]]:
    """Forward passes of a copy on the CPU, cutting into tokens included.

    Args:
        verifier: on any device.
        texts: at least one; they go round.
        seconds: for each batch size, but three batches at least.

    Returns:
        For each of `BATCHES` the batch, sentences per second over all passes, median and 90th percentile of the time
        of a pass in milliseconds, and how many passes there were.
    """
    own = verifier
    if any(weight.device.type != "cpu" for weight in verifier.parameters()):
        own = copy.deepcopy(verifier).cpu()
    training = own.training
    own.eval()
    measured = []
    for size in BATCHES:
        taken: list[float] = []
        own([texts[row % len(texts)] for row in range(size)])  # warm
        while len(taken) < _LEAST or sum(taken) < seconds:
            batch = [texts[(len(taken) * size + row) % len(texts)] for row in range(size)]
            start = time.perf_counter()
            own(batch)
            taken.append(time.perf_counter() - start)
        median, slow = (float(1e3 * np.quantile(taken, at)) for at in (0.5, 0.9))
        one: dict[str, float] = {"batch": size, "sentences_per_s": size * len(taken) / sum(taken)}
        measured.append({**one, "latency_ms_median": median, "latency_ms_p90": slow, "batches": len(taken)})
    own.train(training)
    return measured


def machine() -> str:
    """What the speed was measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores, threads of torch: {torch.get_num_threads()}, torch {torch.__version__}"
