"""Named, weighted rewards over a batch of completions: the built-in ones, and any function of the user's.

A reward is a function `(Completions) -> Tensor` of shape (completions,).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from erv_lightning.labels import LabelSpace
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.rl.rewards import accuracy_reward, explanation_reward, format_reward
from erv_lightning.text import Response, split_sentences


@dataclass(frozen=True)
class ExplanationRule:
    """How sentence probabilities become the explanation reward; see `explanation_reward`.

    Attributes:
        threshold: a sentence conveys the labels above this probability.
        max_labels: but no more than these many.
        variant: how sentences are counted.
    """

    threshold: float = 0.1
    max_labels: int = 2
    variant: str = "paper"


@dataclass
class Completions:
    """What a reward sees.

    Attributes:
        responses: parsed completions.
        answer_ids, label_ids: ids in the label space, −1 for no valid answer.
        space: the label space.
        verifier: the sentence classifier, if the run has one.
        rule: of the explanation reward.
        verdicts: for each completion whose sentences a reward had scored, [sentence, probabilities] pairs.
    """

    responses: list[Response]
    answer_ids: list[int]
    label_ids: list[int]
    space: LabelSpace
    verifier: EmotionVerifier | None = None
    rule: ExplanationRule = ExplanationRule()
    verdicts: list[list[tuple[str, list[float]]]] = field(default_factory=list)


RewardFunction = Callable[[Completions], Tensor]


def _format(completions: Completions) -> Tensor:
    return format_reward(completions.responses)


def _accuracy(completions: Completions) -> Tensor:
    return accuracy_reward(completions.answer_ids, completions.label_ids)


def _explanation(completions: Completions) -> Tensor:
    """R_E of every explanation; all sentences of the batch go through the verifier together."""
    verifier = completions.verifier
    if verifier is None:
        raise ValueError("the explanation reward needs a verifier: set model.init_args.verifier")
    sentences = [split_sentences(response.explanation) for response in completions.responses]
    scored = verifier.probs([sentence for response in sentences for sentence in response])
    probs = list(torch.split(scored, [len(response) for response in sentences]))
    completions.verdicts = [
        list(zip(texts, rows.tolist(), strict=True)) for texts, rows in zip(sentences, probs, strict=True)
    ]
    outputs = verifier.output_index(completions.space)
    if min(completions.label_ids, default=0) < 0:
        raise ValueError("a sample's label is not in its label space: the explanation reward has no target")
    rule = completions.rule
    return explanation_reward(
        probs,
        [outputs[label] for label in completions.label_ids],
        verifier.neutral_output(completions.space),
        threshold=rule.threshold,
        max_labels=rule.max_labels,
        variant=rule.variant,
    )


BUILT_IN: dict[str, RewardFunction] = {"format": _format, "accuracy": _accuracy, "explanation": _explanation}


class RewardSum:
    """The weighted sum of named rewards.

    Args:
        weights: name → weight. A weight of 0 switches a reward off: it is not computed.
        functions: name → ``package.module:function`` or ``path/to/file.py:function`` for rewards of one's own.

    Raises:
        ValueError: a name that is neither built in nor given in `functions`, or a function that cannot be found.
    """

    def __init__(self, weights: Mapping[str, float], functions: Mapping[str, str]) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight != 0}
        known = {**BUILT_IN, **{name: _load(name, target) for name, target in functions.items()}}
        unknown = sorted(set(self.weights) - set(known))
        if unknown or not self.weights:
            raise ValueError(
                f"rewards: {unknown or 'none with a weight'}; built in are {sorted(BUILT_IN)}, others need an entry "
                "in model.init_args.reward_functions"
            )
        self.functions = {name: known[name] for name in self.weights}

    @property
    def needs_verifier(self) -> bool:
        """Whether the explanation reward takes part."""
        return "explanation" in self.functions

    def __call__(self, completions: Completions) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, (completions,), and each reward before weighting."""
        parts = {}
        for name, function in self.functions.items():
            part = function(completions).float().cpu()
            if part.shape != (len(completions.responses),):
                raise ValueError(
                    f"reward {name!r} returned shape {tuple(part.shape)}, expected ({len(completions.responses)},)"
                )
            parts[name] = part
        weighted = [self.weights[name] * part for name, part in parts.items()]
        return torch.stack(weighted).sum(0), parts


def _load(name: str, target: str) -> RewardFunction:
    """Finds a user's function."""
    where, _, attribute = target.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(where).stem, where)
            if spec is None or spec.loader is None:
                raise ImportError("no Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        function: RewardFunction = getattr(module, attribute)
    except (ImportError, AttributeError, FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"reward {name!r}: cannot load {target!r} ({error}); write it as 'package.module:function' or "
            "'path/to/file.py:function'"
        ) from error
    return function
