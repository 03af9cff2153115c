"""The command line of the study: from two runs to a file, and from the file to numbers."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from erv_lightning.commands import study
from erv_lightning.study.forms import Answer
from erv_lightning.study.store import Store


@pytest.fixture
def answered(make_store: Callable[..., Store]) -> Store:
    """A study that three raters have answered; one of them fails the checks, and one has not finished."""
    store = make_store(clips=4)
    for number in range(3):
        token = store.enrol()
        rater = store.rater(token or "")
        assert rater
        while (task := store.task(rater.number)) and not (number == 2 and task.position == 2):
            asked = task.check_label if task.check_label is not None and number != 1 else 0
            a, b = ("left", "right") if task.a_left else ("right", "left")
            store.record(rater.number, task.key, Answer(**{a: asked, b: 0, "preferred": b}))
    return store


def test_export_and_database_say_the_same(
    answered: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert study.main(["export", str(answered.path), "--to", "out/answers.csv"]) == 0
    table = pd.read_csv("out/answers.csv", dtype=str, keep_default_na=False)
    assert set(table["rater"]) == {"R1", "R2", "R3"}
    assert len(table) == 5 + 5 + 2
    found = []
    for source in (str(answered.path), "out/answers.csv"):
        assert study.main(["analyse", source, "--out", "numbers", "--draws", "200"]) == 0
        found.append(json.loads(Path("numbers/study.json").read_text()) | {"command": ""})
    assert found[0] == found[1]
    assert found[0]["preference"]["value"] == 1.0
    assert [one["rater"] for one in found[0]["excluded"]] == ["R2"]
    assert "Attention checks were failed by R2 (1 of 1)" in Path("numbers/study.md").read_text()
    assert "prefer B" in capsys.readouterr().out


def test_status_names_codes_and_what_is_missing(answered: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main(["status", str(answered.path)]) == 0
    said = capsys.readouterr().out
    assert all(row["code"] in said for row in answered.rows("SELECT code FROM raters"))
    assert "5 of 5 ✓" in said
    assert "2 of 5" in said


def test_forget_deletes(answered: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code = answered.rows("SELECT code FROM raters")[0]["code"]
    assert study.main(["forget", str(answered.path), code]) == 0
    with pytest.raises(ValueError, match="no rater with this code"):
        study.main(["forget", str(answered.path), code])
    assert len(answered.rows("SELECT * FROM raters")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve", "none.jsonl", "A"], "no predictions none.jsonl"),
        (["serve", "A", "A"], "both arms are called base: tell them apart with --names"),
        (["serve", "A", "B", "--items", "99"], "99 clips to rate and 2 for attention checks are more than the 28"),
        (["serve", "A", "B", "--port", "TAKEN"], r"cannot listen on 127.0.0.1:\d+ .*choose another --port"),
        (["status", "none.sqlite"], "no study none.sqlite"),
        (["analyse", "none.sqlite"], "no study none.sqlite"),
        (["export", "A", "--to", "x.csv"], "is no study"),
        (["analyse", "A"], "has no column"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: list[str], message: str, arms: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        named = {"A": str(arms[0]), "B": str(arms[1]), "TAKEN": str(other.getsockname()[1])}
        with pytest.raises((ValueError, OSError), match=message) as error:
            study.main([named.get(word, word) for word in words])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", [["--port", "99999"], ["--port", "x"], ["--attention", "-1"], ["--per-item", "0"]])
def test_numbers_that_cannot_be(words: list[str], arms: tuple[Path, Path]) -> None:
    with pytest.raises(SystemExit):
        study.main(["serve", *map(str, arms), *words])


def test_without_the_extra_one_line_says_what_to_install(
    arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "fastapi" else object())
    with pytest.raises(ValueError, match=r"pip install 'erv-lightning\[study\]'"):
        study.main(["serve", *map(str, arms)])


def test_run_folders_name_their_arms(
    arms: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, name in zip(arms, ("accuracy", "explanation"), strict=True):
        (tmp_path / "runs/grpo" / name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "runs/grpo" / name / "predictions.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: sockets[0].close())
    words = ["serve", "runs/grpo/accuracy", "runs/grpo/explanation/predictions.jsonl", "--port", "0", "--items", "7"]
    assert study.main(words) == 0
    assert Store(Path("runs/study/study.sqlite")).plan.arms == ("grpo/accuracy", "grpo/explanation")
    said = capsys.readouterr().out
    assert "new study: 7 clips, 3 raters each, 7 clips and 2 attention checks per rater: 3 raters are needed" in said
    assert "whom to ask: --contact" in said
    assert study.main(words) == 0
    assert "going on with: 7 clips" in capsys.readouterr().out
    with pytest.raises(ValueError, match="a study of other clips or explanations"):
        study.main([*words[:-1], "6"])
