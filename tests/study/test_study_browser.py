"""In Chromium: from consent to thanks with the clip played, by keyboard, on a narrow screen, back by link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from erv_lightning.study.answers import answers_of
from erv_lightning.study.store import Store

pytest_plugins = ("browser_fixtures",)  # `chromium`

WORDS = ("--items", "4", "--per-rater", "3", "--attention", "1", "--allow-tie")


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a fresh window, where nothing may be complained of and nothing asked of other machines."""
    problems: list[str] = []
    contexts = []

    def open_page(url: str, **settings: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        home = "/".join(url.split("/")[:3])
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
        page.on("request", lambda request: None if request.url.startswith(home + "/") else problems.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems, "\n".join(problems)


def take_part(page: Any) -> None:
    """Agrees to the consent page."""
    page.check("input[name=agree]")
    page.click("button:has-text('Take part')")
    page.wait_for_url("**/welcome")


def start(page: Any) -> None:
    """Opens the first clip."""
    page.click("a.button")
    page.wait_for_selector("video")
    page.wait_for_load_state()  # with its style sheet


def watch(page: Any) -> None:
    """Plays the clip until the page is content."""
    page.evaluate(
        "() => { const v = document.querySelector('video'); v.muted = true; v.playbackRate = 4; return v.play(); }"
    )
    page.wait_for_selector("button[type=submit][aria-disabled=false]")


def test_a_rater_goes_from_consent_to_thanks(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve(*WORDS)
    page = visit(server.url + "/")
    page.click("button:has-text('Take part')")
    assert page.url == server.url + "/"  # the box is not ticked
    take_part(page)
    link = page.input_value("#link")
    assert link.startswith(f"{server.url}/r/")
    start(page)
    for number in range(1, 5):
        assert page.inner_text(".bar label") == f"Clip {number} of 4"
        submit = page.locator("button[type=submit]")
        page.wait_for_selector("button:has-text('Please watch the clip first')")
        submit.click(force=True)
        assert f"Clip {number} of 4" in page.title()  # nothing was sent
        watch(page)
        assert page.evaluate("() => document.querySelector('video').videoWidth") > 0
        for group in ("left", "right"):
            page.click(f"label.pill:has(input[name={group}][value='{number}'])")
        page.click("label.pill:has(input[value=tie])")
        page.click("summary")
        page.fill("#comment", f"Page {number} <b>")
        submit.click()
        page.wait_for_function("n => !document.title.startsWith(`Clip ${n} `)", arg=number)
    assert page.inner_text("h1") == "Thank you!"
    store = Store(server.db)
    assert page.inner_text("[data-code]") == store.rows("SELECT code FROM raters")[0]["code"]
    frame = answers_of(store)
    assert list(frame["comment"]) == [f"Page {number} <b>" for number in range(1, 5)]
    assert (frame["watched"].astype(float) >= 0.7).all()
    assert (frame["seconds"].astype(float) > 0).all()
    assert set(frame["preferred"]) == {"tie"}
    page.goto(link)
    assert page.inner_text("h1") == "Thank you!"


def test_a_rater_comes_back_to_the_same_page_after_a_kill(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve(*WORDS)
    page = visit(server.url + "/")
    take_part(page)
    link = page.input_value("#link")
    start(page)
    shown = page.locator(".explanation").all_inner_texts()
    other = visit(link)
    assert other.locator(".explanation").all_inner_texts() == shown
    for window in (page, other):
        window.context.close()  # a clip that is still loading would complain
    server.kill()
    again = serve(*WORDS)
    moved = visit(again.url + "/r/" + link.rsplit("/", 1)[1])
    assert moved.locator(".explanation").all_inner_texts() == shown
    assert moved.inner_text(".bar label") == "Clip 1 of 4"


def test_a_keyboard_is_enough(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve(*WORDS)
    page = visit(server.url + "/")

    def focus(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    focus("input[name=agree]")
    page.keyboard.press("Space")
    focus("button")
    page.keyboard.press("Enter")
    page.wait_for_url("**/welcome")
    focus("a.button")
    page.keyboard.press("Enter")
    page.wait_for_selector("video")
    page.wait_for_load_state()  # with its style sheet
    focus("video")
    page.keyboard.press("Space")  # plays
    for group in ("left", "right", "preferred"):
        focus(f"input[name={group}]")
        outline = page.evaluate("() => getComputedStyle(document.activeElement.nextElementSibling).outlineStyle")
        assert outline == "solid"  # where the keyboard is can be seen
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
    page.wait_for_selector("button[type=submit][aria-disabled=false]")
    focus("button[type=submit]")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.title.startsWith('Clip 2 ')")
    row = answers_of(Store(server.db)).iloc[0]
    assert (row["conveyed_a"], row["conveyed_b"], row["preferred"]) == ("sad", "sad", "tie")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_and_both_schemes(serve: Callable[..., Any], visit: Callable[..., Any], scheme: str) -> None:
    server = serve(*WORDS)
    page = visit(server.url + "/", viewport={"width": 320, "height": 640}, color_scheme=scheme)
    sizes = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    ink = "() => ['color', 'backgroundColor'].map(k => getComputedStyle(document.body)[k].match(/\\d+/g).map(Number))"

    def fits() -> None:
        wide, there = page.evaluate(sizes)
        assert wide <= there
        text, ground = (sum(one[:3]) for one in page.evaluate(ink))
        assert (text > ground) == (scheme == "dark")
        assert abs(text - ground) > 450

    fits()
    take_part(page)
    fits()
    start(page)
    fits()
    heights = "() => [...document.querySelectorAll('.pill')].map(pill => pill.getBoundingClientRect().height)"
    assert min(page.evaluate(heights)) >= 36  # for fingers
    boxes = [page.locator(".pair .card").nth(place).bounding_box() for place in (0, 1)]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]  # one below the other


def test_groups_have_names_and_forms_work_without_script(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve(*WORDS)
    page = visit(server.url + "/", java_script_enabled=False)
    take_part(page)
    start(page)
    for place in (1, 2):
        group = page.get_by_role("group", name=f"Which emotion does explanation {place} convey?")
        assert group.get_by_role("radio").count() == 8
        group.get_by_role("radio", name="none, or unclear").check()
    page.get_by_role("group", name="Which explanation fits the clip better?").get_by_label("Explanation 2").check()
    page.click("button[type=submit]")
    page.wait_for_selector("text=Clip 2 of 4")
    row = answers_of(Store(server.db)).iloc[0]
    assert (row["conveyed_a"], row["conveyed_b"], row["seconds"]) == ("unclear", "unclear", "")
    assert row["preferred"] == ("b" if row["left"] == "a" else "a")
