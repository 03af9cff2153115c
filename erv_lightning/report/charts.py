"""Interactive figures of the report and the notebooks, drawn from numbers that are already there. Reads no files.

Backgrounds are transparent and fonts are left to the page, so that light and dark ones can show them. Plotly reads a
little HTML in titles and hover texts: every text from outside is escaped.
"""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from erv_lightning.analysis import METRICS, Estimate, curve_bands
from erv_lightning.evaluation import Confusion
from erv_lightning.report.cells import number
from erv_lightning.report.figures import PALETTE

POINTS = 400
"""Most points of a drawn curve; a longer one is drawn as means of neighbouring steps."""

CLEAR = "rgba(0,0,0,0)"
GREY = "#8c8c8c"
"""Lines that mark a place: to be seen on white and on black."""

_BLUES = ((0.0, "#eef3f9"), (0.5, "#6baed6"), (1.0, "#08306b"))  # one hue: reads in grey and for any colour vision
_CELLS = ("#009E73", "#E69F00", "#56B4E9", "#808080")
_ROOM = 0.07  # share from which a cell's bar is wide enough for its numbers
_PANEL = 260  # height of a panel in pixels


def colours(names: Collection[str]) -> dict[str, str]:
    """Each arm's colour, by its place."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def safe(text: object) -> str:
    """A text that Plotly shows to the letter in titles, labels and hover texts, where it reads a little HTML."""
    return html.escape(str(text), quote=False)  # Plotly knows &lt; &gt; &amp;, but not &quot;


def dressed(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """The look that all figures share; the page adds fonts and, in the dark, lighter lines."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 80, "b": 50},
        legend={"orientation": "h", "y": 1, "yref": "container", "yanchor": "top", "x": 0},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
    )
    return figure.update_layout(**layout)


# -- curves -------------------------------------------------------------------------------------------------------


def curve_figure(
    curves: Mapping[str, Sequence[pd.DataFrame]],
    metrics: Mapping[str, str],
    *,
    columns: int = 2,
    unit: Collection[str] = (),
    points: int = POINTS,
) -> go.Figure:
    """A panel for each metric, in it a line for each arm: the mean over seeds, in a band from lowest to highest seed.

    Only steps that every seed has are drawn: a mean over fewer would jump where one drops out.

    Args:
        curves: by arm, in the order of the colours, one `load_curves` table per seed. An arm may lack a metric.
        metrics: its key in the tables → the title of its panel.
        columns: panels beside each other, at most.
        unit: keys of metrics whose axis goes from 0 to 1.
        points: most points of a line. A longer one is drawn as means of neighbouring steps; its band keeps their lowest
            and highest.

    Raises:
        ValueError: no metric.
    """
    if not metrics:
        raise ValueError("no metric to draw: give at least one")
    columns = min(columns, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[safe(title) for title in metrics.values()],
        vertical_spacing=0.25 / rows,
        horizontal_spacing=0.08,
    )
    bands = {name: curve_bands(tables) for name, tables in curves.items() if len(tables)}
    colour, told = colours(curves), set[str]()
    for place, key in enumerate(metrics):
        row, column = divmod(place, columns)
        for name, band in bands.items():
            line = _thinned(band[band["metric"] == key], points)
            if len(line):
                drawn = _line(line, name, colour[name], name not in told)
                figure.add_traces(drawn, rows=row + 1, cols=column + 1)
                told.add(name)
        figure.update_xaxes(title_text="step" if place + columns >= len(metrics) else "", row=row + 1, col=column + 1)
        figure.update_yaxes(range=[0, 1.02] if key in unit else None, row=row + 1, col=column + 1)
    several = any((band["seeds"] > 1).any() for band in bands.values())
    legend = "mean over seeds; band: lowest to highest seed" if several else ""
    return dressed(figure, rows * _PANEL + 80, hovermode="x unified", legend_title_text=legend)


def _thinned(band: pd.DataFrame, points: int) -> pd.DataFrame:
    """One metric's `curve_bands`, at most `points` rows; a row of several steps has their middle."""
    every = -(-len(band) // points) or 1
    groups = band.groupby(np.arange(len(band)) // every)
    how = {"step": "mean", "mean": "mean", "low": "min", "high": "max", "seeds": "first"}
    return groups.agg(how).assign(every=every)


def _line(line: pd.DataFrame, name: str, colour: str, in_legend: bool) -> list[go.Scatter]:
    """The band, where there are several seeds, and the mean above it."""
    step, seeds, every = line["step"], int(line["seeds"].iloc[0]), int(line["every"].iloc[0])
    spread = f" ({{0}} to {{1}} over {seeds} seeds)" if seeds > 1 else ""
    of_steps = f", mean of {every} steps" if every > 1 else ""
    texts = [
        f"{number(mean)}{spread.format(number(low), number(high))}{of_steps}"
        for mean, low, high in zip(line["mean"], line["low"], line["high"], strict=True)
    ]
    shared = {"legendgroup": name, "name": safe(name)}
    mean = go.Scatter(
        x=step,
        y=line["mean"],
        text=texts,
        mode="lines" if len(line) > 40 else "lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 5},
        showlegend=in_legend,
        hovertemplate="%{text}",
        **shared,
    )
    if seeds == 1:
        return [mean]
    band = go.Scatter(
        x=pd.concat([step, step[::-1]]),
        y=pd.concat([line["high"], line["low"][::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=faded(colour, 0.2),
        line={"width": 0},
        showlegend=False,
        hoverinfo="skip",
        **shared,
    )
    return [band, mean]


def faded(colour: str, alpha: float) -> str:
    """A colour, ``#rrggbb``, that lets the background through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


# -- tested metrics -----------------------------------------------------------------------------------------------


def comparison_figure(
    estimates: Mapping[str, Mapping[str, Estimate]], keys: Sequence[str] = ("war", "uar", "eea", "epc", "fcr")
) -> go.Figure:
    """Bars of every arm's metrics, each with its 95 % interval and a dot for each seed.

    Args:
        estimates: by arm, in the order of the colours, `Sampling.estimates()`.
        keys: of the metrics, in the order shown.
    """
    figure = go.Figure()
    width = 0.8 / max(len(estimates), 1)
    for position, (name, of) in enumerate(estimates.items()):
        x = [at + (position - (len(estimates) - 1) / 2) * width for at in range(len(keys))]
        figure.add_traces(_bars(x, width, [of[key] for key in keys], name, colours(estimates)[name]))
    figure.update_xaxes(tickvals=list(range(len(keys))), ticktext=[METRICS[key] for key in keys], showgrid=False)
    figure.update_yaxes(range=[0, 1.02])
    several = any(len(one.seeds) > 1 for of in estimates.values() for one in of.values())
    legend = "bars with 95 % intervals" + ("; dots: seeds" if several else "")
    return dressed(figure, 420, barmode="overlay", legend_title_text=legend)


def _bars(x: Sequence[float], width: float, shown: Sequence[Estimate], name: str, colour: str) -> list[Any]:
    several = any(len(one.seeds) > 1 for one in shown)
    bars = go.Bar(
        x=x,
        y=_values(shown),
        width=width * 0.92,
        marker={"color": faded(colour, 0.65), "line": {"color": colour, "width": 1}},
        error_y=_errors(shown),
        text=[told(one) for one in shown],
        textposition="none",
        hovertemplate="%{text}",
        name=safe(name),
        legendgroup=name,
    )
    if not several:
        return [bars]
    places = [(at, place, seed) for at, one in zip(x, shown, strict=True) for place, seed in enumerate(one.seeds)]
    count = max(len(one.seeds) for one in shown)
    dots = go.Scatter(
        x=[at + width * (0.3 * (place + 1) / count - 0.42) for at, place, _ in places],  # left of the interval
        y=[seed for _, _, seed in places],
        mode="markers",
        marker={"color": "white", "size": 6, "line": {"color": "#333333", "width": 1}},
        showlegend=False,
        legendgroup=name,
        name=safe(name),
        hovertemplate="one seed: %{y:.3f}",
    )
    return [bars, dots]


def told(one: Estimate, sign: str = "") -> str:
    """An estimate in words of a hover text."""
    spread = f"<br>seeds: {', '.join(number(seed) for seed in one.seeds)}" if len(one.seeds) > 1 else ""
    value, low, high = (number(x, sign + ".3f") for x in (one.value, one.low, one.high))
    return f"{value} [{low}, {high}]{spread}"


def _values(shown: Iterable[Estimate]) -> list[float | None]:
    return [None if math.isnan(one.value) else one.value for one in shown]


def _errors(shown: Sequence[Estimate]) -> dict[str, Any]:
    """Interval ends as distances; a percentile interval of a skewed metric may miss the value itself."""
    return errors([(one.value, one.low, one.high) for one in shown])


def errors(rows: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """Plotly's error bars for values with the ends of their intervals."""
    above = [0 if math.isnan(high) else max(high - value, 0) for value, _, high in rows]
    below = [0 if math.isnan(low) else max(value - low, 0) for value, low, _ in rows]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": GREY, "thickness": 1.5}


# -- labels -------------------------------------------------------------------------------------------------------


def confusion_figure(confusion: Confusion) -> go.Figure:
    """Truth against the answers, and against what each judge read in the explanations.

    A cell's colour is its share of the row, its number the count; the last column is what named no label.
    """
    panels = {"answer": confusion.answers} | {
        f"explanation, read by {judge}": counts for judge, counts in confusion.explanations.items()
    }
    figure = make_subplots(
        1, len(panels), subplot_titles=[safe(title) for title in panels], shared_yaxes=True, horizontal_spacing=0.03
    )
    labels = [safe(label) for label in confusion.labels]
    for column, (title, counts) in enumerate(panels.items(), start=1):
        figure.add_trace(_heat(counts, labels, "answered" if title == "answer" else "read as"), row=1, col=column)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_yaxes(title_text=f"true label ({safe(confusion.space)})", row=1, col=1)
    figure.update_xaxes(tickangle=-60, showgrid=False)
    scale = {"colorscale": _BLUES, "cmin": 0, "cmax": 1, "colorbar": {"title": "share of row", "tickformat": ".0%"}}
    return dressed(figure, 150 + 34 * len(labels), coloraxis=scale, margin_t=40)


def _heat(counts: NDArray[np.intp], labels: list[str], said: str) -> go.Heatmap:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    columns = [*labels, "none"]
    hover = [
        [
            f"true {label}, {said} {column}<br>{counts[i, j]} of {counts[i].sum()} clips ({share[i, j]:.1%})"
            for j, column in enumerate(columns)
        ]
        for i, label in enumerate(labels)
    ]
    return go.Heatmap(
        z=share,
        x=columns,
        y=labels,
        coloraxis="coloraxis",
        text=[[str(count) if count else "" for count in row] for row in counts.tolist()],
        texttemplate="%{text}",
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        xgap=1,
        ygap=1,
    )


def cells_figure(cells: Mapping[str, pd.DataFrame]) -> go.Figure:
    """How the clips of each arm fall into the four cells: a bar of shares, with the counts in it.

    Args:
        cells: by arm, `erv_lightning.analysis.four_cells`.
    """
    figure = go.Figure()
    names = list(next(iter(cells.values()))["cell"]) if cells else []
    arms = [safe(name) for name in cells]
    for place, cell in enumerate(names):
        of = [table.iloc[place] for table in cells.values()]
        figure.add_trace(
            go.Bar(
                y=arms,
                x=[one["share"] for one in of],
                orientation="h",
                name=cell,
                text=[f"{one['share']:.0%} ({one['clips']})" if one["share"] >= _ROOM else "" for one in of],
                textangle=0,
                textposition="inside",
                insidetextanchor="middle",
                constraintext="none",
                insidetextfont={"color": "#111111"},  # reads on all four
                # a pattern too, for whom the colours look alike
                marker={"color": _CELLS[place], "pattern": {"shape": ["", "/", "", "/"][place], "solidity": 0.15}},
                hovertext=[
                    f"{cell}<br>{one['share']:.1%} [{one['low']:.1%}, {one['high']:.1%}], {one['clips']} responses"
                    for one in of
                ],
                hovertemplate="%{hovertext}",
            )
        )
    figure.update_xaxes(range=[0, 1], tickformat=".0%", title_text="share of the test clips")
    figure.update_yaxes(autorange="reversed")
    return dressed(figure, 150 + 55 * len(arms), barmode="stack", legend_traceorder="normal")
