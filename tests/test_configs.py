"""Every shipped config: it opens with the command that runs it, and that command is understood."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_fixtures import ROOT, Checkout

from erv_lightning.runs import STAGES

pytest_plugins = ("cli_fixtures",)

CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
WHOLE = ("configs", "recipes")  # folders of configs that stand alone
OVERLAYS = [config for config in CONFIGS if Path(config).parent.name not in WHOLE]

# What each group of overlays may be put on.
STAGES_OF = {
    "data": STAGES,
    "debug": STAGES,
    "judge": ("sft", "grpo"),
    "logger": STAGES,
    "model": ("sft", "grpo"),
    "objective": ("grpo",),
    "reward": ("grpo",),
    "trainer": STAGES,
    "verifier": ("verifier",),
}
PAIRS = [(stage, overlay) for overlay in OVERLAYS for stage in STAGES_OF[Path(overlay).parent.name]]


def opening_command(config: str) -> list[str]:
    """The words after `python -m erv_lightning` in the comment that the file opens with."""
    lines = (ROOT / config).read_text(encoding="utf-8").splitlines()
    comment = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    found = re.findall(r"python -m erv_lightning (.+)", comment)
    assert len(found) == 1, f"{config} does not open with one command"
    return shlex.split(found[0])


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every setting of nested mappings and lists of them, with the way to it."""
    if isinstance(node, list) and node and all(isinstance(item, dict) for item in node):
        node = dict(enumerate(node))
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def printed(checkout: Checkout, *words: str) -> dict[str, Any]:
    """What `--print_config` says."""
    outcome = checkout.run(*words, "--print_config")
    assert (outcome.status, outcome.err) == (0, "")
    return yaml.safe_load(outcome.out)


def assert_holds(settings: dict[str, Any], config: str) -> None:
    """Every setting of the file stands in the resolved settings, with its value."""
    for path, value in leaves(yaml.safe_load((ROOT / config).read_text())):
        found: Any = settings
        for key in path:
            there = key in found if isinstance(found, dict) else key < len(found)
            assert there, f"{config}: {'.'.join(map(str, path))} was dropped"
            found = found[key]
        if "${" not in str(value):
            assert found == value, ".".join(map(str, path))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_opens_with_a_command_that_uses_it_and_is_understood(checkout: Checkout, config: str) -> None:
    words = opening_command(config)

    assert config in words
    assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))
    assert words[0] == "fit"
    printed(checkout, *words)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_config_says_its_stage_and_all_its_settings_arrive(checkout: Checkout, stage: str) -> None:
    settings = printed(checkout, "fit", "-c", f"configs/{stage}.yaml")

    assert (settings["stage"], settings["name"], settings["runs"]) == (stage, "default", "runs")
    assert_holds(settings, f"configs/{stage}.yaml")


@pytest.mark.parametrize(("stage", "overlay"), PAIRS)
def test_an_overlay_goes_on_every_stage_of_its_group(checkout: Checkout, stage: str, overlay: str) -> None:
    settings = printed(checkout, "fit", "-c", f"configs/{stage}.yaml", "-c", overlay)

    assert settings["stage"] == stage
    assert_holds(settings, overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_names_a_stage_only_if_it_is_for_that_stage_alone(overlay: str) -> None:
    stages = STAGES_OF[Path(overlay).parent.name]
    named = yaml.safe_load((ROOT / overlay).read_text()).get("stage")

    assert named == (stages[0] if len(stages) == 1 else None)


def test_settings_on_the_command_line_win_over_files_and_reach_what_refers_to_them(checkout: Checkout) -> None:
    words = ("fit", "-c", "configs/grpo.yaml", "--runs", "elsewhere", "--from_sft", "mine", "--max_new_tokens", "9")
    settings = printed(checkout, *words, "--model.beta", "0.5", "--seed_everything", "7")

    model = settings["model"]["init_args"]
    assert model["backbone"]["init_args"]["pretrained"] == "elsewhere/sft/mine/export"
    assert model["verifier"] == "elsewhere/verifier/default/export"
    assert (model["sampling"]["max_new_tokens"], model["evaluation"]["max_new_tokens"]) == (9, 9)
    assert model["beta"] == 0.5


def test_an_overlay_of_rewards_replaces_them_whole(checkout: Checkout, tmp_path: Path) -> None:
    overlay = tmp_path / "answers.yaml"
    overlay.write_text("model:\n  init_args:\n    verifier: null\n    rewards: {accuracy: 2.0}\n")
    settings = printed(checkout, "fit", "-c", "configs/grpo.yaml", "-c", str(overlay))

    assert settings["model"]["init_args"]["rewards"] == {"accuracy": 2.0}
