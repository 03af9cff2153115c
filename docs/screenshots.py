"""Pictures of the run report for these docs: `python docs/screenshots.py [RUN …]`, after `make demo`.

Writes docs/images/report_*.png. Needs Chromium and playwright, which `make install` brings.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from erv_lightning.commands import report

IMAGES = Path(__file__).parent / "images"
MOST_BYTES = 300_000
RUNS = ("runs/demo/sft/seed0", "runs/demo/grpo/*-seed0")
CHOSEN = "run={run}&kind=rollouts&sort=-disagreement"


def main(argv: list[str]) -> int:
    """Makes a report of the runs and pictures of it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python docs/screenshots.py", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="*", help="default: seed 0 of the demo's runs")
    parser.add_argument("--out", type=Path, default=Path("runs/report.html"), help="the report (default: %(default)s)")
    args = parser.parse_args(argv)
    runs = args.runs or [str(run) for pattern in RUNS for run in sorted(Path().glob(pattern))]
    program = shutil.which("chromium")
    if not runs or program is None:
        print(f"screenshots: {'chromium is not installed' if runs else 'no runs here: make demo'}", file=sys.stderr)
        return 2
    if status := report.main([*runs, "--out", str(args.out)]):
        return status
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        address = args.out.resolve().as_uri()
        overview(browser, address)
        for scheme in ("light", "dark"):
            responses(browser, address, scheme)
        narrow(browser, address)
        browser.close()
    too_large = [path.name for path in IMAGES.glob("report_*.png") if path.stat().st_size > MOST_BYTES]
    if too_large:
        print(f"screenshots: over {MOST_BYTES // 1000} kB, make them smaller: {', '.join(too_large)}", file=sys.stderr)
    return 1 if too_large else 0


def overview(browser: Any, address: str) -> None:
    """The head of the page and its first figures."""
    page = window(browser, address, 1280, 1000, "light")
    page.wait_for_function("() => document.querySelectorAll('.plot .main-svg').length > 2")
    save(page, "overview")


def responses(browser: Any, address: str, scheme: str) -> None:
    """The rollout browser with a group opened: one whose completions disagree."""
    page = window(browser, address, 1300, 820, scheme)
    run = page.evaluate("() => [...document.querySelectorAll('#filters [name=run]')].at(-1).value")
    page.evaluate("hash => { location.hash = hash; }", CHOSEN.format(run=run))
    page.wait_for_selector(".chip")
    page.focus("#list")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
    save(page, f"browser_{scheme}")


def narrow(browser: Any, address: str) -> None:
    """An opened group on a telephone."""
    page = window(browser, address, 390, 1000, "light")
    page.evaluate("() => document.getElementById('list').scrollIntoView()")
    page.click(".row >> nth=2")
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
    save(page, "narrow")


def window(browser: Any, address: str, width: int, height: int, scheme: str) -> Any:
    """The report in a window of its own, once its list is drawn."""
    settings = {"color_scheme": scheme, "reduced_motion": "reduce", "viewport": {"width": width, "height": height}}
    page = browser.new_context(**settings).new_page()
    page.goto(address)
    page.wait_for_selector(".row")
    return page


def save(page: Any, name: str) -> None:
    """Writes what the window shows."""
    page.wait_for_timeout(700)  # figures and pictures come to rest
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(IMAGES / f"report_{name}.png", optimize=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
