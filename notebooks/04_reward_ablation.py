# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reward ablation: which reward does what?
#
# An *ablation* takes one part away and looks at what is missing. The parts here are the terms of the reward: form,
# accuracy, explanation. The second half asks how good the verifier behind the explanation reward has to be.

# %%
from pathlib import Path

from erv_lightning.analysis import (
    ablation_table,
    bootstrap,
    differences,
    load_arms,
    load_curves,
    verifier_quality_table,
)
from erv_lightning.report.ablation_charts import ablation_figure, quality_figure
from erv_lightning.report.charts import curve_figure

RUNS = Path("demo_runs")  # or your own: Path("../runs/demo")
RESULTS = Path("../docs/results")

# %% [markdown]
# ## Arms by their rewards
#
# `ablation_table` reads each arm's rewards from its `config.yaml` and puts the metrics beside them, with 95 % intervals
# over seeds and clips. WAR is the share of right answers; EEA, EPC and FCR ask whether the explanation conveys the
# label, the answer, or both (`01_quickstart` has the definitions).

# %%
folders = [*RUNS.glob("sft/*"), *RUNS.glob("grpo/accuracy-*"), *RUNS.glob("grpo/explanation-*")]
arms = load_arms(sorted(folders, key=lambda run: (run.parent.name != "sft", run.name)))
table = ablation_table(arms, "grammar")
table.pivot(index=["arm", "rewards"], columns="metric", values="value").round(3)

# %% [markdown]
# Read it column by column. WAR: both GRPO arms gain a little over fine-tuning. EEA, EPC and FCR: the reward for answers
# does not raise them, the reward for explanations doubles EEA and FCR. The one was not bought with the other.

# %%
ablation_figure(table)

# %% [markdown]
# To compare intervals by eye is a coarse look. The right question is the difference on the same clips. A star marks
# what is significant at 5 % after correction for all tests, with an interval that leaves out zero. One star is a loss:
# the reward for answers alone lowers EPC. It corrects answers and leaves explanations as they are, so fewer of them
# fit.

# %%
sft, accuracy, explanation = (arm.name for arm in arms)
sampling = bootstrap(arms, "grammar")
for arm, baseline, found in differences(arms, [(explanation, accuracy), (accuracy, sft)], "grammar", sampling):
    print(f"{arm} minus {baseline}")
    for key in ("war", "eea", "epc", "fcr"):
        one = found[key]
        star = "*" if one.significant else " "
        print(f"  {key} {one.estimate.value:+.3f}{star} [{one.estimate.low:+.3f}, {one.estimate.high:+.3f}]")

# %% [markdown]
# ## The terms while training
#
# Both arms are paid for form and accuracy. The form was learnt before GRPO began. Accuracy rises alike in both.

# %%
terms = {"train/rewards/format/mean": "format", "train/rewards/accuracy/mean": "accuracy"}
terms["train/rewards/explanation/mean"] = "explanation"
terms["train/frac_reward_zero_std"] = "groups whose completions all earn the same"
curves = {arm.name: [load_curves(run) for run in arm.runs] for arm in arms}
curve_figure(curves, terms, unit=terms)

# %% [markdown]
# A group in which all completions earn the same teaches nothing, since there is nothing to prefer. The last panel shows
# that most groups of the accuracy arm are like that: all eight answers are right. The explanation reward still tells
# completions apart.
#
# ## How good must the verifier be?
#
# The demo's verifier is nearly perfect, which no real one is. `benchmarks/verifier_quality.py` trained verifiers whose
# teacher misreads a share of the phrases, each always in the same way, and nine variants of the explanation reward with
# each: 60 steps, three seeds. The judge that measures misreads nothing. The results are in the repository.

# %%
quality = verifier_quality_table(RESULTS / "verifier_quality.json")
fcr = quality[quality["metric"] == "fcr"]
fcr.pivot(index="reward", columns="noise", values="value").round(3)

# %% [markdown]
# The lines fall slowly and the intervals widen. With a teacher that misreads six phrases in ten, and so a verifier with
# an F1 of 0.37, the explanation reward still raises FCR on average well above the arms without it, but it depends more
# on the seed. Which variant is best cannot be told: their intervals overlap nearly everywhere.

# %%
quality_figure(quality, "fcr", ["SFT", "format + accuracy", "paper", "top1", "gated", "self_consistent"])

# %% [markdown]
# WAR, the share of right answers, hardly moves: a poor verifier harms the explanations, not the answers.

# %%
quality_figure(quality, "war", ["SFT", "format + accuracy", "paper", "top1", "gated", "self_consistent"])

# %% [markdown]
# **Limits.** The noise is made: phrases misread at random. A real verifier errs where language is hard, and a policy
# can find such a place and stay there. The clips are synthetic, the model is tiny, and there are three seeds. Take from
# this which questions to ask of your own runs, not which reward to use.
