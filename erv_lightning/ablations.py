"""What a setting does to the metrics: trials of a sweep, arms by rewards, rewards by verifier. No drawing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from erv_lightning.curves import ask_wandb
from erv_lightning.estimates import DRAWS, Estimate, bootstrap
from erv_lightning.results import Arm

_PREFIX = "model.init_args."


def sweep_table(source: Path | str) -> pd.DataFrame:
    """The trials of a sweep, a row each, for `report.ablation_charts.parallel_figure`.

    Args:
        source: the folder that `sweep --local` left (``runs/sweeps/NAME``), or its ``sweep.jsonl``; or
            ``wandb:ENTITY/PROJECT/SWEEP_ID``, a sweep on W&B's server, where there is an account.

    Returns:
        ``trial``, ``state``, a column for each parameter (without ``model.init_args.``), ``best`` and ``last`` value of
        the sweep's metric (NaN for a trial that has none), the best trial first. ``attrs["metric"]`` is the metric's
        name, ``attrs["parameters"]`` the parameters' columns.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: the file is none of a sweep.
        ConfigError: W&B has no account, no such sweep, or does not answer.
    """
    if isinstance(source, str) and source.startswith("wandb:"):
        path = source.removeprefix("wandb:")
        if path.count("/") != 2:
            raise ValueError(f"{source} names no sweep: write wandb:ENTITY/PROJECT/SWEEP_ID, as in the sweep's address")
        sweep, trials = ask_wandb(lambda api: _of_server(api.sweep(path)), source)
    else:
        sweep, trials = _of_ledger(Path(source))
    maximise = sweep["metric"].get("goal", "minimize") == "maximize"  # W&B's default
    best: Callable[[list[float]], float] = max if maximise else min
    rows = []
    for trial in trials:
        values = [value for value in trial["values"] if math.isfinite(value)]
        ends = {"best": best(values), "last": values[-1]} if values else {"best": math.nan, "last": math.nan}
        rows.append({"trial": trial["id"], "state": trial["state"], **_short(trial["params"]), **ends})
    table = pd.DataFrame(rows)
    table = table.sort_values("best", ascending=not maximise, kind="stable", ignore_index=True)
    table.attrs |= {"metric": sweep["metric"]["name"], "parameters": list(_short(trials[0]["params"]))}
    return table


def _short(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(_PREFIX): value for name, value in params.items()}


def _of_ledger(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The sweep file's content, and each trial as it was last noted; see `erv_lightning.sweeping.trials`."""
    path = path / "sweep.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; python -m erv_lightning sweep --local writes it")
    try:
        text = path.read_text(encoding="utf-8")
        first, *rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        trials = {row["id"]: row for row in rows}
        sweep: dict[str, Any] = first["sweep"]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no sweep.jsonl of sweep --local") from None
    if not trials:
        raise ValueError(f"{path} has no trial yet")
    return sweep, list(trials.values())


def _of_server(sweep: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A `wandb.apis.public.Sweep`. The metric's whole history is read, since the best value need not be the last."""
    metric = sweep.config["metric"]["name"]
    names = sweep.config["parameters"]
    trials = [
        {
            "id": run.id,
            "state": run.state,
            "params": {name: run.config[name] for name in names if name in run.config},
            "values": [float(row[metric]) for row in run.scan_history(keys=[metric])],
        }
        for run in sweep.runs
    ]
    if not trials:
        raise ValueError("the sweep has no trial yet")
    return sweep.config, trials


# -- rewards ------------------------------------------------------------------------------------------------------


def ablation_table(
    arms: Sequence[Arm],
    judge: str,
    metrics: Sequence[str] = ("war", "eea", "epc", "fcr"),
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """The metrics of arms beside the rewards that they were trained with.

    Args:
        arms: tested on the same clips; their runs' ``config.yaml`` tell the rewards.
        judge: whose reading of the explanations counts.
        metrics: keys of those that are wanted.
        draws, seed: of the bootstrap.

    Returns:
        A row for each arm and metric: ``arm``, ``rewards`` (in words: ``format + 0.5 × explanation``; "none" for one
        trained without reward), ``metric``, ``value``, ``low``, ``high`` (95 % interval), ``seeds``.

    Raises:
        FileNotFoundError: a run has no config.
        ValueError: the arms were tested on different clips.
    """
    estimates = {name: one.estimates() for name, one in bootstrap(arms, judge, draws=draws, seed=seed).items()}
    return pd.DataFrame(
        [
            {"arm": arm.name, "rewards": rewards_of(arm.runs[0]), "metric": key, **_numbers(estimates[arm.name][key])}
            for arm in arms
            for key in metrics
        ]
    )


def rewards_of(run: Path) -> str:
    """The rewards of a run in words, from its ``config.yaml``; those with weight 0 are left out.

    Raises:
        FileNotFoundError: it has no config.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; training writes it")
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    weights: dict[str, float] = config["model"]["init_args"].get("rewards") or {}
    told = [name if weight == 1 else f"{weight:g} × {name}" for name, weight in weights.items() if weight]
    return " + ".join(told) or "none"


def verifier_quality_table(path: Path) -> pd.DataFrame:
    """How good must the verifier be? The numbers of `benchmarks/verifier_quality.py` as a long table.

    Args:
        path: ``docs/results/verifier_quality.json``.

    Returns:
        A row for each share of noise, variant of the explanation reward and metric: ``noise`` (per cent of the phrases
        that the verifier's teacher misreads), ``verifier_f1`` (mean over seeds), ``reward``, ``metric``, ``value``,
        ``low``, ``high`` (95 % interval), ``seeds``. The baselines have no verifier and stand at every noise.
    """
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for noise, f1 in report["verifiers"].items():
        variants = {reward: of[noise]["metrics"] for reward, of in report["cells"].items()}
        of_noise = {**report["baselines"], **variants}
        for reward, metrics in of_noise.items():
            for key, one in metrics.items():
                numbers = {name: one[name] for name in ("value", "low", "high", "seeds")}
                told = {"noise": int(noise), "verifier_f1": sum(f1) / len(f1), "reward": reward, "metric": key}
                rows.append({**told, **numbers})
    return pd.DataFrame(rows)


def _numbers(one: Estimate) -> dict[str, Any]:
    return {"value": one.value, "low": one.low, "high": one.high, "seeds": one.seeds}
