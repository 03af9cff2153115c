"""The run report in a real browser: filters, order, list, sections, and what it says where something is missing.

The oracle of every count is a loop over the rows of the payload.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser_fixtures import expected, found, press_cell, wait_for
from report_payloads import GROUP, NAMES, STEPS, Report, assemble, big_report, frame

Row = dict[str, Any]
Passes = Callable[[Row], bool]

pytest_plugins = ("browser_fixtures",)


# -- filters --------------------------------------------------------------------------------------------------------


def test_without_a_filter_every_response_is_there(page: Any, report: Report) -> None:
    assert (
        found(page)
        == expected(report, lambda row: True)
        == (4 * (len(STEPS) * 6 + 5), 4 * (len(STEPS) * 6 * GROUP + 5))
    )


@pytest.mark.parametrize(
    ("choose", "passes"),
    [
        (("Rollouts",), lambda row: row["kind"] == 0),
        (("Test predictions",), lambda row: row["kind"] == 1),
        (("grpo/explanation-seed1",), lambda row: row["run"] == 3),
        (("stage",), lambda row: row["sample"] == 5),
        (("sad", "angry"), lambda row: row["sample"] in (1, 3)),
        (("grpo/accuracy-seed0", "grpo/accuracy-seed1", "happy"), lambda row: row["run"] < 2 and row["sample"] == 0),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_a_choice_leaves_what_it_names(page: Any, report: Report, choose: tuple[str, ...], passes: Passes) -> None:
    for name in choose:
        page.locator(f"#filters input[value='{name}']").check()
    wait_for(page, report, passes)
    chips = [chip.replace("×", "").strip() for chip in page.locator(".chip:not(.clear)").all_inner_texts()]
    assert set(chips) == set(choose)


@pytest.mark.parametrize("cells", [{0}, {1}, {2}, {3}, {0, 3}, {1, 2, 3}], ids=str)
def test_the_four_cells_filter_alone_and_together(page: Any, report: Report, cells: set[int]) -> None:
    for cell in cells:
        page.locator("button.cell").nth(cell).click()
    wait_for(page, report, lambda row: report.cell(row) in cells)
    pressed = [button.get_attribute("aria-pressed") for button in page.locator("button.cell").all()]
    assert pressed == [str(cell in cells).lower() for cell in range(4)]


def test_each_choice_counts_what_it_would_leave_with_the_other_filters(page: Any, report: Report) -> None:
    press_cell(page, "wrong, coherent")
    page.locator("#filters input[value='Rollouts']").check()
    wait_for(page, report, lambda row: report.cell(row) == 2 and row["kind"] == 0)

    for cell in range(4):
        count = page.locator("button.cell .count").nth(cell).inner_text()
        assert int(count) == expected(report, lambda row, cell=cell: report.cell(row) == cell and row["kind"] == 0)[1]  # type: ignore[misc]
    for label, name in enumerate(NAMES[:6]):
        count = page.locator(f".option:has(input[value='{name}']) .count").inner_text()
        left = expected(report, lambda row, s=label: report.cell(row) == 2 and row["kind"] == 0 and row["sample"] == s)  # type: ignore[misc]
        assert int(count) == left[1]


@pytest.mark.parametrize(
    ("name", "ends", "passes"),
    [
        ("Step", ("5", "10"), lambda row: row["kind"] == 0 and 5 <= row["step"] <= 10),
        ("Step", ("11", ""), lambda row: row["kind"] == 0 and row["step"] > 10),
        ("Reward", ("", "1.5"), lambda row: row["reward"] is not None and row["reward"] <= 1.5),
        ("Reward", ("2", "2"), lambda row: row["reward"] == 2),
    ],
)
def test_ranges_filter_and_leave_out_what_has_no_such_number(
    page: Any, report: Report, name: str, ends: tuple[str, str], passes: Passes
) -> None:
    for word, value in zip(("from", "to"), ends, strict=True):
        page.get_by_label(f"{name} {word}").fill(value)
    wait_for(page, report, passes)


def test_search_finds_words_of_responses_and_ids_in_any_case(page: Any, report: Report) -> None:
    texts = report.payload["texts"]
    page.fill("#search", "BOTH OF 2 15.")
    wait_for(page, report, lambda row: "Both of 2 15." in texts[row["text"]])
    page.fill("#search", "Clip-03")
    wait_for(page, report, lambda row: row["sample"] == 3)


def test_where_nothing_passes_the_list_says_so_and_clearing_brings_all_back(page: Any, report: Report) -> None:
    page.fill("#search", "no model says this")
    page.wait_for_selector("#list .empty")
    assert "No response passes" in page.inner_text("#list")
    assert page.locator(".row").count() == 0
    page.click("#clear")
    wait_for(page, report, lambda row: True)
    assert page.input_value("#search") == ""


def test_a_link_brings_back_filters_order_and_group(
    page: Any, report: Report, report_page: Path, visit: Callable[..., Any]
) -> None:
    press_cell(page, "right, incoherent")
    page.locator("#filters input[value='grpo/accuracy-seed1']").check()
    page.get_by_label("Step from").fill("5")
    page.fill("#search", "unread")
    page.select_option("#sort", "-reward")
    wanted = lambda row: report.cell(row) == 1 and row["run"] == 1 and row["step"] >= 5  # noqa: E731
    wait_for(page, report, wanted)
    page.locator(".row").first.click()
    title = page.inner_text("#detail")
    page.wait_for_function("() => location.hash.includes('open=')")

    again = visit(report_page, page.evaluate("location.hash"))
    again.wait_for_selector("#detail-title")
    wait_for(again, report, wanted)
    assert again.inner_text("#detail")[:60] == title[:60]
    assert again.input_value("#sort") == "-reward"
    assert again.input_value("#search") == "unread"
    assert again.get_by_label("Step from").input_value() == "5"
    assert again.locator("button.cell").nth(1).get_attribute("aria-pressed") == "true"
    assert again.locator(".row[aria-selected=true]").count() == 1


def test_orders_put_first_what_they_name(page: Any, report: Report) -> None:
    groups: dict[tuple[int, ...], list[float]] = {}
    for row in report.rows:
        if row["kind"] == 0:
            groups.setdefault((row["run"], row["step"], row["sample"]), []).append(row["reward"])
    means = [sum(rewards) / GROUP for rewards in groups.values()]

    def rewards() -> list[float]:
        page.wait_for_timeout(50)
        texts = page.locator(".row .reward").all_inner_texts()
        return [float(text.split(" ±")[0]) for text in texts[:8]]

    page.select_option("#sort", "-reward")
    assert rewards() == sorted(means, reverse=True)[:8]
    page.select_option("#sort", "reward")
    assert rewards() == sorted(means)[:8]
    page.select_option("#sort", "-step")
    assert page.locator(".row .when").first.inner_text() == f"step {STEPS[-1]}"
    page.select_option("#sort", "step")
    page.focus("#list")
    page.keyboard.press("End")
    page.wait_for_selector(".row.active .when:text('test')")


# -- sections -------------------------------------------------------------------------------------------------------


def test_figures_are_drawn_when_they_come_into_view_and_keep_up_with_the_theme(
    visit: Callable[..., Any], report_page: Path
) -> None:
    page = visit(report_page)
    page.wait_for_selector("#figure-curve .main-svg")
    ink = "() => getComputedStyle(document.querySelector('#figure-curve .xtick text')).fill"
    before = page.evaluate(ink)
    assert "twice" not in page.inner_text("#figure-curve")  # the title is the page's
    page.click("#theme")
    page.wait_for_function(f"before => ({ink})() !== before", arg=before)
    assert "nothing to draw" in page.inner_text("#figure-none")


def test_the_theme_is_remembered(visit: Callable[..., Any], report_page: Path) -> None:
    page = visit(report_page)
    page.wait_for_selector(".row")
    page.click("#theme")
    page.reload()
    page.wait_for_selector(".row")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_figure_can_be_saved_as_a_picture(page: Any) -> None:
    page.wait_for_selector("#figure-curve .main-svg")
    picture = page.evaluate("() => Plotly.toImage(document.getElementById('figure-curve'), { format: 'png' })")
    assert picture.startswith("data:image/png;base64,")


def test_the_page_may_load_nothing_from_the_network(report_page: Path, chromium: Any) -> None:
    page = chromium.new_page()  # not watched: what is refused is an error on the console
    page.goto(report_page.as_uri())
    refused = """() => new Promise((done) => {
      const seen = new Set();
      addEventListener('securitypolicyviolation', (event) => { seen.add(event.effectiveDirective);
        if (seen.size === 4) done([...seen].sort()); });
      fetch('http://127.0.0.1:9/x').catch(() => {});
      new Image().src = 'http://127.0.0.1:9/x.png';
      for (const [name, file] of [['script', 'x.js'], ['video', 'x.mp4']]) {
        const made = document.createElement(name);
        made.src = `http://127.0.0.1:9/${file}`;
        document.body.append(made);
      }
    })"""
    assert page.evaluate(refused) == ["connect-src", "img-src", "media-src", "script-src-elem"]
    page.close()


def test_a_table_shows_its_seeds_on_demand(page: Any) -> None:
    assert page.locator("tr.seed").is_hidden()
    page.get_by_role("button", name="Show 1 single seed").click()
    assert page.locator("tr.seed").is_visible()
    page.get_by_role("button", name="Hide 1 single seed").click()
    assert page.locator("tr.seed").is_hidden()
    assert page.locator("tr.arm td").first.inner_text() == "0.71\n[0.66, 0.75]"


def test_the_bar_leads_to_sections_and_leaves_the_address_to_the_filters(page: Any) -> None:
    press_cell(page, "right, incoherent")
    page.wait_for_function("() => location.hash.includes('cell')")
    page.click("#nav-comparison")
    page.wait_for_function("() => document.activeElement.id === 'comparison'")
    assert "cell=right-incoherent" in page.evaluate("location.hash")


# -- when something is missing --------------------------------------------------------------------------------------


def test_a_report_without_responses_says_so(visit: Callable[..., Any], tmp_path: Path) -> None:
    payload = {**frame(), "notes": [], "judges": []}
    (tmp_path / "empty.html").write_text(assemble(Report(payload)), encoding="utf-8")
    page = visit(tmp_path / "empty.html")
    page.wait_for_selector("#list .empty")
    assert "There are no responses in this report." in page.inner_text("#list")
    assert "There are no responses in this report." in page.inner_text("#detail")


def test_without_a_judge_no_explanation_is_called_incoherent(visit: Callable[..., Any], tmp_path: Path) -> None:
    report = big_report(8)
    report.payload["judges"], report.payload["rows"]["judged"] = [], []
    (tmp_path / "unjudged.html").write_text(assemble(report), encoding="utf-8")
    page = visit(tmp_path / "unjudged.html")
    page.click(".row")
    assert "No judge has read these explanations" in page.inner_text("#filters")
    assert "not judged" in page.inner_text(".card")
    assert "incoherent" not in page.inner_text("#detail")


def test_a_damaged_report_says_so(visit: Callable[..., Any], report: Report, tmp_path: Path) -> None:
    whole = assemble(report)
    start = whole.index('id="data">') + len('id="data">')
    (tmp_path / "cut.html").write_text(
        whole[: start + 1000] + whole[whole.index("</script>", start) :], encoding="utf-8"
    )
    page = visit(tmp_path / "cut.html")
    page.wait_for_selector("#status.failed")
    assert "could not be unpacked" in page.inner_text("#status")
    assert "Write the report again" in page.inner_text("#status")


def test_without_javascript_the_page_says_what_it_needs(visit: Callable[..., Any], report_page: Path) -> None:
    page = visit(report_page, java_script_enabled=False)
    assert "Allow scripts" in page.inner_text("body")
    assert page.locator("#status").is_hidden()
