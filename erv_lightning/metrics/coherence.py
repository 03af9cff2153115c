"""The metrics of `functional`, counted over batches and processes.

All take ``update(preds, explanations, target)``, so that they go into one `torchmetrics.MetricCollection`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.plot import _AX_TYPE, _PLOT_OUT_TYPE

from erv_lightning.metrics.functional import (
    _agreement_update,
    _rate_compute,
    _recall_compute,
    _recall_update,
    _validate,
)


class _CoherenceMetric(Metric, ABC):
    """A share in [0, 1] computed from counters that are summed over batches and processes."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def update(self, preds: Tensor, explanations: Tensor, target: Tensor) -> None:
        """Counts a batch.

        Args:
            preds: (N,), int, the predicted emotion, -1 where there is no valid answer.
            explanations: (N,), int, the emotion a judge reads in the explanation, -1 where there is none.
            target: (N,), int, the true emotion, -1 where it is unknown.

        Raises:
            ValueError: if the inputs are not int tensors of one shape (N,).
        """
        _validate(preds=preds, explanations=explanations, target=target)
        self._count(preds, explanations, target)

    @abstractmethod
    def _count(self, preds: Tensor, explanations: Tensor, target: Tensor) -> None: ...

    def set_dtype(self, dst_type: str | torch.dtype) -> Metric:
        """Returns the metric as it is, as `half` does: its states count clips, which float16 cannot beyond 2048."""
        return self

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: _AX_TYPE | None = None) -> _PLOT_OUT_TYPE:
        """Plots a value or several in order, `compute`'s if none is given; returns figure and axes."""
        return self._plot(val, ax)


class _AgreementMetric(_CoherenceMetric):
    """Counts every agreement, though a subclass reads but one or two of the counters.

    A MetricCollection computes metrics whose states are equal after the first batch from one shared state.
    Were each metric to keep counters of its own under the same names, two that agree on the first batch by
    chance would be one metric for the rest of the epoch. Equal counters make the sharing right, and an epoch
    of five metrics is counted once.
    """

    agree_explanation_target: Tensor
    agree_preds_explanation: Tensor
    agree_preds_target: Tensor
    agree_all: Tensor
    clips: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in (
            "agree_explanation_target",
            "agree_preds_explanation",
            "agree_preds_target",
            "agree_all",
            "clips",
        ):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def _count(self, preds: Tensor, explanations: Tensor, target: Tensor) -> None:
        self.agree_explanation_target += _agreement_update(explanations, target)[0]
        self.agree_preds_explanation += _agreement_update(preds, explanations)[0]
        self.agree_preds_target += _agreement_update(preds, target)[0]
        self.agree_all += _agreement_update(preds, explanations, target)[0]
        self.clips += target.numel()


class ExplanationEmotionAccuracy(_AgreementMetric):
    r"""EEA, how often the explanation conveys the true emotion (ERV, arXiv 2510.23506).

    .. math::
        \text{EEA} = P(\hat e = y)

    Takes ``preds``, ``explanations`` and ``target``, int tensors (N,); -1 agrees with nothing. Gives a float
    scalar in [0, 1], 0 without a clip.

    Args:
        kwargs: for `torchmetrics.Metric`.

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics import ExplanationEmotionAccuracy
        >>> metric = ExplanationEmotionAccuracy()
        >>> metric(tensor([0, 1, 2, 2]), tensor([0, 1, 1, 1]), tensor([0, 2, 2, 1]))
        tensor(0.5000)
    """

    def compute(self) -> Tensor:
        """EEA of all clips so far."""
        return _rate_compute(self.agree_explanation_target, self.clips)


class ExplanationPredictionConsistency(_AgreementMetric):
    r"""EPC, how often explanation and prediction say the same, be it right or wrong (ERV, arXiv 2510.23506).

    .. math::
        \text{EPC} = P(\hat e = \hat y)

    Takes ``preds``, ``explanations`` and ``target``, int tensors (N,); -1 agrees with nothing, not even with
    -1. Gives a float scalar in [0, 1], 0 without a clip.

    Args:
        kwargs: for `torchmetrics.Metric`.

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics import ExplanationPredictionConsistency
        >>> metric = ExplanationPredictionConsistency()
        >>> metric(tensor([0, 1, 2, -1]), tensor([0, 1, 1, -1]), tensor([0, 2, 2, 1]))
        tensor(0.5000)
    """

    def compute(self) -> Tensor:
        """EPC of all clips so far."""
        return _rate_compute(self.agree_preds_explanation, self.clips)


class FaithfulConsistencyRate(_AgreementMetric):
    r"""FCR, how often explanation and prediction are both right (ERV, arXiv 2510.23506).

    .. math::
        \text{FCR} = P(\hat e = \hat y = y)

    The joint form is inferred; `FaithfulGivenCorrect` is the other reading. Takes ``preds``, ``explanations``
    and ``target``, int tensors (N,); -1 agrees with nothing. Gives a float scalar in [0, 1], 0 without a
    clip.

    Args:
        kwargs: for `torchmetrics.Metric`.

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics import FaithfulConsistencyRate
        >>> metric = FaithfulConsistencyRate()
        >>> metric(tensor([0, 1, 2, 2]), tensor([0, 1, 1, 2]), tensor([0, 2, 2, 1]))
        tensor(0.2500)
    """

    def compute(self) -> Tensor:
        """FCR of all clips so far."""
        return _rate_compute(self.agree_all, self.clips)


class FaithfulGivenCorrect(_AgreementMetric):
    r"""How often the explanation is right where the prediction is; FCR's conditional reading.

    .. math::
        P(\hat e = y \mid \hat y = y) = \text{FCR} / \text{WAR}

    Takes ``preds``, ``explanations`` and ``target``, int tensors (N,); -1 agrees with nothing. Gives a float
    scalar in [0, 1]; 0, as torchmetrics has it for 0/0, where no prediction is right.

    Args:
        kwargs: for `torchmetrics.Metric`.

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics import FaithfulGivenCorrect
        >>> metric = FaithfulGivenCorrect()
        >>> metric(tensor([0, 1, 2, 2]), tensor([0, 1, 1, 2]), tensor([0, 2, 2, 1]))
        tensor(0.5000)
    """

    def compute(self) -> Tensor:
        """The rate over all clips so far whose prediction is right."""
        return _rate_compute(self.agree_all, self.agree_preds_target)


class WeightedAverageRecall(_AgreementMetric):
    r"""WAR, recall averaged over classes by their size, which is accuracy.

    .. math::
        \text{WAR} = P(\hat y = y)

    Takes ``preds``, ``explanations`` (not read) and ``target``, int tensors (N,); -1 agrees with nothing.
    Gives a float scalar in [0, 1], 0 without a clip.

    Args:
        kwargs: for `torchmetrics.Metric`.

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics import WeightedAverageRecall
        >>> metric = WeightedAverageRecall()
        >>> metric(tensor([0, 1, -1, 0]), tensor([0, 0, 0, 0]), tensor([0, 0, 0, 1]))
        tensor(0.2500)
    """

    def compute(self) -> Tensor:
        """WAR of all clips so far."""
        return _rate_compute(self.agree_preds_target, self.clips)


class UnweightedAverageRecall(_CoherenceMetric):
    r"""UAR, recall averaged over the classes of the data set, each counting the same.

    .. math::
        \text{UAR} = \frac{1}{|K|} \sum_{k \in K} P(\hat y = k \mid y = k),
        \quad K = \{k : \exists i, y_i = k\}

    Takes ``preds``, ``explanations`` (not read) and ``target``, int tensors (N,). Classes without a clip so
    far, in any process, have no recall and are left out of the mean, as are clips without a label. Gives a
    float scalar in [0, 1], 0 where no class has a clip.

    Args:
        num_classes: C; targets lie below it.
        release_compatible: leave clips without a valid answer out of their class's total, as ERV's release
            does for MAFW. That raises UAR; by default they count as wrong.
        kwargs: for `torchmetrics.Metric`.

    Raises:
        ValueError: if ``num_classes`` is less than 1; in `update`, if a target is not below it.

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics import UnweightedAverageRecall
        >>> metric = UnweightedAverageRecall(num_classes=7)
        >>> metric(tensor([0, 0, -1, 1]), tensor([0, 0, 0, 0]), tensor([0, 0, 0, 1]))
        tensor(0.8333)
    """

    right: Tensor
    unanswered: Tensor
    total: Tensor

    def __init__(self, num_classes: int, *, release_compatible: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.release_compatible = release_compatible
        for name in ("right", "unanswered", "total"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def _count(self, preds: Tensor, explanations: Tensor, target: Tensor) -> None:
        right_C, unanswered_C, total_C = _recall_update(preds, target, self.num_classes)
        self.right += right_C
        self.unanswered += unanswered_C
        self.total += total_C

    def compute(self) -> Tensor:
        """UAR of all clips so far."""
        return _recall_compute(self.right, self.unanswered, self.total, release_compatible=self.release_compatible)
