"""The run report in light and dark, on narrow screens, and with thousands of responses, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser_fixtures import expected, found, open_group, press_cell
from report_payloads import Report, assemble, big_report

pytest_plugins = ("browser_fixtures",)


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const least = {};
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !one.checkVisibility()) continue;
    if (one.closest('script, style, svg, noscript')) continue;
    const [a, b] = [light(rgba(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
    const name = one.className || one.tagName;
    least[name] = Math.min(least[name] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return least;
}"""
"""The least contrast of text with its ground, by the class of the element: WCAG's formula."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_readable(visit: Callable[..., Any], report_page: Path, scheme: str) -> None:
    page = visit(report_page, color_scheme=scheme)
    page.wait_for_selector(".row")
    press_cell(page, "right, incoherent")
    open_group(page, "clip-01")
    page.get_by_role("button", name="Whole response").first.click()
    page.get_by_role("button", name="Show 1 single seed").click()
    contrasts = page.evaluate(CONTRAST)
    assert {"verdict", "said", "muted", "right", "badge", "count"} <= set(contrasts)
    assert not {name: ratio for name, ratio in contrasts.items() if ratio < 4.5}
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground))) < 60) == (scheme == "dark")


@pytest.mark.parametrize("width", [360, 700, 1000])
def test_narrow_screens_need_no_sideways_scrolling(visit: Callable[..., Any], report_page: Path, width: int) -> None:
    page = visit(report_page, viewport={"width": width, "height": 740})
    page.wait_for_selector(".row")
    page.get_by_role("button", name="Filters").click()
    press_cell(page, "right, coherent")
    page.get_by_role("button", name="Filters").click()
    page.locator(".row").first.click()
    page.wait_for_selector(".card")
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = """width => [...document.querySelectorAll('.card, .row, .clip, .chip, h1, h2, button.cell')].filter(
      (one) => one.checkVisibility() && one.getBoundingClientRect().right > width + 1).length"""
    assert page.evaluate(beyond, width) == 0


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A report of 32,000 responses."""
    report = big_report(32_000)
    path = tmp_path_factory.mktemp("big") / "big.html"
    path.write_text(assemble(report), encoding="utf-8")
    return path, report


def test_thousands_of_rollouts_stay_fluent(visit: Callable[..., Any], big: tuple[Path, Report]) -> None:
    path, report = big
    page = visit(path)
    page.wait_for_selector(".row")
    assert found(page) == (8_000, 32_000)
    for place in (0.0, 0.5, 1.0):
        page.evaluate(
            "share => { const list = document.getElementById('list'); list.scrollTop = share * list.scrollHeight; }",
            place,
        )
        page.wait_for_timeout(60)
        assert 5 < page.locator(".row").count() < 200
    assert page.locator(".row").last.get_attribute("aria-posinset") == "8000"
    spent = page.evaluate("""() => { const start = performance.now(); document.querySelector('button.cell').click();
        document.querySelectorAll('button.cell')[3].click(); return performance.now() - start; }""")
    assert spent < 2_000  # of two filters; a tenth of it is usual
    assert found(page) == expected(report, lambda row: report.cell(row) in (0, 3))
