"""The charts of the report and the notebooks: what is drawn, at which numbers, and that no text becomes markup."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from erv_lightning.analysis import CELLS, Estimate
from erv_lightning.evaluation import Confusion
from erv_lightning.report.ablation_charts import ablation_figure, gains_figure, parallel_figure, quality_figure
from erv_lightning.report.charts import (
    cells_figure,
    colours,
    comparison_figure,
    confusion_figure,
    curve_figure,
    dressed,
    errors,
    safe,
)
from erv_lightning.report.figures import PALETTE

NASTY = "<b>x</b><script>alert(1)</script> & %{y}"
SAFE = "&lt;b&gt;x&lt;/b&gt;&lt;script&gt;alert(1)&lt;/script&gt; &amp; %{y}"


def table(metric: str, values: dict[int, float]) -> pd.DataFrame:
    return pd.DataFrame([(metric, step, value) for step, value in values.items()], columns=["metric", "step", "value"])


def numbers(array: Any) -> list[float]:
    return np.asarray(array, dtype=float).tolist()


def estimate(value: float, low: float, high: float, *seeds: float) -> Estimate:
    return Estimate(value, low, high, seeds or (value,), math.nan, (low, high))


def named(figure: go.Figure, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name == name]


# -- curves -------------------------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_at_steps_that_every_seed_has_in_a_band_from_lowest_to_highest():
    seeds = [table("val/fcr", {0: 0.2, 10: 0.4, 20: 0.9}), table("val/fcr", {0: 0.4, 10: 0.8})]
    figure = curve_figure({"a": seeds}, {"val/fcr": "FCR"})
    band, mean = figure.data
    assert numbers(mean.x) == [0, 10]
    assert numbers(mean.y) == pytest.approx([0.3, 0.6])
    assert numbers(band.x) == [0, 10, 10, 0]
    assert numbers(band.y) == [0.4, 0.8, 0.4, 0.2]
    assert band.hoverinfo == "skip"
    assert list(mean.text) == ["0.300 (0.200 to 0.400 over 2 seeds)", "0.600 (0.400 to 0.800 over 2 seeds)"]
    assert figure.layout.legend.title.text == "mean over seeds; band: lowest to highest seed"
    assert figure.layout.hovermode == "x unified"


def test_one_seed_has_no_band_and_the_legend_speaks_of_none():
    figure = curve_figure({"a": [table("m", {0: 1.0, 1: 2.0})]}, {"m": "M"})
    (line,) = figure.data
    assert list(line.text) == ["1.000", "2.000"]
    assert figure.layout.legend.title.text == ""


def test_each_arm_has_one_legend_entry_for_all_panels_even_if_it_lacks_the_first():
    curves = {
        "a": [pd.concat([table("m", {0: 1.0}), table("n", {0: 1.0})])],
        "b": [table("n", {0: 2.0})],
    }
    figure = curve_figure(curves, {"m": "M", "n": "N"})
    assert [(trace.name, trace.showlegend) for trace in figure.data] == [("a", True), ("a", False), ("b", True)]
    assert [trace.legendgroup for trace in figure.data] == ["a", "a", "b"]
    assert [trace.line.color for trace in figure.data] == [PALETTE[0], PALETTE[0], PALETTE[1]]


def test_a_colour_stays_with_its_arm_where_an_arm_has_no_curve():
    figure = curve_figure({"sft": [], "grpo": [table("m", {0: 1.0})]}, {"m": "M"})
    assert [(trace.name, trace.line.color) for trace in figure.data] == [("grpo", PALETTE[1])]


def test_a_long_metric_is_drawn_as_means_of_neighbouring_steps_and_keeps_its_extremes():
    seeds = [table("m", {step: float(step % 2) for step in range(5000)}) for _ in range(2)]
    figure = curve_figure({"a": seeds}, {"m": "M"}, points=100)
    band, mean = figure.data
    assert len(mean.x) == 100
    assert numbers(mean.x)[:2] == [24.5, 74.5]  # the middle of 50 steps
    assert set(numbers(mean.y)) == {0.5}
    assert set(numbers(band.y)) == {0.0, 1.0}
    assert mean.text[0].endswith("mean of 50 steps")
    assert len(figure.to_json()) < 40_000


def test_only_metrics_named_as_shares_have_an_axis_from_0_to_1():
    figure = curve_figure({"a": [table("m", {0: 9.0}), table("n", {0: 0.1})]}, {"m": "M", "n": "N"}, unit={"n"})
    assert figure.layout.yaxis.range is None
    assert tuple(figure.layout.yaxis2.range) == (0, 1.02)


def test_curves_without_a_metric_are_refused_and_an_unknown_one_is_an_empty_panel():
    with pytest.raises(ValueError, match="no metric to draw"):
        curve_figure({"a": []}, {})
    assert len(curve_figure({"a": [table("m", {0: 1.0})]}, {"other": "Other"}).data) == 0


# -- tested metrics -----------------------------------------------------------------------------------------------


def test_bars_have_their_interval_as_distances_and_a_dot_for_each_seed():
    arms = {
        "a": {"war": estimate(0.5, 0.4, 0.7, 0.45, 0.55), "fcr": estimate(0.3, 0.35, 0.5, 0.3, 0.3)},
        "b": {"war": estimate(0.6, 0.5, 0.8, 0.5, 0.7), "fcr": estimate(math.nan, math.nan, math.nan, math.nan)},
    }
    figure = comparison_figure(arms, ("war", "fcr"))
    bars, dots = named(figure, "a")
    assert numbers(bars.y) == [0.5, 0.3]
    assert numbers(bars.error_y.array) == pytest.approx([0.2, 0.2])
    assert numbers(bars.error_y.arrayminus) == pytest.approx([0.1, 0.0])  # the interval of a skewed metric
    assert numbers(dots.y) == [0.45, 0.55, 0.3, 0.3]
    assert bars.text[0] == "0.500 [0.400, 0.700]<br>seeds: 0.450, 0.550"
    undefined = named(figure, "b")[0]
    assert undefined.y[1] is None
    assert undefined.text[1] == "– [–, –]"
    assert list(figure.layout.xaxis.ticktext) == ["WAR", "FCR"]
    left, right = (numbers(named(figure, name)[0].x) for name in ("a", "b"))
    assert (left, right) == ([pytest.approx(-0.2), pytest.approx(0.8)], [pytest.approx(0.2), pytest.approx(1.2)])


def test_error_bars_of_undefined_ends_are_nothing():
    made = errors([(0.5, 0.4, 0.7), (0.5, math.nan, math.nan)])
    assert made["array"] == [pytest.approx(0.2), 0]
    assert made["arrayminus"] == [pytest.approx(0.1), 0]


# -- labels and cells ---------------------------------------------------------------------------------------------


def test_a_confusion_shows_counts_coloured_by_their_share_of_the_row():
    answers = np.array([[3, 1, 0], [0, 0, 0]])
    figure = confusion_figure(Confusion("mini", ("joy", "fear"), answers, {"g": np.array([[4, 0, 0], [0, 1, 1]])}))
    first, second = figure.data
    assert numbers(first.z) == [[0.75, 0.25, 0.0], [0.0, 0.0, 0.0]]
    assert [list(row) for row in first.text] == [["3", "1", ""], ["", "", ""]]
    assert list(first.x) == ["joy", "fear", "none"]
    assert first.hovertext[0][1] == "true joy, answered fear<br>1 of 4 clips (25.0%)"
    assert second.hovertext[1][2] == "true fear, read as none<br>1 of 2 clips (50.0%)"
    assert [one.text for one in figure.layout.annotations] == ["answer", "explanation, read by g"]
    assert figure.layout.yaxis.autorange == "reversed"


def cells(*shares: float) -> pd.DataFrame:
    rows = [
        (name, round(100 * share), share, share, share, (share,)) for name, share in zip(CELLS, shares, strict=True)
    ]
    return pd.DataFrame(rows, columns=["cell", "clips", "share", "low", "high", "seeds"])


def test_cells_are_stacked_shares_with_counts_where_there_is_room():
    figure = cells_figure({"a": cells(0.5, 0.3, 0.18, 0.02), "b": cells(1.0, 0.0, 0.0, 0.0)})
    assert [trace.name for trace in figure.data] == list(CELLS)
    assert [list(trace.x) for trace in figure.data] == [[0.5, 1.0], [0.3, 0.0], [0.18, 0.0], [0.02, 0.0]]
    assert [trace.text[0] for trace in figure.data] == ["50% (50)", "30% (30)", "18% (18)", ""]
    assert figure.data[3].hovertext[0] == "wrong, incoherent<br>2.0% [2.0%, 2.0%], 2 responses"
    assert figure.layout.barmode == "stack"
    # told apart by more than colour
    assert len({(trace.marker.color, trace.marker.pattern.shape) for trace in figure.data}) == 4
    assert [trace.marker.pattern.shape for trace in figure.data] == ["", "/", "", "/"]


# -- what a setting does ------------------------------------------------------------------------------------------


def test_gains_stand_at_their_value_with_their_interval():
    row = {"label": "sad", "clips": 5, "baseline": 0.25, "arm": 0.5, "gain": 0.25, "low": -0.05, "high": 0.5}
    (points,) = gains_figure(pd.DataFrame([row]), "FCR gained").data
    assert (numbers(points.x), list(points.y)) == ([0.25], ["sad (5)"])
    assert (points.error_x.array[0], points.error_x.arrayminus[0]) == (0.25, pytest.approx(0.3))
    assert points.hovertext[0] == "sad, 5 clips<br>0.250 → 0.500<br>+0.250 [-0.050, +0.500]"


def trials(**columns: list[Any]) -> pd.DataFrame:
    made = pd.DataFrame(columns)
    made.attrs |= {"metric": "val/fcr", "parameters": [name for name in columns if name != "best"]}
    return made


def test_axes_of_a_sweep_are_words_or_numbers():
    made = trials(
        loss_type=["grpo", "dapo", "grpo"],
        lr=[0.001, 0.01, 0.1],
        weight=[0.5, 1.0, 2.0],
        flag=[True, False, True],
        best=[0.1, 0.3, math.nan],
    )
    (lines,) = parallel_figure(made).data
    words, lr, number, flag, best = lines.dimensions
    assert (list(words.values), list(words.ticktext)) == ([1, 0], ["dapo", "grpo"])
    assert lr.label == "lr"  # the trials that remain span a factor of ten, no more
    assert numbers(number["values"]) == [0.5, 1.0]
    assert list(flag.ticktext) == ["False", "True"]
    assert (best.label, numbers(best["values"])) == ("best val/fcr", [0.1, 0.3])


def test_an_axis_over_more_than_a_factor_of_ten_is_logarithmic_and_ticks_say_the_numbers():
    (lines,) = parallel_figure(trials(lr=[0.001, 0.1, 1.0], best=[0.1, 0.2, 0.3])).data
    axis = lines.dimensions[0]
    assert axis.label == "lr (log)"
    assert numbers(axis["values"]) == pytest.approx([-3, -1, 0])
    assert (axis.ticktext[0], axis.ticktext[-1]) == ("0.001", "1")


def test_a_sweep_without_a_value_says_so():
    with pytest.raises(ValueError, match="no trial has a value of val/fcr yet"):
        parallel_figure(trials(lr=[0.1], best=[math.nan]))


def test_an_ablation_has_a_panel_a_metric_and_a_point_an_arm():
    row = {"low": 0.1, "high": 0.9, "seeds": (0.4, 0.6)}
    rows = [
        {"arm": arm, "rewards": rewards, "metric": metric, "value": value, **row}
        for arm, rewards, value in (("sft", "none", 0.4), ("erv", "format + explanation", 0.6))
        for metric in ("war", "fcr")
    ]
    figure = ablation_figure(pd.DataFrame(rows))
    assert [one.text for one in figure.layout.annotations] == ["WAR", "FCR"]
    assert [numbers(trace.x) for trace in figure.data] == [[0.4, 0.6], [0.4, 0.6]]
    assert list(figure.data[0].y) == ["sft<br>none", "erv<br>format + explanation"]
    assert figure.data[0].hovertext[0] == "0.400 [0.100, 0.900]<br>seeds: 0.400, 0.600"
    assert list(figure.data[0].marker.color) == list(PALETTE[:2])


def test_verifier_quality_is_a_line_a_reward_told_apart_by_symbol_too():
    rows = [
        {"noise": noise, "verifier_f1": 0.9 - noise / 100, "reward": reward, "metric": "fcr", "value": value}
        | {"low": value, "high": value, "seeds": (value,)}
        for reward, value in (("SFT", 0.4), ("paper", 0.7))
        for noise in (20, 0)
    ]
    figure = quality_figure(pd.DataFrame(rows), "fcr", ["SFT", "paper"])
    assert [trace.name for trace in figure.data] == ["SFT", "paper"]
    assert list(figure.layout.xaxis.ticktext) == ["0 %<br>F1 0.90", "20 %<br>F1 0.70"]
    assert len({trace.marker.symbol for trace in figure.data}) == 2


# -- all of them --------------------------------------------------------------------------------------------------


def test_text_from_outside_is_shown_to_the_letter():
    assert safe(NASTY) == SAFE
    row = {"label": NASTY, "clips": 5, "baseline": 0.2, "arm": 0.5, "gain": 0.3, "low": 0.1, "high": 0.4}
    ablation = {"arm": NASTY, "rewards": NASTY, "metric": "war", "value": 0.5, "low": 0.4, "high": 0.6, "seeds": (0.5,)}
    figures = [
        curve_figure({NASTY: [table("m", {0: 1.0})] * 2}, {"m": NASTY}),
        comparison_figure({NASTY: {"war": estimate(0.5, 0.4, 0.6, 0.4, 0.6)}}, ("war",)),
        confusion_figure(Confusion(NASTY, (NASTY,), np.array([[1, 0]]), {NASTY: np.array([[1, 0]])})),
        cells_figure({NASTY: cells(0.5, 0.5, 0.0, 0.0)}),
        gains_figure(pd.DataFrame([row]), NASTY),
        parallel_figure(trials(**{NASTY.replace(".", ""): [NASTY, "b"], "best": [0.1, 0.2]})),
        ablation_figure(pd.DataFrame([ablation])),
    ]
    for figure in figures:
        shown = json.loads(figure.to_json())
        for trace in shown["data"]:
            trace.pop("legendgroup", None)  # never shown
        text = json.dumps(shown)
        assert "<script>" not in text
        assert "&lt;script&gt;" in text


def test_templates_hold_no_text_from_outside():
    """Plotly would fill in a `%{y}` of a name; what is filled in is not read again."""
    figure = curve_figure({NASTY: [table("m", {0: 1.0})] * 2}, {"m": NASTY})
    templates = [trace.hovertemplate for trace in figure.data if trace.hovertemplate]
    assert templates == ["%{text}"]


def test_figures_take_the_pages_background_and_none_is_drawn_without_a_legend_of_its_own():
    figure = dressed(go.Figure(), 300, margin_t=10)
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert (figure.layout.height, figure.layout.margin.t) == (300, 10)
    assert figure.layout.title.text is None


def test_colours_are_those_of_the_papers_figures_in_order_and_begin_again():
    names = [str(i) for i in range(len(PALETTE) + 1)]
    assert list(colours(names).values()) == [*PALETTE, PALETTE[0]]


def test_arrays_survive_plotlys_json():
    """Plotly writes arrays in base64; what a page reads back are the numbers."""
    mean = json.loads(curve_figure({"a": [table("m", {0: 1.5, 1: 2.5})]}, {"m": "M"}).to_json())["data"][0]["y"]
    read = np.frombuffer(base64.b64decode(mean["bdata"]), mean["dtype"]).tolist() if isinstance(mean, dict) else mean
    assert read == [1.5, 2.5]
