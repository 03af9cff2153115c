"""Agreement of label, prediction and explanation, as torchmetrics. Ids only: no text, no judge, no model."""

from erv_lightning.metrics.coherence import (
    ExplanationEmotionAccuracy,
    ExplanationPredictionConsistency,
    FaithfulConsistencyRate,
    FaithfulGivenCorrect,
    UnweightedAverageRecall,
    WeightedAverageRecall,
)
from erv_lightning.metrics.datasets import DatasetMetrics

__all__ = [
    "DatasetMetrics",
    "ExplanationEmotionAccuracy",
    "ExplanationPredictionConsistency",
    "FaithfulConsistencyRate",
    "FaithfulGivenCorrect",
    "UnweightedAverageRecall",
    "WeightedAverageRecall",
]
