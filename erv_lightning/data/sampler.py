"""The order of samples as a pure function of (seed, epoch), so that any process can work it out again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Indices of one rank for one epoch.

    In training every rank gets the same number of samples; the few that do not divide are left out of this epoch,
    and another epoch's order leaves out others. In evaluation nothing is left out or repeated (Lightning's own
    sampler repeats samples to fill up), so ranks may differ by one.

    Args:
        size: number of samples.
        seed: of the shuffle.
        shuffle: in order if False.
        rank, world: this process and how many there are.
        even: the same number of samples on every rank (training).
    """

    def __init__(
        self, size: int, *, seed: int = 0, shuffle: bool = False, rank: int = 0, world: int = 1, even: bool = False
    ) -> None:
        self.size, self.seed, self.shuffle = size, seed, shuffle
        self.rank, self.world, self.even = rank, world, even
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            # One seed from the pair: adding them would make (seed 1, epoch 0) repeat (seed 0, epoch 1).
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = list(range(self.size))
        if self.even:
            order = order[: self.size - self.size % self.world]
        return iter(order[self.rank :: self.world])

    def __len__(self) -> int:
        if self.even:
            return self.size // self.world
        return (self.size - self.rank + self.world - 1) // self.world
