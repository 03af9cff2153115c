"""A study's file: the same page until it is answered, the first answer stays, nobody reaches another's pages."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from erv_lightning.study.answers import answers_of, read_csv, write_csv
from erv_lightning.study.forms import Answer
from erv_lightning.study.store import MAX_TOKEN, Recorded, Store

ANSWER = Answer(left=0, right=-1, preferred="right", comment="=1+1\n“so”, he said", seconds=12.5, watched=1.0)


def enrol(store: Store) -> int:
    token = store.enrol()
    assert token
    rater = store.rater(token)
    assert rater
    return rater.number


def work(store: Store, rater: int) -> int:
    """Answers every page; returns how many."""
    pages = 0
    while task := store.task(rater):
        assert store.record(rater, task.key, ANSWER) is Recorded.KEPT
        pages += 1
    return pages


def test_a_page_stays_until_it_is_answered(make_store: Callable[..., Store]) -> None:
    store = make_store()
    rater = enrol(store)
    first = store.task(rater)
    assert first
    assert store.task(rater) == first
    assert Store(store.path).task(rater) == first  # another process, later
    store.record(rater, first.key, ANSWER)
    second = store.task(rater)
    assert second
    assert second.position == 1
    assert second.item != first.item


def test_the_first_answer_stays_and_a_second_click_does_no_harm(make_store: Callable[..., Store]) -> None:
    store = make_store()
    rater = enrol(store)
    task = store.task(rater)
    assert task
    later = Answer(**{**vars(ANSWER), "seconds": 99.0})
    other = Answer(**{**vars(ANSWER), "preferred": "left"})
    said = [store.record(rater, task.key, answer) for answer in (ANSWER, ANSWER, later, other)]
    assert said == [Recorded.KEPT, Recorded.AGAIN, Recorded.AGAIN, Recorded.DIFFERS]
    row = answers_of(store).iloc[0]
    assert (len(answers_of(store)), row["seconds"], row["comment"]) == (1, "12.5", ANSWER.comment)
    assert row["preferred"] == ("b" if row["left"] == "a" else "a")


def test_a_key_is_worth_nothing_to_another_rater(make_store: Callable[..., Store]) -> None:
    store = make_store()
    mine, yours = enrol(store), enrol(store)
    task = store.task(mine)
    assert task
    assert store.find(mine, task.key) == task
    assert store.find(yours, task.key) is None
    assert store.record(yours, task.key, ANSWER) is Recorded.UNKNOWN
    assert store.task(mine) == task


def test_tokens_and_keys_of_nobody(make_store: Callable[..., Store]) -> None:
    store = make_store()
    rater = enrol(store)
    for word in ("", "x", "%", "' OR 1=1 --", "a" * (MAX_TOKEN + 1), "a" * 100_000):
        assert store.rater(word) is None
        assert store.find(rater, word) is None


def test_the_file_holds_no_token_and_is_its_owners_alone(make_store: Callable[..., Store]) -> None:
    store = make_store()
    token = store.enrol()
    assert token
    assert token.encode() not in b"".join(path.read_bytes() for path in store.path.parent.glob("study.sqlite*"))
    assert store.path.stat().st_mode & 0o077 == 0


def test_every_clip_gets_its_raters_and_every_rater_their_checks(make_store: Callable[..., Store]) -> None:
    store = make_store(clips=8, per_item=3, per_rater=4, attention=2)
    pages = [work(store, enrol(store)) for _ in range(6)]
    frame = answers_of(store)
    rated = frame[frame["passed"] == ""]
    assert pages == [6] * 6
    assert set(Counter(rated["id"]).values()) == {3}
    assert set(Counter(frame[frame["passed"] != ""]["rater"]).values()) == {2}
    assert not set(rated["id"]) & set(frame[frame["passed"] != ""]["id"])
    assert not store.wanted()


def test_a_check_asks_for_an_emotion_that_the_clip_does_not_have(make_store: Callable[..., Store]) -> None:
    store = make_store(attention=2)
    rater, checks = enrol(store), 0
    while task := store.task(rater):
        if task.check_label is not None:
            checks += 1
            asked = task.texts[0 if task.a_left else 1]
            assert f"“{task.item.labels[task.check_label]}”" in asked
            assert task.item.b.explanation in task.texts
            assert task.item.a.explanation not in task.texts
            assert task.check_label != task.item.label_id
            side = "left" if task.a_left else "right"
            other = "right" if task.a_left else "left"
            answer = Answer(**{"left": 0, "right": 0, side: task.check_label, "preferred": other})
            store.record(rater, task.key, answer)
        else:
            store.record(rater, task.key, ANSWER)
    assert checks == 2
    assert list(answers_of(store)["passed"]).count("yes") == 2


def test_an_abandoned_clip_is_given_again_and_its_rater_may_still_answer(make_store: Callable[..., Store]) -> None:
    now = [1_000.0]
    store = make_store(clips=1, per_item=1, per_rater=1, attention=0, expire_minutes=60, clock=lambda: now[0])
    late, next_one = enrol(store), enrol(store)
    task = store.task(late)
    assert task
    assert store.task(next_one) is None  # taken for now
    now[0] += 61 * 60
    again = store.task(next_one)
    assert again
    assert again.item == task.item
    assert store.record(next_one, again.key, ANSWER) is Recorded.KEPT
    assert store.record(late, task.key, ANSWER) is Recorded.KEPT
    assert len(answers_of(store)) == 2


def test_no_more_raters_than_are_wanted(make_store: Callable[..., Store]) -> None:
    store = make_store(max_raters=2)
    assert [bool(store.enrol()) for _ in range(3)] == [True, True, False]
    assert not store.wanted()


def test_a_study_goes_on_only_with_what_it_began_with(make_store: Callable[..., Store]) -> None:
    store = make_store()
    rater = enrol(store)
    assert make_store(per_item=5, title="Another title").plan.per_item == 5  # these may change
    assert make_store().task(rater)
    with pytest.raises(ValueError, match="a study of other clips or explanations"):
        make_store(clips=5)
    with pytest.raises(ValueError, match="was begun with per-rater 4"):
        make_store(per_rater=5)


def test_another_file_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no study"):
        Store(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("hello " * 200)
    sqlite3.connect(tmp_path / "other.sqlite").execute("CREATE TABLE study (x)").connection.close()
    for name in ("text.sqlite", "other.sqlite"):
        with pytest.raises(ValueError, match="is no study"):
            Store(tmp_path / name)


def test_a_rater_can_be_forgotten(make_store: Callable[..., Store]) -> None:
    store = make_store()
    token = store.enrol()
    other = enrol(store)
    assert token
    rater = store.rater(token)
    assert rater
    work(store, rater.number)
    work(store, other)
    assert store.forget(rater.code)
    assert not store.forget(rater.code)
    assert store.rater(token) is None
    assert set(answers_of(store)["rater"]) == {f"R{other}"}


def test_the_table_survives_csv_and_no_spreadsheet_computes_a_comment(
    make_store: Callable[..., Store], tmp_path: Path
) -> None:
    store = make_store()
    work(store, enrol(store))
    frame = answers_of(store)
    write_csv(frame, tmp_path / "answers.csv")
    back = read_csv(tmp_path / "answers.csv")
    assert set(back["comment"]) == {"'" + ANSWER.comment}
    assert back.drop(columns="comment").equals(frame.drop(columns="comment"))
    (tmp_path / "bad.csv").write_text(
        (tmp_path / "answers.csv").read_text().replace(",yes,", ",maybe,").replace(",no,", ",maybe,")
    )
    with pytest.raises(ValueError, match=r"bad.csv:\d+: passed is 'maybe', allowed"):
        read_csv(tmp_path / "bad.csv")
