"""Metrics of several data sets: each in its own label space, and all together."""

from __future__ import annotations

import pytest
import torch

from erv_lightning.labels import DFEW, MAFW
from erv_lightning.metrics import DatasetMetrics, functional

# (data set, answer, explanation, label)
ROWS = [
    ("dfew", 0, 0, 0),
    ("dfew", 1, 0, 0),
    ("mafw", 0, 0, 0),
    ("dfew", -1, 2, 2),
    ("mafw", 10, 10, 10),
    ("mafw", 3, 10, 10),
]


def counted(spaces: dict[str, object], rows: list[tuple[str, int, int, int]], batch: int = 2) -> dict[str, float]:
    metrics = DatasetMetrics(spaces, "val/")  # type: ignore[arg-type]
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        metrics.update([row[0] for row in part], *torch.tensor([row[1:] for row in part]).T)
    return {name: float(value) for one in metrics.collections() for name, value in one.compute().items()}


def test_each_data_set_has_the_metrics_of_its_own_clips() -> None:
    found = counted({"dfew": DFEW, "mafw": MAFW}, ROWS)
    for dataset, space in (("dfew", DFEW), ("mafw", MAFW)):
        answers, judged, labels = torch.tensor([row[1:] for row in ROWS if row[0] == dataset]).T
        uar = functional.unweighted_average_recall(answers, labels, num_classes=len(space.names))
        assert found[f"val/{dataset}/uar"] == pytest.approx(float(uar))
        assert found[f"val/{dataset}/epc"] == float(functional.explanation_prediction_consistency(answers, judged))
        assert found[f"val/{dataset}/fcr"] == float(functional.faithful_consistency_rate(answers, judged, labels))


def test_overall_a_label_of_one_space_is_none_of_another() -> None:
    found = counted({"dfew": DFEW, "mafw": MAFW}, ROWS)
    assert found["val/war"] == pytest.approx(3 / 6)
    assert found["val/eea"] == 1.0
    # recalls: dfew happy 1/2, dfew neutral 0/1, mafw anger 1/1, mafw disappointment 1/2
    assert found["val/uar"] == pytest.approx((1 / 2 + 0 + 1 + 1 / 2) / 4)


def test_data_sets_of_one_space_share_its_classes() -> None:
    rows = [("one", 0, 0, 0), ("other", 1, 0, 0)]
    assert counted({"one": DFEW, "other": DFEW}, rows)["val/uar"] == 0.5


def test_a_single_data_set_is_not_counted_twice() -> None:
    assert set(counted({"my.clips": DFEW}, [("my.clips", 0, 0, 0)])) == {
        f"val/{name}" for name in ("war", "uar", "eea", "epc", "fcr", "fcr_given_correct")
    }


def test_a_batch_without_a_clip_of_a_data_set_and_one_without_any_change_nothing() -> None:
    rows = [row for row in ROWS if row[0] == "dfew"]
    alone = counted({"dfew": DFEW}, rows)
    both = counted({"dfew": DFEW, "mafw": MAFW}, rows)
    assert {name: both[name] for name in alone} == alone
    metrics = DatasetMetrics({"dfew": DFEW}, "val/")
    metrics.update([], *torch.zeros(3, 0, dtype=torch.long))
    assert float(metrics.overall.compute()["val/war"]) == 0
