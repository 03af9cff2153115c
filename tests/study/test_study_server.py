"""The pages: limits on every input, only one's own pages and clips, headers, text that stays text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from erv_lightning.study.answers import answers_of
from erv_lightning.study.forms import MAX_BODY, MAX_COMMENT, FormError, read_answer, read_form
from erv_lightning.study.guards import HEADERS, Guard
from erv_lightning.study.server import make_app
from erv_lightning.study.store import Store

GOOD = {"left": "0", "right": "-1", "preferred": "left"}


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(make_app(store), follow_redirects=False)


def consent(client: TestClient) -> str:
    return str(client.post("/consent", data={"agree": "yes"}).headers["location"]).removesuffix("/welcome")


def action(client: TestClient, link: str) -> str:
    found = re.search(r'action="(/r/[^"]+)"', client.get(link).text)
    assert found
    return found[1]


# -- forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"left": "7"}, {"right": "-2"}, {"left": "x"}, {"left": "0.0"}, {"preferred": "tie"}, {"preferred": "a"}]
)
def test_only_what_is_offered_is_an_answer(wrong: dict[str, str]) -> None:
    with pytest.raises(FormError):
        read_answer({**GOOD, **wrong}, 7, allow_tie=False)


@pytest.mark.parametrize("missing", list(GOOD))
def test_every_question_is_to_be_answered(missing: str) -> None:
    with pytest.raises(FormError):
        read_answer({key: value for key, value in GOOD.items() if key != missing}, 7, allow_tie=False)


@pytest.mark.parametrize("time", ["", "x", "-1", "nan", "inf", "1e9", "9" * 500])
def test_a_time_that_cannot_be_loses_no_answer(time: str) -> None:
    assert read_answer({**GOOD, "seconds": time, "watched": time}, 7, allow_tie=False).seconds is None


def test_a_tie_is_an_answer_where_it_is_allowed() -> None:
    assert read_answer({**GOOD, "preferred": "tie", "watched": "2.04"}, 7, allow_tie=True).watched == 2.0


def test_a_comment_is_as_long_as_its_field_allows_and_no_longer() -> None:
    lines = "a\r\n" * (MAX_COMMENT // 2 - 1)  # as browsers send a line's end, which they count as one
    assert len(read_answer({**GOOD, "comment": "é" + lines}, 7, allow_tie=False).comment) <= MAX_COMMENT
    with pytest.raises(FormError, match="1001 characters"):
        read_answer({**GOOD, "comment": "a" * 1_001}, 7, allow_tie=False)


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"a=%ff", b"&".join(b"a%d=1" % i for i in range(40)), b"a" * (MAX_BODY + 1)]
)
def test_a_body_that_is_no_form(body: bytes) -> None:
    with pytest.raises(FormError):
        read_form(body)


# -- limits -------------------------------------------------------------------------------------------------------


def test_a_longest_comment_of_any_letters_fits(client: TestClient, store: Store) -> None:
    sent = client.post(action(client, consent(client)), data={**GOOD, "comment": "🙂" * MAX_COMMENT})
    assert sent.status_code == 303
    assert answers_of(store)["comment"].iloc[0] == "🙂" * MAX_COMMENT


@pytest.mark.parametrize("path", ["/", "/consent", "/r/x", "/r/x/a/y", "/nowhere"])
def test_a_large_body_is_refused_wherever_it_goes(client: TestClient, path: str) -> None:
    refused = client.post(path, content=b"a" * (MAX_BODY + 1))
    assert refused.status_code == 413
    assert refused.headers["X-Content-Type-Options"] == "nosniff"


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs it in a thread of its own: a browser of other tests may have left its loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, coroutine).result()


def asgi(app: Any, headers: list[tuple[bytes, bytes]], parts: list[dict[str, Any]]) -> tuple[int, int]:
    """Sends a body in parts without its length being known; returns the status and how many parts were read."""
    sent: list[dict[str, Any]] = []
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(3_600)
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/consent", "headers": headers, "query_string": b""}
    run(app({**scope, "raw_path": b"/consent", "root_path": ""}, receive, send))
    return sent[0]["status"], len(parts) - len(waiting)


def test_an_endless_body_is_refused_as_soon_as_it_is_too_long(store: Store) -> None:
    part = {"type": "http.request", "body": b"a" * 4_096, "more_body": True}
    assert asgi(make_app(store), [], [part] * 1_000) == (413, 5)


def test_an_announced_length_is_believed_before_a_byte_is_read(store: Store) -> None:
    for length in (b"999999999999", b"x", b"-1"):
        assert asgi(make_app(store), [(b"content-length", length)], [{"type": "http.request"}]) == (413, 0)


def test_a_body_that_does_not_come_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erv_lightning.study.guards.BODY_SECONDS", 0.05)
    assert asgi(make_app(store), [], [{"type": "http.request", "body": b"a", "more_body": True}])[0] == 408


def test_what_is_no_request_passes_the_guard() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    run(Guard(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


# -- pages --------------------------------------------------------------------------------------------------------


def test_consent_asks_for_a_tick(client: TestClient, store: Store) -> None:
    refused = client.post("/consent", data={})
    assert refused.status_code == 422
    assert "tick the box" in refused.text
    assert not store.rows("SELECT * FROM raters")


def test_every_response_has_the_headers_and_no_cookie(client: TestClient) -> None:
    link = consent(client)
    for path in (
        "/",
        link,
        f"{link}/welcome",
        f"{action(client, link)}/clip",
        "/static/study.css",
        "/static/none",
        "/r/x",
    ):
        got = client.get(path)
        assert all(got.headers[name] == value for name, value in HEADERS.items()), path
        assert "set-cookie" not in got.headers
        assert got.headers["cache-control"] == ("private, max-age=3600" if path.endswith("clip") else "no-store")
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_explanations_are_text_and_blind(client: TestClient, store: Store) -> None:
    link = consent(client)
    while (page := client.get(link).text) and 'name="left"' in page:
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in page
        assert "A study &lt;b&gt;of&lt;/b&gt; tests" in page
        shown = re.sub(r"Text of (base|ours) for [\w-]+\.", "", page)  # how the tests mark their texts
        for word in ("base", "ours", "synthetic", ".mp4", "answer_id", "grammar"):
            assert word not in shown
        assert client.post(action(client, link), data=GOOD).status_code == 303
    assert store.rows("SELECT code FROM raters")[0]["code"] in page


def test_another_raters_pages_cannot_be_read_or_answered(client: TestClient, store: Store) -> None:
    mine, yours = consent(client), consent(client)
    key = action(client, mine).rsplit("/", 1)[1]
    assert client.post(f"{yours}/a/{key}", data=GOOD).status_code == 404
    assert client.get(f"{yours}/a/{key}/clip").status_code == 404
    assert client.post(f"/r/{'x' * 32}/a/{key}", data=GOOD).status_code == 404
    assert client.get(f"/r/{'x' * 32}").status_code == 404
    assert client.get(f"{mine}/a/{key}/clip").status_code == 200
    assert not store.rows("SELECT * FROM assignments WHERE answered_at IS NOT NULL")


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "0", "1", "test-0000.mp4", "a" * 5_000]
)
def test_no_path_of_a_request_reaches_the_disk(client: TestClient, path: str) -> None:
    link = consent(client)
    for url in (f"{link}/a/{path}/clip", f"/static/{path}", f"/r/{path}"):
        assert client.get(url).status_code == 404, url


def test_a_clip_can_be_sought_in(client: TestClient, store: Store) -> None:
    link = consent(client)
    clip = f"{action(client, link)}/clip"
    whole = client.get(clip)
    part = client.get(clip, headers={"Range": "bytes=100-199"})
    assert whole.headers["content-type"] == "video/mp4"
    task = store.task(1)
    assert task
    assert whole.content == Path(task.item.clip).read_bytes()
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert client.get(clip, headers={"Range": "bytes=99999999-"}).status_code == 416


def test_an_answer_is_kept_once(client: TestClient, store: Store) -> None:
    link = consent(client)
    page = action(client, link)
    said = [client.post(page, data=data).status_code for data in (GOOD, GOOD, {**GOOD, "preferred": "right"})]
    assert said == [303, 303, 409]
    assert len(answers_of(store)) == 1


def test_what_is_missing_is_asked_for_again_with_what_was_chosen(client: TestClient) -> None:
    link = consent(client)
    again = client.post(action(client, link), data={"left": "3", "comment": "Still <here>"})
    assert again.status_code == 422
    assert re.search(r'name="left" value="3" required checked', again.text)
    assert "Still &lt;here&gt;" in again.text
    assert 'role="alert"' in again.text


def test_a_full_study_says_so(client: TestClient, make_store: Callable[..., Store]) -> None:
    make_store(max_raters=1)
    later = TestClient(make_app(make_store(max_raters=1)), follow_redirects=False)
    consent(later)
    assert later.get("/").status_code == 503
    assert later.post("/consent", data={"agree": "yes"}).status_code == 503


def test_a_broken_page_shows_no_inner_detail(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Store) -> bool:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Store, "wanted", broken)
    shown = TestClient(make_app(store), raise_server_exceptions=False).get("/")
    assert shown.status_code == 500
    assert "secret" not in shown.text
    assert shown.headers["X-Frame-Options"] == "DENY"
