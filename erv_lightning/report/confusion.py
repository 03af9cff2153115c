"""Confusion matrices as pictures, drawn from counts. Reads no files."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from erv_lightning.evaluation import Confusion

_CMAP = "Blues"  # one hue from light to dark: reads in grey and for any colour vision
_DARK = 0.55  # shares above it get white numbers


def confusion_figure(confusion: Confusion) -> Figure:
    """Truth against the answers, and against what each judge read in the explanations.

    A cell's colour is its share of the row, its number the count; the last column is what named no label.
    """
    panels = {"answer": confusion.answers} | {
        f"explanation, read by {judge}": counts for judge, counts in confusion.explanations.items()
    }
    side = 1.6 + 0.42 * len(confusion.labels)
    figure = Figure(figsize=(side * len(panels), side), facecolor="white", layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for one, (title, counts) in zip(axes, panels.items(), strict=True):
        _draw(one, counts, [*confusion.labels, "none"])
        one.set_title(title, fontsize=10)
    axes[0].set_yticks(range(len(confusion.labels)), confusion.labels)
    axes[0].set_ylabel(f"true label ({confusion.space})")
    return figure


def _draw(axes: Axes, counts: NDArray[np.intp], said: list[str]) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap=_CMAP, vmin=0, vmax=1, aspect="equal")
    axes.set_xticks(range(len(said)), said, rotation=60, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0, labelsize=8)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if share[row, column] > _DARK else "#333333"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color)
