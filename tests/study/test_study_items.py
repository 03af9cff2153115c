"""What raters are shown: only clips that both files explain, and a random but fair choice of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erv_lightning.results import read_predictions
from erv_lightning.study.items import Item, fingerprint, match, select


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., tuple[list[Item], Counter[str]]]:
    """Matches two lists of changes to a good row; None stands for no row."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"clip")
    good = {"dataset": "d", "clip": str(clip), "label_space": "dfew", "label_id": 0, "answer_id": 0}

    def run(a: list[Any], b: list[Any]) -> tuple[list[Item], Counter[str]]:
        frames = []
        for name, rows in (("a", a), ("b", b)):
            path = tmp_path / f"{name}.jsonl"
            full = [
                {**good, "id": str(i), "explanation": f"By {name}.", **row}
                for i, row in enumerate(rows)
                if row is not None
            ]
            path.write_text("".join(json.dumps(row) + "\n" for row in full))
            frames.append(read_predictions(path))
        return match(*frames)

    return run


def test_only_clips_that_match_are_shown_and_the_others_are_counted(
    files: Callable[..., tuple[list[Item], Counter[str]]], tmp_path: Path
) -> None:
    (tmp_path / "clip.avi").write_bytes(b"clip")
    a = [{}, {}, {}, {"label_id": 1}, {"explanation": " "}, {"explanation": "Same."}, {"clip": "nowhere.mp4"}]
    b = [{}, None, {}, {}, {}, {"explanation": "Same."}, {}]
    items, left_out = files([*a, {"clip": str(tmp_path / "clip.avi")}], [*b, {}])
    assert [item.id for item in items] == ["0", "2"]
    assert (items[0].a.explanation, items[0].b.explanation) == ("By a.", "By b.")
    assert left_out == {
        "in one file only": 1,
        "with another label in each file": 1,
        "without an explanation in one file": 1,
        "explained word for word the same": 1,
        "not found on disk": 1,
        "of a kind that browsers do not play (.avi)": 1,
    }


def test_a_choice_of_clips_holds_labels_alike_and_checks_are_not_rated(shared_items: list[Item]) -> None:
    chosen = select(shared_items, 14, 3, seed=0)
    rated = [item for item in chosen if not item.check]
    assert set(Counter(item.label_id for item in rated).values()) == {2}
    assert len(rated) == 14
    assert len({item.id for item in chosen}) == 17
    assert [item.check for item in chosen] == [False] * 14 + [True] * 3


def test_without_a_number_every_clip_that_checks_leave_is_rated(shared_items: list[Item]) -> None:
    assert Counter(item.check for item in select(shared_items, None, 2, seed=0)) == {False: 26, True: 2}


def test_too_few_clips_are_an_error_with_a_way_out(shared_items: list[Item]) -> None:
    with pytest.raises(ValueError, match=r"28 clips to rate and 1 for attention checks are more than the 28.*--items"):
        select(shared_items, 28, 1, seed=0)


def test_another_seed_is_another_study(shared_items: list[Item]) -> None:
    prints = {fingerprint(select(shared_items, 6, 1, seed), ("a", "b")) for seed in (0, 0, 1)}
    assert len(prints) == 2
