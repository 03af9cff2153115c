"""Named, weighted rewards over a batch of completions: the built-in ones, and any function of the user's.

A reward is a function from `Completions` to one number per completion: a tensor (completions,), or a list in
which None says that the reward does not apply to that completion.

Shapes: R rewards, N completions.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from erv_lightning.labels import LabelSpace
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.rl.rewards import (
    VARIANTS,
    accuracy_reward,
    care_bonus,
    explanation_reward,
    format_reward,
    label_sets,
    overlong_penalty,
)
from erv_lightning.text import Response, split_sentences


@dataclass(frozen=True)
class ExplanationRule:
    """Which labels a sentence conveys; see `explanation_reward`.

    Attributes:
        threshold: the labels above this probability.
        max_labels: but no more than these many.
        calibrated: probabilities at the verifier's own temperature, and for each label the threshold that was fitted
            with it on validation sentences, see `EmotionVerifier.calibrate`. `threshold` then is that of outputs
            without one: those of a GoEmotions classifier that stand for no label.
    """

    threshold: float = 0.1
    max_labels: int = 2
    calibrated: bool = False

    def thresholds(self, verifier: EmotionVerifier, space: LabelSpace) -> float | Tensor:
        """One for all outputs of a verifier, or one for each, (outputs,).

        Raises:
            ValueError: calibrated ones of a verifier that has none for this label space.
        """
        if not self.calibrated:
            return self.threshold
        thresholds = torch.full((len(verifier.labels),), self.threshold)
        thresholds[verifier.output_index(space)] = verifier.thresholds(space)
        return thresholds

    def conveyed(self, probs_SK: Tensor, verifier: EmotionVerifier, space: LabelSpace) -> list[list[int]]:
        """What sentences convey, where nothing but the labels of a space counts.

        Args:
            probs_SK: (sentences, labels of the space).
            verifier: whose probabilities they are.
            space: the label space.

        Returns:
            For each sentence its label ids, one or more, the likeliest first; among equals the lower id.
        """
        if not len(probs_SK):
            return []
        threshold = verifier.thresholds(space) if self.calibrated else self.threshold
        sets_SK = label_sets(probs_SK, threshold, self.max_labels)
        ranks_SK = probs_SK.argsort(dim=1, descending=True, stable=True)
        return [
            [label for label in ranks if of[label]]
            for ranks, of in zip(ranks_SK.tolist(), sets_SK.tolist(), strict=True)
        ]


@dataclass
class Completions:
    """What a reward sees: all completions of a rollout, those of one prompt side by side.

    Attributes:
        responses: parsed completions.
        answer_ids, label_ids: ids in the label space, −1 for no valid answer.
        space: the label space, or a list with that of each completion; `spaces` is always the list.
        verifier: the sentence classifier, if the run has one.
        rule: of the explanation rewards.
        verdicts: for each completion whose sentences a reward had scored, [sentence, probabilities] pairs.
        texts: the completions as they were said, for rewards that look at more than explanation and answer.
        group_size: completions per prompt.
        lengths: (completions,), tokens of each.
        max_new_tokens: most tokens of a completion.
        answer_logp: (completions,), mean log-probability of the answer's tokens under the reference, nan
            without an answer.
        overlong_buffer: the last tokens before ``max_new_tokens``, in which `overlong` makes length cost; a
            quarter of them if None.
    """

    responses: list[Response]
    answer_ids: list[int]
    label_ids: list[int]
    space: LabelSpace | Sequence[LabelSpace]
    verifier: EmotionVerifier | None = None
    rule: ExplanationRule = ExplanationRule()
    verdicts: list[list[tuple[str, list[float]]]] = field(default_factory=list)
    _: KW_ONLY
    texts: list[str] = field(default_factory=list)
    group_size: int = 1
    lengths: Tensor | None = None
    max_new_tokens: int | None = None
    answer_logp: Tensor | None = None
    overlong_buffer: int | None = None
    _scored: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def spaces(self) -> Sequence[LabelSpace]:
        """The label space of each completion."""
        return [self.space] * len(self.responses) if isinstance(self.space, LabelSpace) else self.space

    def pick(self, rows: Sequence[int]) -> Completions:
        """These completions; what the verifier has said stays known."""
        own = replace(
            self,
            responses=[self.responses[row] for row in rows],
            answer_ids=[self.answer_ids[row] for row in rows],
            label_ids=[self.label_ids[row] for row in rows],
            space=[self.spaces[row] for row in rows],
            verdicts=[self.verdicts[row] for row in rows] if self.verdicts else [],
            texts=[self.texts[row] for row in rows] if self.texts else [],
            lengths=None if self.lengths is None else self.lengths[list(rows)],
            answer_logp=None if self.answer_logp is None else self.answer_logp[list(rows)],
        )
        own._scored = self._scored
        return own

    @staticmethod
    def join(parts: Sequence[Completions]) -> Completions:
        """The completions of several, which must agree in all that is not one completion's own."""
        lengths = [part.lengths for part in parts if part.lengths is not None]
        answers = [part.answer_logp for part in parts if part.answer_logp is not None]
        whole = replace(
            parts[0],
            responses=[one for part in parts for one in part.responses],
            answer_ids=[one for part in parts for one in part.answer_ids],
            label_ids=[one for part in parts for one in part.label_ids],
            space=[one for part in parts for one in part.spaces],
            verdicts=[one for part in parts for one in part.verdicts],
            texts=[one for part in parts for one in part.texts],
            lengths=torch.cat(lengths) if lengths else None,
            answer_logp=torch.cat(answers) if answers else None,
        )
        whole._scored = {text: probs for part in parts for text, probs in part._scored.items()}
        return whole

    def probs(self, texts: Sequence[str]) -> Tensor:
        """What the verifier says of texts, (texts, outputs); it reads each text once, whichever reward asks.

        Raises:
            ValueError: there is no verifier.
        """
        verifier = _verifier_of(self)
        new = [text for text in dict.fromkeys(texts) if text not in self._scored]
        self._scored.update(zip(new, verifier.probs(new, calibrated=self.rule.calibrated), strict=True))
        return torch.stack([self._scored[text] for text in texts]) if texts else torch.zeros(0, len(verifier.labels))

    def sentence_probs(self) -> list[Tensor]:
        """For each completion, (sentences, outputs) of its explanation, which are also kept as `verdicts`."""
        sentences = [split_sentences(response.explanation) for response in self.responses]
        scored = self.probs([sentence for response in sentences for sentence in response])
        probs = list(torch.split(scored, [len(response) for response in sentences]))
        self.verdicts = [
            list(zip(texts, rows.tolist(), strict=True)) for texts, rows in zip(sentences, probs, strict=True)
        ]
        return probs

    def explanation_probs(self) -> list[Tensor]:
        """For each completion, (1, outputs) of its whole explanation; (0, outputs) where it has none."""
        texts = [response.explanation for response in self.responses]
        scored = self.probs([text for text in texts if text])
        return list(torch.split(scored, [int(bool(text)) for text in texts]))


RewardFunction = Callable[[Completions], Tensor | Sequence[float | None]]


# -- the built-in ones --------------------------------------------------------------------------------------------


def _format(completions: Completions) -> Tensor:
    return format_reward(completions.responses)


def _accuracy(completions: Completions) -> Tensor:
    return accuracy_reward(completions.answer_ids, completions.label_ids)


def _explanation(completions: Completions, variant: str) -> Tensor:
    """R_E or a variant of it; all sentences of the rollout go through the verifier together."""
    verifier, rule = _verifier_of(completions), completions.rule
    if min(completions.label_ids, default=0) < 0:
        raise ValueError("a sample's label is not in its label space: the explanation reward has no target")
    probs = completions.explanation_probs() if variant == "paragraph" else completions.sentence_probs()
    rewards = torch.zeros(len(probs))
    spaces = completions.spaces
    for space in {space.name: space for space in spaces}.values():
        outputs = verifier.output_index(space)
        rows = [row for row, own in enumerate(spaces) if own.name == space.name]
        answers = [completions.answer_ids[row] for row in rows]
        rewards[rows] = explanation_reward(
            [probs[row] for row in rows],
            [outputs[completions.label_ids[row]] for row in rows],
            outputs[space.neutral],
            threshold=rule.thresholds(verifier, space),
            max_labels=rule.max_labels,
            variant=variant,
            answers=[outputs[answer] if answer >= 0 else -1 for answer in answers],
        ).float()
    return rewards


def _care(completions: Completions) -> Tensor:
    if completions.answer_logp is None:
        raise ValueError("the care reward needs the answers' log-probabilities under the reference (answer_logp)")
    return care_bonus(completions.answer_logp.cpu(), _accuracy(completions) > 0, completions.group_size)


def _overlong(completions: Completions) -> Tensor:
    most, buffer = completions.max_new_tokens, completions.overlong_buffer
    if completions.lengths is None or most is None:
        raise ValueError("the overlong reward needs lengths and max_new_tokens of the completions")
    return overlong_penalty(completions.lengths, most, max(1, most // 4) if buffer is None else buffer)


def _verifier_of(completions: Completions) -> EmotionVerifier:
    if completions.verifier is None:
        raise ValueError("the explanation reward needs a verifier: set model.init_args.verifier")
    return completions.verifier


EXPLANATION_REWARDS = {"explanation" if variant == "paper" else variant: variant for variant in VARIANTS}
"""Names of the rewards that ask the verifier, each with its variant of `explanation_reward`."""

BUILT_IN: dict[str, RewardFunction] = {
    "format": _format,
    "accuracy": _accuracy,
    **{name: partial(_explanation, variant=variant) for name, variant in EXPLANATION_REWARDS.items()},
    "care": _care,
    "overlong": _overlong,
}


# -- adding up ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rewards:
    """What completions earned.

    Attributes:
        total: (completions,), the weighted sum of the rewards that apply; 0 where none does.
        parts: each reward before weighting, (completions,), nan where it does not apply.
        applicable: (completions,), whether at least one reward applies.
    """

    total: Tensor
    parts: dict[str, Tensor]
    applicable: Tensor

    def pick(self, rows: Tensor) -> Rewards:
        """Those of some completions."""
        parts = {name: part[rows] for name, part in self.parts.items()}
        return Rewards(self.total[rows], parts, self.applicable[rows])

    @staticmethod
    def join(several: Sequence[Rewards]) -> Rewards:
        """One after the other."""
        return Rewards(
            torch.cat([one.total for one in several]),
            {name: torch.cat([one.parts[name] for one in several]) for name in several[0].parts},
            torch.cat([one.applicable for one in several]),
        )


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
        """Whether R_E or a variant of it takes part."""
        return not self.functions.keys().isdisjoint(EXPLANATION_REWARDS)

    @property
    def needs_reference_answers(self) -> bool:
        """Whether `Completions.answer_logp` is asked for."""
        return "care" in self.functions

    def __call__(self, completions: Completions) -> Rewards:
        """Computes every reward, and their sum.

        Raises:
            ValueError: a reward that is not one finite number or None per completion; names it.
        """
        count = len(completions.responses)
        parts = {name: _part(name, function(completions), count) for name, function in self.functions.items()}
        part_RN = torch.stack(list(parts.values()))
        weighted_RN = torch.stack([self.weights[name] * part for name, part in parts.items()])
        return Rewards(weighted_RN.nansum(0), parts, ~part_RN.isnan().all(0))


def _part(name: str, returned: Tensor | Sequence[float | None], count: int) -> Tensor:
    """What a reward function returned, as (completions,) on the CPU, nan where it does not apply."""
    if isinstance(returned, Tensor):
        part, given = returned.detach().float().cpu(), torch.ones(returned.shape, dtype=torch.bool)
    else:
        try:
            part = torch.tensor([0.0 if value is None else float(value) for value in returned])
            given = torch.tensor([value is not None for value in returned], dtype=torch.bool)
        except (TypeError, ValueError) as error:
            raise ValueError(f"reward {name!r} returned no tensor and no list of numbers or None: {error}") from error
    if part.shape != (count,):
        raise ValueError(f"reward {name!r} returned shape {tuple(part.shape)}, expected ({count},)")
    if not bool(part.isfinite().all()):
        at = (~part.isfinite()).nonzero().flatten().tolist()
        raise ValueError(
            f"reward {name!r} is not finite for completions {at[:8]} (of {len(at)}); where it does not apply, "
            "return a list with None"
        )
    return part.masked_fill(~given, torch.nan)


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
