"""The replies of a chat model, and a file that keeps them: what has been paid for once is never asked again.

It knows nothing about emotions, prompts or the network: a request is some JSON, and a reply belongs to it. The file is
SQLite's; the threads of a process and several processes may read and write it at once.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COLUMNS = ("key", "model", "prompt", "reply", "cut", "prompt_tokens", "completion_tokens")
_TABLE = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT, prompt TEXT, reply TEXT, cut INTEGER, prompt_tokens INTEGER,
    completion_tokens INTEGER)"""
_BUSY_SECONDS = 60.0  # how long to wait for another process that is writing


@dataclass(frozen=True)
class Reply:
    """What a model replied.

    Attributes:
        text: as it came; None where the model refused.
        cut: whether it ended because it had reached its token limit.
        prompt_tokens: as the server counted them, 0 if it does not count.
        completion_tokens: likewise.
    """

    text: str | None
    cut: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Unreadable(Exception):
    """A server says that all is well, but there is no reply in what it sent."""


def read_reply(body: bytes) -> Reply:
    """The reply in the JSON of a chat completion. Raises Unreadable where there is none."""
    try:
        completion = json.loads(body)
        choice, usage = completion["choices"][0], completion.get("usage") or {}
        text, cut = choice["message"].get("content"), choice.get("finish_reason") == "length"
        if choice["message"].get("refusal"):
            text = None
        elif text is None and cut:  # all of it went into reasoning
            text = ""
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        return Reply(None if text is None else sendable(text), cut, *tokens)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Unreadable(f"not a chat completion: {body.decode(errors='replace')}") from None


def sendable(text: str) -> str:
    """The text with '?' for each half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def request_key(request: Mapping[str, Any]) -> str:
    """What a reply is filed under: the SHA-256 of the request as JSON, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """The replies by `request_key`. Use it in a `with` statement; what is put is on disk when `put` returns.

    Args:
        path: the file, made with its folders where it is missing; None keeps the replies in memory, until the end.

    Raises:
        ValueError: for a file that is something else, or damaged; here or when it is read.
        OSError: for a file that cannot be made, read or written.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with self._explained():
            # Every statement is its own transaction, so that a killed process loses nothing it has put. No
            # write-ahead log: it needs shared memory, which network file systems lack.
            self._file = sqlite3.connect(
                path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            self._check()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def get(self, key: str) -> Reply | None:
        """The reply filed under a key, None if there is none."""
        with self._lock, self._explained():
            row = self._file.execute(
                "SELECT reply, cut, prompt_tokens, completion_tokens FROM replies WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Reply(row[0], bool(row[1]), row[2], row[3])

    def put(self, key: str, model: str, prompt: str, reply: Reply) -> None:
        """Files a reply; where another process was faster, its reply stays. Model and prompt are for human readers."""
        row = (key, model, prompt, reply.text, int(reply.cut), reply.prompt_tokens, reply.completion_tokens)
        with self._lock, self._explained():
            self._file.execute(
                f"INSERT OR IGNORE INTO replies ({', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?)", row
            )

    def _check(self) -> None:
        """Makes the table in a new file; leaves a file of others as it is."""
        with self._explained():
            tables = {name for (name,) in self._file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                self._file.execute(_TABLE)
            columns = tuple(row[1] for row in self._file.execute("PRAGMA table_info(replies)"))
        if columns != _COLUMNS:
            raise ValueError(f"{self.path} is no cache of replies but another database; name another file as cache")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, full, read-only, a folder
            raise OSError(f"the cache of replies {self.path} cannot be used: {error}") from None
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path} is no cache of replies, or is damaged ({error}); name another file as cache, or delete it"
            ) from None
