# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Metric curves: what happened while training
#
# One function, `load_curves`, reads what a run logged, wherever that was: a CSV file, JSON lines, an offline W&B run,
# or W&B's server. It always gives the same table: a row for each metric and step. This notebook reads one run in these
# ways, draws curves of several seeds, and shows a sweep.

# %%
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import wandb

from erv_lightning.analysis import curve_bands, load_curves, sweep_table
from erv_lightning.report.ablation_charts import parallel_figure
from erv_lightning.report.charts import curve_figure

RUNS = Path("demo_runs")  # or your own: Path("../runs/demo")
SEEDS = ("seed0", "seed1", "seed2")

# %% [markdown]
# ## From a run folder
#
# Every run writes `metrics.csv` into its folder. A metric has a value only at the steps where it was logged: training
# metrics at each step, validation metrics at each validation.

# %%
run = RUNS / "grpo/explanation-seed0"
curves = load_curves(run)
print(curves["metric"].nunique(), "metrics,", len(curves), "values")
curves[curves["metric"] == "val/fcr"]

# %% [markdown]
# ## From JSON lines
#
# Other trainers write an object a line. Its step may be called `step`, `global_step` or `_step`. Here the curves from
# above are written in that form and read back.

# %%
scratch = TemporaryDirectory()
lines = Path(scratch.name) / "metrics.jsonl"
rows = [{"step": step, **dict(zip(of["metric"], of["value"], strict=True))} for step, of in curves.groupby("step")]
lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
load_curves(lines).equals(curves)

# %% [markdown]
# ## From an offline W&B run
#
# Without a network, W&B keeps a run in `wandb/offline-run-…` until `wandb sync` uploads it. The folder can be read as
# it is, with no account. This cell logs the validation metrics to such a run, as the W&B logger of a training run does,
# and reads them back.

# %%
with wandb.init(mode="offline", project="notebook", dir=scratch.name, settings=wandb.Settings(silent=True)) as logged:
    for row in rows:
        values = {name: value for name, value in row.items() if name.startswith("val/")}
        logged.log({"trainer/global_step": row["step"], **values})
wandb.teardown()  # W&B's own process writes the file; now it is complete
offline = next(Path(scratch.name).glob("wandb/offline-run-*"))
load_curves(offline).equals(curves[curves["metric"].str.startswith("val/")].reset_index(drop=True))

# %% [markdown]
# ## From W&B's server
#
# Where there is an account (`wandb login`), name the run as in its address. The whole history is read, not the sample
# of 500 points that W&B draws. Set `WANDB_RUN` to try it; without it this cell does nothing.

# %%
if wandb_run := os.environ.get("WANDB_RUN"):  # ENTITY/PROJECT/RUN_ID
    print(load_curves(f"wandb:{wandb_run}").head())
else:
    print("WANDB_RUN is not set: nothing is read from W&B")

# %% [markdown]
# ## Curves over seeds
#
# One run proves little: another seed gives another curve. The line is the mean over three seeds, the band goes from the
# lowest to the highest of them. With three seeds the band is no confidence interval; it shows all there is.

# %%
by_arm = {
    "sft": [],  # no curves of GRPO, but its colour, so that arms look the same in all notebooks
    "grpo/accuracy": [load_curves(RUNS / f"grpo/accuracy-{seed}") for seed in SEEDS],
    "grpo/explanation": [load_curves(RUNS / f"grpo/explanation-{seed}") for seed in SEEDS],
}
curve_bands(by_arm["grpo/explanation"]).query("metric == 'val/fcr'").round(3)

# %% [markdown]
# Validation first. WAR, the share of right answers, is the same in both arms. FCR, right answers whose explanation
# fits, rises only where the explanation is rewarded. In the other arm it stays where fine-tuning left it: a reward for
# answers alone does not teach a model to explain.

# %%
validation = {"val/war": "WAR", "val/eea": "EEA", "val/epc": "EPC", "val/fcr": "FCR"}
curve_figure(by_arm, validation, unit=validation)

# %% [markdown]
# Then the training itself. What to look for:
#
# - **The rewards.** The explanation reward should rise. If accuracy fell meanwhile, the policy would be trading one for
#   the other.
# - **Reward minus judge.** The explanation reward minus what the judge, who rewards nothing, finds right. Here it grows
#   to a few hundredths. If it grew much, the policy would have learnt to please the verifier, not to explain: reward
#   hacking.
# - **Entropy**, how undecided the policy is. A slow fall is learning; a plunge to zero is collapse.
# - **Length.** Explanations that grow without end often do so because length pays. Here they keep theirs.

# %%
training = {
    "train/rewards/accuracy/mean": "accuracy reward",
    "train/rewards/explanation/mean": "explanation reward",
    "train/judge/reward_gap": "reward minus judge",
    "train/entropy": "entropy",
    "train/explanations/words": "words of an explanation",
    "train/kl": "KL divergence from the SFT policy",
}
curve_figure(by_arm, training)

# %% [markdown]
# ## A sweep
#
# `python -m erv_lightning sweep --local` runs a W&B sweep file without an account and keeps its trials in
# `sweep.jsonl`. A sweep on W&B's server is read with `sweep_table("wandb:ENTITY/PROJECT/SWEEP_ID")`. Here are the
# twelve short trials of `demo_sweep.yaml`, which draws two weights, β and the loss at random.

# %%
trials = sweep_table(RUNS / "sweeps/demo_sweep")
trials.round(3)

# %% [markdown]
# Each line is a trial. It runs through its settings to the metric that the sweep maximised; bright lines ended high.
# Drag along an axis to keep only the trials in that range. A setting matters where lines that pass it alike end alike.
# Here that is the weight of the explanation reward, `explanation`: the more it weighs, the higher FCR ends. Along
# `beta` and `accuracy` bright and dark lines are mixed. Of `loss_type` this sweep tells nothing: the two trials with
# `grpo` happen to have the smallest weights for the explanation.
#
# Twelve trials of 40 steps with one seed are a hint, no more. The best of many is partly luck: train it again with
# other seeds, and report it on the test clips.

# %%
parallel_figure(trials)

# %%
scratch.cleanup()
