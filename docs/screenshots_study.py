"""Makes the pictures of docs/study.md: a small study of the built-in clips, seen in Chromium.

    python docs/screenshots_study.py

It needs Debian's chromium and the extras `dev` and `study`. Nothing of it is kept but docs/images/study_*.png.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import sync_playwright

from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.sample import Sample
from erv_lightning.predictions import prediction

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Serves the study, and photographs three pages."""
    IMAGES.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        source = SyntheticClips(root=f"{folder}/clips", train=7, rl=7, val=7, test=7)
        source.prepare()
        samples = source.samples("test")
        server, url = _serve(Path(folder), samples)
        try:
            _photograph(url, {sample.explanation: sample.label for sample in samples})
        finally:
            server.terminate()
            server.wait(20)


def _serve(folder: Path, samples: list[Sample]) -> tuple[subprocess.Popen[str], str]:
    """Two arms: one explains the wrong emotion, one the right one."""
    for shift, name in ((3, "a"), (0, "b")):
        told = [samples[(place + shift) % len(samples)].explanation for place in range(len(samples))]
        rows = [
            prediction(sample, f"<think>{text}</think>\n<answer>{sample.label}</answer>")
            for sample, text in zip(samples, told, strict=True)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [str(folder / "a.jsonl"), str(folder / "b.jsonl"), "--db", str(folder / "study.sqlite"), "--port", "0"]
    words += ["--per-rater", "5", "--attention", "1", "--contact", "Jo Doe, jo@example.org"]
    command = [sys.executable, "-m", "erv_lightning", "study", "serve", *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"open (http://\S+?)/ ", line):
            return server, found[1]
    raise RuntimeError("the server did not start")


def _photograph(url: str, labels: dict[str, str]) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.goto(url + "/")
        page.screenshot(path=IMAGES / "study_consent.png", full_page=True)
        page.check("input[name=agree]")
        page.click("button[type=submit]")
        page.wait_for_url("**/welcome")
        page.click("a.button")
        for number in range(1, 7):
            _answer(page, labels)
            if number == 2:
                page.screenshot(path=IMAGES / "study_item.png", full_page=True)
            page.click("button[type=submit]")
            page.wait_for_function("n => !document.title.startsWith(`Clip ${n} `)", arg=number)
        page.set_viewport_size({"width": 1280, "height": 620})
        page.screenshot(path=IMAGES / "study_thanks.png")
        browser.close()


def _answer(page: Any, labels: dict[str, str]) -> None:
    """Watches the clip, and chooses what each explanation was written for."""
    page.wait_for_selector("video")
    page.evaluate("() => { const v = document.querySelector('video'); v.muted = true; return v.play(); }")
    page.wait_for_selector("button[type=submit][aria-disabled=false]")
    for place in (1, 2):
        card = page.locator(".pair .card").nth(place - 1)
        label = labels.get(card.locator(".explanation").inner_text(), "none, or unclear")
        card.get_by_role("radio", name=label).check(force=True)
    page.check("input[value=left]", force=True)


if __name__ == "__main__":
    main()
