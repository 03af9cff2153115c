"""The SQLite file of a study: its tables, its connections, its transactions. Knows no rule of the study."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SCHEMA = """
CREATE TABLE study (fingerprint TEXT NOT NULL, plan TEXT NOT NULL, created_at REAL NOT NULL);
CREATE TABLE items (
    number INTEGER PRIMARY KEY, is_check INTEGER NOT NULL, content TEXT NOT NULL
);
CREATE TABLE raters (
    number INTEGER PRIMARY KEY, token_hash TEXT NOT NULL UNIQUE, code TEXT NOT NULL UNIQUE, consented_at REAL NOT NULL
);
CREATE TABLE assignments (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, rater INTEGER NOT NULL REFERENCES raters ON DELETE CASCADE,
    position INTEGER NOT NULL, item INTEGER NOT NULL REFERENCES items, a_left INTEGER NOT NULL, check_label INTEGER,
    given_at REAL NOT NULL, answered_at REAL, "left" INTEGER, "right" INTEGER, preferred TEXT, comment TEXT,
    seconds REAL, watched REAL, UNIQUE (rater, item), UNIQUE (rater, position)
);
CREATE INDEX assignments_of_item ON assignments (item);
"""


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection, closed at the end."""
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = FULL")  # with WAL: every commit waits for the disk
        yield db
    finally:
        db.close()


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that is alone in writing from its first word on; on disk when it ends without an error."""
    with connected(path) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def create(path: Path, items: Sequence[tuple[int, bool, str]], study: tuple[str, str, float]) -> None:
    """Makes the file, readable for its owner alone.

    Args:
        path: of a file that is not there, or empty.
        items: number, whether it is for attention checks, and content, of each.
        study: fingerprint, plan, and time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    with connected(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
    with writing(path) as db:
        for statement in filter(str.strip, _SCHEMA.split(";")):
            db.execute(statement)
        db.executemany("INSERT INTO items VALUES (?, ?, ?)", items)
        db.execute("INSERT INTO study VALUES (?, ?, ?)", study)
