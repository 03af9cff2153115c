"""Small studies: two arms that explain real clips, their file, and a server as a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from erv_lightning.data.readers import SyntheticClips
from erv_lightning.predictions import prediction
from erv_lightning.results import read_predictions
from erv_lightning.study.items import Item, match, select
from erv_lightning.study.plan import Plan
from erv_lightning.study.store import Store

TITLE = "A study <b>of</b> tests"
PLAN = Plan(arms=("base", "ours"), per_item=3, per_rater=4, attention=1, title=TITLE, contact="ask@example.org")


@pytest.fixture(scope="session")
def arms(clips: SyntheticClips, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two files of predictions for 28 clips; every text names its arm and clip, one of them looks like HTML."""
    folder = tmp_path_factory.mktemp("arms")
    samples = [sample for split in ("rl", "val", "test") for sample in clips.samples(split)]
    paths = folder / "base.jsonl", folder / "ours.jsonl"
    for path in paths:
        rows = []
        for number, sample in enumerate(samples):
            text = f"Text of {path.stem} for {sample.id}. The <script>alert(1)</script> face & voice agree."
            row = prediction(sample, f"<think>{text}</think>\n<answer>{sample.label}</answer>")
            rows.append({**row, "judges": {"grammar": number % 7}})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


@pytest.fixture(scope="session")
def shared_items(arms: tuple[Path, Path]) -> list[Item]:
    """All 28 clips of the two arms."""
    return match(*(read_predictions(path) for path in arms))[0]


@pytest.fixture
def make_store(shared_items: list[Item], tmp_path: Path) -> Callable[..., Store]:
    """A study of some clips, with other settings than `PLAN` where they are given."""

    def make(clips: int = 6, clock: Callable[[], float] = time.time, **settings: Any) -> Store:
        plan = replace(PLAN, **settings)
        items = select(shared_items, clips, plan.attention, plan.seed)
        return Store.create_or_resume(tmp_path / "study.sqlite", items, plan, clock)[0]

    return make


@dataclass
class Server:
    """A server process.

    Attributes:
        process: it.
        url: where it listens.
        db: its file.
    """

    process: subprocess.Popen[str]
    url: str
    db: Path

    def kill(self) -> None:
        """Ends it with no chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


@pytest.fixture
def serve(arms: tuple[Path, Path], tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts `study serve` on a port of its own, and waits until it says where."""
    started: list[Server] = []

    def start(*words: str, port: int = 0) -> Server:
        db = tmp_path / "served.sqlite"
        command = [sys.executable, "-m", "erv_lightning", "study", "serve", *map(str, arms), "--db", str(db)]
        command += ["--port", str(port), "--contact", "ask@example.org", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"open (http://\S+?)/ ", line):
                started.append(Server(process, found[1], db))
                return started[-1]
        raise AssertionError("".join(said))

    yield start
    for server in started:
        server.process.kill()
        server.process.wait(20)


class Person:
    """A rater with a browser that does as told: follows redirects, reads the form, answers it."""

    def __init__(self, url: str, link: str | None = None) -> None:
        self.client = httpx.Client(base_url=url, timeout=60)
        self.link = link or self.consent()

    def consent(self) -> str:
        """Agrees, and returns the personal link."""
        gone = self.client.post("/consent", data={"agree": "yes"})
        assert gone.status_code == 303, gone.text
        return gone.headers["location"].removesuffix("/welcome")

    def page(self) -> str:
        """What the link shows."""
        shown = self.client.get(self.link)
        assert shown.status_code == 200, shown.text
        return shown.text

    def form(self) -> str | None:
        """Where the answer to the page goes; None on the last page."""
        found = re.search(r'action="(/r/[^"]+)"', self.page())
        return found[1] if found else None

    def send(self, action: str, **fields: Any) -> httpx.Response:
        """Answers a page."""
        return self.client.post(action, data={"left": 0, "right": 1, "preferred": "left", **fields})


@pytest.fixture
def person() -> type[Person]:
    """`Person`, for tests."""
    return Person
