"""Which sentences go where: whole clips into one split, and no label much more often than others in training.

Chance is a hash of the seed and of a name, so that everything that is there already stays where it is when data are
added. Knows no teacher.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import median

from erv_lightning.errors import ConfigError
from erv_lightning.teaching.sentences import Mention

PARTS = ("train", "val", "test")


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises ValueError unless these are shares of train, val and test, of which only the last two may be 0."""
    fit = len(fractions) == len(PARTS) and all(0 <= one <= 1 for one in fractions) and fractions[0] > 0
    if not fit or abs(sum(fractions) - 1) > 1e-6:
        told = " ".join(f"{one:g}" for one in fractions)
        raise ConfigError(f"--fractions {told}: shares of train, val and test are needed that add up to 1: 0.8 0.1 0.1")


def groups(mentions: Sequence[Mention]) -> list[str]:
    """What must stay together: for each mention the name of its source, or of its clip where no source is known.

    One group are also clips under two ids (several questions on one file), and a clip under two paths (a data set's
    own, and that of a prediction): whatever shares a source, an id or a path. A group is called by its source, else its
    id, so that neither its place on the disk nor what is added changes the name.
    """
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(key: tuple[int, str]) -> tuple[int, str]:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for mention in mentions:
        first, *others = (root(key) for key in _keys(mention))
        for other in others:
            low, high = sorted((root(first), other))  # the least key is the root: the name
            parent[high] = low
    return [root(_keys(mention)[0])[1] for mention in mentions]


def _keys(mention: Mention) -> list[tuple[int, str]]:
    """What a mention shares with others of its group; the number ranks what makes a good name."""
    keys = [(1, f"clip/{mention.clip_name}")]
    if mention.source:
        keys.append((0, f"source/{mention.dataset}/{mention.source}"))
    if mention.clip:
        keys.append((2, mention.clip))
    return keys


def parts_of(groups: Sequence[str], fractions: Sequence[float], seed: int) -> list[str]:
    """The split of each group, ``train``, ``val`` or ``test``; the same for equal names.

    Args:
        groups: names.
        fractions: of the splits, see `check_fractions`; they hold on average.
        seed: of the chance.
    """
    ends = list(accumulate(fractions))
    place = {name: _chance(seed, name) * ends[-1] for name in set(groups)}
    part = {name: PARTS[next(i for i, end in enumerate(ends) if at < end)] for name, at in place.items()}
    return [part[name] for name in groups]


def balanced(labels: Mapping[str, Sequence[str]], per_label: int | None, seed: int) -> tuple[list[str], int]:
    """Thins out frequent labels.

    Labels are filled one after another, the rarest first, each with its sentences in an order of chance; a sentence is
    taken if all its labels have room. One that is left out therefore holds a label that is full.

    Args:
        labels: sentence id → its labels, at least one.
        per_label: most sentences that hold a label; None: the median over the labels that occur; 0: as many as there
            are.
        seed: of the chance.

    Returns:
        The ids that stay, in their order, and the limit that was used (0: none).
    """
    counts = Counter(label for those in labels.values() for label in those)
    limit = max(1, int(median(counts.values()))) if per_label is None and counts else per_label or 0
    if not limit:
        return list(labels), 0
    by_chance = sorted(labels, key=lambda name: _chance(seed, name))
    taken: set[str] = set()
    room = dict.fromkeys(counts, limit)
    for label in sorted(counts, key=lambda name: (counts[name], name)):
        for name in by_chance:
            if label in labels[name] and name not in taken and all(room[one] for one in labels[name]):
                taken.add(name)
                for one in labels[name]:
                    room[one] -= 1
    return [name for name in labels if name in taken], limit


def _chance(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on seed and name alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
