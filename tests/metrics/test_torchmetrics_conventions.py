"""What torchmetrics asks of a metric: one value whatever order, grouping, copy, precision or file it goes through."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from erv_lightning import metrics
from erv_lightning.metrics import functional

Clip = tuple[int, int, int]  # prediction ŷ, explanation ê, label y

CLASSES = 4
CLASSES_OF_METRICS: dict[str, Callable[[], Metric]] = {
    "eea": metrics.ExplanationEmotionAccuracy,
    "epc": metrics.ExplanationPredictionConsistency,
    "fcr": metrics.FaithfulConsistencyRate,
    "fcr_given_correct": metrics.FaithfulGivenCorrect,
    "war": metrics.WeightedAverageRecall,
    "uar": lambda: metrics.UnweightedAverageRecall(CLASSES),
    "uar_release": lambda: metrics.UnweightedAverageRecall(CLASSES, release_compatible=True),
}
FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "eea": lambda p, e, y: functional.explanation_emotion_accuracy(e, y),
    "epc": lambda p, e, y: functional.explanation_prediction_consistency(p, e),
    "fcr": functional.faithful_consistency_rate,
    "fcr_given_correct": functional.fcr_given_correct,
    "war": lambda p, e, y: functional.weighted_average_recall(p, y),
    "uar": lambda p, e, y: functional.unweighted_average_recall(p, y, CLASSES),
    "uar_release": lambda p, e, y: functional.unweighted_average_recall(p, y, CLASSES, release_compatible=True),
}
NINE: list[Clip] = [
    (0, 0, 0),  # all agree
    (0, 0, 1),  # consistent, but wrong
    (1, 2, 1),  # the answer is right, the explanation is not
    (2, 1, 1),  # the explanation is right, the answer is not
    (-1, 1, 1),  # no valid answer
    (1, -1, 1),  # no verdict
    (-1, -1, 2),  # neither
    (2, 2, 2),  # all agree
    (3, 0, 3),  # the answer is right, the explanation is not
]
# worked out by hand; the columns are those of the dictionaries above
WORKED: list[tuple[str, list[Clip], tuple[float, ...]]] = [
    # recalls 1/1, 2/5, 1/2, 1/1; without the unanswered 1/1, 2/4, 1/1, 1/1
    ("nine clips", NINE, (4 / 9, 3 / 9, 2 / 9, 2 / 5, 5 / 9, 0.725, 0.875)),
    ("all agree", [(0, 0, 0), (1, 1, 1), (3, 3, 3)], (1, 1, 1, 1, 1, 1, 1)),
    ("consistent but wrong", [(0, 0, 1), (2, 2, 3)], (0, 1, 0, 0, 0, 0, 0)),
    ("no verdicts", [(0, -1, 0), (1, -1, 1)], (0, 0, 0, 0, 1, 1, 1)),
    ("no answers", [(-1, 0, 0), (-1, 3, 1)], (0.5, 0, 0, 0, 0, 0, 0)),
    ("one class of another size", [(0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 1)], (0.75, 1, 0.75, 1, 0.75, 0.5, 0.5)),
    ("a clip without a label", [(1, 1, -1), (1, 1, 1)], (0.5, 1, 0.5, 1, 0.5, 1, 1)),
    ("nothing valid", [(-1, -1, -1), (-1, -1, -1)], (0, 0, 0, 0, 0, 0, 0)),
    ("nothing valid but the labels", [(-1, -1, 0), (-1, -1, 2)], (0, 0, 0, 0, 0, 0, 0)),
    ("no clip", [], (0, 0, 0, 0, 0, 0, 0)),
]

every_metric = pytest.mark.parametrize("name", CLASSES_OF_METRICS)
few = settings(max_examples=40, deadline=None)
ids = st.integers(-1, CLASSES - 1)
clips = st.lists(st.tuples(ids, ids, ids), max_size=30)


def columns(rows: Sequence[Clip], dtype: torch.dtype = torch.long) -> tuple[Tensor, ...]:
    return torch.tensor(rows, dtype=dtype).reshape(-1, 3).unbind(1)


def counted(name: str, *batches: Sequence[Clip]) -> Metric:
    metric = CLASSES_OF_METRICS[name]()
    for rows in batches:
        metric.update(*columns(rows))
    return metric


def state(metric: Metric) -> dict[str, Any]:
    return {key: value.tolist() for key, value in metric.metric_state.items()}


def many(length: int) -> list[Clip]:
    """Clips of which the nine above make up equal shares: more than float16 counts one by one."""
    return (NINE * (length // len(NINE) + 1))[:length]


# -- values ----------------------------------------------------------------------------------------------------


@every_metric
@pytest.mark.parametrize(("rows", "values"), [row[1:] for row in WORKED], ids=[row[0] for row in WORKED])
def test_function_class_and_the_numbers_worked_out_by_hand_are_the_same(
    name: str, rows: list[Clip], values: tuple[float, ...]
) -> None:
    value = dict(zip(CLASSES_OF_METRICS, values, strict=True))[name]
    assert FUNCTIONS[name](*columns(rows)).item() == pytest.approx(value, abs=1e-7)
    assert counted(name, rows).compute().item() == pytest.approx(value, abs=1e-7)
    assert counted(name, [], *([row] for row in rows)).compute().item() == pytest.approx(value, abs=1e-7)


@every_metric
def test_a_value_is_a_float_scalar_and_the_inputs_stay_as_they_were(name: str) -> None:
    inputs = columns(NINE)
    metric = CLASSES_OF_METRICS[name]()
    for value in (metric(*inputs), metric.compute(), FUNCTIONS[name](*inputs)):
        assert (value.dtype, value.shape) == (torch.float32, ())
    assert [one.tolist() for one in inputs] == [one.tolist() for one in columns(NINE)]


@every_metric
@few
@given(rows=clips, data=st.data())
def test_the_order_of_the_clips_changes_nothing(name: str, rows: list[Clip], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    assert state(counted(name, shuffled)) == state(counted(name, rows))
    assert FUNCTIONS[name](*columns(shuffled)) == FUNCTIONS[name](*columns(rows))


@every_metric
@few
@given(rows=clips, data=st.data())
def test_however_metrics_of_parts_are_merged_they_are_one_metric(
    name: str, rows: list[Clip], data: st.DataObject
) -> None:
    part_of = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    shards = [[row for row, part in zip(rows, part_of, strict=True) if part == wanted] for wanted in range(4)]
    parts = [counted(name, shard) for shard in shards]
    while len(parts) > 1:  # any two, in any order, until one is left
        one = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        other = data.draw(st.sampled_from(parts))
        other.merge_state(one if data.draw(st.booleans()) else one.metric_state)
    assert state(parts[0]) == state(counted(name, rows))
    assert parts[0].compute() == FUNCTIONS[name](*columns(rows))


# -- copies, files, collections --------------------------------------------------------------------------------


def pickled(metric: Metric) -> Metric:
    copy: Metric = pickle.loads(pickle.dumps(metric))
    return copy


@every_metric
@pytest.mark.parametrize("copied", [pickled, Metric.clone], ids=["pickle", "clone"])
def test_a_copy_counts_on_from_where_it_was_taken_and_by_itself(name: str, copied: Callable[[Metric], Metric]) -> None:
    metric = counted(name, NINE[:4])
    copy = copied(metric)
    assert type(copy) is type(metric)
    assert state(copy) == state(metric)
    copy.update(*columns(NINE[4:]))
    assert state(metric) == state(counted(name, NINE[:4]))
    assert state(copy) == state(counted(name, NINE))
    assert copy.compute() == FUNCTIONS[name](*columns(NINE))
    copy.reset()
    assert state(copy) == state(CLASSES_OF_METRICS[name]())
    assert metric.compute() == FUNCTIONS[name](*columns(NINE[:4]))


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_reset_forgets_all_and_leaves_integer_counters(name: str) -> None:
    metric = counted(name, NINE)
    metric.compute()
    metric.reset()
    assert metric.compute() == 0
    assert {value.dtype for value in metric.metric_state.values()} == {torch.int64}
    metric.update(*columns(NINE[4:]))
    assert state(metric) == state(counted(name, NINE[4:]))


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_checkpoint_holds_the_counters_if_asked_to(name: str) -> None:
    metric = counted(name, NINE)
    assert dict(metric.state_dict()) == {}
    metric.persistent(True)
    saved = metric.state_dict()
    assert {key: value.tolist() for key, value in saved.items()} == state(metric)
    other = CLASSES_OF_METRICS[name]()
    other.persistent(True)
    other.load_state_dict(saved)
    assert other.compute() == metric.compute()
    other.update(*columns(NINE))
    assert state(other) == state(counted(name, NINE, NINE))
    assert state(metric) == state(counted(name, NINE))


def test_a_collection_puts_its_prefix_before_every_value() -> None:
    collection = MetricCollection({name: make() for name, make in CLASSES_OF_METRICS.items()}, prefix="test/")
    other = collection.clone(prefix="val/")
    collection.update(*columns(NINE))
    expected = {name: FUNCTIONS[name](*columns(NINE)) for name in FUNCTIONS}
    assert collection.compute() == {f"test/{name}": value for name, value in expected.items()}
    assert other(*columns(NINE)) == {f"val/{name}": value for name, value in expected.items()}
    copy = pickle.loads(pickle.dumps(collection))
    for one in (copy, collection):
        one.update(*columns(NINE[:5]))
        assert one.compute() == {f"test/{name}": FUNCTIONS[name](*columns(NINE + NINE[:5])) for name in FUNCTIONS}
    collection.reset()
    collection.update(*columns(NINE[2:]))
    assert collection.compute() == {f"test/{name}": FUNCTIONS[name](*columns(NINE[2:])) for name in FUNCTIONS}


@every_metric
@pytest.mark.parametrize("constant", ["higher_is_better", "is_differentiable", "full_state_update"])
def test_what_a_metric_declares_cannot_be_changed(name: str, constant: str) -> None:
    with pytest.raises(RuntimeError, match=f"Can't change const `{constant}`"):
        setattr(CLASSES_OF_METRICS[name](), constant, True)


# -- precision -------------------------------------------------------------------------------------------------

CASTS: dict[str, Callable[[Any], Any]] = {
    "half()": lambda module: module.half(),
    "to(float16)": lambda module: module.to(torch.float16),
    "bfloat16()": lambda module: module.bfloat16(),
    "to(bfloat16)": lambda module: module.to(torch.bfloat16),
    "double()": lambda module: module.double(),
    "within half()": lambda module: torch.nn.ModuleList([module]).half()[0],
    "within to(float16)": lambda module: torch.nn.ModuleList([module]).to(torch.float16)[0],
    "set_dtype(float16)": lambda module: module.set_dtype(torch.float16),
    "set_dtype(bfloat16)": lambda module: module.set_dtype(torch.bfloat16),
}
# set_dtype, unlike the other casts, turns the integer counters into what it is told
every_cast = pytest.mark.parametrize("cast", CASTS)


@every_metric
@every_cast
def test_in_half_precision_every_clip_of_thousands_is_counted(name: str, cast: str) -> None:
    rows = many(5_003)  # float16 adds no one to 2048, bfloat16 none to 256
    metric = CASTS[cast](CLASSES_OF_METRICS[name]())
    for start in range(0, len(rows), 7):
        metric.update(*columns(rows[start : start + 7]))
    assert state(metric) == state(counted(name, rows))
    assert metric.compute() == FUNCTIONS[name](*columns(rows))


@every_metric
@every_cast
def test_a_cast_between_batches_keeps_what_was_counted(name: str, cast: str) -> None:
    rows = many(5_003)
    metric = CASTS[cast](counted(name, rows))
    metric.update(*columns(NINE))
    assert state(metric) == state(counted(name, rows, NINE))
    metric.reset()
    assert {value.dtype for value in metric.metric_state.values()} == {torch.int64}


@every_metric
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_small_integers_count_as_far_as_large_ones(name: str, dtype: torch.dtype) -> None:
    rows = many(40_000)  # more than either holds
    metric = CLASSES_OF_METRICS[name]()
    metric.update(*columns(rows, dtype))
    assert state(metric) == state(counted(name, rows))
    assert FUNCTIONS[name](*columns(rows, dtype)) == FUNCTIONS[name](*columns(rows))


@every_metric
def test_inputs_may_be_of_different_integer_types(name: str) -> None:
    preds, explanations, target = columns(NINE)
    metric = CLASSES_OF_METRICS[name]()
    metric.update(preds.to(torch.int8), explanations.to(torch.int16), target)
    metric.update(preds, explanations.to(torch.int32), target.to(torch.int8))
    assert state(metric) == state(counted(name, NINE, NINE))
