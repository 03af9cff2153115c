"""The order of samples as a pure function of (seed, epoch), so that any process can work it out again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

WINDOW = 8  # shards that a process reads from at a time


class Draw(NamedTuple):
    """A sample's turn: which one, and in which epoch, on which its augmentation depends."""

    sample: int
    epoch: int


class EpochSampler(Sampler[Draw]):
    """The draws of one rank for one epoch.

    In training every rank gets the same number of samples; the few that do not divide are left out of this epoch,
    and another epoch's order leaves out others. In evaluation nothing is left out or repeated (Lightning's own
    sampler repeats samples to fill up), so ranks may differ by one.

    Args:
        weights: for each sample, how often an epoch draws it. Of n samples with the weight 0.3, 0.3 n take part, other
            ones each epoch; with the weight 2.5 each takes part twice, and half of them once more.
        seed: of the shuffle.
        shuffle: in order if False.
        rank, world: this process and how many there are.
        even: the same number of samples on every rank (training).
        blocks: numbers of samples, in their order, that lie together, in one shard each. The shuffle then is one of the
            blocks and, within `WINDOW` of them at a time, of samples, and a rank's share is one piece of the order:
            each shard is fetched once, by one rank.
    """

    def __init__(
        self,
        weights: Sequence[float],
        *,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world: int = 1,
        even: bool = False,
        blocks: Sequence[int] | None = None,
    ) -> None:
        if blocks is not None and sum(blocks) != len(weights):
            raise ValueError(f"blocks hold {sum(blocks)} samples of {len(weights)}")
        self._block = None if blocks is None else [place for place, size in enumerate(blocks) for _ in range(size)]
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.world, self.even = rank, world, even
        self.epoch = 0
        self.skip = 0  # draws of the next pass that an interrupted run has had already
        alike: dict[float, list[int]] = defaultdict(list)
        for index, weight in enumerate(weights):
            alike[weight].append(index)
        # weight → its samples, how often each is drawn, and how many once more
        self._drawn = {
            weight: (members, *divmod(round(weight * len(members)), len(members))) for weight, members in alike.items()
        }
        self.size = sum(len(members) * times + more for members, times, more in self._drawn.values())

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Draw]:
        # One seed from the pair: adding them would make (seed 1, epoch 0) repeat (seed 0, epoch 1).
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = self._epoch(generator)
        skip, self.skip = self.skip, 0
        if self._block is not None:
            own = self._windows(order, self._block, generator)
            # ranks differ by at most one sample, as elsewhere
            ends = [place * self.size // self.world for place in range(self.world + 1)]
            own = own[ends[self.rank] : ends[self.rank + 1]]
            return (Draw(index, self.epoch) for index in own[skip : len(self)])
        if self.shuffle:
            order = [order[place] for place in torch.randperm(len(order), generator=generator).tolist()]
        if self.even:
            order = order[: self.size - self.size % self.world]
        return (Draw(index, self.epoch) for index in islice(order, self.rank + skip * self.world, None, self.world))

    @staticmethod
    def _windows(order: list[int], block: Sequence[int], generator: torch.Generator) -> list[int]:
        """The order shuffled by blocks and, within a few of them, by samples."""
        members: dict[int, list[int]] = defaultdict(list)
        for index in order:
            members[block[index]].append(index)
        present = list(members)
        shuffled = [present[place] for place in torch.randperm(len(present), generator=generator).tolist()]
        mixed: list[int] = []
        for start in range(0, len(shuffled), WINDOW):
            window = [index for one in shuffled[start : start + WINDOW] for index in members[one]]
            mixed += [window[place] for place in torch.randperm(len(window), generator=generator).tolist()]
        return mixed

    def _epoch(self, generator: torch.Generator) -> list[int]:
        """The samples of an epoch, each as often as it is drawn, in the order of the data."""
        order = []
        for members, times, more in self._drawn.values():
            order += members * times
            if more:
                order += [members[place] for place in torch.randperm(len(members), generator=generator)[:more].tolist()]
        return sorted(order)

    def __len__(self) -> int:
        if self.even:
            return self.size // self.world
        return (self.size - self.rank + self.world - 1) // self.world
