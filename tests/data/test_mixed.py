"""Several data sets as one source."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from erv_lightning.data.readers import MixedClips, SyntheticClips
from erv_lightning.data.sample import Sample


@pytest.fixture
def two(clips: SyntheticClips, listed: Any) -> list[Any]:
    """The same seven clips as two data sets with two label spaces."""
    samples = clips.samples("val")
    other = [dataclasses.replace(one, dataset="other", label_space="meld", label="joy") for one in samples]
    return [listed(val=samples), listed(val=other)]


def test_samples_follow_each_other_and_keep_what_is_theirs(two: list[Any]) -> None:
    mixed = MixedClips(two).samples("val")
    assert mixed == two[0].samples("val") + two[1].samples("val")
    assert {sample.label_space for sample in mixed} == {"dfew", "meld"}


def test_a_weight_reaches_every_sample_of_its_source_on_top_of_its_own(two: list[Any]) -> None:
    samples: list[Sample] = two[1].splits["val"]
    samples[0] = dataclasses.replace(samples[0], weight=3.0)
    weights = [sample.weight for sample in MixedClips(two, [1.0, 0.5]).samples("val")]
    assert weights == [1.0] * 7 + [1.5] + [0.5] * 6


def test_each_source_is_prepared(two: list[Any]) -> None:
    prepared: list[int] = []
    for place, source in enumerate(two):
        source.prepare = lambda place=place: prepared.append(place)
    MixedClips(two).prepare()
    assert prepared == [0, 1]


def test_two_samples_of_one_data_set_with_one_id_are_an_error(two: list[Any]) -> None:
    with pytest.raises(
        ValueError, match=r"'val-0000' of data set 'synthetic' stands already at .*another dataset name"
    ):
        MixedClips([two[0], two[0]]).samples("val")


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], []])
def test_weights_that_do_not_fit_are_refused(two: list[Any], weights: list[float]) -> None:
    with pytest.raises(ValueError, match="one number above 0 for each of 2 sources"):
        MixedClips(two, weights)


def test_no_source_is_refused() -> None:
    with pytest.raises(ValueError, match="sources is empty"):
        MixedClips([])
