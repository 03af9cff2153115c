"""The README keeps its word: its commands are understood, its links lead somewhere, its numbers were measured."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

import pytest
import yaml
from cli_fixtures import ROOT, Checkout

from erv_lightning.__main__ import VERBS
from erv_lightning.commands import compare

pytest_plugins = ("cli_fixtures",)

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(?:bash|sh|shell|console)?\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINES = [line.split(" #")[0].strip().removeprefix("$ ") for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line.partition("erv_lightning ")[2] for line in LINES if re.match(r"\S*python -m erv_lightning ", line)]
LIGHTNING = [command for command in COMMANDS if re.match(r"(fit|validate|test|predict) -c ", command)]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]


# -- commands ----------------------------------------------------------------------------------------------------


def test_the_readme_shows_every_stage_and_the_comparison() -> None:
    text = "\n".join(COMMANDS)
    assert all(f"configs/{stage}.yaml" in text for stage in ("sft", "verifier", "grpo"))
    assert any(command.startswith("compare") for command in COMMANDS)
    assert {command.split()[0] for command in COMMANDS} <= set(VERBS)


@pytest.mark.parametrize("command", LIGHTNING)
def test_a_command_of_the_readme_is_understood(checkout: Checkout, command: str) -> None:
    words = shlex.split(command)
    outcome = checkout.run(*words, *([] if "--print_config" in words else ["--print_config"]))

    assert (outcome.status, outcome.err) == (0, "")
    named = yaml.safe_load((ROOT / words[words.index("-c") + 1]).read_text())
    assert yaml.safe_load(outcome.out)["stage"] == named["stage"]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in LIGHTNING])
def test_another_verb_of_the_readme_is_understood(checkout: Checkout, command: str) -> None:
    verb, *words = shlex.split(command)
    if verb == "compare":
        assert compare._parser().parse_args(words).runs
    else:
        with pytest.raises(SystemExit) as stop:
            checkout.run(verb, *words, "--help")
        assert stop.value.code == 0


def test_the_make_verbs_of_the_readme_exist() -> None:
    named = {line.split()[1] for line in LINES if line.startswith("make ")}
    assert {"demo", "test"} <= named
    for verb in named:
        done = subprocess.run(["make", "-n", verb], cwd=ROOT, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr


# -- links -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_picture_of_a_page_exists(page: str) -> None:
    folder = (ROOT / page).parent
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:|#", target)]

    assert [target for target in targets if not (folder / target.split("#")[0]).exists()] == []


def test_nothing_is_left_to_fill_in() -> None:
    assert re.findall(r"@@\w*|TODO|FIXME|XXX", README) == []


# -- numbers -----------------------------------------------------------------------------------------------------


def shown() -> str:
    """What stands between the markers."""
    found = re.search(r"<!-- comparison:begin -->\n(.*?)<!-- comparison:end -->", README, re.DOTALL)
    assert found, "the README has no comparison"
    return found[1].strip()


def test_the_table_is_the_one_that_compare_wrote() -> None:
    written = (ROOT / "docs" / "results" / "comparison.md").read_text(encoding="utf-8")
    table = re.search(r"(?:^\|.*\n)+", written, re.MULTILINE)

    assert table is not None
    assert shown() == table[0].strip()


def test_the_numbers_of_the_table_are_the_measured_ones() -> None:
    arms = json.loads((ROOT / "docs" / "results" / "comparison.json").read_text())["arms"]
    rows = {
        cells[0].strip("*"): cells[1:]
        for line in shown().splitlines()
        if (cells := [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))])[0].startswith("**")
    }

    assert list(rows) == [arm["name"] for arm in arms]
    for arm in arms:
        for cell, metric in zip(rows[arm["name"]], arm["metrics"].values(), strict=True):
            expected = [metric["value"], metric["low"], metric["high"]]
            assert [float(number) for number in re.findall(r"-?\d\.\d+", cell)] == pytest.approx(expected, abs=5.1e-4)


def test_the_speed_table_shows_the_measured_ratios() -> None:
    table = README.split("<!-- speed:begin -->")[1].split("<!-- speed:end -->")[0]
    rows = json.loads((ROOT / "benchmarks" / "results" / "grpo_step.json").read_text())["trl"]
    found = [[float(number) for number in re.findall(r"[\d.]+", line)] for line in table.splitlines() if "×" in line]

    assert [cells[0] for cells in found] == [row["prompt"] for row in rows]
    for cells, row in zip(found, rows, strict=True):
        assert cells[1:] == pytest.approx([row["ours_s"], row["theirs_s"], row["ratio"]], abs=0.051)


def test_the_explanation_reward_beats_both_other_arms_as_the_readme_claims() -> None:
    arms = json.loads((ROOT / "docs" / "results" / "comparison.json").read_text())["arms"]
    values = {arm["name"]: {key: metric["value"] for key, metric in arm["metrics"].items()} for arm in arms}
    ours = next(name for name in values if "explanation" in name)
    accuracy = next(name for name in values if "accuracy" in name)

    assert all(len(arm["seeds"]) == 3 for arm in arms)
    for other in set(values) - {ours}:
        assert all(values[ours][metric] >= values[other][metric] + 0.10 for metric in ("eea", "epc", "fcr"))
    assert values[ours]["war"] >= values[accuracy]["war"] - 0.03
