"""Several data sets as one."""

from __future__ import annotations

from dataclasses import replace

from erv_lightning.data.readers.files import raise_problems
from erv_lightning.data.sample import ClipSource, Sample


class MixedClips(ClipSource):
    """The samples of several sources, one after the other; each keeps its own label space.

    Args:
        sources: the data sets; the paper's GRPO learns on DFEW and MAFW together.
        weights: for each source, how often an epoch of training draws its clips: 0.5 half of them, other ones each
            epoch; 2 each of them twice. Null: every clip of every source once.
    """

    def __init__(self, sources: list[ClipSource], weights: list[float] | None = None) -> None:
        if not sources:
            raise ValueError("data.source.init_args.sources is empty: name at least one data set")
        self.sources, self.weights = sources, [1.0] * len(sources) if weights is None else weights
        if len(self.weights) != len(sources) or min(self.weights) <= 0:
            raise ValueError(
                f"data.source.init_args.weights is {weights}: one number above 0 for each of {len(sources)} sources"
            )

        self._owner: dict[tuple[str, str, str], ClipSource] = {}

    def prepare(self) -> None:
        """Makes each ready."""
        for source in self.sources:
            source.prepare()

    def samples(self, split: str) -> list[Sample]:
        """The samples of that split of every source.

        Raises:
            ValueError: two samples of one data set with one id.
        """
        found: dict[tuple[str, str], Sample] = {}
        problems = []
        for source, weight in zip(self.sources, self.weights, strict=True):
            for sample in source.samples(split):
                other = found.setdefault((sample.dataset, sample.id), sample)
                if other is not sample:
                    problems.append(
                        f"{sample.record or sample.id}: the id {sample.id!r} of data set {sample.dataset!r} stands "
                        f"already at {other.record or other.id}: give one of the sources another dataset name"
                    )
                self._owner[sample.dataset, sample.split, sample.id] = source
                found[sample.dataset, sample.id] = replace(sample, weight=sample.weight * weight)
        raise_problems(problems)
        return list(found.values())

    def media(self, sample: Sample) -> tuple[str | bytes, str | bytes]:
        """What the sample's own source has."""
        return self._owner[sample.dataset, sample.split, sample.id].media(sample)

    def blocks(self, split: str) -> list[int] | None:
        """Those of the sources; each sample alone where a source has none. None where no source has any."""
        blocks = [(source.blocks(split), source) for source in self.sources]
        if all(own is None for own, _ in blocks):
            return None
        return [size for own, source in blocks for size in (own or [1] * len(source.samples(split)))]
