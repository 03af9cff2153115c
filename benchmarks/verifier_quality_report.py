"""The page and the figure of `benchmarks.verifier_quality`, from its runs. It trains nothing."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from erv_lightning.analysis import METRICS, Difference, Estimate, bootstrap, differences, load_arms, load_curves
from erv_lightning.report.cells import grid, inline, plain
from erv_lightning.report.figures import PALETTE
from erv_lightning.results import choose_judges

ACCURACY = "accuracy"
PAPER = "paper"
SHOWN = ("eea", "epc", "fcr", "war")
LAST = 10  # steps whose mean reward counts as that of the end
NAME = "verifier_quality"

Cell = dict[str, Any]


def write(runs: Path, out: Path, settings: Mapping[str, Any], command: str) -> list[Path]:
    """Measures the runs; returns what it wrote."""
    report = measure(runs, settings)
    report["command"] = command
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{NAME}.{end}" for end in ("json", "md", "png")]
    text = json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False)
    paths[0].write_text(text + "\n", encoding="utf-8")
    # read back, so that page and figure show what stands in the file
    report = json.loads(paths[0].read_text(encoding="utf-8"))
    paths[1].write_text(markdown(report), encoding="utf-8")
    figure(report).savefig(paths[2], dpi=150)
    return paths


def measure(runs: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every number of the report."""
    noises, variants = [str(one) for one in settings["noise"]], list(settings["variants"])
    seeds = [f"seed{seed}" for seed in range(settings["seeds"])]
    names = [ACCURACY, *(f"{variant}-noise{noise}" for variant in variants for noise in noises)]
    folders = [runs / "sft" / seed for seed in seeds]
    folders += [runs / "grpo" / f"{name}-{seed}" for name in names for seed in seeds]
    arms = load_arms(folders)
    judge = choose_judges(arms)[0]
    samplings = bootstrap(arms, judge)
    estimates = {name: {key: of[key] for key in SHOWN} for name, of in _estimates(samplings).items()}
    pairs = [
        (f"grpo/{variant}-noise{noise}", f"grpo/{PAPER}-noise{noise}")
        for variant in variants
        for noise in noises
        if variant != PAPER
    ]
    apart = {(a, b): of for a, b, of in differences(arms, pairs, judge, samplings)}
    cells: dict[str, dict[str, Cell]] = {}
    for variant in variants:
        cells[variant] = {}
        for noise in noises:
            name = f"{variant}-noise{noise}"
            cell: Cell = {"metrics": estimates[f"grpo/{name}"]}
            cell["reward"] = [final_reward(runs / "grpo" / f"{name}-{seed}") for seed in seeds]
            if variant != PAPER:
                of = apart[f"grpo/{name}", f"grpo/{PAPER}-noise{noise}"]
                cell["against_paper"] = {key: _difference(of[key]) for key in SHOWN}
            cells[variant][noise] = cell
    return {
        "settings": dict(settings),
        "judge": judge,
        "clips": len(arms[0].predictions[0]),
        "machine": f"{os.cpu_count()} CPU cores, one thread a run",
        "verifiers": {
            noise: [_summary(runs / "verifier" / f"noise{noise}-{seed}")["test/f1_macro"] for seed in seeds]
            for noise in noises
        },
        "baselines": {"SFT": estimates["sft"], "format + accuracy": estimates[f"grpo/{ACCURACY}"]},
        "cells": cells,
    }


def _estimates(samplings: Mapping[str, Any]) -> dict[str, dict[str, Estimate]]:
    return {name: sampling.estimates() for name, sampling in samplings.items()}


def _difference(of: Difference) -> dict[str, Any]:
    return {"estimate": of.estimate, "p_holm": of.p_holm, "significant": bool(of.significant)}


def final_reward(run: Path) -> float:
    """The explanation reward that the verifier paid at the end: its mean over the last steps."""
    curves = load_curves(run)
    parts = [
        name
        for name in curves["metric"].unique()
        if name.startswith("train/rewards/") and name.endswith("/mean") and name.split("/")[2] not in _PLAIN
    ]
    (part,) = parts
    return float(curves.loc[curves["metric"] == part, "value"].tail(LAST).mean())


_PLAIN = ("format", "accuracy")  # rewards that ask no verifier


def _summary(run: Path) -> dict[str, float]:
    summary: dict[str, float] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return summary


# -- the page -----------------------------------------------------------------------------------------------------


def ranked(report: Mapping[str, Any], metric: str = "eea") -> list[tuple[str, float]]:
    """Variants by their mean over the verifiers that are not clean, the best first."""
    noisy = [str(noise) for noise in report["settings"]["noise"] if noise > 0]
    means = {
        variant: statistics.fmean(of[noise]["metrics"][metric]["value"] for noise in noisy)
        for variant, of in report["cells"].items()
    }
    return sorted(means.items(), key=lambda pair: -pair[1])


def markdown(report: Mapping[str, Any]) -> str:
    """The page, from the JSON as it was written."""
    settings, cells = report["settings"], report["cells"]
    noises = [str(noise) for noise in settings["noise"]]
    columns = [f"{noise} %" for noise in noises]
    quality = [f"{statistics.fmean(report['verifiers'][noise]):.2f}" for noise in noises]
    lines = [
        "# How good must the verifier be?",
        "",
        f"{settings['seeds']} seeds, {settings['steps']} GRPO steps a run, {report['clips']} test clips, "
        f"{report['machine']}. The verifier's teacher misreads a share of the phrases, each always alike; the judge of "
        f"the table (`{report['judge']}`) misreads none. Mean over seeds with the 95 % interval over seeds and clips; "
        "`*`: differs from the paper's variant with the same verifier, after Holm over all comparisons, and the "
        "interval of the difference leaves out 0.",
        "",
        f"![EEA, EPC, FCR and WAR over label noise, a line for each variant]({NAME}.png)",
        "",
        grid("label noise", columns, [["the verifier's macro-F1 on true test labels", *quality]]),
    ]
    for metric in SHOWN:
        rows = [[variant, *(_cell(of[noise], metric) for noise in noises)] for variant, of in cells.items()]
        rows += [[name, *[inline(Estimate(**of[metric]))] * len(noises)] for name, of in report["baselines"].items()]
        lines += ["", f"## {METRICS[metric]}", "", grid("reward", columns, rows)]
    rows = [
        [
            variant,
            *(f"{statistics.fmean(of[noise]['reward']):.2f} / {_eea(of[noise]):.2f}" for noise in noises),
        ]
        for variant, of in cells.items()
    ]
    lines += [
        "",
        "## What the verifier pays, and what the judge sees",
        "",
        f"Mean explanation reward of the last {LAST} steps / EEA under the judge. Where the first stays high and the "
        "second falls, the policy explains for the verifier, not for a reader.",
        "",
        grid("reward", columns, rows),
        "",
        "## Answer",
        "",
        _answer(report),
        "",
        "Made with:",
        "",
        "```sh",
        report["command"],
        "```",
        "",
    ]
    return "\n".join(lines)


def _answer(report: Mapping[str, Any]) -> str:
    """What the numbers say, in words that hold whatever they are."""
    order = ranked(report)
    (best, high), (worst, low) = order[0], order[-1]
    of_paper = dict(order)[PAPER]
    sft = report["baselines"]["SFT"]["eea"]["value"]
    noises = sorted(report["settings"]["noise"])
    noisy = [str(noise) for noise in noises if noise > 0]
    told = [
        f"{noise} %: {', '.join(names)}"
        for noise in noisy
        if (names := [variant for variant in report["cells"] if _better(report["cells"][variant][noise])])
    ]
    named = "; ".join(told) or "none"
    listed = ", ".join(f"`{name}` {value:.3f}" for name, value in order)
    lost = {variant: _eea(of[str(noises[0])]) - _eea(of[str(noises[-1])]) for variant, of in report["cells"].items()}
    least = min(lost, key=lambda variant: lost[variant])
    return (
        f"Mean EEA over the noisy verifiers: {listed}. Highest: `{best}` ({high:.3f}); lowest: `{worst}` "
        f"({low:.3f}); the paper's R_E {of_paper:.3f}; the cold start {sft:.3f}. From {noises[0]} to {noises[-1]} % "
        f"noise `{least}` loses least, {lost[least]:.3f}, the paper's {lost[PAPER]:.3f}. Variants whose EEA is higher "
        f"than the paper's beyond chance: {named}."
    )


def _better(cell: Mapping[str, Any]) -> bool:
    against = cell.get("against_paper", {}).get("eea")
    return bool(against and against["significant"] and against["estimate"]["value"] > 0)


def _eea(cell: Mapping[str, Any]) -> float:
    return float(cell["metrics"]["eea"]["value"])


def _cell(cell: Mapping[str, Any], metric: str) -> str:
    against = cell.get("against_paper", {}).get(metric)
    return inline(Estimate(**cell["metrics"][metric]), mark="*" if against and against["significant"] else "")


# -- the figure ---------------------------------------------------------------------------------------------------


def figure(report: Mapping[str, Any]) -> Figure:
    """A panel for each metric, a line for each variant over label noise."""
    drawn = Figure(figsize=(11, 7), facecolor="white", layout="constrained")
    panels = drawn.subplots(2, 2, sharex=True).flat
    for axes, metric in zip(panels, SHOWN, strict=True):
        _panel(axes, report, metric)
    handles, labels = axes.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=10)
    return drawn


def _panel(axes: Axes, report: Mapping[str, Any], metric: str) -> None:
    noises: Sequence[int] = report["settings"]["noise"]
    for place, (variant, of) in enumerate(report["cells"].items()):
        estimates = [of[str(noise)]["metrics"][metric] for noise in noises]
        values = [one["value"] for one in estimates]
        shift = 0.5 * (place - (len(report["cells"]) - 1) / 2)  # so that intervals stand side by side
        at = [noise + shift for noise in noises]
        color = PALETTE[(place + 2) % len(PALETTE)] if place else "black"
        style = "-" if place < len(PALETTE) else ":"
        axes.plot(at, values, style, color=color, linewidth=2.2 if place == 0 else 1.4, label=variant)
        low, high = ([one[end] for one in estimates] for end in ("low", "high"))
        axes.vlines(at, low, high, color=color, linewidth=0.8, alpha=0.6)
        for seed in range(report["settings"]["seeds"]):
            axes.plot(at, [one["seeds"][seed] for one in estimates], ".", color=color, markersize=3)
    for (name, of), style in zip(report["baselines"].items(), ("--", "-."), strict=True):
        axes.axhline(of[metric]["value"], linestyle=style, color="#555555", linewidth=1, label=name)
    axes.set_title(METRICS[metric], fontsize=11)
    quality = [statistics.fmean(report["verifiers"][str(noise)]) for noise in noises]
    axes.set_xticks(noises, [f"{noise} %\nF1 {f1:.2f}" for noise, f1 in zip(noises, quality, strict=True)])
    axes.set_ylim(_floor(report), 1)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _floor(report: Mapping[str, Any]) -> float:
    """Where all panels begin: the tenth below everything that is drawn."""
    shown = [cell["metrics"] for of in report["cells"].values() for cell in of.values()]
    shown += list(report["baselines"].values())
    ends = [min(metrics[metric]["low"], metrics[metric]["value"]) for metrics in shown for metric in SHOWN]
    return int(10 * min(ends)) / 10
