"""Two raters in a real browser, by keyboard alone, in both tasks, with the server killed in between."""

import contextlib
import os
import signal
from typing import Any

import pytest

from llumi.rate.answers import fields_of
from llumi.rate.export import read_ratings
from tests.rate.conftest import GM_ARMS, IM_ARMS, MakeHouse, serving, url_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PAGES = 3


class Hands:
    """A rater who has a keyboard and no mouse."""

    def __init__(self, browser: Any, url: str, token: str, **device: Any) -> None:
        self.context = browser.new_context(**device)
        self.page = self.context.new_page()
        self.outside: list[str] = []
        self.page.on("request", lambda request: None if request.url.startswith(url) else self.outside.append(request.url))
        self.page.goto(f"{url}/join/{token}")

    def focused(self, attribute: str) -> str:
        return str(self.page.evaluate(f"document.activeElement.{attribute} ?? ''"))

    def tab_to(self, text: str) -> None:
        """Tab until the element with this text has the focus; a page that cannot be walked through never gets there."""
        for _ in range(40):
            self.page.keyboard.press("Tab")
            if self.focused("textContent").strip() == text:
                assert self.page.evaluate("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"{text} is not reached by keyboard")

    def press(self, text: str) -> None:
        """Press a button that leads to another page, and wait until it is there."""
        self.tab_to(text)
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")

    def answer(self, fields: list[str]) -> None:
        """Each scale in the order of the page: into it by Tab, 1 by Space, and to 3 by the arrow."""
        self.page.locator("#main").focus()
        for field in fields:
            self.page.keyboard.press("Tab")
            assert self.focused("name") == field
            self.page.keyboard.press("Space")
            if field != "verdict":
                self.page.keyboard.press("ArrowRight")
                self.page.keyboard.press("ArrowRight")
        assert self.page.locator("#answered").text_content() == f"{len(fields)} of {len(fields)} answered"


@pytest.mark.parametrize("role", ["gm", "im"])
def test_two_raters_by_keyboard_while_the_server_is_killed(role: Any, chromium: Any, make_house: MakeHouse) -> None:
    house = make_house(raters_per_item=2, pages_per_rater=PAGES, check_share=0, repeat_share=0)
    tokens = house.study(role=role, raters=2)
    url, fields = url_of(house.config), [*fields_of(role), "verdict"]
    with serving(house.config) as server:
        desk = Hands(chromium, url, tokens[0], viewport={"width": 1280, "height": 900})
        phone = Hands(chromium, url, tokens[1], viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
        for hands in (desk, phone):
            hands.press("I have read this, and I want to start")
            hands.answer(fields)
            assert hands.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"
        desk.press("Send and go on")
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        phone.tab_to("Send and go on")
        phone.page.keyboard.press("Enter")
        phone.page.locator("#unreachable").wait_for(state="visible")
    with serving(house.config):
        # What was chosen is still there, also after the page is loaded again.
        phone.page.reload()
        assert phone.page.locator("#answered").text_content() == f"{len(fields)} of {len(fields)} answered"
        phone.press("Send and go on")
        for hands in (desk, phone):
            for _ in range(PAGES - 1):
                assert "Saved" in (hands.page.get_by_role("status").text_content() or "")
                hands.answer(fields)
                hands.press("Send and go on")
            assert "That was all for you" in hands.page.locator("h1").text_content()
            assert hands.outside == []
    with contextlib.closing(house.open()) as database:
        ratings = read_ratings(database, "first")
    assert ratings.counts["choices"] == 2 * PAGES
    assert set(ratings.records["choices"]["verdict"].to_pylist()) == {"left"}
    assert set(ratings.records["scales"]["score"].to_pylist()) == {3}
    assert set(ratings.records["scales"]["arm"].to_pylist()) == {*(GM_ARMS if role == "gm" else ("human-draft", *IM_ARMS))}


def test_what_a_screen_reader_is_told(chromium: Any, make_house: MakeHouse) -> None:
    house = make_house(check_share=0)
    (token, *_) = house.study(role="im")
    with serving(house.config):
        hands = Hands(chromium, url_of(house.config), token)
        hands.press("I have read this, and I want to start")
        page = hands.page
        for place in ("first", "second"):
            scale = page.get_by_role("group", name=f"Empathy Does it understand how the person feels? The {place} reply.")
            names = [radio.aria_snapshot() for radio in scale.get_by_role("radio").all()]
            assert names == ['- radio "1, not at all"', '- radio "2"', '- radio "3"', '- radio "4"', '- radio "5, very well"']
        assert page.get_by_role("region", name="The post").count() == 1
        assert page.get_by_role("navigation", name="Always here").get_by_role("button", name="Stop here").is_visible()
        # A page with something missing says so first, and leads there.
        page.evaluate("document.getElementById('answers').noValidate = true")
        hands.press("Send and go on")
        page.get_by_role("alert").filter(has_text="Something is still missing").wait_for()
        assert hands.focused("id") == "problems"
        assert page.get_by_role("alert").get_by_role("link").count() == len(fields_of("im")) + 1


def test_stop_is_in_reach_wherever_one_has_scrolled(chromium: Any, make_house: MakeHouse) -> None:
    house = make_house()
    (token, *_) = house.study()
    with serving(house.config):
        hands = Hands(chromium, url_of(house.config), token, viewport={"width": 390, "height": 700})
        hands.press("I have read this, and I want to start")
        hands.page.mouse.wheel(0, 5000)
        stop = hands.page.get_by_role("button", name="Stop here")
        assert stop.bounding_box()["y"] < 100
        stop.press("Enter")
        hands.page.get_by_role("heading", name="You have stopped. Thank you.").wait_for()
