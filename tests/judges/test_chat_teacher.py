"""A chat model as the teacher of `verifier build-data`, in real processes: killed, interrupted, and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from chat_servers import Answer, ChatServer, failing, saying

from erv_lightning.__main__ import main

SENTENCES = 90
CONCURRENCY = 4
BATCH = 20  # as `teaching.teachers` has it

Serve = Callable[[Callable[[str, int], Answer]], ChatServer]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "id": f"{i}",
            "dataset": "dfew",
            "clip": f"{i}.mp4",
            "label_space": "dfew",
            "label_id": i % 7,
            "answer_id": -1,
            "explanation": f"Sentence {i} is sad. sentence {i}  is SAD. Sentence {i} again.",
        }
        for i in range(SENTENCES // 2)
    ]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as running:
        yield lambda answer: running.enter_context(ChatServer(answer).running())


def by_number(sentence: str) -> Answer:
    """The same reply to a sentence always, sometimes two labels, sometimes none."""
    number = int(sentence.split()[1])
    return saying(["sad, fear", "Happy.", "I cannot say.", "anger and surprise"][number % 4], delay=0.01)


def command(server: ChatServer, to: str, cache: str | None = None) -> list[str]:
    judge = {"model": "m", "base_url": server.url, "cache": cache, "concurrency": CONCURRENCY, "retries": 0}
    content = {"class_path": "erv_lightning.judges.ChatJudge", "init_args": judge}
    Path(f"{to}.yaml").write_text(yaml.safe_dump(content))
    return ["verifier", "build-data", "--predictions", "p.jsonl", "--teacher", f"{to}.yaml", "--to", to]


def files(folder: str, other: str = "") -> dict[str, bytes]:
    """All that a command left, under the names of another folder's command."""
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(folder.encode(), (other or folder).encode())
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def killed_when(asked: Callable[[], bool], words: list[str]) -> None:
    """Starts a command in a process of its own and kills it once it has asked so much."""
    start = [sys.executable, "-m", "erv_lightning", *words]
    with subprocess.Popen(start, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 90
        while not asked() and time.monotonic() < limit and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("cache", "lost"), [("replies.sqlite", CONCURRENCY), (None, BATCH)])
def test_a_killed_command_goes_on_and_ends_as_if_it_had_not_been(serve: Serve, cache: str | None, lost: int) -> None:
    whole = serve(lambda sentence, before: by_number(sentence))
    assert main(command(whole, "run-a")) == 0
    assert len(whole.asked) == sum(whole.asked.values()) == SENTENCES

    dead = threading.Event()

    def answer(sentence: str, before: int) -> Answer:
        if len(server.asked) > 2 * BATCH + 7:
            dead.wait(90)
        return by_number(sentence)

    server = serve(answer)
    words = command(server, "run-b", cache)
    killed_when(lambda: len(server.asked) >= 2 * BATCH + 7 + CONCURRENCY, words)
    dead.set()
    asked, kept = set(server.asked), Path("run-b/labels/m.jsonl").read_text().count("\n")
    assert not Path("run-b/train.jsonl").exists()
    assert (kept, len(asked)) == (2 * BATCH, 2 * BATCH + 7 + CONCURRENCY)

    assert main(words) == 0

    twice = {sentence for sentence, times in server.asked.items() if times == 2}
    assert set(server.asked.values()) <= {1, 2}
    assert len(server.asked) == SENTENCES
    assert len(twice) <= lost  # what was under way when it died, or not yet on disk
    assert files("run-b") == files("run-a", "run-b")
    before = sum(server.asked.values())
    assert main(words) == 0
    assert sum(server.asked.values()) == before


def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(sentence: str, before: int) -> Answer:
        if sentence == "Sentence 15 again." and not before:
            os.kill(os.getpid(), signal.SIGINT)
        return by_number(sentence)

    server = serve(answer)
    words = command(server, "out", "replies.sqlite")
    signal.signal(signal.SIGINT, signal.default_int_handler)

    assert main(words) == 130
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert last == "interrupted: what came is kept in out/labels; the same command goes on"
    assert len(server.asked) < SENTENCES
    assert not Path("out/train.jsonl").exists()
    assert main(words) == 0
    assert server.asked == dict.fromkeys(server.asked, 1)
    assert len(server.asked) == SENTENCES


def test_an_endpoint_that_fails_ends_the_command_with_what_to_do(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [True]
    server = serve(lambda sentence, before: failing(500) if broken[0] and "30" in sentence else by_number(sentence))
    words = command(server, "out")

    assert main(words) == 2
    assert capsys.readouterr().err.rstrip().splitlines()[-1].startswith("error: judge m: model m at http://127.0.0.1")
    assert Path("out/labels/m.jsonl").read_text().count("\n") >= 2 * BATCH
    broken[0] = False
    assert main(words) == 0


def test_the_report_counts_what_was_asked_and_the_card_holds_no_secret(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    server = serve(lambda sentence, before: by_number(sentence))
    assert main(command(server, "out")) == 0
    err = capsys.readouterr().err

    without = sum(by_number(sentence).body == by_number("x 2").body for sentence in server.asked)
    assert f"m: {SENTENCES} requests (0 of them retries)" in err
    assert f"{without} verdicts outside the labels" in err
    assert json.loads(Path("out/card.json").read_text())["without_label"] == without
    assert all(b"sk-0123456789" not in content for content in files("out").values())
    assert b"model: m" in files("out")["README.md"]
