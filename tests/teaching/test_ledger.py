"""The ledger of a teacher: what stands there is not asked again, whatever happened to the process that wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from erv_lightning.teaching.ledger import Ledger, Lesson, lesson_key

LESSONS = {"k1": Lesson(("happy",), (0.9, 0.1)), "k2": Lesson(), "k3": Lesson(("sad", "fear"))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "labels" / "m.jsonl"
    Ledger(file).add(LESSONS, ["Ja – ja.", "No.", "half \ud800"])
    return file


def test_what_is_filed_is_read_back(path: Path) -> None:
    ledger = Ledger(path)
    assert {key: ledger[key] for key in LESSONS} == LESSONS
    assert "k4" not in ledger


def test_a_file_that_is_not_there_is_empty_and_is_not_made(tmp_path: Path) -> None:
    assert "k1" not in Ledger(tmp_path / "labels" / "m.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_last_line_that_is_torn_anywhere_is_cut_off_and_written_again(path: Path) -> None:
    content = path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(last + 1, len(content)):
        path.write_bytes(content[:end])
        ledger = Ledger(path)
        assert "k2" in ledger
        assert "k3" not in ledger
        assert path.read_bytes() == content[:last]
        ledger.add({"k3": LESSONS["k3"]}, ["half \ud800"])
        assert path.read_bytes() == content


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "a"}', '{"key": "a", "labels": ["x"], "probs": ["y"]}', ""])
def test_another_line_that_cannot_be_read_is_named(path: Path, line: str) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([lines[0], f"{line}\n", *lines[1:]]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"m\.jsonl:2 is no label of a sentence: delete the line"):
        Ledger(path)


def test_a_key_depends_on_all_that_was_asked_and_not_on_its_order() -> None:
    assert lesson_key({"a": 1, "b": [2]}) == lesson_key({"b": [2], "a": 1})
    assert len({lesson_key({"a": 1}), lesson_key({"a": 2}), lesson_key({"b": 1})}) == 3
