"""Makes `demo_runs`, the small copy of the demo's runs that the notebooks read, from whole ones.

    python -m erv_lightning demo --seeds 3
    python -m erv_lightning sweep -c notebooks/demo_sweep.yaml --local --runs runs/demo
    python notebooks/thin_runs.py runs/demo notebooks/demo_runs

Predictions, summaries and configs are copied whole. Metrics keep six digits. Of the rollouts every 20th step of seed 0
stays. Of the models only the small verifier of seed 0 comes along, which the notebooks ask.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd

ARMS = ("sft/seed", "grpo/accuracy-seed", "grpo/explanation-seed")
WHOLE = ("predictions.jsonl", "summary.json", "config.yaml")
VERIFIER = Path("verifier", "seed0", "export")
SWEEP = Path("sweeps", "demo_sweep", "sweep.jsonl")


def main(argv: list[str] | None = None) -> None:
    """Reads the command line and copies."""
    parser = argparse.ArgumentParser(description="Makes a small copy of the demo's runs.")
    parser.add_argument("runs", type=Path, help="the demo's runs, e.g. runs/demo")
    parser.add_argument(
        "out", type=Path, help="where the copy goes, e.g. notebooks/demo_runs; files there are replaced"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default: 3)")
    parser.add_argument("--every", type=int, default=20, help="of how many steps one keeps its rollouts (default: 20)")
    args = parser.parse_args(argv)
    for arm in ARMS:
        for seed in range(args.seeds):
            thin(args.runs / f"{arm}{seed}", args.out / f"{arm}{seed}", args.every if seed == 0 else None)
    shutil.copytree(args.runs / VERIFIER, args.out / VERIFIER, dirs_exist_ok=True)
    if (args.runs / SWEEP).is_file():
        (args.out / SWEEP).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.runs / SWEEP, args.out / SWEEP)


def thin(run: Path, out: Path, every: int | None) -> None:
    """Copies what the notebooks read of a run.

    Args:
        run: its folder.
        out: the copy's folder.
        every: of how many steps one keeps its rollouts; None: no rollouts.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in WHOLE:
        shutil.copyfile(run / name, out / name)
    pd.read_csv(run / "metrics.csv").to_csv(out / "metrics.csv", index=False, float_format="%.6g")
    rollouts = run / "rollouts.jsonl"
    if every is None or not rollouts.is_file():
        return
    with rollouts.open(encoding="utf-8") as lines, (out / rollouts.name).open("w", encoding="utf-8") as kept:
        kept.writelines(line for line in lines if json.loads(line)["step"] % every == 0)


if __name__ == "__main__":
    main()
