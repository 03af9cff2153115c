"""Agreement of label sets against scikit-learn and by hand."""

from __future__ import annotations

import math
import random

import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, jaccard_score
from sklearn.preprocessing import MultiLabelBinarizer

from erv_lightning.labels import DFEW
from erv_lightning.teaching.agreement import Labels, compare, holding


def some(seed: int, sentences: int = 200) -> list[Labels]:
    rng = random.Random(seed)
    return [frozenset(rng.sample(DFEW.names[:5], rng.choice([0, 1, 1, 2]))) for _ in range(sentences)]


def test_two_raters_agree_as_scikit_learn_says() -> None:
    a, b = some(0), [one if i % 3 else other for i, (one, other) in enumerate(zip(some(0), some(1), strict=True))]
    table = MultiLabelBinarizer(classes=DFEW.names)
    ones, others = table.fit_transform(a), table.transform(b)

    found = compare(a, b, DFEW.names)

    assert found.sentences == 200
    assert found.exact == pytest.approx(accuracy_score(ones, others))
    assert found.jaccard == pytest.approx(jaccard_score(ones, others, average="samples", zero_division=1.0))
    for column, name in enumerate(DFEW.names[:5]):
        assert found.kappa[name] == pytest.approx(cohen_kappa_score(ones[:, column], others[:, column]))
    assert math.isnan(found.kappa["fear"])  # neither ever says it


def test_agreement_by_hand() -> None:
    happy, sad, both = frozenset({"happy"}), frozenset({"sad"}), frozenset({"happy", "sad"})
    found = compare([happy, both, Labels(), sad], [happy, happy, Labels(), happy], DFEW.names)

    assert (found.exact, found.jaccard) == (0.5, (1 + 0.5 + 1 + 0) / 4)
    assert found.kappa["happy"] == pytest.approx((0.75 - 0.5) / 0.5)


def test_without_sentences_nothing_is_claimed() -> None:
    found = compare([], [], DFEW.names)
    assert (found.sentences, math.isnan(found.exact), math.isnan(found.jaccard)) == (0, True, True)
    assert all(map(math.isnan, found.kappa.values()))


def test_a_clips_label_counts_where_there_are_labels_and_the_space_has_it() -> None:
    sets = [frozenset({"happy", "sad"}), frozenset({"sad"}), frozenset({"sad"}), Labels(), frozenset({"fear"})]
    assert holding(sets, ["sad", "happy", "anxiety", "sad", "fear"], DFEW.names) == (3, pytest.approx(2 / 3))
    assert math.isnan(holding([], [], DFEW.names)[1])
