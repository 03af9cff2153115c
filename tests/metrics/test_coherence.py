import doctest
import importlib
from itertools import pairwise

import matplotlib
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score
from torch import tensor
from torchmetrics import MetricCollection
from torchmetrics.utilities import check_forward_full_state_property

from erv_lightning import metrics
from erv_lightning.metrics import functional

CLASSES = 4
PER_CLIP = {
    "EEA": metrics.ExplanationEmotionAccuracy,
    "EPC": metrics.ExplanationPredictionConsistency,
    "FCR": metrics.FaithfulConsistencyRate,
    "FGC": metrics.FaithfulGivenCorrect,
    "WAR": metrics.WeightedAverageRecall,
}
FUNCTIONS = {
    "EEA": lambda p, e, y: functional.explanation_emotion_accuracy(e, y),
    "EPC": lambda p, e, y: functional.explanation_prediction_consistency(p, e),
    "FCR": functional.faithful_consistency_rate,
    "FGC": functional.fcr_given_correct,
    "WAR": lambda p, e, y: functional.weighted_average_recall(p, y),
    "UAR": lambda p, e, y: functional.unweighted_average_recall(p, y, CLASSES),
}


def build(name, **kwargs):
    if name == "UAR":
        return metrics.UnweightedAverageRecall(CLASSES, **kwargs)
    return PER_CLIP[name](**kwargs)


def by_loop(name, rows):
    """The definitions, one clip at a time: (preds, explanation, target) each."""

    def same(*ids):
        return min(ids) >= 0 and len(set(ids)) == 1

    if name == "UAR":
        recalls = []
        for k in range(CLASSES):
            of_class = [same(p, y) for p, _, y in rows if y == k]
            recalls += [sum(of_class) / len(of_class)] if of_class else []
        return sum(recalls) / len(recalls) if recalls else 0.0
    if name == "FGC":
        rows = [(p, e, y) for p, e, y in rows if same(p, y)]
    agree = {
        "EEA": lambda p, e, y: same(e, y),
        "EPC": lambda p, e, y: same(p, e),
        "FCR": lambda p, e, y: same(p, e, y),
        "FGC": lambda p, e, y: same(e, y),
        "WAR": lambda p, e, y: same(p, y),
    }[name]
    return sum(agree(*row) for row in rows) / len(rows) if rows else 0.0


def columns(rows):
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 3).unbind(1)


ids = st.integers(-1, CLASSES - 1)
clips = st.lists(st.tuples(ids, ids, ids), max_size=30)
every_metric = pytest.mark.parametrize("name", FUNCTIONS)
few = settings(max_examples=40, deadline=None)


def test_rates_of_a_worked_example():
    preds, explanations, target = tensor([0, 1, 2, -1, 3]), tensor([0, 2, 2, -1, 3]), tensor([0, 2, 1, -1, 1])
    assert functional.explanation_emotion_accuracy(explanations, target) == 2 / tensor(5.0)  # clips 0, 1
    assert functional.explanation_prediction_consistency(preds, explanations) == 3 / tensor(5.0)  # clips 0, 2, 4
    assert functional.faithful_consistency_rate(preds, explanations, target) == 1 / tensor(5.0)  # clip 0
    assert functional.fcr_given_correct(preds, explanations, target) == 1.0
    assert functional.weighted_average_recall(preds, target) == 1 / tensor(5.0)


@every_metric
@few
@given(rows=clips)
def test_functions_equal_the_definition_clip_by_clip(name, rows):
    assert FUNCTIONS[name](*columns(rows)).item() == pytest.approx(by_loop(name, rows), abs=1e-6)


@every_metric
@few
@given(rows=clips, cuts=st.lists(st.integers(0, 30), max_size=3))
def test_a_metric_over_batches_equals_the_function_over_all(name, rows, cuts):
    metric = build(name)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for start, stop in pairwise(edges):
        metric.update(*columns(rows[start:stop]))
    torch.testing.assert_close(metric.compute(), FUNCTIONS[name](*columns(rows)))


@few
@given(rows=clips)
def test_faithful_is_the_least_of_the_rates(rows):
    eea, epc, fcr, _, war, _ = (FUNCTIONS[name](*columns(rows)) for name in FUNCTIONS)
    assert fcr <= min(eea, epc, war)


@few
@given(rows=clips)
def test_faithful_is_accuracy_times_faithful_given_correct(rows):
    preds, explanations, target = columns(rows)
    torch.testing.assert_close(
        functional.faithful_consistency_rate(preds, explanations, target),
        functional.weighted_average_recall(preds, target) * functional.fcr_given_correct(preds, explanations, target),
    )


@few
@given(rows=st.lists(st.tuples(ids, ids, st.integers(0, CLASSES - 1)), min_size=1, max_size=30))
def test_recalls_equal_scikit_learns(rows):
    preds, _, target = columns(rows)
    assert functional.weighted_average_recall(preds, target).item() == pytest.approx(
        accuracy_score(target, preds), abs=1e-6
    )
    present = sorted(set(target.tolist()))
    assert functional.unweighted_average_recall(preds, target, CLASSES).item() == pytest.approx(
        recall_score(target, preds, labels=present, average="macro", zero_division=0), abs=1e-6
    )


def test_a_missing_id_agrees_with_nothing_not_even_another_missing_one():
    none = tensor([-1, -1])
    for function in FUNCTIONS.values():
        assert function(none, none, none) == 0


def test_the_releases_quirk_takes_unparsable_answers_out_of_the_class():
    preds, target = tensor([0, -1, 1, 0]), tensor([0, 0, 1, 1])
    assert functional.unweighted_average_recall(preds, target, 2) == 0.5
    assert functional.unweighted_average_recall(preds, target, 2, release_compatible=True) == 0.75
    metric = build("UAR", release_compatible=True)
    metric.update(preds, preds, target)
    assert metric.compute() == 0.75


def test_a_class_that_has_only_unparsable_answers_leaves_the_releases_mean():
    assert functional.unweighted_average_recall(tensor([0, -1]), tensor([0, 1]), 2, release_compatible=True) == 1


@every_metric
@pytest.mark.parametrize("empty", [torch.tensor([]), torch.tensor([], dtype=torch.long)], ids=["float", "long"])
def test_nothing_seen_is_a_zero(name, empty):
    metric = build(name)
    metric.update(empty, empty, empty)
    assert metric.compute() == 0
    assert FUNCTIONS[name](empty, empty, empty) == 0


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_compute_without_update_is_a_zero(name):
    assert build(name).compute() == 0


@every_metric
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_every_int_dtype_is_taken(name, dtype):
    same = tensor([0, 1, 2], dtype=dtype)
    assert FUNCTIONS[name](same, same, same) == 1


@pytest.mark.parametrize(
    ("preds", "explanations", "target", "message"),
    [
        ([0.0, 1.0], [0, 1], [0, 1], r"preds must hold int ids, got torch.float32"),
        ([0, 1], [True, False], [0, 1], r"explanations must hold int ids, got torch.bool"),
        ([0, 1], [0, 1], [0, 1, 2], r"target is \(3,\) but preds is \(2,\)"),
        ([[0, 1]], [0, 1], [0, 1], r"preds must have the shape \(N,\), got \(1, 2\)"),
        (0, 0, 0, r"target must have the shape \(N,\), got \(\)"),
    ],
)
@pytest.mark.parametrize("name", ["FCR", "FGC", "UAR"])
def test_inputs_of_another_kind_are_named(name, preds, explanations, target, message):
    with pytest.raises(ValueError, match=message):
        build(name).update(tensor(preds), tensor(explanations), tensor(target))


def test_a_label_beyond_the_classes_is_an_error():
    with pytest.raises(ValueError, match="id 4, but num_classes is 4"):
        build("UAR").update(tensor([0]), tensor([0]), tensor([4]))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        metrics.UnweightedAverageRecall(0)


def collection():
    return MetricCollection(
        {name: build(name) for name in FUNCTIONS} | {"release": build("UAR", release_compatible=True)}
    )


def test_a_collection_keeps_metrics_apart_that_agree_on_the_first_batch():
    # all are 1 on the first batch, so that MetricCollection shares what states it can
    rows = [(0, 0, 0), (1, 1, 1), (1, 1, 0), (0, 2, 2), (-1, 3, 3), (3, 3, 1), (2, 1, 2)]
    together = collection()
    together.update(*columns(rows[:2]))
    together.update(*columns(rows[2:]))
    values = together.compute()
    assert values.pop("release") > values["UAR"]
    for name, value in values.items():
        assert value.item() == pytest.approx(by_loop(name, rows), abs=1e-6), name


@every_metric
def test_forward_gives_the_batch_and_keeps_the_total(name):
    rows = [(0, 0, 0), (1, 2, 1), (3, 3, 2), (2, 2, 2), (-1, 0, 0)]
    metric = build(name)
    torch.testing.assert_close(metric(*columns(rows[:2])), FUNCTIONS[name](*columns(rows[:2])))
    torch.testing.assert_close(metric(*columns(rows[2:])), FUNCTIONS[name](*columns(rows[2:])))
    torch.testing.assert_close(metric.compute(), FUNCTIONS[name](*columns(rows)))
    metric.reset()
    metric.update(*columns(rows[2:]))
    torch.testing.assert_close(metric.compute(), FUNCTIONS[name](*columns(rows[2:])))


@every_metric
def test_declarations_follow_torchmetrics(name):
    metric = build(name, sync_on_compute=False)
    assert metric.sync_on_compute is False
    assert (metric.is_differentiable, metric.higher_is_better, metric.full_state_update) == (
        False,
        True,
        False,
    )
    assert (metric.plot_lower_bound, metric.plot_upper_bound) == (0.0, 1.0)


def test_full_state_update_may_be_off():
    rows = columns([(0, 0, 0), (1, 2, 1)])
    check_forward_full_state_property(
        metrics.FaithfulGivenCorrect,
        input_args=dict(zip(("preds", "explanations", "target"), rows, strict=True)),
        num_update_to_compare=(2,),
        reps=2,
    )


@every_metric
def test_a_metric_plots_its_value_and_a_series(name):
    matplotlib.use("agg")
    from matplotlib import pyplot

    metric = build(name)
    metric.update(*columns([(0, 0, 0), (1, 2, 1)]))
    figure, axes = metric.plot()
    assert axes.get_ylim()[0] <= 0
    metric.plot([metric.compute(), metric.compute()], ax=axes)
    pyplot.close(figure)


@pytest.mark.parametrize("module", ["coherence", "functional"])
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(importlib.import_module(f"erv_lightning.metrics.{module}"))
    assert result.attempted >= 18
    assert result.failed == 0
