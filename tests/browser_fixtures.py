"""Chromium in tests, and a report opened in it: a page that may complain about nothing and ask nothing of the network.

A test module asks for these fixtures with `pytest_plugins = ("browser_fixtures",)`. PYTEST_DONT_REWRITE: it is imported
before pytest sees that line.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_payloads import Report, assemble, small_report

from erv_lightning.data.readers import SyntheticClips

Passes = Callable[[dict[str, Any]], bool]


# Not for the session: while Playwright is at work, other tests of the process could not start an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests of a module; skips where there is none, but not in continuous integration."""
    program = shutil.which("chromium")
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Sound and pictures may start without a click: headless there is nobody to click.
        words = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=program, args=words)
        yield browser
        browser.close()


class Windows:
    """Windows of a browser, and what went wrong in them.

    Wrong are an error or a warning on the console, an exception, a dialog, and a request off the machine. A clip that
    cannot be loaded is none of these: it is what some tests are about.
    """

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.problems: list[str] = []
        self.contexts: list[Any] = []

    def open(self, path: Path, hash: str = "", **settings: Any) -> Any:
        """Opens a file in a fresh window; the settings are those of a Playwright context."""
        context = self.browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **settings})
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: _note_console(self.problems, message))
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("dialog", self._note_dialog)
        page.on("request", lambda request: _note_request(self.problems, request.url))
        page.goto(path.as_uri() + hash)
        return page

    def _note_dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def settle(self) -> None:
        """Fails if something went wrong since the last time."""
        problems, self.problems[:] = "\n".join(self.problems), []
        assert not problems, problems

    def close(self) -> None:
        """Closes all windows."""
        for context in self.contexts:
            context.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens files in windows of the test's own, see `Windows.open`; at the end nothing may have gone wrong in them."""
    windows = Windows(chromium)
    yield windows.open
    windows.close()
    windows.settle()


@pytest.fixture(scope="module")
def shared_window(chromium: Any, report_page: Path) -> Iterator[tuple[Windows, Any]]:
    """The small report, opened once: reading the charting library takes most of a test's time."""
    windows = Windows(chromium)
    page = windows.open(report_page)
    page.wait_for_selector(".row")
    yield windows, page
    windows.close()


@pytest.fixture
def page(shared_window: tuple[Windows, Any]) -> Iterator[Any]:
    """The small report as if it had just been opened: no filter, no opened group."""
    windows, opened = shared_window
    opened.evaluate(
        "() => { document.activeElement.blur(); history.replaceState(null, '', location.pathname);"
        " dispatchEvent(new HashChangeEvent('hashchange')); scrollTo({ top: 0, behavior: 'instant' }); }"
    )
    yield opened
    windows.settle()


def _note_console(problems: list[str], message: Any) -> None:
    lost = "ERR_FILE_NOT_FOUND" in message.text and ".mp4" in str(message.location)
    if message.type in ("error", "warning") and not lost:
        problems.append(f"{message.type}: {message.text} {message.location}")


def _note_request(problems: list[str], url: str) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        problems.append(f"request: {url}")


@pytest.fixture(scope="session")
def page_folder(clips: SyntheticClips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for pages, with clips/ of two real files beside them."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "clips").mkdir()
    for place, sample in enumerate(clips.samples("test")[:2]):
        shutil.copy(sample.clip, folder / "clips" / f"{place}.mp4")
    return folder


@pytest.fixture(scope="session")
def report(page_folder: Path) -> Report:
    """The small report."""
    return small_report(["clips/0.mp4", "clips/1.mp4"], (page_folder / "clips" / "1.mp4").read_bytes())


@pytest.fixture(scope="session")
def report_page(report: Report, page_folder: Path) -> Path:
    """The small report as a page."""
    path = page_folder / "report.html"
    path.write_text(assemble(report), encoding="utf-8")
    return path


# -- what tests do with a page


def found(page: Any) -> tuple[int, int]:
    """How many groups and responses the page says that it found."""
    groups, responses = re.findall(r"([\d,]+) (?:groups?|(?:of [\d,]+ )?responses?)", page.inner_text("#found"))
    return int(groups.replace(",", "")), int(responses.replace(",", ""))


def expected(report: Report, passes: Passes) -> tuple[int, int]:
    rows = [row for row in report.rows if passes(row)]
    return len({(row["kind"], row["run"], row["step"], row["sample"]) for row in rows}), len(rows)


def press_cell(page: Any, name: str) -> None:
    page.locator("button.cell[title='" + name + "']").click()


def wait_for(page: Any, report: Report, passes: Passes) -> None:
    """Waits until the page has found what passes, no more and no less."""
    groups, rows = expected(report, passes)
    page.wait_for_function(
        "([groups, rows]) => { const text = document.getElementById('found').textContent.replaceAll(',', '');"
        " return text.startsWith(`${groups} group`) && text.includes(` ${rows} `); }",
        arg=[groups, rows],
    )
    assert found(page) == (groups, rows)


def open_group(
    page: Any, sample: str, step: int | str = 5, run: str = "grpo/accuracy-seed0", dataset: str = "synthetic"
) -> None:
    """Goes to a group by the address, as a link does."""
    page.evaluate(
        "hash => { location.hash = hash; }", f"open={sample}&of={dataset}&in={run.replace('/', '%2F')}&at={step}"
    )
    page.wait_for_function("name => document.getElementById('detail-title')?.textContent.startsWith(name)", arg=sample)
    page.wait_for_function(
        "words => document.querySelector('.detail-head p').textContent.includes(words)",
        arg=f"{run} · {'test' if step == 'test' else f'step {step}'}",
    )
