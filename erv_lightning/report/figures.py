"""Figures for a paper or a README, drawn from numbers that are already there. Reads no files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from erv_lightning.analysis import METRICS, Estimate

PALETTE = ("#808080", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's colours, for any colour vision; grey for black, and no yellow, too pale for lines."""

_CURVES = ("war", "eea", "epc", "fcr")
_BARS = ("war", "uar", "eea", "epc", "fcr")
_INK = "#333333"
_STYLE = {"facecolor": "white", "layout": "constrained"}


def comparison_figure(
    estimates: Mapping[str, Mapping[str, Estimate]], curves: Mapping[str, Sequence[pd.DataFrame]]
) -> Figure:
    """Validation curves of the arms trained by reward, above bars of every arm's test metrics.

    An arm without reward (SFT) is a dashed line: its validation value at its best FCR.

    Args:
        estimates: test metrics by arm, in the order of the colours.
        curves: by arm one `load_curves` table per seed; an arm may be missing.

    Returns:
        The figure; without the upper row where no arm was validated while it was trained by reward.
    """
    colors = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(estimates)}
    rewarded = {name: tables for name, tables in curves.items() if any(_has_curve(table) for table in tables)}
    figure = Figure(figsize=(10, 6 if rewarded else 3.4), **_STYLE)  # type: ignore[arg-type]
    rows = figure.add_gridspec(2 if rewarded else 1, len(_CURVES), height_ratios=[1, 1.1] if rewarded else None)
    for column, key in enumerate(_CURVES if rewarded else ()):
        axes = figure.add_subplot(rows[0, column])
        for name in estimates:
            if name in rewarded:
                _draw_curves(axes, rewarded[name], f"val/{key}", colors[name])
            elif (level := _level(curves.get(name, ()), f"val/{key}")) is not None:
                axes.axhline(level, color=colors[name], linestyle="--", linewidth=1.6)
        _dress(axes, METRICS[key])
        axes.set_xlabel("GRPO step")
        axes.set_ylabel("validation" if column == 0 else "")
        axes.tick_params(labelleft=column == 0)
    bars = figure.add_subplot(rows[-1, :])
    for position, name in enumerate(estimates):
        _draw_bars(bars, estimates[name], position, len(estimates), name, colors[name])
    _dress(bars, "")
    bars.set_xticks(range(len(_BARS)), [METRICS[key] for key in _BARS])
    bars.tick_params(axis="x", length=0)
    bars.set_ylabel("test")
    # where there are lines the legend tells dashed from solid, else it shows the bars
    handles = _lines(colors, rewarded) if rewarded else bars.get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=11)
    return figure


def _has_curve(table: pd.DataFrame) -> bool:
    """Whether a run was trained by reward and validated meanwhile."""
    metrics = set(table["metric"])
    return any(name.startswith("train/reward") for name in metrics) and any(f"val/{key}" in metrics for key in _CURVES)


def _lines(colors: Mapping[str, str], rewarded: Collection[str]) -> list[Line2D]:
    """The legend's lines: solid for the arms with a curve, dashed for the others."""
    return [
        Line2D([], [], color=color, linewidth=2.2, linestyle="-" if name in rewarded else "--", label=name)
        for name, color in colors.items()
    ]


def _draw_curves(axes: Axes, tables: Sequence[pd.DataFrame], metric: str, color: str) -> None:
    """The mean over seeds as a thick line, each seed as a thin one."""
    seeds = [table[table["metric"] == metric].set_index("step")["value"] for table in tables]
    together = pd.concat(seeds, axis=1, keys=range(len(seeds))).sort_index().dropna(axis=1, how="all")
    # only where every seed has a value: a mean over fewer would jump when one drops out
    mean = together.dropna().mean(axis=1)
    if len(seeds) > 1:
        for _, seed in together.items():
            line = seed.dropna()
            axes.plot(line.index, line.to_numpy(), color=color, linewidth=0.8, alpha=0.45)
    axes.plot(mean.index, mean.to_numpy(), color=color, linewidth=2.2, marker="o", markersize=3.5)


def _level(tables: Sequence[pd.DataFrame], metric: str) -> float | None:
    """Mean over seeds of a validation metric where FCR is best, as checkpoints are chosen (else the last)."""
    levels: list[float] = []
    for table in tables:
        values, fcr = (table[table["metric"] == name].set_index("step")["value"] for name in (metric, "val/fcr"))
        if len(values):
            fcr = fcr[fcr.index.isin(values.index)]
            levels.append(values.loc[fcr.index[int(fcr.argmax())]] if len(fcr) else values.iloc[-1])
    return sum(levels) / len(levels) if levels else None


def _draw_bars(axes: Axes, estimates: Mapping[str, Estimate], position: int, arms: int, name: str, color: str) -> None:
    """One arm's bars, one per metric, with interval, number and a dot per seed."""
    width = 0.84 / arms
    shown = [estimates[key] for key in _BARS]
    x = np.arange(len(_BARS)) + (position - (arms - 1) / 2) * width
    values = np.array([one.value for one in shown])
    low, high = np.array([one.low for one in shown]), np.array([one.high for one in shown])
    # a percentile interval of a skewed metric may miss the value itself
    errors = np.maximum([values - low, high - values], 0)
    axes.bar(x, values, width * 0.9, color=_paler(color), label=name)
    several = len(shown[0].seeds) > 1
    beside = 0.2 * width if several else 0.0  # the interval on the right, the seeds' dots on the left
    axes.errorbar(x + beside, values, errors, fmt="none", ecolor=_INK, elinewidth=1.2, capsize=3)
    for centre, one in zip(x, shown, strict=True):
        # at the foot of the bar, where no interval and no dot is in its way
        axes.text(centre, 0.02, f"{one.value:.2f}", ha="center", fontsize=9)
        if several:
            spread = centre + np.linspace(-0.32, -0.04, len(one.seeds)) * width
            axes.plot(spread, one.seeds, "o", color="white", markeredgecolor=_INK, markersize=4.5)


def _paler(color: str) -> tuple[float, ...]:
    """A bar's tint of a line's colour: opaque, so that the grid does not shine through."""
    return tuple(0.7 * channel + 0.3 for channel in to_rgb(color))


def _dress(axes: Axes, title: str) -> None:
    """The look all panels share."""
    axes.set_title(title, fontsize=11)
    axes.set_ylim(0, 1.06)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
