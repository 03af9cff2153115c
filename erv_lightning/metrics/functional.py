r"""How often label, prediction and explanation agree, as functions over ids.

Three ids meet in every function: the label y (``target``), the predicted emotion ŷ (``preds``) and the
emotion ê that a judge reads out of the explanation (``explanations``). A negative id means that there is none
(no valid answer, no verdict): it agrees with nothing, not even with another one, and its clip still counts in
N.

Shapes: N clips, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def explanation_emotion_accuracy(explanations: Tensor, target: Tensor) -> Tensor:
    r"""EEA, how often the explanation conveys the true emotion (ERV, arXiv 2510.23506).

    .. math::
        \text{EEA} = P(\hat e = y) = \frac{1}{N} \sum_i 1(\hat e_i = y_i)

    Args:
        explanations: (N,), int, the emotion of each explanation.
        target: (N,), int, the true emotion.

    Returns:
        A float scalar in [0, 1]; 0 for N = 0.

    Raises:
        ValueError: if the inputs are not int tensors of one shape (N,).

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics.functional import explanation_emotion_accuracy
        >>> explanation_emotion_accuracy(tensor([0, 1, -1, 3]), tensor([0, 2, 1, 3]))
        tensor(0.5000)
    """
    _validate(explanations=explanations, target=target)
    return _rate_compute(*_agreement_update(explanations, target))


def explanation_prediction_consistency(preds: Tensor, explanations: Tensor) -> Tensor:
    r"""EPC, how often explanation and prediction say the same, be it right or wrong (ERV, arXiv 2510.23506).

    .. math::
        \text{EPC} = P(\hat e = \hat y) = \frac{1}{N} \sum_i 1(\hat e_i = \hat y_i)

    Args:
        preds: (N,), int, the predicted emotion.
        explanations: (N,), int, the emotion of each explanation.

    Returns:
        A float scalar in [0, 1]; 0 for N = 0.

    Raises:
        ValueError: if the inputs are not int tensors of one shape (N,).

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics.functional import explanation_prediction_consistency
        >>> explanation_prediction_consistency(tensor([0, 1, -1, 2]), tensor([0, 1, -1, 3]))
        tensor(0.5000)
    """
    _validate(preds=preds, explanations=explanations)
    return _rate_compute(*_agreement_update(preds, explanations))


def faithful_consistency_rate(preds: Tensor, explanations: Tensor, target: Tensor) -> Tensor:
    r"""FCR, how often explanation and prediction are both right (ERV, arXiv 2510.23506).

    .. math::
        \text{FCR} = P(\hat e = \hat y = y) = \frac{1}{N} \sum_i 1(\hat e_i = \hat y_i = y_i)

    The joint form is inferred, the paper's definition could not be read; `fcr_given_correct` is the other
    reading.

    Args:
        preds: (N,), int, the predicted emotion.
        explanations: (N,), int, the emotion of each explanation.
        target: (N,), int, the true emotion.

    Returns:
        A float scalar in [0, 1]; 0 for N = 0.

    Raises:
        ValueError: if the inputs are not int tensors of one shape (N,).

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics.functional import faithful_consistency_rate
        >>> faithful_consistency_rate(tensor([0, 1, 2, 2]), tensor([0, 1, 1, 2]), tensor([0, 2, 2, 1]))
        tensor(0.2500)
    """
    _validate(preds=preds, explanations=explanations, target=target)
    return _rate_compute(*_agreement_update(preds, explanations, target))


def fcr_given_correct(preds: Tensor, explanations: Tensor, target: Tensor) -> Tensor:
    r"""How often the explanation is right where the prediction is; FCR's conditional reading.

    .. math::
        P(\hat e = y \mid \hat y = y) = \text{FCR} / \text{WAR}

    Args:
        preds: (N,), int, the predicted emotion.
        explanations: (N,), int, the emotion of each explanation.
        target: (N,), int, the true emotion.

    Returns:
        A float scalar in [0, 1]; 0, as torchmetrics has it for 0/0, where no prediction is right.

    Raises:
        ValueError: if the inputs are not int tensors of one shape (N,).

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics.functional import fcr_given_correct
        >>> fcr_given_correct(tensor([0, 1, 2, 2]), tensor([0, 1, 1, 2]), tensor([0, 2, 2, 1]))
        tensor(0.5000)
    """
    _validate(preds=preds, explanations=explanations, target=target)
    faithful, _ = _agreement_update(preds, explanations, target)
    correct, _ = _agreement_update(preds, target)
    return _rate_compute(faithful, correct)


def weighted_average_recall(preds: Tensor, target: Tensor) -> Tensor:
    r"""WAR, recall averaged over classes by their size, which is accuracy.

    .. math::
        \text{WAR} = P(\hat y = y) = \frac{1}{N} \sum_i 1(\hat y_i = y_i)

    Args:
        preds: (N,), int, the predicted emotion.
        target: (N,), int, the true emotion.

    Returns:
        A float scalar in [0, 1]; 0 for N = 0.

    Raises:
        ValueError: if the inputs are not int tensors of one shape (N,).

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics.functional import weighted_average_recall
        >>> weighted_average_recall(tensor([0, 1, -1, 0]), tensor([0, 0, 0, 1]))
        tensor(0.2500)
    """
    _validate(preds=preds, target=target)
    return _rate_compute(*_agreement_update(preds, target))


def unweighted_average_recall(
    preds: Tensor, target: Tensor, num_classes: int, *, release_compatible: bool = False
) -> Tensor:
    r"""UAR, recall averaged over the classes of the data set, each counting the same.

    .. math::
        \text{UAR} = \frac{1}{|K|} \sum_{k \in K} P(\hat y = k \mid y = k),
        \quad K = \{k : \exists i, y_i = k\}

    Classes without a clip have no recall and are left out of the mean, as are clips without a label.

    Args:
        preds: (N,), int, the predicted emotion.
        target: (N,), int, the true emotion, below ``num_classes``.
        num_classes: C.
        release_compatible: leave clips without a valid answer out of their class's total, as ERV's release
            does for MAFW. That raises UAR; by default they count as wrong.

    Returns:
        A float scalar in [0, 1]; 0 where no class has a clip.

    Raises:
        ValueError: if the inputs are not int tensors of one shape (N,), or a target is not below
            ``num_classes``.

    Example:
        >>> from torch import tensor
        >>> from erv_lightning.metrics.functional import unweighted_average_recall
        >>> unweighted_average_recall(tensor([0, 0, -1, 1]), tensor([0, 0, 0, 1]), num_classes=7)
        tensor(0.8333)
    """
    _validate(preds=preds, target=target)
    counts = _recall_update(preds, target, num_classes)
    return _recall_compute(*counts, release_compatible=release_compatible)


def _validate(**ids: Tensor) -> None:
    """Raises ValueError naming every input that is no int tensor (N,) or differs in length from the first."""
    first, reference = next(iter(ids.items()))
    problems = []
    for name, value in ids.items():
        # an empty list has no dtype of its own: torch.tensor([]) is float
        if value.numel() and (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool):
            problems.append(f"{name} must hold int ids, got {value.dtype}")
        if value.ndim != 1:
            problems.append(f"{name} must have the shape (N,), got {tuple(value.shape)}")
        elif value.shape != reference.shape:
            problems.append(f"{name} is {tuple(value.shape)} but {first} is {tuple(reference.shape)}")
    if problems:
        raise ValueError("; ".join(problems))


def _agreement_update(first: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """For how many of N clips all ids are valid and the same, and N."""
    agree_N = first >= 0
    for other in others:
        agree_N = agree_N & (first == other)
    return agree_N.sum(), torch.tensor(first.numel(), device=first.device)


def _rate_compute(matched: Tensor, total: Tensor) -> Tensor:
    return matched.float() / total.clamp(min=1)


def _recall_update(preds: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per class (C,): its clips that are right, those without a valid answer, and all of them."""
    if target.numel() and int(target.max()) >= num_classes:
        raise ValueError(f"target holds the id {int(target.max())}, but num_classes is {num_classes}")
    labelled_N = target >= 0
    preds, target = preds[labelled_N], target[labelled_N].long()
    right_C, unanswered_C, total_C = (
        torch.zeros(num_classes, dtype=torch.long, device=target.device).index_add(0, target, flag.long())
        for flag in (preds == target, preds < 0, torch.ones_like(target))
    )
    return right_C, unanswered_C, total_C


def _recall_compute(right_C: Tensor, unanswered_C: Tensor, total_C: Tensor, *, release_compatible: bool) -> Tensor:
    if release_compatible:
        total_C = total_C - unanswered_C
    return _rate_compute(right_C, total_C).sum() / (total_C > 0).sum().clamp(min=1)
