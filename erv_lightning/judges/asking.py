"""The requests of a chat judge: threads that share a client, try again what may pass, and stop together.

Knows prompts and replies; what they are about is not its business. The API key comes from the environment and is in no
log and no error.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from erv_lightning.errors import one_line
from erv_lightning.judges.reply_cache import Reply, Unreadable, read_reply

if TYPE_CHECKING:
    from openai import APIError, OpenAI

    from erv_lightning.judges.chat import ChatJudge

_PASSING = (408, 409, 429)  # statuses below 500 after which the client asks again
_ADVICE = {
    401: "put a valid key into the environment variable {env}",
    403: "the key in {env} may not use this model: use another key or model",
    404: "no such model or address: check model and base_url",
}
_ELSE = "check model, and the request's fields: max_tokens and extra set them, null in extra removes one"
_NO_BAR = 20  # so many replies come without a progress bar
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0  # seconds, as the client's own


class Asking:
    """One call's requests: threads that share a client, and stop together.

    Attributes:
        replies: prompt → its reply, those that came.
        requests, retries: how many were sent.
        failure: the error that stopped it, None if all is answered.
    """

    def __init__(self, judge: ChatJudge, keep: Callable[[str, Reply], None]) -> None:
        self._judge, self._keep = judge, keep
        self._key = _api_key(judge.api_key_env, judge.base_url)
        self._client = self._make_client()
        self._lock, self._stop, self._this_thread = threading.Lock(), threading.Event(), threading.local()
        self.replies: dict[str, Reply] = {}
        self.requests = self.retries = 0
        self.failure: Exception | None = None

    def run(self, prompts: list[str]) -> None:
        """Asks all. After a failure or Ctrl-C no further request is sent; those under way are waited for and kept."""
        console = Console(stderr=True)
        silent = len(prompts) <= _NO_BAR or not (console.is_terminal or console.is_jupyter)
        threads = min(self._judge.concurrency, len(prompts))
        with self._client, Progress(console=console, disable=silent) as bar, ThreadPoolExecutor(threads) as pool:
            task = bar.add_task(f"asking {escape(self._judge.model)}", total=len(prompts))
            try:
                for _ in as_completed([pool.submit(self._one, prompt) for prompt in prompts]):
                    bar.advance(task)
                    if self._stop.is_set():
                        break
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)

    def explained(self, known: int, total: int) -> Exception:
        """The failure as a person reads it, without the API key.

        Args:
            known: prompts that had been answered before.
            total: prompts, those among them.
        """
        from openai import APIError

        error, judge = self.failure, self._judge
        if not isinstance(error, APIError | Unreadable):
            return error or RuntimeError("nothing failed")  # not the endpoint's: the cache's, or a bug
        place = f"judge {judge.name}: model {judge.model} at {_without_query(judge.base_url)}"
        said = self._said(error)
        status = getattr(error, "status_code", 500)
        if status < 500 and status not in _PASSING:
            advice = _ADVICE.get(status, _ELSE).format(env=judge.api_key_env)
            return ValueError(f"{place} refuses the request ({said}): {advice}")
        done = f"{known + len(self.replies)} of {total} are answered"
        way_out = f"kept in {judge.cache}: run again, it goes on from there"
        if judge.cache is None:
            way_out = "not kept: name a file as cache, and run again"
        return ConnectionError(
            f"{place} left an explanation unanswered after {judge.retries} retries ({said}). {done} and {way_out}"
        )

    def _said(self, error: APIError | Unreadable) -> str:
        """What the server or the network said, a few lines at most."""
        body = getattr(error, "body", None)
        detail = f" - {body['detail']}" if isinstance(body, dict) and "detail" in body else ""  # FastAPI's way
        cause = f" {one_line(error.__cause__)}" if error.__cause__ is not None else ""
        said = f"{one_line(error)}{detail}{cause}"
        if self._key:
            said = said.replace(self._key, "[API key]")  # before it is cut: half a key is a secret too
        return said[:300]

    def _make_client(self) -> OpenAI:
        try:
            import openai
        except ImportError:
            raise ValueError("a chat judge needs the package openai: pip install 'erv-lightning[chat]'") from None
        return openai.OpenAI(
            api_key=self._key or "none",
            base_url=self._judge.base_url,
            timeout=self._judge.timeout,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._before_request]}),
        )

    def _before_request(self, request: object) -> None:
        """Called by the client before every request, its own retries included."""
        if self._stop.is_set():
            raise CancelledError
        with self._lock:
            self.requests += 1
            self.retries += self._this_thread.asked_before
        self._this_thread.asked_before = True

    def _one(self, prompt: str) -> None:
        """Asks one prompt and keeps its reply; the first thread that fails stops all."""
        if self._stop.is_set():
            return
        try:
            reply = self._ask(prompt)
            self._keep(prompt, reply)
        except CancelledError:  # stopped between two tries
            return
        except Exception as error:
            with self._lock:
                self.failure = self.failure or error
            self._stop.set()
            return
        self.replies[prompt] = reply

    def _ask(self, prompt: str) -> Reply:
        judge, left, wait = self._judge, self._judge.retries, _FIRST_WAIT
        self._this_thread.asked_before = False
        while True:
            client = self._client.with_options(max_retries=left)
            sent = client.chat.completions.with_raw_response.create(
                model=judge.model, messages=[{"role": "user", "content": prompt}], extra_body=judge.fields
            )
            left -= sent.retries_taken
            try:
                return read_reply(sent.http_response.content)
            except Unreadable:  # which the client does not look for
                if left == 0:
                    raise
            self._stop.wait(wait)
            left, wait = left - 1, min(2 * wait, _LONGEST_WAIT)


def _without_query(base_url: str) -> str:
    return urlsplit(base_url)._replace(query="", fragment="").geturl()


def _api_key(env: str, base_url: str) -> str:
    """The key, "" if none is set and none is needed."""
    key = os.environ.get(env, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(f"the environment variable {env} holds characters that no API key has: set it again")
    if not key and (urlsplit(base_url).hostname or "").endswith("api.openai.com"):
        raise ValueError(f"no API key: set the environment variable {env}, or name another server as base_url")
    return key
