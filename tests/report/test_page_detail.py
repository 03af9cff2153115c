"""The opened group of the run report in a real browser: the clip plays, and what a model wrote is text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from browser_fixtures import open_group
from report_payloads import GROUP, HOSTILE, NAMES, STEPS, Report, assemble, big_report

pytest_plugins = ("browser_fixtures",)


# -- clips ----------------------------------------------------------------------------------------------------------


def plays(page: Any) -> bool:
    page.wait_for_selector("video")
    page.evaluate(
        "async () => { const video = document.querySelector('video'); video.muted = true; await video.play(); }"
    )
    page.wait_for_function("() => document.querySelector('video').currentTime > 0.1")
    return bool(page.evaluate("document.querySelector('video').videoWidth > 0"))


def test_a_clip_beside_the_page_plays_and_is_not_read_before_it_is_opened(page: Any) -> None:
    assert page.locator("video").count() == 0
    open_group(page, "clip-01")
    assert plays(page)
    assert page.evaluate("document.querySelector('video').currentSrc").endswith("clips/1.mp4")


def test_an_embedded_clip_plays(page: Any) -> None:
    open_group(page, "clip-03")
    assert plays(page)
    assert page.evaluate("document.querySelector('video').currentSrc").startswith("blob:")


def test_a_missing_clip_says_so_in_words(page: Any) -> None:
    open_group(page, "clip-02")
    page.wait_for_selector(".noplay")
    assert "was not found" in page.inner_text(".noplay")
    assert "clips/nowhere.mp4" in page.inner_text(".clip")


def test_a_clip_that_cannot_be_played_says_why(page: Any) -> None:
    open_group(page, "clip-04")
    assert page.inner_text(".noplay") == "The clip is a folder of frames, which browsers do not play."


# -- what the model said --------------------------------------------------------------------------------------------


def test_markup_in_a_response_is_text(page: Any) -> None:
    before = page.locator("script, img").count()
    open_group(page, "clip-00")
    explanations = page.locator(".explanation").all_inner_texts()
    for hostile, shown in zip(HOSTILE[:3], explanations, strict=False):
        assert hostile in shown
    page.get_by_role("button", name="Whole response").first.click()
    assert HOSTILE[0] in page.inner_text(".raw")
    assert "<think>" in page.inner_text(".raw")
    assert page.locator("script, img").count() == before


def test_characters_that_reorder_text_are_made_visible(page: Any) -> None:
    open_group(page, "clip-00")
    shown = page.locator(".explanation").nth(3).inner_text()
    assert "⟨U+202E⟩srorrim" in shown
    assert not set(shown) & {"\u202e", "\u2067"}


def test_a_sentence_is_marked_by_what_it_conveys_in_colour_sign_and_words(page: Any, report: Report) -> None:
    wrong = next(
        row for row in report.rows if row["sample"] == 1 and row["kind"] == 0 and row["answer_id"] not in (1, 2)
    )
    run = report.payload["runs"][wrong["run"]]["name"]
    open_group(page, "clip-01", wrong["step"], run)
    card = page.locator(".card").nth(wrong["completion"])
    verdicts = [sentence.get_attribute("class") for sentence in card.locator(".sentence").all()]
    kinds = ["both", "label", "answer", "other", "neutral", "unread"]
    assert verdicts == [f"sentence v-{kind}" for kind in kinds]
    answer = NAMES[wrong["answer_id"]]
    tags = card.locator(".verdict").all_inner_texts()
    assert tags[:3] == [f"● sad + {answer} 0.91", "◆ sad 0.91", f"▲ {answer} 0.91"]
    assert [tag[0] for tag in tags] == list("●◆▲✕○?")
    backgrounds = {
        kind: card.locator(f".v-{kind}").evaluate("one => getComputedStyle(one).backgroundColor") for kind in kinds
    }
    assert len(set(backgrounds.values())) == len(kinds)
    titles = [card.locator(f".v-{kind}").get_attribute("title") for kind in kinds]
    assert titles[1] == "The verifier reads sad (p 0.91): label, not the answer"
    assert page.locator(".legend li").count() == len(kinds)


def test_a_sentence_that_is_only_neutral_fits_a_neutral_label(page: Any) -> None:
    open_group(page, "clip-02")
    assert "v-neutral" not in " ".join(one.get_attribute("class") for one in page.locator(".card .sentence").all())


def test_completions_stand_side_by_side_with_rewards_and_advantages(page: Any, report: Report) -> None:
    open_group(page, "clip-01", 10)
    rows = [row for row in report.rows if (row["kind"], row["run"], row["step"], row["sample"]) == (0, 0, 10, 1)]
    cards = page.locator(".card").all()
    assert len(cards) == GROUP
    boxes = [card.bounding_box() for card in cards]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]
    for card, row in zip(cards, rows, strict=True):
        shown = card.locator(".rewards").inner_text().replace("−", "-").split()
        assert shown[:6] == ["reward", f"{row['reward']:g}", "format", "1", "accuracy", f"{row['reward'] - 1:g}"]
        assert float(shown[-1]) == row["advantage"]
        assert ("✓ right" in card.inner_text()) == (row["answer_id"] == 1)
        assert ("cut off" in card.inner_text()) == ("malformed" in card.inner_text()) == (row["completion"] == 3)
    sides = [card.locator(".fill").get_attribute("class") for card in cards]
    assert sides == ["fill below" if row["advantage"] < 0 else "fill above" for row in rows]

    page.get_by_role("button", name="Highest reward first").click()
    rewards = [float(one) for one in page.locator(".card .total dd").all_inner_texts()]
    assert rewards == sorted((row["reward"] for row in rows), reverse=True)
    page.get_by_role("button", name="Highest reward first").click()


def test_a_very_long_response_shows_its_start_and_the_rest_on_demand(visit: Callable[..., Any], tmp_path: Path) -> None:
    report = big_report(4)
    report.payload["explanations"][0] = {"text": "long " * 20_000, "sentences": []}
    (tmp_path / "long.html").write_text(assemble(report), encoding="utf-8")
    page = visit(tmp_path / "long.html")
    page.click(".row")
    assert len(page.locator(".explanation").first.inner_text()) < 4_000
    page.get_by_role("button", name="Show all 100,000 characters").click()
    assert len(page.locator(".explanation").first.inner_text()) > 99_000
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# -- the same clip elsewhere ----------------------------------------------------------------------------------------


def test_the_same_clip_can_be_followed_across_training_and_into_the_tests(page: Any) -> None:
    open_group(page, "clip-01", 5)
    steps = page.locator(".step")
    assert steps.locator(".when").all_inner_texts() == [str(step) for step in STEPS]
    steps.nth(2).click()
    page.wait_for_selector(".detail-head p:has-text('step 10')")
    assert page.inner_text(".row[aria-selected=true] .when") == "step 10"
    assert page.evaluate("document.activeElement.matches('.step[aria-current]')")
    page.locator(".test", has_text="grpo/explanation-seed1").click()
    page.wait_for_selector(".detail-head p:has-text('grpo/explanation-seed1 · test')")
    assert page.locator(".card").count() == 1
    open_group(page, "clip-05", 5, dataset="stage")
    assert "No run was tested on this clip" in page.inner_text(".elsewhere")


# -- keyboard -------------------------------------------------------------------------------------------------------


def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    assert page.get_attribute("#list", "aria-activedescendant") == "row-1"
    assert page.locator("#row-1").get_attribute("class") == "row active"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail-title"
    assert page.inner_text("#detail-title").startswith("clip-01")
    page.keyboard.press("]")
    page.wait_for_selector(".detail-head p:has-text('step 5')")
    page.keyboard.press("[")
    page.wait_for_selector(".detail-head p:has-text('step 0')")
    page.keyboard.press("/")
    page.keyboard.type("jk/?")
    assert page.input_value("#search") == "jk/?"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("?")
    assert page.locator("#keys").get_attribute("open") is not None
    page.keyboard.press("Escape")
    assert page.locator("#keys").get_attribute("open") is None


def test_every_control_has_a_name_and_the_list_its_roles(page: Any) -> None:
    open_group(page, "clip-01")
    nameless = """() => [...document.querySelectorAll(
        'button, input, select, video, [role=region], [role=img], [role=option]')]
      .filter((one) => one.checkVisibility() && !(one.getAttribute('aria-label') || one.textContent.trim()
        || (one.labels && one.labels.length) || one.closest('.plot, .scroll'))).map((one) => one.outerHTML)"""
    assert page.evaluate(nameless) == []
    option = page.locator(".row[aria-selected=true]")
    assert option.get_attribute("role") == "option"
    assert re.match(
        r"step 5, clip clip-01, label sad, .*, mean reward [\d.]+, run grpo/", option.get_attribute("aria-label")
    )
    assert page.locator("[role=img]").first.get_attribute("aria-label") == "A curve that rises."
