"""Where a study lives: one SQLite file. An answer is on disk before it is acknowledged. Knows no web page.

Tokens are kept as hashes only: who reads the file cannot answer in a rater's name.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from erv_lightning.study.assignment import Choice, Load, check_positions, choose
from erv_lightning.study.database import connected, create, writing
from erv_lightning.study.forms import Answer
from erv_lightning.study.items import Item, Told, fingerprint
from erv_lightning.study.plan import Plan, Task

MAX_TOKEN = 64
"""Characters of a token or key; a longer one is nobody's."""

_LOADS = """
SELECT items.number, COUNT(taken.number), COALESCE(SUM(2 * taken.a_left - 1), 0) FROM items
LEFT JOIN assignments AS taken
    ON taken.item = items.number AND (taken.answered_at IS NOT NULL OR taken.given_at > :since)
WHERE NOT is_check AND items.number NOT IN (SELECT item FROM assignments WHERE rater = :rater)
GROUP BY items.number
"""


_FIXED = ("per_rater", "attention", "allow_tie", "seed")  # what must stay as it is when a study goes on


@dataclass(frozen=True)
class Rater:
    """Someone who consented.

    Attributes:
        number: 1 for the first.
        code: what the thank-you page shows as proof.
        answered: pages answered.
    """

    number: int
    code: str
    answered: int


class Recorded(Enum):
    """What became of an answer: kept, there already, refused because another one is there, or to nobody's page."""

    KEPT = 1
    AGAIN = 2
    DIFFERS = 3
    UNKNOWN = 4


class Store:
    """A study's file. Every method opens its own connection, so threads and processes may share it.

    Args:
        path: an SQLite file that `create_or_resume` made.
        clock: seconds since 1970.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no study.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.clock = clock
        if not path.is_file():
            raise FileNotFoundError(f"no study {path}: python -m erv_lightning study serve makes one")
        try:
            with connected(self.path) as db:
                plan, self.fingerprint = db.execute("SELECT plan, fingerprint FROM study").fetchone()
        except (sqlite3.DatabaseError, TypeError):
            raise ValueError(f"{path} is no study: name the file that study serve --db wrote") from None
        self.plan = _plan(plan)

    @classmethod
    def create_or_resume(
        cls, path: Path, items: Sequence[Item], plan: Plan, clock: Callable[[], float] = time.time
    ) -> tuple[Store, bool]:
        """Opens a study, or makes one; returns it and whether it was there before.

        Raises:
            ValueError: the file holds a study of other items or arms, or with settings that may not change.
        """
        there = path.is_file() and path.stat().st_size > 0
        if not there:
            create(
                path,
                [(number, item.check, json.dumps(asdict(item))) for number, item in enumerate(items, start=1)],
                (fingerprint(items, plan.arms), json.dumps(asdict(plan)), clock()),
            )
        store = cls(path, clock)
        if store.fingerprint != fingerprint(items, plan.arms):
            raise ValueError(
                f"{path} holds a study of other clips or explanations: give the same predictions, --items and "
                "--attention to go on with it, or another --db"
            )
        changed = [name for name in _FIXED if getattr(store.plan, name) != getattr(plan, name)]
        if changed:
            was = ", ".join(f"{name.replace('_', '-')} {getattr(store.plan, name)}" for name in changed)
            raise ValueError(f"{path} was begun with {was}, which cannot change any more; or give another --db")
        with writing(path) as db:
            db.execute("UPDATE study SET plan = ?", (json.dumps(asdict(plan)),))
        store.plan = plan
        return store, there

    # -- raters -----------------------------------------------------------------------------------------------------

    def enrol(self) -> str | None:
        """Takes in a rater who has consented; returns their token, None where no more are wanted."""
        token, code = secrets.token_urlsafe(24), secrets.token_hex(5).upper()
        with writing(self.path) as db:
            (raters,) = db.execute("SELECT COUNT(*) FROM raters").fetchone()
            if raters >= self.plan.max_raters:
                return None
            db.execute(
                "INSERT INTO raters (token_hash, code, consented_at) VALUES (?, ?, ?)",
                (_hash(token), code, self.clock()),
            )
        return token

    def wanted(self) -> bool:
        """Whether another rater would find a clip to rate, and may consent."""
        with connected(self.path) as db:
            (raters,) = db.execute("SELECT COUNT(*) FROM raters").fetchone()
            given = [load.given for load in self._loads(db, rater=0)]
        return raters < self.plan.max_raters and any(count < self.plan.per_item for count in given)

    def rater(self, token: str) -> Rater | None:
        """Whose token this is; None for nobody's."""
        if len(token) > MAX_TOKEN:
            return None
        with connected(self.path) as db:
            row = db.execute(
                "SELECT number, code, (SELECT COUNT(answered_at) FROM assignments WHERE rater = raters.number) "
                "FROM raters WHERE token_hash = ?",
                (_hash(token),),
            ).fetchone()
        return Rater(*row) if row else None

    def forget(self, word: str) -> bool:
        """Deletes a rater with all their answers, by completion code or token; returns whether there was one."""
        with writing(self.path) as db:
            rows = db.execute("DELETE FROM raters WHERE code = ? OR token_hash = ?", (word.upper(), _hash(word)))
            return rows.rowcount > 0

    # -- pages ------------------------------------------------------------------------------------------------------

    def task(self, rater: int) -> Task | None:
        """The page that a rater has before them: the same until they answer it, then the next; None when done."""
        with connected(self.path) as db:
            if open_task := self._open_task(db, rater):
                return open_task
        with writing(self.path) as db:  # nobody else is given a clip meanwhile
            if open_task := self._open_task(db, rater):
                return open_task
            if not self._give(db, rater):
                return None
            return self._open_task(db, rater)

    def find(self, rater: int, key: str) -> Task | None:
        """A page of this rater by its key; None where it is no page, or not theirs."""
        if len(key) > MAX_TOKEN:
            return None
        with connected(self.path) as db:
            return self._one_task(db, "rater = ? AND assignments.key = ?", (rater, key))

    def record(self, rater: int, key: str, answer: Answer) -> Recorded:
        """Keeps the first answer to a page; when this returns it is on disk. The same answer again changes nothing."""
        with writing(self.path) as db:
            row = db.execute(
                'SELECT answered_at, "left", "right", preferred, comment FROM assignments WHERE rater = ? AND key = ?',
                (rater, key),
            ).fetchone()
            if row is None:
                return Recorded.UNKNOWN
            if row[0] is not None:
                return Recorded.AGAIN if tuple(row[1:]) == answer.judgement else Recorded.DIFFERS
            db.execute(
                'UPDATE assignments SET answered_at = ?, "left" = ?, "right" = ?, preferred = ?, comment = ?, '
                "seconds = ?, watched = ? WHERE key = ?",
                (self.clock(), *answer.judgement, answer.seconds, answer.watched, key),
            )
        return Recorded.KEPT

    def _open_task(self, db: sqlite3.Connection, rater: int) -> Task | None:
        return self._one_task(db, "rater = ? AND answered_at IS NULL", (rater,))

    def _one_task(self, db: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> Task | None:
        row = db.execute(
            "SELECT key, position, content, is_check, a_left, check_label FROM assignments "
            f"JOIN items ON items.number = item WHERE {where} ORDER BY position LIMIT 1",
            values,
        ).fetchone()
        if row is None:
            return None
        key, position, content, is_check, a_left, check_label = row
        return Task(key, position, read_item(content, bool(is_check)), bool(a_left), check_label)

    def _give(self, db: sqlite3.Connection, rater: int) -> bool:
        """Puts the next page before a rater; False where there is none."""
        given, lean = db.execute(
            "SELECT COUNT(*), COALESCE(SUM((2 * a_left - 1) * (check_label IS NULL)), 0) FROM assignments "
            "WHERE rater = ?",
            (rater,),
        ).fetchone()
        checks = check_positions(self.plan.per_rater, self.plan.attention, self._random(rater))
        rng = self._random(rater, given)
        label: int | None = None
        choice: Choice | None
        if given >= self.plan.total:
            return False
        if given in checks:
            choice, label = self._check(db, checks.index(given), rng)
        else:
            choice = choose(self._loads(db, rater), lean, self.plan.per_item, rng)
        if choice is None:
            return False
        db.execute(
            "INSERT INTO assignments (key, rater, position, item, a_left, check_label, given_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (secrets.token_urlsafe(9), rater, given, choice.item, choice.a_left, label, self.clock()),
        )
        return True

    def _check(self, db: sqlite3.Connection, index: int, rng: random.Random) -> tuple[Choice, int]:
        """The attention check of that index, and the emotion that it asks for: never the clip's own."""
        number, content = db.execute(
            "SELECT number, content FROM items WHERE is_check ORDER BY number LIMIT 1 OFFSET ?", (index,)
        ).fetchone()
        item = read_item(content, check=True)
        others = [label for label in range(len(item.labels)) if label != item.label_id]
        return Choice(number, rng.random() < 0.5), rng.choice(others)

    def _loads(self, db: sqlite3.Connection, rater: int) -> list[Load]:
        since = self.clock() - 60 * self.plan.expire_minutes
        return [Load(*row) for row in db.execute(_LOADS, {"since": since, "rater": rater})]

    def _random(self, *of: int) -> random.Random:
        return random.Random("/".join(map(str, (self.plan.seed, *of))))

    # -- the file ---------------------------------------------------------------------------------------------------

    def rows(self, query: str) -> list[sqlite3.Row]:
        """What a query finds; its columns can be had by name."""
        with connected(self.path) as db:
            db.row_factory = sqlite3.Row
            return db.execute(query).fetchall()


def read_item(content: str, check: bool) -> Item:
    """An item as the file keeps it."""
    fields = json.loads(content)
    return Item(**{**fields, "a": Told(**fields["a"]), "b": Told(**fields["b"]), "check": check})


def _plan(text: str) -> Plan:
    fields = json.loads(text)
    return Plan(**{**fields, "arms": tuple(fields["arms"])})


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
