"""All metrics over all clips, and over those of each data set where a run evaluates several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from erv_lightning.labels import LabelSpace
from erv_lightning.metrics.coherence import (
    ExplanationEmotionAccuracy,
    ExplanationPredictionConsistency,
    FaithfulConsistencyRate,
    FaithfulGivenCorrect,
    UnweightedAverageRecall,
    WeightedAverageRecall,
)


class DatasetMetrics(nn.Module):
    """WAR, UAR, EEA, EPC and FCR under ``val/war`` …, and for each of several data sets under ``val/dfew/war`` ….

    Overall, a class is a label of one label space: UAR averages over those of all spaces, and ids of different spaces
    never meet.

    Args:
        spaces: the label space of each data set.
        prefix: e.g. ``val/``.
    """

    def __init__(self, spaces: Mapping[str, LabelSpace], prefix: str) -> None:
        super().__init__()
        sizes = {space.name: len(space.names) for space in spaces.values()}
        starts = {name: sum(list(sizes.values())[:place]) for place, name in enumerate(sizes)}
        self._start = {dataset: starts[space.name] for dataset, space in spaces.items()}
        self.overall = _collection(sum(sizes.values()), prefix)
        several = spaces.items() if len(spaces) > 1 else ()
        self._each = {name: _collection(len(space.names), f"{prefix}{name}/") for name, space in several}
        self._registered = nn.ModuleList(self._each.values())  # a data set's name may have a dot: no key for modules

    def update(self, datasets: Sequence[str], preds: Tensor, explanations: Tensor, target: Tensor) -> None:
        """Counts a batch; every process updates every metric at every step, so that they all meet to add up.

        Args:
            datasets: N names of data sets.
            preds, explanations, target: (N,), int, see the metrics.
        """
        start = torch.tensor([self._start[name] for name in datasets], dtype=target.dtype, device=target.device)
        ids = [torch.where(one >= 0, one + start, one) for one in (preds, explanations, target)]
        self.overall.update(*ids)
        for name, metrics in self._each.items():
            own = torch.tensor([other == name for other in datasets], dtype=torch.bool, device=target.device)
            metrics.update(preds[own], explanations[own], target[own])

    def collections(self) -> list[MetricCollection]:
        """The metrics of all clips, then those of each data set."""
        return [self.overall, *self._each.values()]


def _collection(classes: int, prefix: str) -> MetricCollection:
    return MetricCollection(
        {
            "war": WeightedAverageRecall(),
            "uar": UnweightedAverageRecall(num_classes=classes),
            "eea": ExplanationEmotionAccuracy(),
            "epc": ExplanationPredictionConsistency(),
            "fcr": FaithfulConsistencyRate(),
            "fcr_given_correct": FaithfulGivenCorrect(),
        },
        prefix=prefix,
    )
