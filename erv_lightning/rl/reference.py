"""The reference policy as a copy of the weights that train, put into the policy for the time of a forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from erv_lightning.models.backbone import Backbone
from erv_lightning.parallel import gathered, like, release, sharded_units, whole


class KeptWeights:
    """What the training weights were, or their moving average.

    Frozen weights are the policy's own: nothing is kept twice. The exchange is in place, so that optimisers and
    sharded parameters keep their hold on the weights. Never exchange between a forward and its backward.

    Args:
        parameters: the weights that train.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.kept = [parameter.detach().clone() for parameter in self.parameters]
        self.average: list[Tensor] = []  # the same in float32 at least, once they move: small steps vanish in bfloat16

    def to(self, device: torch.device) -> None:
        """Moves what is kept to a device, where the policy has moved too."""
        self.kept = [kept.to(device) for kept in self.kept]
        self.average = [average.to(device) for average in self.average]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the policy is the reference."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, kept in zip(self.parameters, self.kept, strict=True):
            now = parameter.detach().clone()
            parameter.copy_(kept)
            kept.copy_(now)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Moves towards the policy: kept = decay · kept + (1 − decay) · now (GRPO-CARE, arXiv 2506.16141)."""
        self.average = self.average or [_wide(kept) for kept in self.kept]
        for parameter, kept, average in zip(self.parameters, self.kept, self.average, strict=True):
            average.lerp_(parameter.detach().to(average.dtype), 1 - decay)
            kept.copy_(average)

    def state_dict(self) -> list[Tensor]:
        """The kept weights, as exact as they are, whole where they are shared out among processes."""
        return [whole(one) for one in self.average or self.kept]

    def load_state_dict(self, state: list[Tensor]) -> None:
        """Takes over kept weights."""
        self.average = [_wide(kept) for kept in self.kept]
        with torch.no_grad():
            for kept, average, saved in zip(self.kept, self.average, state, strict=True):
                average.copy_(like(saved, average))
                kept.copy_(average)


def _wide(kept: Tensor) -> Tensor:
    """The tensor itself if it is exact enough for a moving average, else a copy that is."""
    return kept if kept.dtype in (torch.float32, torch.float64) else kept.float()


@contextmanager
def as_reference(backbone: Backbone, kept: KeptWeights | None) -> Iterator[None]:
    """Inside, the policy is the reference, its weights gathered as they are outside.

    Args:
        backbone: the policy.
        kept: what its weights were; None where its adapters are what has been trained.
    """
    if kept is None:
        with backbone.reference():
            yield
        return
    release(backbone)  # what is exchanged are the shards
    with kept.in_place(), gathered(backbone):
        yield
    for unit in sharded_units(backbone):
        unit.unshard()
