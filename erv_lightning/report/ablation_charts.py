"""Interactive figures of what a setting does to the metrics. Reads no files. Looks as `erv_lightning.report.charts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from erv_lightning.analysis import METRICS
from erv_lightning.report.cells import number
from erv_lightning.report.charts import GREY, colours, dressed, errors, safe
from erv_lightning.report.figures import PALETTE

_DECADES = 10  # an axis whose positive values span more is logarithmic
_SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "triangle-down", "star", "hexagon", "bowtie")


def gains_figure(gains: pd.DataFrame, title: str) -> go.Figure:
    """For each class what an arm gains over a baseline, with the 95 % interval; right of the line is better.

    Args:
        gains: `erv_lightning.analysis.class_gains`.
        title: of the axis: which metric, and whose gain.
    """
    hover = [
        f"{safe(row['label'])}, {row['clips']} clips<br>{number(row['baseline'])} → {number(row['arm'])}<br>"
        f"{number(row['gain'], '+.3f')} [{number(row['low'], '+.3f')}, {number(row['high'], '+.3f')}]"
        for row in gains.to_dict("records")
    ]
    figure = go.Figure(
        go.Scatter(
            x=gains["gain"],
            y=[f"{safe(label)} ({clips})" for label, clips in zip(gains["label"], gains["clips"], strict=True)],
            error_x=_errors(gains, "gain"),
            mode="markers",
            marker={"size": 10, "color": PALETTE[2]},
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    figure.add_vline(x=0, line={"color": GREY, "dash": "dash"})
    figure.update_xaxes(title_text=safe(title), zeroline=False)
    figure.update_yaxes(autorange="reversed", title_text="class (clips)")
    return dressed(figure, 120 + 36 * len(gains), showlegend=False, margin_t=30)


def parallel_figure(trials: pd.DataFrame) -> go.Figure:
    """A line for each trial of a sweep through its parameters to its best value; brighter lines are higher values.

    Drag along an axis to see only the trials in that range. A parameter that is no number has its values in the order
    of their names; one whose numbers span more than a factor of ten is drawn by its logarithm. Trials without a value
    are left out.

    Args:
        trials: `erv_lightning.analysis.sweep_table`.

    Raises:
        ValueError: no trial has a value.
    """
    shown = trials[trials["best"].notna()]
    if shown.empty:
        raise ValueError(f"no trial has a value of {trials.attrs['metric']} yet")
    axes = [_axis(name, shown[name]) for name in trials.attrs["parameters"]]
    best = {"label": f"best {safe(trials.attrs['metric'])}", "values": shown["best"].tolist(), "tickformat": ".3f"}
    line = {"color": shown["best"], "colorscale": "Viridis", "showscale": True}
    figure = go.Figure(go.Parcoords(dimensions=[*axes, best], line=line, labelangle=0))
    return dressed(figure, 420, margin_l=90, margin_r=60)


def _axis(name: str, values: pd.Series) -> dict[str, Any]:
    """A dimension of `go.Parcoords`, which knows neither words nor logarithms."""
    label = safe(name.rpartition(".")[2])
    booleans = values.map(lambda value: isinstance(value, bool)).any()
    numbers = pd.to_numeric(values, errors="coerce")
    if booleans or numbers.isna().any():
        words = values.astype(str)
        order = sorted(words.unique())
        codes = [order.index(word) for word in words]
        return {
            "label": label,
            "values": codes,
            "tickvals": list(range(len(order))),
            "ticktext": list(map(safe, order)),
        }
    if numbers.min() > 0 and numbers.max() / numbers.min() > _DECADES:
        exponents = np.log10(numbers)
        ticks = np.linspace(exponents.min(), exponents.max(), 5)
        texts = [f"{10**tick:.2g}" for tick in ticks]
        return {"label": f"{label} (log)", "values": exponents.tolist(), "tickvals": ticks.tolist(), "ticktext": texts}
    return {"label": label, "values": numbers.tolist()}


def ablation_figure(table: pd.DataFrame) -> go.Figure:
    """A panel for each metric, in it a point with its 95 % interval for each setting of the rewards.

    Args:
        table: `erv_lightning.analysis.ablation_table`.
    """
    metrics = list(table["metric"].unique())
    figure = make_subplots(
        1, len(metrics), subplot_titles=[METRICS[key] for key in metrics], shared_yaxes=True, horizontal_spacing=0.03
    )
    colour = colours(list(table["arm"].unique()))
    for column, key in enumerate(metrics, start=1):
        rows = table[table["metric"] == key]
        figure.add_trace(
            go.Scatter(
                x=rows["value"],
                y=[
                    f"{safe(arm)}<br>{safe(rewards)}" for arm, rewards in zip(rows["arm"], rows["rewards"], strict=True)
                ],
                error_x=_errors(rows, "value"),
                mode="markers",
                marker={"size": 10, "color": [colour[arm] for arm in rows["arm"]]},
                hovertext=_told(rows),
                hovertemplate="%{hovertext}<extra></extra>",
            ),
            row=1,
            col=column,
        )
    figure.update_xaxes(range=[0, 1.02])
    figure.update_yaxes(autorange="reversed")
    return dressed(figure, 120 + 60 * len(colour), showlegend=False, margin_t=40)


def quality_figure(table: pd.DataFrame, metric: str, rewards: Sequence[str]) -> go.Figure:
    """A metric over how often the verifier's teacher misreads, a line for each reward, with 95 % intervals.

    Args:
        table: `erv_lightning.analysis.verifier_quality_table`.
        metric: its key.
        rewards: those to be drawn, in the order of the colours.
    """
    figure = go.Figure()
    noises = sorted(table["noise"].unique())
    for place, reward in enumerate(rewards):
        rows = table[(table["metric"] == metric) & (table["reward"] == reward)].sort_values("noise")
        figure.add_trace(
            go.Scatter(
                # beside each other, so that no interval hides another
                x=[noises.index(noise) + 0.04 * (place - (len(rewards) - 1) / 2) for noise in rows["noise"]],
                y=rows["value"],
                error_y=_errors(rows, "value"),
                name=safe(reward),
                mode="lines+markers",
                line={"color": colours(rewards)[reward]},
                marker={"size": 8, "symbol": _SYMBOLS[place % len(_SYMBOLS)]},
                hovertext=_told(rows),
                hovertemplate="%{hovertext}",
            )
        )
    f1 = table.groupby("noise")["verifier_f1"].first()
    ticks = [f"{noise} %<br>F1 {f1[noise]:.2f}" for noise in noises]
    figure.update_xaxes(
        title_text="phrases that the teacher misreads; the verifier's F1",
        tickvals=list(range(len(noises))),
        ticktext=ticks,
    )
    figure.update_yaxes(title_text=METRICS[metric], range=[0, 1.02])
    return dressed(figure, 420)


def _errors(rows: pd.DataFrame, key: str) -> dict[str, Any]:
    return errors(list(zip(rows[key], rows["low"], rows["high"], strict=True)))


def _told(rows: pd.DataFrame) -> list[str]:
    """Each row's number with its interval and seeds."""
    texts = []
    for row in rows.to_dict("records"):
        seeds = [seed for seed in row["seeds"] if not math.isnan(seed)]
        spread = f"<br>seeds: {', '.join(number(seed) for seed in seeds)}" if len(seeds) > 1 else ""
        texts.append(f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]{spread}")
    return texts
