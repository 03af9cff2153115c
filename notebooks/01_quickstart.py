# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quick start: from a clip to the four numbers
#
# A model watches a clip, explains what it sees and hears, and then names an emotion. Three things can go wrong: the
# answer is wrong, the explanation speaks of another emotion than the clip shows, or the two do not fit together. This
# notebook follows one clip through all of it. Nothing is trained here, and it takes half a minute.
#
# It reads `demo_runs`, a small copy of the demo's runs. For your own runs, change `RUNS`.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import rich
from IPython.display import Video
from PIL import Image

from erv_lightning.analysis import METRICS, bootstrap, load_arms
from erv_lightning.data.media import MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.explaining import explain
from erv_lightning.labels import DFEW
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.report.charts import comparison_figure
from erv_lightning.report.explanation import rendered

RUNS = Path("demo_runs")  # or your own: Path("../runs/demo")
CLIPS = "../data/synthetic"  # where the built-in clips are, or will be made

# %% [markdown]
# ## A clip
#
# The built-in clips are drawn faces with synthesised voices, one second each. They stand in for real recordings, which
# cannot be shipped. They are computed from a seed, so that the fourteen clips made here are, bit by bit, the first
# fourteen test clips of the demo. Neither face nor voice tells all: this face can be surprise or fear, and only the
# voice decides, which is lively in surprise and trembles in fear. Play it with sound.

# %%
source = SyntheticClips(CLIPS, train=0, rl=0, val=0, test=14)
source.prepare()
sample = source.samples("test")[11]
Video(sample.clip, embed=True, width=224, html_attributes="controls")

# %% [markdown]
# The model does not see every frame. It gets four, evenly spaced, and the sound. The label is what it should answer.

# %%
clip = load_clip(sample.clip, MediaSettings(num_frames=4))
print(f"question: {sample.question}   label: {sample.label}")
print(f"frames {tuple(clip.frames.shape)}, sound {tuple(clip.audio.shape)} at {clip.sample_rate} Hz")
Image.fromarray(np.concatenate(list(clip.frames.permute(0, 2, 3, 1).numpy()), axis=1))

# %% [markdown]
# ## What the models say
#
# An *arm* is one way of training, here repeated with three seeds:
#
# - `sft` was fine-tuned on written explanations, 40 % of which describe another emotion than the clip shows;
# - `grpo/accuracy` was trained further by reinforcement learning (GRPO). It was rewarded for the form of the response
#   and for the right answer;
# - `grpo/explanation` was rewarded for what the explanation conveys as well.
#
# A response has an explanation in `<think>` and an answer in `<answer>`. All three answers are right. Read the three
# explanations: which of them speaks of the emotion that the answer names?

# %%
folders = [*RUNS.glob("sft/*"), *RUNS.glob("grpo/accuracy-*"), *RUNS.glob("grpo/explanation-*")]
arms = load_arms(sorted(folders, key=lambda run: (run.parent.name != "sft", run.name)))
for arm in arms:
    row = arm.predictions[0].set_index("id").loc[sample.id]
    print(f"{arm.name}\n  {row['response']}\n")

# %% [markdown]
# ## What the verifier reads in an explanation
#
# The *verifier* is a small text classifier. It reads one sentence at a time and gives each emotion a probability. It
# sees neither the clip nor the answer. The explanation reward is computed from it: it pays for sentences that convey
# the label. A neutral sentence ("the voice is even") does not count against the explanation.
#
# Below, each sentence of the SFT model's explanation with the emotions that the verifier reads in it, and what each
# variant of the reward would pay if the answer were right.

# %%
verifier = EmotionVerifier.from_pretrained(RUNS / "verifier/seed0/export").requires_grad_(False).eval()
said = arms[0].predictions[0].set_index("id").loc[sample.id, "explanation"]
rich.print(rendered(explain(said, verifier, DFEW, label=sample.label), DFEW))

# %% [markdown]
# The same for the arm with the explanation reward.

# %%
said = arms[-1].predictions[0].set_index("id").loc[sample.id, "explanation"]
rich.print(rendered(explain(said, verifier, DFEW, label=sample.label), DFEW))

# %% [markdown]
# ## The numbers
#
# With the label y, the answer ŷ, and the emotion ê that a *judge* reads in the whole explanation:
#
# | | what it is | in words |
# |---|---|---|
# | WAR | P(ŷ = y) | share of right answers |
# | UAR | mean over classes of P(ŷ = y) in the class | the same, every emotion counting alike |
# | EEA | P(ê = y) | explanations that convey the true emotion |
# | EPC | P(ê = ŷ) | explanations that fit the answer, right or wrong |
# | FCR | P(ê = ŷ = y) | right answer with an explanation that fits it |
#
# The judge is never the verifier: a reward must not be its own examiner. Here the judge is `grammar`, which knows the
# language that the demo's explanations are written in, and makes no mistakes in it. Real text needs another judge.
#
# Values are means over the seeds. The brackets are 95 % intervals over seeds and clips together.

# %%
sampling = bootstrap(arms, "grammar", draws=2000)
estimates = {name: of.estimates() for name, of in sampling.items()}
pd.DataFrame(
    {
        METRICS[key]: {
            arm: f"{of[key].value:.3f} [{of[key].low:.3f}, {of[key].high:.3f}]" for arm, of in estimates.items()
        }
        for key in ("war", "uar", "eea", "epc", "fcr")
    }
)

# %% [markdown]
# Look at WAR and UAR, then at the three groups on the right. Without a reward for the explanation, the model answers
# well and explains badly: in four responses of ten only is the answer right and the explanation fits it (FCR). With
# it, answers stay as good, and eight of ten are right and explained so.

# %%
comparison_figure(estimates)

# %% [markdown]
# ## Make such runs yourself
#
# All of the above, on this machine, without a GPU: about ten minutes a seed.
#
# ```sh
# python -m erv_lightning demo
# ```
#
# or stage by stage, each a config file and the settings that you want otherwise:
#
# ```sh
# python -m erv_lightning fit  -c configs/sft.yaml
# python -m erv_lightning fit  -c configs/verifier.yaml
# python -m erv_lightning fit  -c configs/grpo.yaml --trainer.max_steps 60 --name short
# python -m erv_lightning test -c configs/grpo.yaml --name short
# python -m erv_lightning compare runs/sft/default runs/grpo/short
# ```
#
# **What this does not show.** The clips are synthetic, the model is tiny, there are three seeds, and the explanations
# follow a small grammar. The demo shows that the method and the code do what they should. It says nothing about how
# much the method gains on real recordings.
