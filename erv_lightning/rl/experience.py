"""What a rollout leaves for the update: prompts, completions, rewards. Rows of one prompt stand next to each other.

Knows no trainer. Legend: P prompts, G completions each, N = P·G, C completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from erv_lightning.data.sample import Sample
from erv_lightning.models.backbone import PromptFeatures
from erv_lightning.rl.reward_terms import Completions, Rewards
from erv_lightning.rl.rollout import Rollout


@dataclass
class Experience:
    """Completions of some prompts and what they earned.

    Attributes:
        samples, prompts: (P), in the same order.
        drawn: the completions, (N, C).
        completions: the same as text, and what rewards had to know.
        earned: the rewards, (N,).
        ref_logp: (N, C), log-probabilities under the reference, where there is one.
        old_logp: (N, C), under the policy before the first update; None until then.
    """

    samples: list[Sample]
    prompts: list[PromptFeatures]
    drawn: Rollout
    completions: Completions
    earned: Rewards
    ref_logp: Tensor | None = None
    old_logp: Tensor | None = None

    @property
    def group(self) -> int:
        """G."""
        return len(self.drawn.mask) // len(self.prompts)

    def pick(self, prompts: Sequence[int]) -> Experience:
        """These prompts, in this order, and all that belongs to them."""
        which = torch.tensor(prompts, dtype=torch.long)
        rows = (which[:, None] * self.group + torch.arange(self.group)).flatten()
        there = rows.to(self.drawn.mask.device)
        drawn = self.drawn
        return Experience(
            [self.samples[p] for p in prompts],
            [self.prompts[p] for p in prompts],
            Rollout(drawn.token_ids[there], drawn.mask[there], drawn.logp[there], drawn.truncated[there]),
            self.completions.pick(rows.tolist()),
            self.earned.pick(rows),
            None if self.ref_logp is None else self.ref_logp[there],
            None if self.old_logp is None else self.old_logp[there],
        )

    @staticmethod
    def join(parts: Sequence[Experience]) -> Experience:
        """The prompts of several, one after the other."""
        width = max(part.drawn.mask.shape[1] for part in parts)

        def rows(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([pad(x, (0, width - x.shape[1])) if x.ndim == 2 else x for x in tensors])

        drawn = Rollout(
            *(
                rows([getattr(part.drawn, name) for part in parts])
                for name in ("token_ids", "mask", "logp", "truncated")
            )
        )
        references = [part.ref_logp for part in parts if part.ref_logp is not None]
        return Experience(
            [sample for part in parts for sample in part.samples],
            [prompt for part in parts for prompt in part.prompts],
            drawn,
            Completions.join([part.completions for part in parts]),
            Rewards.join([part.earned for part in parts]),
            rows(references) if references else None,
        )
