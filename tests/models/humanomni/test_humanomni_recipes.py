"""The recipes of configs/recipes, each run for two steps on a miniature of its backbone and a few built-in clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli_fixtures import ROOT, Checkout, losses
from humanomni_miniature import FRAMES, write

pytest_plugins = ("cli_fixtures",)

RECIPES = sorted(path.stem for path in (ROOT / "configs" / "recipes").glob("*.yaml"))
POLICIES = [name for name in RECIPES if name not in ("emer_sft", "verifier")]

# In folders named like config groups: what a recipe trains first gets them too.
SMALL = {
    "data/recipe.yaml": f"""\
data:
  source:
    class_path: erv_lightning.data.readers.SyntheticClips
    init_args: {{train: 28, rl: 12, val: 7, test: 9}}
  num_frames: {FRAMES}
  num_workers: 0
  eval_batch_size: 4
""",
    "judge/recipe.yaml": "model: {init_args: {judge: {class_path: erv_lightning.judges.GrammarJudge}}}\n",
    "trainer/recipe.yaml": """\
max_new_tokens: 12
trainer: {accelerator: cpu, precision: null, max_steps: 2, val_check_interval: 1, check_val_every_n_epoch: null,
          limit_val_batches: 1, enable_progress_bar: false, enable_model_summary: false}
""",
}
# the recipe's own run alone: so many prompts are not there, and the classifier of the hub is not either
GRPO = ("--prompts_per_step", "4", "--model.generations_per_prompt", "2")
OVERLAYS = tuple(word for name in SMALL for word in ("-c", f"tiny/{name}"))


@pytest.fixture(scope="module")
def workshop(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The checkout with a miniature under the names that the recipes give their backbones."""
    for name, text in SMALL.items():
        (checkout.folder / "tiny" / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout.folder / "tiny" / name).write_text(text)
    for size in ("0.5b", "7b"):
        write(checkout.folder / "models" / f"humanomni_{size}")
    words = ("-c", "configs/recipes/verifier.yaml", "-c", "tiny/data/recipe.yaml", "--model.pretrained", "tiny")
    done = checkout.run("fit", *words, "--trainer.max_steps", "2", "--batch_size", "8", "--runs", "recipes")
    assert done.status == 0, done.err
    # the cold start of the 7B; that of the 0.5B is left for R1-Omni's recipe to train
    done = checkout.run("fit", "-c", "configs/recipes/emer_sft.yaml", *OVERLAYS, "--runs", "recipes")
    assert done.status == 0, done.err
    return checkout


def test_there_is_a_recipe_for_each_published_set_up() -> None:
    assert {"r1_omni", "erv", "erv_gated", "care", "caemer_style"} == set(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
def test_a_recipe_trains_what_it_starts_from_and_itself(workshop: Checkout, name: str) -> None:
    recipe = yaml.safe_load((ROOT / "configs" / "recipes" / f"{name}.yaml").read_text())
    done = workshop.run("fit", "-c", f"configs/recipes/{name}.yaml", *OVERLAYS, *GRPO, "--runs", "recipes")
    assert done.status == 0, done.err
    root = workshop.folder / "recipes"
    cold = yaml.safe_load((root / "sft" / recipe["from_sft"] / "config.yaml").read_text())
    assert cold["base"] == recipe["base"]
    assert cold["model"]["init_args"]["lr"] == 2e-5
    assert cold["model"]["init_args"]["backbone"]["class_path"].endswith("HumanOmniBackbone")
    run = root / "grpo" / recipe["name"]
    assert len(losses(run)) == 2
    settings = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    assert settings["rewards"] == recipe["model"]["init_args"]["rewards"]
    assert (settings["beta"], settings["lr"], settings["sampling"]["temperature"]) == (0.04, 1e-6, 1.0)
    assert (settings["evaluation"]["temperature"], settings["evaluation"]["top_p"]) == (0.3, 0.9)
    assert json.loads((run / "export" / "config.json").read_text())["model_type"] == "humanomni"


@pytest.mark.parametrize("name", POLICIES)
def test_a_recipe_is_the_papers_but_for_its_reward(name: str) -> None:
    erv, other = (yaml.safe_load((ROOT / "configs" / "recipes" / f"{one}.yaml").read_text()) for one in ("erv", name))
    assert other["data"] == erv["data"]
    assert other["trainer"] == erv["trainer"]
    own = {"rewards", "verifier", "reference_decay", "generations_per_prompt"}
    kept = [{key: value for key, value in one["model"]["init_args"].items() if key not in own} for one in (erv, other)]
    assert kept[0] == kept[1]
    assert other["model"]["init_args"]["generations_per_prompt"] == (16 if other["base"].endswith("0.5b") else 4)


def test_a_recipe_whose_cold_start_has_no_config_says_so(workshop: Checkout, tmp_path: Path) -> None:
    words = ("--sft_config", "nowhere.yaml", "--runs", str(tmp_path))
    line = workshop.run("fit", "-c", "configs/recipes/r1_omni.yaml", *OVERLAYS, *words).error
    assert "sft_config 'nowhere.yaml'" in line
