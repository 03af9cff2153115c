"""What every request must pass and every response must say: limits and security headers. Plain ASGI; knows no page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from erv_lightning.study.forms import MAX_BODY

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

BODY_SECONDS = 15.0
"""How long a client may take to send a body."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
    "Referrer-Policy": "no-referrer",  # the address holds the rater's token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
}
"""On every response."""


class Guard:
    """Stands before an application: reads the body within its limits, and adds headers to what comes back.

    A body longer than `MAX_BODY` is refused with 413, by its announced length before it is read, and otherwise as soon
    as it is too long; one that does not come within `BODY_SECONDS` with 408. What no one said how to cache is not
    cached.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        guarded = _with_headers(send)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > MAX_BODY:
            await _refuse(413, guarded)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive)
        except TimeoutError:
            await _refuse(408, guarded)
            return
        if body is None:  # the client went away
            return
        if len(body) > MAX_BODY:
            await _refuse(413, guarded)
            return
        await self.app(scope, _replayed(body, receive), guarded)


async def _body(receive: Receive) -> bytes | None:
    """The body, or what of it is already too long; None if the client left."""
    body = b""
    while len(body) <= MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, as if it came only now; then whatever comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _with_headers(send: Send) -> Send:
    ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            theirs = list(message.get("headers", []))
            if b"cache-control" not in (name.lower() for name, _ in theirs):
                theirs.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*theirs, *ours]}
        await send(message)

    return guarded


async def _refuse(status: int, send: Send) -> None:
    said = {408: b"The request took too long.", 413: b"The request is too large."}[status]
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(said)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": said})
