"""The losses of stage 2, pure functions over logits: cross-entropy by class, focal, and distance from a teacher.

Shapes: B sentences of a batch, N sentences, K labels of the space.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid

Task = Literal["multi_label", "single_label"]

_SURE = 1e-6  # how near 0 and 1 a teacher's probability counts: its logit must be finite


def balanced_weights(targets: Tensor, task: Task) -> Tensor:
    r"""How much each label weighs, so that rare ones count as much as frequent ones (scikit-learn's ``balanced``).

    With N sentences, n_k of which have label k:

    - ``multi_label``: each output is a problem of two classes; a sentence with the label weighs N / (2 n_k), one
      without it N / (2 (N − n_k)). An output whose sentences all have it, or all lack it, weighs 1.
    - ``single_label``: N / (K′ n_k), where K′ is the number of labels that occur, N the sentences with a label, and a
      sentence with m labels adds 1/m to each of their n_k. A label that never occurs weighs 1.

    In both, the weights' mean over the training sentences is 1: the loss keeps its scale.

    Args:
        targets: (N, K), 0 or 1.
        task: whose weights.

    Returns:
        (2, K): of the outputs that are 0 and of those that are 1. For ``single_label`` the first row is not used.
    """
    if task == "single_label":
        share_NK, labelled_N = _spread(targets)
        count_K = share_NK.sum(0)
        occurs_K = count_K > 0
        weight_K = labelled_N.sum() / (occurs_K.sum().clamp(min=1) * count_K.where(occurs_K, 1.0))
        return torch.stack([torch.ones_like(count_K), weight_K.where(occurs_K, 1.0)])
    with_K = targets.sum(0)
    count_2K = torch.stack([len(targets) - with_K, with_K])
    return (len(targets) / (2 * count_2K.clamp(min=1))).where((count_2K > 0).all(0), 1.0)


def verifier_loss(
    logits: Tensor, targets: Tensor, task: Task = "multi_label", *, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    r"""Cross-entropy of sentences, weighted by class and focal if wished.

    Focal loss (Lin et al. 2017, arXiv 1708.02002, equation 4) multiplies each term by (1 − p)^γ, p the probability
    of what is true; γ = 0 is plain cross-entropy.

    - ``multi_label``: mean over B·K outputs of w_k(t) (1 − p_t)^γ (−log p_t), with p_t = σ(z) where t = 1, else
      1 − σ(z).
    - ``single_label``: mean over the sentences with a label of Σ_k q_k w_k (1 − p_k)^γ (−log p_k), with p = softmax(z)
      and q = 1/m for each of a sentence's m labels. Sentences without one are left out; if all are, the loss is 0.

    Args:
        logits: (B, K).
        targets: (B, K), 0 or 1.
        task: which of the two.
        weights: (2, K), as `balanced_weights` gives them; all 1 if None.
        gamma: γ ≥ 0.

    Returns:
        A scalar.
    """
    if task == "single_label":
        return _softmax_loss(logits, targets, weights, gamma)
    if weights is None and gamma == 0:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    true_BK = targets.bool()
    signed_BK = logits.where(true_BK, -logits)  # the logit of what is true
    # as a logarithm, whose gradient stays finite where p is 1
    terms_BK = -logsigmoid(signed_BK) * (gamma * logsigmoid(-signed_BK)).exp()
    if weights is not None:
        weights = weights.to(logits)
        terms_BK = terms_BK * weights[1].where(true_BK, weights[0])
    return terms_BK.mean()


def _softmax_loss(logits: Tensor, targets: Tensor, weights: Tensor | None, gamma: float) -> Tensor:
    share_BK, labelled_B = _spread(targets)
    log_p_BK = logits.log_softmax(1)
    terms_BK = -share_BK * log_p_BK
    if gamma > 0:
        # the floor: below it the gradient of a power under 1 would be 0 · inf
        terms_BK = terms_BK * (1 - log_p_BK.exp()).clamp(min=1e-6) ** gamma
    if weights is not None:
        terms_BK = terms_BK * weights[1].to(logits)
    return terms_BK.sum() / labelled_B.sum().clamp(min=1)


def _spread(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Targets with each sentence's labels sharing 1, (B, K), and which sentences have any, (B,)."""
    count_B = targets.sum(1)
    return targets / count_B.clamp(min=1)[:, None], count_B > 0


def distillation_loss(logits: Tensor, teacher: Tensor, task: Task = "multi_label", temperature: float = 1.0) -> Tensor:
    r"""How far the student is from a teacher's probabilities (Hinton et al. 2015, arXiv 1503.02531, section 2).

    T² · KL(q ‖ p), where q is the teacher and p the student, both at temperature T; T² keeps the gradient's scale.
    0 where they say the same.

    - ``multi_label``: mean over B·K outputs, each a problem of two classes, q = σ(logit(teacher) / T), p = σ(z / T).
    - ``single_label``: mean over B sentences, q = softmax(log(teacher) / T), p = softmax(z / T). A teacher's row need
      not sum to 1: what counts are the ratios.

    Args:
        logits: (B, K), of the student.
        teacher: (B, K), probabilities in [0, 1].
        task: which of the two.
        temperature: T, above 0.

    Returns:
        A scalar ≥ 0.
    """
    teacher = teacher.clamp(_SURE, 1 - _SURE)
    if task == "single_label":
        q_BK = (teacher.log() / temperature).log_softmax(1)
        p_BK = (logits / temperature).log_softmax(1)
        return temperature**2 * kl_div(p_BK, q_BK, reduction="batchmean", log_target=True)
    q_BK, p_BK = teacher.logit() / temperature, logits / temperature
    apart_BK = sum(
        logsigmoid(sign * q_BK).exp() * (logsigmoid(sign * q_BK) - logsigmoid(sign * p_BK)) for sign in (1, -1)
    )
    return temperature**2 * torch.as_tensor(apart_BK).mean()
