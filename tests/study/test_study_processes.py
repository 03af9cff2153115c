"""A real server process: killed without warning it loses no acknowledged answer; fifty raters at once lose none."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from erv_lightning.study.answers import answers_of
from erv_lightning.study.store import Store


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_no_acknowledged_answer_is_lost_when_the_server_is_killed(serve: Callable[..., Any], person: type[Any]) -> None:
    words = ("--items", "14", "--per-item", "6", "--per-rater", "12", "--attention", "1")
    port = free_port()
    server = serve(*words, port=port)
    acknowledged: list[tuple[str, str]] = []
    sent: list[str] = []
    enough = threading.Event()

    def rate(number: int) -> Any:
        rater = person(server.url)
        try:
            while form := rater.form():
                sent.append(form)
                if rater.send(form, comment=form).status_code == 303:
                    acknowledged.append((rater.link, form))
                if len(acknowledged) >= 25:
                    enough.set()
        except httpx.TransportError:  # the server is gone
            pass
        return rater

    with ThreadPoolExecutor(6) as pool:
        working = [pool.submit(rate, number) for number in range(6)]
        assert enough.wait(60)
        server.kill()
        raters = [one.result() for one in working]

    store = Store(server.db)
    kept = Counter(answers_of(store)["comment"])
    assert not [form for _, form in acknowledged if kept[form] != 1]
    assert set(kept) <= set(sent)
    assert max(kept.values()) == 1

    again = serve(*words, port=port)
    for rater in raters:  # each goes on by link; an answer whose reply was lost is sent once more
        back = person(again.url, rater.link)
        last = [form for form in sent if form.startswith(rater.link + "/")][-1]
        assert back.send(last, comment=last).status_code == 303
        while form := back.form():
            assert back.send(form, comment=form).status_code == 303
    frame = answers_of(store)
    assert set(Counter(frame["comment"]).values()) == {1}
    assert set(Counter(frame["rater"]).values()) == {13}
    assert all(kept[form] <= Counter(frame["comment"])[form] for form in kept)


def test_fifty_raters_at_once_lose_nothing_and_stay_balanced(serve: Callable[..., Any], person: type[Any]) -> None:
    # 220 places for 200 answers: with no place to spare a last rater may have seen what is left
    server = serve("--items", "20", "--per-item", "11", "--per-rater", "4", "--attention", "1")
    together = threading.Barrier(50)

    def rate(number: int) -> list[str]:
        together.wait(60)
        rater, sent = person(server.url), []
        while form := rater.form():
            answer = {"left": number % 7, "preferred": "left" if number % 2 else "right", "comment": form}
            with ThreadPoolExecutor(2) as double:  # a double click
                clicks = list(double.map(lambda _, form=form, answer=answer: rater.send(form, **answer), range(2)))
            assert [click.status_code for click in clicks] == [303, 303]
            sent.append(form)
        return sent

    with ThreadPoolExecutor(50) as pool:
        sent = [form for forms in pool.map(rate, range(50)) for form in forms]
    frame = answers_of(Store(server.db))
    rated = frame[frame["passed"] == ""]
    assert len(sent) == 250
    assert sorted(sent) == sorted(frame["comment"])
    assert set(Counter(frame["rater"]).values()) == {5}
    assert set(Counter(rated["id"]).values()) <= {9, 10, 11}
    assert rated["id"].nunique() == 20
    for _, own in rated.groupby("id"):
        assert abs(2 * list(own["left"]).count("a") - len(own)) <= 1
        assert own["rater"].is_unique


def test_ctrl_c_ends_it_cleanly_and_it_goes_on_where_it_was(serve: Callable[..., Any], person: type[Any]) -> None:
    words = ("--items", "4", "--per-rater", "4", "--attention", "0")
    server = serve(*words)
    rater = person(server.url)
    rater.send(rater.form())
    shown = rater.page()
    server.process.send_signal(signal.SIGINT)
    said = server.process.stdout.read()
    assert server.process.wait(20) == 0
    assert "stopped; the answers are in" in said
    assert "Traceback" not in said
    back = person(serve(*words).url, rater.link)
    assert _texts(back.page()) == _texts(shown)


def _texts(page: str) -> list[str]:
    found = re.findall(r'class="explanation" id="(.*?)">(.*?)</p>', page)
    assert len(found) == 2
    return [" ".join(one) for one in found]


def test_an_unfinished_request_holds_nobody_up(serve: Callable[..., Any], person: type[Any]) -> None:
    server = serve("--items", "4", "--attention", "0")
    host, port = server.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(60)]
    for one in slow:
        one.sendall(b"POST /consent HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na")
    start = time.monotonic()
    assert person(server.url).form()
    assert time.monotonic() - start < 10
    for one in slow:
        one.close()


def test_the_log_names_no_rater(serve: Callable[..., Any], person: type[Any]) -> None:
    server = serve("--items", "4", "--attention", "0")
    rater = person(server.url)
    rater.page()
    httpx.get(f"{server.url}/r/nobody/a/b/clip")
    server.process.send_signal(signal.SIGINT)
    said = server.process.stdout.read()
    assert rater.link.rsplit("/", 1)[1] not in said
    assert "/r/" not in said


@pytest.mark.skipif(os.name != "posix", reason="asks for permissions as POSIX has them")
def test_the_database_is_its_owners_alone_also_while_it_is_written(serve: Callable[..., Any]) -> None:
    server = serve("--items", "4", "--attention", "0")
    files: list[Path] = list(server.db.parent.glob("served.sqlite*"))
    assert files
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
