"""The page's figures and tables, section by section: curves, rewards, lengths, the comparison, confusions, cells.

A section without anything to show is left out. Reads no files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from erv_lightning.analysis import METRICS, four_cells
from erv_lightning.comparing import Comparison
from erv_lightning.evaluation import Confusion, evaluate
from erv_lightning.report.cells import number
from erv_lightning.report.charts import cells_figure, comparison_figure, confusion_figure, curve_figure
from erv_lightning.report.comparison import Row, difference_rows, disputed, facts, legend, metric_rows
from erv_lightning.results import Arm
from erv_lightning.runs import STAGES
from erv_lightning.tallies import DEFINITIONS, OF_EXPLANATIONS

if TYPE_CHECKING:
    import plotly.graph_objects as go

Curves = Mapping[str, Sequence[pd.DataFrame]]
Section = dict[str, Any]

_VALIDATION = {"val/war": "WAR", "val/eea": "EEA", "val/epc": "EPC", "val/fcr": "FCR"}
_VERIFIER = {"val/f1_macro": "verifier: macro F1", "val/f1_micro": "verifier: micro F1"}
_REWARD = {
    "train/reward": "total reward",
    "train/reward_std": "spread of the reward within a group",
    "train/frac_reward_zero_std": "share of groups with equal rewards",
}
_LENGTH = {
    "train/completions/mean_length": "tokens of a completion",
    "train/completions/clipped_ratio": "share of completions cut off",
    "train/entropy": "entropy of the policy",
    "train/kl": "KL divergence from the reference",
    "train/clip_ratio/region_mean": "share of clipped tokens",
    "train/grad_norm": "norm of the gradient",
    "train/explanations/words": "words of an explanation",
    "train/explanations/sentences": "sentences of an explanation",
    "train/explanations/emotion_word_rate": "share of words that name an emotion",
    "train/explanations/neutral_ratio": "share of neutral sentences",
    "train/explanations/repeated_sentences": "share of repeated sentences",
    "train/explanations/distinct_2": "different pairs of words over all",
    "train/judge/reward_gap": "explanation reward minus what the judge finds right",
}
_UNIT = (*_VALIDATION, *_VERIFIER)


_TITLES = {
    "curves": ("Training metrics", "Measured on the validation clips."),
    "reward": (
        "Rewards",
        "The total is the weighted sum of its parts; each part is shown before its weight. A group whose completions "
        "all earn the same teaches nothing.",
    ),
    "length": (
        "Length and language",
        "How long completions are, how certain the policy is (its entropy), and how explanations read. Explanations "
        "that please the verifier without explaining show here first: more words that name emotions, more repeated "
        "sentences.",
    ),
}


def of_curves(curves: Curves, stages: Mapping[str, str]) -> list[Section]:
    """What was logged in training and validation, over the optimiser steps.

    Steps of different stages are not on one axis: an SFT run may take a thousand where GRPO takes a hundred.

    Args:
        curves: by arm, in the order of the colours, one `load_curves` table per seed; an arm may have none.
        stages: of the arms.
    """
    sections = []
    for key, metrics in _logged(curves).items():
        figures = {
            stage: _curve_figures(
                {arm: of if stages[arm] == stage else () for arm, of in curves.items()}, stage, metrics
            )
            for stage in sorted(dict.fromkeys(stages.values()), key=_by_importance)
        }
        shown = [figure for each in figures.values() for figure in each]
        if sum(map(bool, figures.values())) > 1:
            for stage, each in figures.items():
                for figure in each:
                    figure["title"] += f", {stage}"
        if shown:
            title, text = _TITLES[key]
            sections.append(_section(key, title, f"Over optimiser steps{_bands(curves)}. {text}", shown))
    return sections


def _by_importance(stage: str) -> int:
    """What a report is about comes first: GRPO, which the other stages lead to."""
    return -STAGES.index(stage) if stage in STAGES else 1


def _curve_figures(curves: Curves, stage: str, metrics: Mapping[str, str]) -> list[dict[str, Any]]:
    """A figure for each metric that the arms of a stage have: narrow screens show them below each other."""
    figures = []
    for name, title in metrics.items():
        own = {arm: _of_metric(tables, name) for arm, tables in curves.items()}
        if any(own.values()):
            drawn = _plain(curve_figure(own, {name: ""}, unit=_UNIT))
            figures.append(_figure(f"{stage}-{name.replace('/', '-')}", title, "", _last_values(own), drawn))
    return figures


def _of_metric(tables: Sequence[pd.DataFrame], name: str) -> list[pd.DataFrame]:
    """The rows of a metric; without the tables that have none."""
    return [own for table in tables if len(own := table[table["metric"] == name])]


def _bands(curves: Curves) -> str:
    several = any(len(tables) > 1 for tables in curves.values())
    return "; lines are means over seeds, bands go from the lowest to the highest seed" if several else ""


def _logged(curves: Curves) -> dict[str, dict[str, str]]:
    """By section the metrics that any run has logged, with their titles."""
    logged = {name for tables in curves.values() for table in tables for name in table["metric"].unique()}
    parts = sorted(name for name in logged if name.startswith("train/rewards/") and name.endswith("/mean"))
    rewards = {name: f"reward: {name.removeprefix('train/rewards/').removesuffix('/mean')}" for name in parts}
    total, *others = _REWARD
    wanted = {
        "curves": _VALIDATION | _VERIFIER,
        "reward": {total: _REWARD[total]} | rewards | {name: _REWARD[name] for name in others},
        "length": _LENGTH,
    }
    return {key: {name: title for name, title in metrics.items() if name in logged} for key, metrics in wanted.items()}


def of_comparison(comparison: Comparison) -> Section:
    """The tables of `compare` and their figure."""
    tables = []
    for place, reading in enumerate(comparison.readings):
        keys = OF_EXPLANATIONS if place else tuple(METRICS)
        under = f" under the judge {reading.judge}" if len(comparison.readings) > 1 else ""
        titles = [METRICS[key] for key in keys]
        tables.append(_table(f"Metrics{under}", titles, metric_rows(comparison.arms, reading, keys), DEFINITIONS))
        if reading.differences:
            rows, caption = difference_rows(reading, keys), "" if place else legend(comparison)
            tables.append(_table(f"Paired differences{under}", titles, rows, caption))
    told = "; ".join(
        f"{name}: " + ", ".join(f"{METRICS[key]} {number(of[key].value)}" for key in ("war", "eea", "epc", "fcr"))
        for name, of in comparison.main.estimates.items()
    )
    figure = _figure(
        "comparison-bars",
        "Metrics on the test clips",
        "Bars with 95 % intervals; dots are seeds.",
        f"Bars of the metrics of each arm. {told}.",
        _plain(comparison_figure(comparison.main.estimates)).update_xaxes(zeroline=False),
    )
    text = " ".join([facts(comparison), *(f"{line}." for line in disputed(comparison))])
    return _section("comparison", "Comparison", text, [figure], tables)


def of_confusions(arms: Sequence[Arm], judges: Sequence[str]) -> Section:
    """For each arm and label space the true labels against answers and explanations, all seeds counted together."""
    figures = []
    for place, arm in enumerate(arms):
        every = pd.concat(arm.predictions, ignore_index=True)
        for one in evaluate(every, judges, draws=1).confusions:  # counts need no intervals
            where = f" ({one.space})" if every["label_space"].nunique() > 1 else ""
            caption = "Rows: the true label. Colour: share of the row; number: responses of all seeds."
            figures.append(
                _figure(
                    f"confusion-{place}-{one.space}",
                    f"{arm.name}{where}",
                    caption,
                    _mixed(arm, one),
                    confusion_figure(one).update_layout(coloraxis_showscale=False),
                )
            )
    text = "Which emotions are taken for which, in the answers and in what the judges read in the explanations."
    return _section("confusion", "Confusions", text, figures)


def of_cells(arms: Sequence[Arm], judge: str, draws: int) -> Section:
    """How the responses of each arm fall into the four cells."""
    cells = {arm.name: four_cells(arm, judge, draws=draws) for arm in arms}
    rows = [
        Row("arm", name, tuple(f"{one.share:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in table.itertuples()))
        for name, table in cells.items()
    ]
    columns = list(next(iter(cells.values()))["cell"])
    told = "; ".join(
        f"{name}: " + ", ".join(f"{one.cell} {one.share:.0%}" for one in table.itertuples())
        for name, table in cells.items()
    )
    text = (
        "Right: the answer is the label. Coherent: the explanation conveys what the model answers, as the judge "
        f"{judge} reads it. Right and coherent together is what FCR counts."
    )
    caption = "Share of the test clips, mean over seeds; number: responses of all seeds."
    alt = f"Bars of shares. {told}."
    figure = _figure("cells-bars", "Answers and explanations", caption, alt, cells_figure(cells))
    table = _table("Shares with 95 % intervals", columns, rows, "")
    return _section("cells", "Four cells", text, [figure], [table])


# -- pieces -------------------------------------------------------------------------------------------------------


def _section(
    key: str, title: str, text: str, figures: list[dict[str, Any]], tables: Sequence[dict[str, Any]] = ()
) -> Section:
    return {"id": key, "title": title, "text": text, "figures": figures, "tables": list(tables)}


def _plain(figure: go.Figure) -> go.Figure:
    """Without the legend's title: the page says it in a sentence, and leaves the room to the names."""
    return figure.update_layout(legend_title_text="", margin_t=40)


def _figure(key: str, title: str, caption: str, alt: str, figure: go.Figure) -> dict[str, Any]:
    drawn = json.loads(figure.to_json())
    return {"id": key, "title": title, "caption": caption, "alt": alt, "plotly": drawn}


def _table(title: str, columns: Sequence[str], rows: Sequence[Row], caption: str) -> dict[str, Any]:
    return {
        "title": title,
        "columns": ["arm", *columns],
        "rows": [{"cells": [row.name, *row.cells], "kind": row.kind} for row in rows],
        "caption": caption,
    }


def _last_values(curves: Curves) -> str:
    """What a screen reader says of a metric's curves: the last value of each, as the mean over seeds."""
    ends = {
        name: sum(float(table["value"].iloc[-1]) for table in tables) / len(tables)
        for name, tables in curves.items()
        if tables
    }
    return (
        f"Lines over training steps. Last values: {', '.join(f'{name} {number(end)}' for name, end in ends.items())}."
    )


def _mixed(arm: Arm, confusion: Confusion) -> str:
    """What a screen reader says of a confusion matrix: what each label is taken for most."""
    columns, told = (*confusion.labels, "none"), []
    for label, counts in zip(confusion.labels, confusion.answers, strict=True):
        if total := int(counts.sum()):
            told.append(f"{label} as {columns[int(counts.argmax())]} ({int(counts.max())} of {total})")
    return f"Confusion matrix of {arm.name}. Most often answered: {', '.join(told)}."
