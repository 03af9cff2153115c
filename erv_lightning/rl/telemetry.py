"""What a training step's numbers are called, and how they come about: TRL's names, and signs of a gamed verifier.

Pure functions from rewards, lengths and texts to named numbers. They know no trainer and no model; whoever logs them
adds the prefix (``train/``). Each function returns the same keys at every call with the same arguments given
(but see `judge_metrics`), so that processes of a distributed run can reduce them key by key.

Shapes: N completions of P prompts, G of each, side by side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor

from erv_lightning.labels import GOEMOTIONS, LabelSpace
from erv_lightning.text import split_sentences

_WORD = re.compile(r"\w+(?:['’]\w+)?")


# -- rewards and lengths ------------------------------------------------------------------------------------------


def reward_metrics(total: Tensor, parts: Mapping[str, Tensor], group_size: int) -> dict[str, float]:
    """The reward, how far it differs within groups, and each of its parts.

    A group whose rewards are all equal teaches nothing. Its parts say why: ``all_right`` and ``all_wrong`` are the
    shares of all groups in which every applicable completion has a value ≥ 1, or ≤ 0. A group without an applicable
    completion counts in neither.

    Args:
        total: (N,), the weighted sum, finite.
        parts: name → (N,), each reward before weighting; NaN where it does not apply to a completion.
        group_size: completions per prompt; N is a multiple of it.

    Returns:
        ``reward``; ``reward_std``, the mean over groups of the unbiased deviation; ``frac_reward_zero_std``, the share
        of groups with exactly equal rewards; ``rewards/{name}/{mean,std}`` over applicable completions, NaN without
        one; ``rewards/{name}/{all_right,all_wrong}``.

    Raises:
        ValueError: for shapes that are no whole groups.
    """
    shapes = {"total": total.shape, **{name: part.shape for name, part in parts.items()}}
    if group_size < 1 or not len(total) or len(total) % group_size or set(shapes.values()) != {(len(total),)}:
        raise ValueError(f"rewards {shapes} are not all one row of whole groups of {group_size} completions")
    total_PG = total.double().view(-1, group_size)
    metrics = {
        "reward": float(total_PG.mean()),
        "reward_std": float(total_PG.std(1).mean()) if group_size > 1 else 0.0,
        "frac_reward_zero_std": float((total_PG == total_PG[:, :1]).all(1).double().mean()),
    }
    for name, part in parts.items():
        part_PG = part.double().view(-1, group_size)
        absent_PG = part_PG.isnan()
        some_P = ~absent_PG.all(1)
        metrics[f"rewards/{name}/mean"] = float(part_PG.nanmean())
        metrics[f"rewards/{name}/std"] = _std(part_PG[~absent_PG])
        for sign, holds_PG in (("all_right", part_PG >= 1), ("all_wrong", part_PG <= 0)):
            metrics[f"rewards/{name}/{sign}"] = float(((holds_PG | absent_PG).all(1) & some_P).double().mean())
    return metrics


def _std(values: Tensor) -> float:
    """The unbiased deviation; of one value 0, of none NaN."""
    if len(values) < 2:
        return 0.0 if len(values) else math.nan
    return float(values.std())


def length_metrics(lengths: Tensor, truncated: Tensor) -> dict[str, float]:
    """How long completions are, and how many were cut off.

    Args:
        lengths: (N,), tokens per completion, N ≥ 1.
        truncated: (N,), bool, whether the completion reached the limit before its end.

    Returns:
        ``completions/{mean,min,max}_length`` in tokens; ``completions/clipped_ratio`` in [0, 1];
        ``completions/{mean,min,max}_terminated_length`` over completions that ended, 0 if none did (as TRL has it).
    """
    ended = lengths[~truncated]
    metrics = {"completions/clipped_ratio": float(truncated.double().mean())}
    for kind, some in (("", lengths), ("terminated_", ended if len(ended) else lengths.new_zeros(1))):
        metrics[f"completions/mean_{kind}length"] = float(some.double().mean())
        metrics[f"completions/min_{kind}length"] = float(some.min())
        metrics[f"completions/max_{kind}length"] = float(some.max())
    return metrics


# -- explanations -------------------------------------------------------------------------------------------------


def emotion_words(*spaces: LabelSpace) -> frozenset[str]:
    """The words that name an emotion outright: labels and synonyms of `spaces`, and the names of GoEmotions.

    Lower case, single words: a label of several words is not looked for.
    """
    words = {word for space in spaces for word in (*space.names, *space.synonyms)}
    return frozenset(word for word in (*words, *GOEMOTIONS) if _WORD.fullmatch(word))


def explanation_metrics(
    explanations: Sequence[str],
    sentence_probs: Sequence[Tensor] | None,
    neutral: int | None,
    words: AbstractSet[str],
) -> dict[str, float]:
    """How explanations read, to tell a policy that explains from one that games the verifier.

    Naming emotions where signs of them should stand, many short or repeated sentences, and no neutral sentence left
    are the ways in which a sentence classifier is pleased cheaply. Case and punctuation are ignored. Every rate is over
    all words, sentences or n-grams of the batch, and 0 where there are none.

    Args:
        explanations: texts, "" for a missing one.
        sentence_probs: for each explanation (sentences, labels), what the verifier makes of its sentences.
        neutral: the neutral index of these labels. Without it or `sentence_probs` there is no ``neutral_ratio``.
        words: lower-case words that name an emotion; see `emotion_words`.

    Returns:
        ``explanations/`` + ``words`` and ``sentences``, means per explanation; ``emotion_word_rate``, the share of
        words that are in `words`; ``distinct_1`` and ``distinct_2``, different n-grams over all (Li et al., arXiv
        1510.03055); ``repeated_sentences``, the share of sentences with the words of an earlier one of the explanation;
        ``neutral_ratio``, the share of sentences whose likeliest label is neutral.

    Raises:
        ValueError: if probabilities and explanations differ in number.
    """
    texts = [_words(text) for text in explanations]
    sentences = [[tuple(_words(sentence)) for sentence in split_sentences(text)] for text in explanations]
    every_word = [word for text in texts for word in text]
    total, different = sum(map(len, sentences)), sum(len(set(those)) for those in sentences)
    metrics = {
        "words": _ratio(len(every_word), len(explanations)),
        "sentences": _ratio(total, len(explanations)),
        "emotion_word_rate": _ratio(sum(word in words for word in every_word), len(every_word)),
        "distinct_1": _distinct(texts, 1),
        "distinct_2": _distinct(texts, 2),
        "repeated_sentences": _ratio(total - different, total),
    }
    if sentence_probs is not None and neutral is not None:
        if len(sentence_probs) != len(explanations):
            raise ValueError(f"{len(explanations)} explanations, but probabilities of {len(sentence_probs)}")
        metrics["neutral_ratio"] = _neutral_ratio(sentence_probs, neutral)
    return {f"explanations/{name}": value for name, value in metrics.items()}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams over all n-grams; none of them spans two texts."""
    grams = [tuple(text[start : start + n]) for text in texts for start in range(len(text) - n + 1)]
    return _ratio(len(set(grams)), len(grams))


def _neutral_ratio(sentence_probs: Sequence[Tensor], neutral: int) -> float:
    likeliest = [label for p_SK in sentence_probs if len(p_SK) for label in p_SK.argmax(1).tolist()]
    return _ratio(likeliest.count(neutral), len(likeliest))


def _ratio(some: int, of: int) -> float:
    return some / of if of else 0.0


# -- the reward against a judge that is not rewarded --------------------------------------------------------------


def judge_metrics(reward: Tensor, judged: Sequence[int], label_ids: Sequence[int]) -> dict[str, float]:
    """The explanation reward against the judge, whose verdict is held out of training.

    Args:
        reward: (N,), the explanation reward; NaN where it does not apply.
        judged: N label ids that the judge read from the explanations; −1, no one emotion, agrees with nothing.
        label_ids: N true label ids.

    Returns:
        ``judge/accuracy``, the share of explanations that the judge reads as the label; ``judge/reward_gap``, the mean
        reward minus that share, over the completions that have a reward (NaN without one): above 0 and growing, the
        verifier is being gamed; ``judge/correlation``, Pearson's, of reward and verdict over the same completions.
        This last key is missing where it is undefined, that is where either is constant: do not reduce it over
        processes.

    Raises:
        ValueError: if the three differ in length.
    """
    if reward.ndim != 1 or not len(reward) == len(judged) == len(label_ids):
        raise ValueError(f"reward {tuple(reward.shape)}, {len(judged)} verdicts and {len(label_ids)} labels do not fit")
    agrees = torch.tensor([one == label >= 0 for one, label in zip(judged, label_ids, strict=True)]).double()
    scored = reward.detach().double().cpu()
    applies = ~scored.isnan()
    metrics = {
        "judge/accuracy": float(agrees.mean()),
        "judge/reward_gap": float(scored[applies].mean() - agrees[applies].mean()),
    }
    pair = torch.stack([scored[applies], agrees[applies]])
    if bool((pair != pair[:, :1]).any(1).all()):
        metrics["judge/correlation"] = float(torch.corrcoef(pair)[0, 1])
    return metrics


# -- several processes ----------------------------------------------------------------------------------------------

# How a number of each process becomes one; all others are averaged.
_MAXIMA = ("completions/max_length", "completions/max_terminated_length", "perf/peak_memory_gb", "step_time")
_MINIMA = ("completions/min_length", "completions/min_terminated_length")
_SUMS = ("loss", "num_tokens", "perf/throughput", "resampled/groups")


def over_processes(names: Sequence[str], values: Tensor) -> dict[str, float]:
    """One number per name from those of every process.

    Args:
        names: M metrics.
        values: (processes, M); NaN where a metric says nothing in a process, which the others then decide.

    Returns:
        The greatest of lengths, memory and seconds of a step, the least of shortest lengths, the sum of loss shares,
        tokens and their rate, and the mean of everything else.
    """
    combined = {}
    for name, column in zip(names, values.double().T, strict=True):
        known = column[~column.isnan()]
        if not len(known):
            combined[name] = math.nan
        elif name in _MAXIMA or name.startswith("timing_s/"):  # the slowest process is the one waited for
            combined[name] = float(known.max())
        elif name in _MINIMA:
            combined[name] = float(known.min())
        else:
            combined[name] = float(known.sum() if name in _SUMS else known.mean())
    return combined
