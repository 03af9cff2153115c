# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Faithfulness: do explanations say what the model answers?
#
# A right answer with an explanation that speaks of another emotion is not a faithful one, and accuracy does not notice.
# This notebook takes the responses apart: how many are right, how many are coherent, where an arm gains, which clips
# changed, and whether the verifier that gave the reward can be trusted.

# %%
from pathlib import Path

import pandas as pd

from erv_lightning.analysis import before_after, class_gains, four_cells, load_arms, verifier_against_judges
from erv_lightning.evaluation import evaluate
from erv_lightning.judges import VerifierJudge
from erv_lightning.report.ablation_charts import gains_figure
from erv_lightning.report.charts import cells_figure, confusion_figure

pd.options.display.max_colwidth = 220
RUNS = Path("demo_runs")  # or your own: Path("../runs/demo")
JUDGE = "grammar"

# %% [markdown]
# Three arms with three seeds each, tested on the same 350 clips: `sft` (fine-tuned, no reward), `grpo/accuracy`
# (rewarded for form and answer) and `grpo/explanation` (rewarded for the explanation too).

# %%
folders = [*RUNS.glob("sft/*"), *RUNS.glob("grpo/accuracy-*"), *RUNS.glob("grpo/explanation-*")]
sft, accuracy, explanation = load_arms(sorted(folders, key=lambda run: (run.parent.name != "sft", run.name)))

# %% [markdown]
# ## The four cells
#
# Every response falls into one of four cells. The answer is the label (*right*) or not (*wrong*). The emotion that the
# judge reads in the explanation is the answer (*coherent*) or not (*incoherent*).
#
# - **right, coherent**: what we want. Its share is FCR.
# - **right, incoherent**: the answer is right, the explanation speaks of something else. Accuracy cannot see this.
# - **wrong, coherent**: an honest mistake. The explanation tells why the model answered so.
# - **wrong, incoherent**: neither.
#
# Look at the second cell. The reward for answers alone makes more answers right, and most of the new ones land there.

# %%
cells = {arm.name: four_cells(arm, JUDGE) for arm in (sft, accuracy, explanation)}
cells_figure(cells)

# %% [markdown]
# The same in numbers, with 95 % intervals over seeds and clips. `clips` counts the responses of all three seeds.

# %%
pd.concat(cells, names=["arm"]).droplevel(1).drop(columns="seeds").round(3)

# %% [markdown]
# ## Gains class by class
#
# A mean hides classes. Here is what `grpo/explanation` gains over `grpo/accuracy` in FCR on the clips of each emotion,
# paired clip by clip. An interval that reaches over zero means that we do not know. `p_holm` is the p of a permutation
# test over the clips, adjusted for seven tests. The interval also asks how much the seeds differ, and is the stricter
# of the two here.

# %%
gains = class_gains(explanation, accuracy, JUDGE, "fcr")
gains_figure(gains, "FCR, grpo/explanation minus grpo/accuracy")

# %%
gains.round(3)

# %% [markdown]
# *Sad* is the weak one: its interval reaches below zero. The confusion matrices of one seed show why. Rows are true
# labels; the left matrix is what was answered, the right one what the judge read in the explanation.

# %%
confusion_figure(evaluate(explanation.predictions[0], [JUDGE], draws=1).confusions[0])

# %% [markdown]
# In this seed, clips that are sad are mostly *answered* sad but *explained* as neutral. A sentence that is neutral does
# not count against an explanation in the reward, so that a policy can play safe by sounding neutral. Other seeds do not
# do this, which is why the interval is wide.
#
# ## The same clip before and after
#
# *Repaired*: the answer was right both times, and the explanation fits it only now. The choice is no one's taste: clips
# in the order of their numbers, one of each class in turn.

# %%
repaired = before_after(accuracy, explanation, JUDGE, n=3, kind="repaired")
print(f"{repaired.attrs['found']} such clips in {explanation.seeds[0]}")
repaired.drop(columns=["dataset", "clip"]).set_index("id").transpose()

# %% [markdown]
# The other direction exists too, and should be looked at as closely: *undone* explanations fitted before and do not
# now.

# %%
undone = before_after(accuracy, explanation, JUDGE, n=3, kind="undone")
print(f"{undone.attrs['found']} such clips in {explanation.seeds[0]}")
undone.drop(columns=["dataset", "clip"]).set_index("id").transpose()

# %% [markdown]
# ## A group of completions
#
# GRPO lets the policy answer the same clip eight times and prefers what earned more than the others. The *advantage* is
# the reward against the mean of the group, divided by its spread. Here is one group late in training.

# %%
rollouts = pd.read_json(RUNS / "grpo/explanation-seed0/rollouts.jsonl", lines=True)
late = rollouts[rollouts["step"] == rollouts["step"].max()]
spread = late.groupby("id")["reward"].std().idxmax()
group = late[late["id"] == spread]
print("label:", group["label"].iloc[0])
group[["completion", "answer", "explanation", "rewards", "reward", "advantage"]].set_index("completion")

# %% [markdown]
# ## The verifier against the judge
#
# The verifier gives the reward, the judge measures. If the two disagreed more on the arm that the verifier rewarded,
# the policy might have learnt to please it. Here it reads all explanations of all arms. *Equal* is the share of equal
# readings; Cohen's κ takes out what chance alone would give (0 is chance, 1 is full agreement).

# %%
verifier = VerifierJudge(str(RUNS / "verifier/seed0/export"))
verifier_against_judges([sft, accuracy, explanation], verifier, [JUDGE]).round(3)

# %% [markdown]
# They agree almost always, and as much on the rewarded arm as on the others: no sign of reward hacking. That is easy
# here, since both know the same small language. On real text a verifier errs more often; `04_reward_ablation` shows
# what then becomes of the gain.
#
# **Limits.** Synthetic clips, a tiny model, three seeds, one judge that cannot err. With a judge that does, read
# explanations yourself before you believe a number.
