"""What a GRPO step leaves for people: the numbers of its curves, and a row per completion.

Legend: N completions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor

from erv_lightning.rl import telemetry
from erv_lightning.rl.experience import Experience
from erv_lightning.rl.reward_terms import EXPLANATION_REWARDS, Completions, Rewards


def step_metrics(experience: Experience, judged: Sequence[int], emotion_words: AbstractSet[str]) -> dict[str, float]:
    """The curves of `telemetry` for one process's completions; the same keys at every step.

    Args:
        experience: the step's completions.
        judged: N label ids that the held-out judge read from the explanations.
        emotion_words: see `telemetry.emotion_words`.
    """
    drawn, earned = experience.drawn, experience.earned
    lengths = drawn.mask.sum(1)
    return {
        **telemetry.reward_metrics(earned.total, earned.parts, experience.group),
        **telemetry.length_metrics(lengths, drawn.truncated),
        **_explanation_metrics(experience.completions, emotion_words),
        "judge/correlation": math.nan,  # where it is undefined
        **telemetry.judge_metrics(_explanation_reward(earned), judged, experience.completions.label_ids),
        "num_tokens": float(lengths.sum()),
    }


def _explanation_metrics(completions: Completions, emotion_words: AbstractSet[str]) -> dict[str, float]:
    texts = [response.explanation for response in completions.responses]
    probs = completions.sentence_probs() if completions.verdicts else None
    verifier = completions.verifier
    neutral = None if verifier is None else verifier.neutral_output(completions.spaces[0])  # of every space the same
    return telemetry.explanation_metrics(texts, probs, neutral, emotion_words)


def _explanation_reward(earned: Rewards) -> Tensor:
    """(N,), the first explanation reward that takes part; NaN without one."""
    parts = [part for name, part in earned.parts.items() if name in EXPLANATION_REWARDS]
    return parts[0] if parts else torch.full_like(earned.total, math.nan)


def rollout_rows(
    experience: Experience, advantages: Tensor, judged: Sequence[int], judge: str, step: int
) -> list[dict[str, Any]]:
    """A row of rollouts.jsonl for each completion.

    Args:
        experience: the step's completions.
        advantages: (N,).
        judged: N label ids.
        judge: name of the judge.
        step: optimiser steps before this rollout.
    """
    completions, earned = experience.completions, experience.earned
    sentences = _sentences(completions)
    lengths, truncated = experience.drawn.mask.sum(1).tolist(), experience.drawn.truncated.tolist()
    rows = []
    for index, (response, advantage) in enumerate(zip(completions.responses, advantages.tolist(), strict=True)):
        sample = experience.samples[index // experience.group]
        rows.append(
            {
                "step": step,
                "id": sample.id,
                "dataset": sample.dataset,
                "label_space": sample.label_space,
                "clip": sample.clip,
                "label": sample.label,
                "completion": index % experience.group,
                "response": completions.texts[index],
                "explanation": response.explanation,
                "answer": response.answer,
                "answer_id": completions.answer_ids[index],
                "label_id": completions.label_ids[index],
                "well_formed": response.well_formed,
                "tokens": lengths[index],
                "truncated": truncated[index],
                "sentences": sentences[index],
                "judges": {judge: judged[index]},
                "reward": round(float(earned.total[index]), 6),
                "rewards": {name: _number(part[index]) for name, part in earned.parts.items()},
                "advantage": round(advantage, 6),
            }
        )
    return rows


def _sentences(completions: Completions) -> Sequence[list[dict[str, Any]] | None]:
    """What the verifier read in each sentence of each explanation; None where no reward had it read them."""
    if not completions.verdicts:
        return [None] * len(completions.responses)
    verifier, rule = completions.verifier, completions.rule
    assert verifier is not None  # it gave the verdicts
    rows = []
    for probs_SK, space in zip(completions.sentence_probs(), completions.spaces, strict=True):
        own_SK = probs_SK[:, verifier.output_index(space)]
        read = zip(rule.conveyed(own_SK, verifier, space), own_SK.amax(1).tolist(), strict=True)
        rows.append([{"labels": labels, "p": round(p, 4)} for labels, p in read])
    return rows


def _number(value: Tensor) -> float | None:
    """For JSON, which has no NaN: null where a reward does not apply."""
    return None if math.isnan(value) else round(float(value), 6)
