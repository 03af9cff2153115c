"""Does a verifier read what a sentence says, or which words are in it? Sentences are changed, and read again.

Besides: sentences that training did not have, and emotions and label spaces that it was not made for. Writes no files;
`report.robustness` shows what comes out.

Shapes: N sentences, K labels of the space.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erv_lightning.data.datamodule import Sentence
from erv_lightning.data.grammar import EMOTIONS, OPENERS, PHRASES
from erv_lightning.labels import (
    CREMAD,
    DFEW,
    EMER,
    GOEMOTIONS,
    MAFW,
    MELD,
    MER2023,
    MERR,
    RAVDESS,
    LabelSpace,
    goemotions_index,
)
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.perturbations import PERTURBATIONS, Perturbation, distinct, perturbed
from erv_lightning.probes import CUES
from erv_lightning.rl.reward_terms import ExplanationRule
from erv_lightning.rl.rewards import label_sets
from erv_lightning.stats.resampling import design, interval, ratio, weights
from erv_lightning.stats.significance import holm, mcnemar

SPACES = (DFEW, MAFW, EMER, MER2023, MERR, RAVDESS, CREMAD, MELD)
DRAWS = 1_000  # of the bootstrap

Bools = NDArray[np.bool_]


def robustness(
    verifier: EmotionVerifier, space: LabelSpace, sentences: Sequence[Sentence], *, most: int = 500, seed: int = 0
) -> dict[str, Any]:
    """Reads changed sentences, and sentences of emotions and label spaces that the verifier was not made for.

    The texts depend on the arguments alone, so that processes which share a sharded verifier read the same.

    Args:
        verifier: in evaluation mode.
        space: of the sentences' labels; the verifier must know it.
        sentences: of the test split.
        most: of them are drawn, at least 1.
        seed: of what is drawn and written.

    Returns:
        JSON types, NaN where a number is undefined. ``perturbations``: for each of `PERTURBATIONS`, the share of
        sentences whose label set (the paper's rule) holds a true label, ``before`` and ``kept``; how many of them
        ``lost`` it and ``gained`` it, and the ``p`` of McNemar's test, adjusted by Holm's method over all
        perturbations; and the mean ``probability`` of true labels. ``unknown`` and ``spaces``: see `unknown_emotions`
        and `other_spaces`.

    Raises:
        ValueError: labels of the space that the verifier does not know.
    """
    chosen, different = distinct(sentences, most, seed)
    changed = {one: perturbed(one, chosen, space, seed) for one in PERTURBATIONS}
    texts = [sentence.text for sentence in chosen] + [text for pairs in changed.values() for _, text in pairs]
    # one call: equal texts are read once, and batches are full
    read = dict(zip(texts, verifier.probs(texts)[:, verifier.output_index(space)], strict=True))
    outcomes = [_outcome(one, pairs, read, space) for one, pairs in changed.items()]
    adjusted = holm([one["p"] for one in outcomes])
    return {
        "seed": seed,
        "sentences": len(chosen),
        "distinct_sentences": different,
        "perturbations": [{**one, "p": p} for one, p in zip(outcomes, adjusted, strict=True)],
        "unknown": unknown_emotions(verifier, space),
        "spaces": other_spaces(verifier, space),
    }


def _outcome(
    perturbation: Perturbation, pairs: Sequence[tuple[Sentence, str]], read: Mapping[str, Tensor], space: LabelSpace
) -> dict[str, Any]:
    true_NK = torch.zeros(len(pairs), len(space.names), dtype=torch.bool)
    for row, (sentence, _) in enumerate(pairs):
        true_NK[row, [space.id(label) for label in sentence.labels]] = True
    holds, means = [], []
    for texts in ([sentence.text for sentence, _ in pairs], [text for _, text in pairs]):
        p_NK = torch.stack([read[text] for text in texts]) if texts else torch.zeros(true_NK.shape)
        holds.append((_sets(p_NK) & true_NK).any(1).numpy())
        means.append(float(((p_NK * true_NK).sum(1) / true_NK.sum(1)).mean()))
    before, after = holds
    of = {"name": perturbation.name, "kind": perturbation.kind, "what": perturbation.what}
    return {
        **of,
        "wanted": perturbation.wanted,
        "sentences": len(pairs),
        "before": share(int(before.sum()), len(pairs)),
        "kept": share(int(after.sum()), len(pairs)),
        "lost": int((before & ~after).sum()),
        "gained": int((after & ~before).sum()),
        "p": mcnemar(before, after) if pairs else math.nan,
        "probability": {"before": means[0], "after": means[1]},
        "probability_drop": means[0] - means[1],
        "example": [pairs[0][0].text, pairs[0][1]] if pairs else None,
    }


def _sets(p_NK: Tensor) -> Tensor:
    rule = ExplanationRule()
    return label_sets(p_NK, rule.threshold, rule.max_labels)


def share(hits: int, of: int) -> dict[str, float]:
    """A share with Wilson's 95 % interval: ``value``, ``low``, ``high``; NaN of nothing."""
    from statsmodels.stats.proportion import proportion_confint  # slow to import

    if not of:
        return dict.fromkeys(("value", "low", "high"), math.nan)
    low, high = proportion_confint(hits, of, method="wilson")
    value = hits / of
    # of 0 and 1 the interval ends at the share, but for rounding
    return {"value": value, "low": max(min(float(low), value), 0.0), "high": min(max(float(high), value), 1.0)}


# -- sentences that training did not have ---------------------------------------------------------------------------


def by_novelty(said: Bools, true: Bools, texts: Sequence[str], known: Collection[str]) -> dict[str, Any]:
    """Macro-F1 of the sentences that training had, word for word, and of those that it had not.

    Args:
        said, true: (N, K), what the verifier says and what is true.
        texts: (N,), of the sentences.
        known: texts of the training sentences.

    Returns:
        For ``seen`` and ``unseen`` how many ``sentences``, how many ``distinct`` texts, and the ``f1``: over labels
        that are said or true, with the 95 % interval of a bootstrap over distinct texts; NaN where there is no label.
    """
    is_known = np.array([text in known for text in texts], dtype=bool)
    found = {}
    for name, rows in (("seen", is_known), ("unseen", ~is_known)):
        those = [text for text, chosen in zip(texts, rows, strict=True) if chosen]
        f1 = _macro_f1(said[rows], true[rows], those)
        found[name] = {"sentences": len(those), "distinct": len(set(those)), "f1": f1}
    return found


def _macro_f1(said: Bools, true: Bools, texts: Sequence[str]) -> dict[str, float]:
    if not texts:
        return dict.fromkeys(("value", "low", "high"), math.nan)
    # (N, 1, K): F1 = 2 |said ∩ true| / (|said| + |true|), a ratio of sums over sentences
    top, bottom = (x[:, None, :].astype(float) for x in (2 * (said & true), said.astype(int) + true))
    drawn = design(texts, np.zeros(len(texts), dtype=np.intp), stratify=False)
    every = np.concatenate(
        [ratio(weight, top, bottom)[:, 0] for weight in weights(drawn, DRAWS, np.random.default_rng(0))]
    )
    low, high = interval(every)
    return {"value": float(ratio(np.ones((1, len(texts))), top, bottom)[0, 0]), "low": low, "high": high}


# -- emotions and label spaces that it was not made for --------------------------------------------------------------


def honest_sentences(label: str) -> tuple[str, ...]:
    """Sentences that convey the emotion of a built-in label space; none for emotions of your own."""
    if (place := DFEW.id(label)) >= 0:
        slots = PHRASES[EMOTIONS[place]].items()
        return tuple(f"{OPENERS[slot][0]}, {phrase}." for slot, phrases in slots for phrase in phrases)
    return CUES.get(label, ())


def unknown_emotions(verifier: EmotionVerifier, space: LabelSpace) -> list[dict[str, Any]]:
    """What the verifier says of emotions that the space has no label for.

    Returns:
        For each such emotion: how many ``sentences``; the shares in which some label but neutral is above one half
        (``above_half``) and above the paper's threshold (``above_paper``); the label that is likeliest most often
        (``taken_for``), and how often (``times``). If there are several, a last row ``all`` counts them together.
    """
    emotions = [label for label in (*EMOTIONS, *CUES) if space.id(label) < 0]
    texts = [text for emotion in emotions for text in honest_sentences(emotion)]
    read = dict(zip(texts, verifier.probs(texts)[:, verifier.output_index(space)], strict=True))
    asked = {emotion: honest_sentences(emotion) for emotion in emotions}
    if len(asked) > 1:
        asked["all"] = tuple(texts)
    return [_claims(name, torch.stack([read[text] for text in those]), space) for name, those in asked.items()]


def _claims(emotion: str, p_NK: Tensor, space: LabelSpace) -> dict[str, Any]:
    highest = p_NK[:, [label for label in range(len(space.names)) if label != space.neutral]].amax(1)
    label, times = Counter(p_NK.argmax(1).tolist()).most_common(1)[0]
    limits = {"above_half": 0.5, "above_paper": ExplanationRule().threshold}
    shares = {name: share(int((highest > limit).sum()), len(p_NK)) for name, limit in limits.items()}
    return {"emotion": emotion, "sentences": len(p_NK), **shares, "taken_for": space.names[label], "times": times}


def other_spaces(verifier: EmotionVerifier, own: LabelSpace) -> list[dict[str, Any]]:
    """How well the verifier's outputs serve other data sets: the likeliest label of honest sentences.

    Only labels that some output stands for take part. Data sets that ask for the same outputs share a row.

    Returns:
        For each row the ``spaces``, ``missing`` labels that no output stands for, ``sentences``, the share whose
        likeliest label is right (``right``), and the same for each of the ``labels``.
    """
    texts = list({text: None for label in (*EMOTIONS, *CUES) for text in honest_sentences(label)})
    read = dict(zip(texts, verifier.logits(texts), strict=True))
    rows: dict[tuple[int, ...], dict[str, Any]] = {}
    for name, space in {space.name: space for space in (own, *SPACES)}.items():
        asked = {label: output for label, output in _outputs(verifier, space).items() if honest_sentences(label)}
        same = tuple(sorted(asked.values()))
        if same in rows:
            rows[same]["spaces"].append(name)
        elif len(same) > 1:
            missing = [label for label in space.names if label not in asked]
            rows[same] = {"spaces": [name], "missing": missing, **_top1(read, asked)}
    return list(rows.values())


def _outputs(verifier: EmotionVerifier, space: LabelSpace) -> dict[str, int]:
    """`output_index` of the labels that the verifier knows, whatever others the space has."""
    if verifier.labels == GOEMOTIONS:
        return {label: goemotions_index(label) for label in space.names}
    own = {space.id(label): output for output, label in enumerate(verifier.labels)}
    return {label: own[index] for index, label in enumerate(space.names) if index in own}


def _top1(read: Mapping[str, Tensor], outputs: Mapping[str, int]) -> dict[str, Any]:
    labels, rights = {}, []
    for place, label in enumerate(outputs):
        logits_NK = torch.stack([read[text] for text in honest_sentences(label)])[:, list(outputs.values())]
        right = (logits_NK.argmax(1) == place).tolist()
        labels[label] = {"sentences": len(right), "right": share(sum(right), len(right))}
        rights += right
    return {"sentences": len(rights), "right": share(sum(rights), len(rights)), "labels": labels}
