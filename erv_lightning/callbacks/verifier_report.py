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
from erv_lightning.report.verifier import (
    CONFUSABLE,
    Scored,
    assess,
    fit_calibration,
    markdown,
    pr_figure,
    reliability_figure,
)
from erv_lightning.runs import RunFolder
from erv_lightning.stats.calibration import Link

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
        store: note temperature and thresholds in the config of the run's export, if that is what was tested. They
            apply where calibrated probabilities are asked for, see `EmotionVerifier.calibrate`.

    Raises:
        ValueError: seconds out of range.
    """

    def __init__(self, run: RunFolder, seconds: float = 2.0, store: bool = False) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"VerifierReport: seconds is {seconds}: it must be at least 0")
        self.run, self.seconds, self.store = run, seconds, store

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The report of a verifier; nothing for other modules."""
        if not isinstance(module, VerifierModule) or module.verifier is None:
            return
        data = cast("ClipDataModule", trainer.datamodule)  # type: ignore[attr-defined]
        with trainer.precision_plugin.forward_context():
            test = _scored(module, data.sentences("test"))
            val = self._validation(module, data)
        if not trainer.is_global_zero:
            return
        report = self._report(module, test, val)
        texts = [sentence.text for sentence in data.sentences("test")]
        report["machine"] = machine()
        if any(isinstance(weight, DTensor) for weight in module.verifier.parameters()):
            report["speed"] = []
            report["notes"].append("No speed: the classifier is sharded over processes.")
        else:
            report["speed"] = speed(module.verifier, texts, self.seconds) if self.seconds else []
            if self.store and "calibration" in report:
                report["notes"].append(self._store(module, report["calibration"]))
        rank_zero_info(f"verifier report: {self._write(report)}")

    def _validation(self, module: VerifierModule, data: ClipDataModule) -> Scored | str:
        """Validation sentences, or why there are none."""
        try:
            sentences = data.sentences("val")
        except ValueError as error:
            return str(error)
        return _scored(module, sentences)

    def _report(self, module: VerifierModule, test: Scored, val: Scored | str) -> dict[str, Any]:
        link: Link = "softmax" if module.task == "single_label" else "sigmoid"
        labels, notes, calibration = module.space.names, [], None
        try:
            if isinstance(val, str):
                raise ValueError(val)
            calibration = fit_calibration(val, labels, link)
        except ValueError as error:
            notes.append(f"Not calibrated: {error}.")
        pairs = [(module.space.id(a), module.space.id(b)) for a, b in CONFUSABLE]
        known = [pair for pair in pairs if min(pair) >= 0]
        report = {"space": module.space.name, **assess(test, labels, link, pairs=known, calibration=calibration)}
        if isinstance(val, Scored):
            report["validation_sentences"] = len(val.targets)
        return {**report, "notes": notes}

    def _store(self, module: VerifierModule, calibration: dict[str, Any]) -> str:
        """Rewrites the export's config alone; says what happened."""
        assert module.verifier is not None
        config = self.run.export / "config.json"
        if not config.is_file():
            return f"Calibration not stored: {self.run.export} is not there."
        exported = EmotionVerifier.from_pretrained(str(self.run.export))
        if not _same_weights(exported, module.verifier):
            return f"Calibration not stored: {self.run.export} holds other weights than those tested."
        names = dict(zip(module.space.names, module.outputs, strict=True))
        thresholds = {exported.labels[names[label]]: at for label, at in calibration["thresholds"].items()}
        exported.calibrate(calibration["temperature"], thresholds)
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings["erv_calibration"] = exported.model.config.erv_calibration
        config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return f"Calibration stored in {config}."

    def _write(self, report: dict[str, Any]) -> Path:
        folder = self.run.path
        folder.mkdir(parents=True, exist_ok=True)
        figures = {f"{NAME}_pr.png": pr_figure(report), f"{NAME}_reliability.png": reliability_figure(report)}
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=150)
        page = folder / f"{NAME}.md"
        page.write_text(markdown(report, list(figures)), encoding="utf-8")
        text = json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False)
        page.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
        return page


def _scored(module: VerifierModule, sentences: Sequence[Sentence]) -> Scored:
    assert module.verifier is not None
    logits = module.verifier.logits([sentence.text for sentence in sentences])[:, module.outputs]
    ids = [[module.space.id(label) for label in sentence.labels] for sentence in sentences]
    targets = np.array([[float(k in row) for k in range(len(module.outputs))] for row in ids])
    return Scored(logits.double().numpy(), targets)


def _same_weights(one: EmotionVerifier, other: EmotionVerifier) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name].float(), b[name].float().cpu()) for name in a)


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
