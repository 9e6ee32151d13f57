"""The page as a rater without a script meets it: blind, clear where something is wrong, and never counting twice."""

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llumi.rate import database as database_module
from llumi.rate.app import DOWN, FOREIGN_FORM, HEADERS, NO_LINK, NOTES, SIGNED_OUT, make_app
from llumi.rate.export import read_ratings
from llumi.rate.sessions import SESSION_SECONDS
from tests.rate.conftest import GM_ARMS, IM_ARMS, NUM_POSTS, Browser, House, MakeHouse

Client = Callable[..., Any]


@pytest.fixture
def site(house: House, starlette_client: Client) -> Iterator[Callable[[], Any]]:
    """Clients of the application, each a device of its own."""
    with contextlib.closing(house.open()) as database:
        app = make_app(database, house.config.rate)
        yield lambda: starlette_client(app, follow_redirects=False)


def test_an_invitation_signs_in_and_shows_the_warning_before_anything_else(house: House, site: Client) -> None:
    (token, *_) = house.study()
    client = site()
    joined = client.get(f"/join/{token}")
    cookie = joined.headers["set-cookie"]
    assert joined.status_code == 303
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert token not in cookie
    rater = Browser(client, token)
    assert "thoughts of suicide" in rater.page.text
    assert "findahelpline.com" in rater.page.text
    assert client.get("/item").headers["location"] == "/"
    assert rater.start().text.count("<fieldset") == 11


def test_only_hashes_of_tokens_are_stored(house: House, site: Client) -> None:
    tokens = house.study()
    client = site()
    Browser(client, tokens[0]).start()
    file = Path(house.config.rate.database.removeprefix("sqlite:///"))
    stored = b"".join(part.read_bytes() for part in file.parent.glob(f"{file.name}*"))
    assert b"newtown" in stored
    for secret in (*tokens, client.cookies["rating"]):
        assert secret.encode() not in stored


@pytest.mark.parametrize("role", ["gm", "im"])
def test_no_page_names_an_arm_a_study_or_a_post(role: str, house: House, site: Client) -> None:
    (token, *_) = house.study("dpo-against-base", role)
    rater = Browser(site(), token, role)
    answers = [rater.page, rater.start()]
    while rater.is_rating:
        answers.append(rater.rate(verdict="tie"))
    assert len(answers) == NUM_POSTS + 2
    for answer in answers:
        said = answer.text + str(answer.headers) + str(answer.url)
        for name in (*GM_ARMS, *IM_ARMS, "dpo", "human", "heron", "wren", "finch", "held-out-", "draft", "model"):
            assert name not in said.lower()


def test_sides_are_dealt_both_ways(house: House, site: Client) -> None:
    (token, *_) = house.study()
    rater = Browser(site(), token)
    rater.start()
    first = set()
    while rater.is_rating:
        first.add(rater.replies[0].split()[-3])
        rater.rate()
    assert first == {"lamp", "song"}


def test_scores_and_verdicts_stand_with_the_arm_that_was_meant(house: House, site: Client) -> None:
    (token, *_) = house.study()
    rater = Browser(site(), token)
    rater.start()
    while rater.is_rating:
        lamp = 0 if "lamp" in rater.replies[0] else 1
        place = ("first", "second")[lamp]
        rater.rate(score=2, verdict=("left", "right")[lamp], **{f"{place}-empathy": "5"})
    with contextlib.closing(house.open()) as database:
        records = read_ratings(database, "first").records
    heron, wren = GM_ARMS
    for row in records["scales"].to_pylist():
        assert row["score"] == (5 if (row["arm"], row["dimension"]) == (heron, "empathy") else 2)
    for row in records["choices"].to_pylist():
        assert row[f"{row['verdict']}_arm"] == heron
        assert row["first_shown"] == row["left_arm"]
        assert {row["left_arm"], row["right_arm"]} == {heron, wren}


def test_text_is_shown_as_text(house: House, site: Client) -> None:
    (token, *_) = house.study()
    rater = Browser(site(), token)
    assert "&lt;b&gt;I miss my friends.&lt;/b&gt;" in rater.start().text


def test_a_form_that_is_sent_twice_counts_once(house: House, site: Client) -> None:
    (token, *_) = house.study()
    rater = Browser(site(), token)
    rater.start()
    form = rater.form(score=5)
    assert NOTES["saved"] in rater.send("/item", **form).text
    stale = rater.send("/item", **form | {"first-empathy": "1"})
    assert NOTES["already"] in stale.text
    with contextlib.closing(house.open()) as database:
        ratings = read_ratings(database, "first")
    assert ratings.counts["choices"] == 1
    assert set(ratings.records["scales"]["score"].to_pylist()) == {5}


def test_a_form_that_is_sent_twice_at_once_counts_once(house: House, site: Client) -> None:
    (token, *_) = house.study()
    rater = Browser(site(), token)
    rater.start()
    form = rater.form(score=5)
    devices = [site() for _ in range(4)]
    for device in devices:
        device.cookies.update(rater.client.cookies)
    with ThreadPoolExecutor(len(devices)) as pool:
        notes = list(pool.map(lambda device: device.post("/item", data=form).headers["location"], devices))
    assert sorted(notes) == ["/item?note=already"] * 3 + ["/item?note=saved"]
    with contextlib.closing(house.open()) as database:
        assert read_ratings(database, "first").counts["choices"] == 1


def test_a_tab_that_outlasts_its_session_asks_for_the_link_and_the_same_page_comes_back(house: House, site: Client) -> None:
    (token, *_) = house.study()
    rater = Browser(site(), token)
    rater.start()
    rater.rate()
    form, shown = rater.form(), rater.replies
    house.clock.now += SESSION_SECONDS + 1
    answer = rater.send("/item", **form)
    assert (answer.status_code, SIGNED_OUT in answer.text) == (401, True)
    again = Browser(site(), token)
    again.start()
    assert again.replies == shown
    # The old tab knows nothing of the new sign-in, and is told where to send from.
    rater.page = rater.client.get(f"/join/{token}", follow_redirects=True)
    assert FOREIGN_FORM in rater.send("/item", **form).text
    again.rate()
    with contextlib.closing(house.open()) as database:
        assert read_ratings(database, "first").counts["choices"] == 2


@pytest.mark.parametrize("wrong", ["0", "6", "3.0", "", "two", "\u0664", None])
def test_a_score_out_of_range_is_said_and_the_rest_is_kept(wrong: str | None, house: House, site: Client) -> None:
    (token, *_) = house.study()
    rater = Browser(site(), token)
    rater.start()
    form = rater.form(score=4)
    if wrong is None:
        del form["second-safety"]
    else:
        form["second-safety"] = wrong
    answer = rater.send("/item", **form)
    assert answer.status_code == 422
    assert answer.text.count("Safety of the second reply: please choose a number from 1 to 5.") == 2
    assert answer.text.count("checked") == 10
    assert rater.rate().status_code == 200


def test_an_unknown_verdict_is_said(house: House, site: Client) -> None:
    (token, *_) = house.study()
    rater = Browser(site(), token)
    rater.start()
    answer = rater.rate(verdict="both")
    assert answer.status_code == 422
    assert "Please choose one of the replies" in answer.text


def test_a_lease_that_ended_is_told_kindly(make_house: MakeHouse, starlette_client: Client) -> None:
    house = make_house(raters_per_item=1, check_share=0, repeat_share=0, lease_seconds=60)
    tokens = house.study()
    with contextlib.closing(house.open()) as database:
        app = make_app(database, house.config.rate)
        slow, quick = (Browser(starlette_client(app), token) for token in tokens[:2])
        slow.start()
        form = slow.form()
        house.clock.now += 61
        quick.start()
        while quick.is_rating:
            quick.rate()
        late = slow.send("/item", **form)
        assert NOTES["lapsed"] in late.text
        assert read_ratings(database, "first").counts["choices"] == NUM_POSTS


def test_skip_and_stop_need_no_reason_and_lose_nothing(house: House, site: Client) -> None:
    (token, *_) = house.study()
    client = site()
    rater = Browser(client, token)
    rater.start()
    rater.rate()
    assert NOTES["skipped"] in rater.skip().text
    turn = rater.hidden("turn")
    assert "You have stopped" in rater.send("/stop", csrf=rater.hidden("csrf")).text
    assert client.get("/item").headers["location"] == "/"
    again = Browser(site(), token)
    assert "Welcome back" in again.page.text
    again.start()
    assert again.hidden("turn") == turn


@pytest.mark.parametrize("path", ["/start", "/item", "/skip", "/stop"])
def test_a_form_of_another_site_is_refused(path: str, house: House, site: Client) -> None:
    tokens = house.study()
    client = site()
    rater, other = Browser(client, tokens[0]), Browser(site(), tokens[1])
    rater.start()
    form = rater.form()
    for csrf in ("", "guess", other.hidden("csrf"), "\u00e9"):
        refused = client.post(path, data=form | {"csrf": csrf})
        assert refused.status_code == 403
        assert FOREIGN_FORM in refused.text
    assert site().post(path, data=form).status_code == 401


def test_a_turn_of_somebody_else_is_not_ones_own(house: House, site: Client) -> None:
    tokens = house.study()
    one, other = (Browser(site(), token) for token in tokens[:2])
    one.start()
    other.start()
    assert NOTES["unknown"] in other.send("/item", **other.form() | {"turn": one.hidden("turn")}).text
    assert one.rate().status_code == 200


def test_wrong_addresses_are_one_sentence(house: House, site: Client) -> None:
    house.study()
    client = site()
    for path, status, sentence in (
        ("/join/wrong", 404, NO_LINK),
        ("/item", 401, SIGNED_OUT),
        ("/nowhere", 404, "There is no such page."),
        ("/start", 405, "There is no such page."),
    ):
        answer = client.get(path)
        assert (answer.status_code, sentence in answer.text) == (status, True)
    assert client.post("/item", content=b"x" * 20_000).status_code == 413


def test_every_answer_has_its_safeguards_and_asks_nobody_else(house: House, site: Client) -> None:
    (token, *_) = house.study()
    client = site()
    rater = Browser(client, token)
    rater.start()
    for path in ("/", "/item", "/support", "/static/rate.css", "/static/rate.js", "/nowhere"):
        answer = client.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        for loaded in re.findall(r"(?:src|href|url\()=?[\"']?(https?://[^\"' )]+)", answer.text):
            assert f'<a href="{loaded}" rel="noreferrer">' in answer.text
        assert not re.search(r"\son\w+=|style=|<style|<script>", answer.text)


def test_a_database_that_does_not_answer_is_one_sentence_and_the_answers_are_not_lost(
    make_house: MakeHouse, starlette_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.2)
    house = make_house()
    (token, *_) = house.study()
    with contextlib.closing(house.open()) as database:
        rater = Browser(starlette_client(make_app(database, house.config.rate)), token)
        rater.start()
        form = rater.form(score=5)
        with contextlib.closing(sqlite3.connect(house.config.rate.database.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN EXCLUSIVE")
            down = rater.send("/item", **form)
            assert (down.status_code, down.headers["retry-after"]) == (503, "60")
            assert DOWN in down.text
            assert rater.client.get("/healthz").status_code == 503
            other.rollback()
        # The page offers the very same form again.
        fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', down.text))
        assert fields == form
        assert NOTES["saved"] in rater.send("/item", **fields).text
        assert read_ratings(database, "first").counts["choices"] == 1
