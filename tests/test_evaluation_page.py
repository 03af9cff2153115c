"""docs/evaluation.md and the example judge: commands are understood, tables were measured, the example works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from cli_fixtures import ROOT

from erv_lightning.commands import evaluate
from erv_lightning.judges.spec import make_judge
from erv_lightning.labels import DFEW

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python -m erv_lightning evaluate (.+)$", PAGE + README, re.MULTILINE)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_a_command_is_understood(command: str) -> None:
    args = evaluate._parser().parse_args(shlex.split(command))
    assert args.run or args.predictions or args.probe_verifier


def test_the_table_of_probes_is_the_one_that_was_measured() -> None:
    shown = re.search(r"<!-- probes:begin -->\n(.*?)<!-- probes:end -->", PAGE, re.DOTALL)
    measured = (ROOT / "docs" / "results" / "probes.md").read_text(encoding="utf-8")
    assert shown is not None
    assert shown[1].startswith("|")
    assert shown[1].strip() in measured
    probes = {one["name"]: one for one in json.loads((ROOT / "docs" / "results" / "probes.json").read_text())["probes"]}
    bland = probes["one among bland"]["rewards"]
    for name in ("explanation", "all_sentences"):
        assert f"{bland[name]:.2f}" in PAGE.split("<!-- probes:end -->")[1]


def test_the_speed_is_the_measured_one() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "evaluate.json").read_text())["rows"]
    repeated, unique = rows
    assert unique["ratio"] >= 5
    assert f"{unique['ratio']:.1f}×" in PAGE
    assert f"{repeated['ratio']:.0f}×" in PAGE


def test_every_key_of_the_page_is_in_the_json(tmp_path: Path) -> None:
    row = {"id": "1", "dataset": "d", "clip": "c", "label_space": "dfew", "label_id": 0, "answer_id": 0}
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({**row, "judges": {"human": 0}}) + "\n")
    words = ["--predictions", str(path), "--draws", "10", "--out", str(tmp_path), "--json", str(tmp_path / "n.json")]
    assert evaluate.main(words) == 0
    found = json.loads((tmp_path / "n.json").read_text())
    table = PAGE.split("## What is measured")[1].split("## From files")[0]
    keys = {key for line in table.splitlines() if line.startswith("| `") for key in re.findall(r"`(\w+)`", line)}
    assert len(keys) >= 12
    every = set(found) | set(found["classes"]["happy"])
    assert keys - {"recall", "precision"} <= every
    assert keys <= every


def test_the_example_judge_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("\n## How to add a judge\n")[1].split("\n## ")[0]
    (code,), (overlay,) = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("python", "yaml"))
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges" / "lexicon.py").write_text(code)
    (tmp_path / "judges" / "lexicon.yaml").write_text(overlay)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    judge = make_judge("judges/lexicon.yaml")
    assert judge.name == "lexicon"
    assert judge(["She is happy.", "Happy or sad.", "", "Happy, so happy."], DFEW) == [0, -1, -1, 0]
