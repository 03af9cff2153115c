"""A chat endpoint on this machine whose answers, good and bad, a test decides. It records what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What the server sends, after `delay` seconds; None as the body hangs up without a word."""

    body: bytes | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


def saying(content: str | None, delay: float = 0.0, finish: str = "stop", **message: Any) -> Answer:
    """A chat completion: 100 tokens in, 2 out."""
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": content, **message},
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}
    return Answer(json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode(), delay=delay)


def failing(status: int, message: str = "no", **headers: str) -> Answer:
    """An error in OpenAI's form. The client may try again after 5 ms."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": None, "param": None}}).encode()
    return Answer(body, status, headers or {"retry-after-ms": "5"})


class ChatServer:
    """Answers `POST /v1/chat/completions` with `answer(explanation, how often it was asked before)`.

    Attributes:
        requests: the JSON bodies that came, in order.
        authorizations: their Authorization headers.
        asked: explanation → how often it came.
        done: how many answers are out.
        most_at_once: requests that were under way at the same time.
    """

    def __init__(self, answer: Callable[[str, int], Answer]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str] = []
        self.asked: Counter[str] = Counter()
        self.done = self.most_at_once = self._under_way = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    @contextmanager
    def running(self) -> Iterator[ChatServer]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = chat._begin(request, self.headers["Authorization"] or "")
                if self.path != "/v1/chat/completions":
                    answer = failing(404, f"no {self.path}")
                time.sleep(answer.delay)
                with chat._lock:
                    chat._under_way -= 1
                    chat.done += 1
                try:
                    self._send(answer)
                except (BrokenPipeError, ConnectionResetError):  # the client has given up, or is dead
                    self.close_connection = True

            def _send(self, answer: Answer) -> None:
                if answer.body is None:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(answer.body))}
                for name, value in {**headers, **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *words: Any) -> None:
                pass

        return Handler

    def _begin(self, request: dict[str, Any], authorization: str) -> Answer:
        explanation = explanation_in(request["messages"][0]["content"])
        with self._lock:
            before = self.asked[explanation]
            self.asked[explanation] += 1
            self.requests.append(request)
            self.authorizations.append(authorization)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        return self.answer(explanation, before)


def explanation_in(prompt: str) -> str:
    """The explanation, or the sentence, that a prompt is about."""
    if "\nSentence: " in prompt:
        return prompt.split("\nSentence: ", 1)[1].removesuffix("\nEmotions:")
    return prompt.split("\nReason: ", 1)[1].removesuffix("\nAnswer Emotion:")
