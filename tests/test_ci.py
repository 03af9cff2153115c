"""The make verbs, and what continuous integration calls."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERBS = ("help", "install", "demo", "test", "lint", "bench", "docs", "docs-serve")


def make(*words: str) -> str:
    done = subprocess.run(["make", *words], cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_without_a_verb_tells_of_every_verb() -> None:
    assert make() == make("help")
    assert all(f"make {verb}" in make("help") for verb in VERBS if verb != "help")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_can_be_made_from_a_fresh_checkout(tmp_path: Path, verb: str) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    planned = make("-n", "-C", str(tmp_path), verb)

    if verb != "help":
        assert "-m venv .venv" in planned
        assert re.search(r"pip install .*-c constraints\.txt -e '\.\[dev\]'", planned)


def test_make_hands_its_variables_on() -> None:
    assert "demo --seeds 3" in make("-n", "demo", "SEEDS=3")
    assert re.search(r"-m pytest .*-k grpo -x", make("-n", "test", "ARGS=-k grpo -x"))


def test_lint_checks_format_style_and_types() -> None:
    planned = make("-n", "lint")
    assert all(tool in planned for tool in ("ruff format --check", "ruff check", "mypy"))


def test_continuous_integration_lints_then_tests_and_stops_at_the_first_failure() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")

    assert os.access(script, os.X_OK)
    assert text.startswith("#!")
    assert re.search(r"^set -\w*e", text, re.MULTILINE)
    assert [line for line in text.splitlines() if line.startswith("make ")] == ["make lint", "make test"]


def test_continuous_integration_runs_from_any_folder_and_fails_with_the_failing_verb(tmp_path: Path) -> None:
    """The very script, over a Makefile that writes down what is asked of it."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    (tmp_path / "Makefile").write_text("lint:\n\t@echo linted\ntest:\n\t@echo tested && exit 3\n")
    done = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], cwd="/", text=True, capture_output=True, timeout=60)

    assert done.returncode != 0
    assert [line for line in done.stdout.splitlines() if line in {"linted", "tested"}] == ["linted", "tested"]
