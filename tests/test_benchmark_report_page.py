"""The benchmark of the run report: a small one runs, and the docs say what it measured."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from benchmarks.report_page import RESULTS, SIZES, main, make_run, make_table, markdown

DOCS = Path(__file__).parents[1] / "docs"


def test_the_docs_say_what_was_measured() -> None:
    report = json.loads((RESULTS / "report_page.json").read_text(encoding="utf-8"))
    assert [row["responses"] for row in report["rows"]] == list(SIZES)
    assert (RESULTS / "report_page.md").read_text(encoding="utf-8") == markdown(report)
    assert make_table(report) in (DOCS / "report.md").read_text(encoding="utf-8")


def test_the_same_run_is_made_up_twice(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, 24) for name in ("first", "second"))
    rows = (first / "rollouts.jsonl").read_bytes()
    assert rows == (second / "rollouts.jsonl").read_bytes()
    explanations = [json.loads(line)["explanation"] for line in rows.splitlines()]
    assert len(set(explanations)) == 24
    assert all(400 <= len(text) <= 800 for text in explanations)


def test_a_page_is_made_and_used(tmp_path: Path) -> None:
    main(["--sizes", "160", "--rounds", "1", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "report_page.json").read_text(encoding="utf-8"))["rows"]
    assert row["seconds"] > 0
    assert row["page_mb"] > 4  # the charting library alone
    if shutil.which("chromium") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("chromium is not installed")
    assert all(value > 0 for value in row["browser"].values())


def test_without_chromium_the_browsers_cells_stay_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    main(["--sizes", "16", "--rounds", "1", "--out", str(tmp_path)])
    assert capsys.readouterr().out.count("not measured") == 7
