"""What the notebooks call: reads runs, compares them, and looks closer. Each name lives in a module by its subject.

- `erv_lightning.results`: predictions of runs, and which runs are one arm.
- `erv_lightning.curves`: what runs logged, from files, an offline W&B run, or W&B's server.
- `erv_lightning.estimates`: metrics with intervals, differences with tests, agreement of judges.
- `erv_lightning.faithfulness`: the four cells, gains by class, the same clip before and after, verifier and judges.
- `erv_lightning.ablations`: trials of a sweep, arms by their rewards, rewards by the quality of their verifier.
"""

from __future__ import annotations

from erv_lightning.ablations import ablation_table, sweep_table, verifier_quality_table
from erv_lightning.curves import curve_bands, load_curves
from erv_lightning.estimates import (
    DRAWS,
    LEVEL,
    SWAPS,
    Difference,
    Estimate,
    Sampling,
    agreement_of,
    bootstrap,
    clip_design,
    differences,
    how_drawn,
    resample,
)
from erv_lightning.faithfulness import CELLS, before_after, class_gains, four_cells, verifier_against_judges
from erv_lightning.results import Arm, load_arms, load_predictions
from erv_lightning.stats.resampling import interval
from erv_lightning.tallies import METRICS

__all__ = [
    "CELLS",
    "DRAWS",
    "LEVEL",
    "METRICS",
    "SWAPS",
    "Arm",
    "Difference",
    "Estimate",
    "Sampling",
    "ablation_table",
    "agreement_of",
    "before_after",
    "bootstrap",
    "class_gains",
    "clip_design",
    "curve_bands",
    "differences",
    "four_cells",
    "how_drawn",
    "interval",
    "load_arms",
    "load_curves",
    "load_predictions",
    "resample",
    "sweep_table",
    "verifier_against_judges",
    "verifier_quality_table",
]
