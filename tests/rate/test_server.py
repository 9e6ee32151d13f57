"""A real server over a real file: fifty raters at once, and a server that is killed while they send."""

import contextlib
import os
import signal
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from llumi.rate.export import read_ratings
from llumi.rate.study import status
from tests.rate.conftest import GM_ARMS, NUM_POSTS, Browser, House, MakeHouse, serving, url_of

NUM_RATERS = 50


def browser(house: House, token: str) -> Browser:
    return Browser(httpx.Client(base_url=url_of(house.config), trust_env=False, timeout=60), token)


def rows(house: House, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(house.config.rate.database.removeprefix("sqlite:///"))) as connection:
        return connection.execute(query).fetchall()


def test_fifty_raters_at_once_lose_nothing_and_count_once(make_house: MakeHouse) -> None:
    house = make_house(raters_per_item=20, pages_per_rater=6)
    tokens = house.study(raters=NUM_RATERS)

    def rate_twice_over(token: str) -> int:
        """Rate until there is nothing left; each form goes out on two connections at once. Returns how many were sent."""
        rater = browser(house, token)
        second = httpx.Client(base_url=url_of(house.config), trust_env=False, timeout=60)
        rater.start()
        num_sent = 0
        with ThreadPoolExecutor(2) as both:
            while rater.is_rating:
                form, cookies = rater.form(), dict(rater.client.cookies)
                again = both.submit(second.post, "/item", data=form, cookies=cookies)
                rater.send("/item", **form)
                assert again.result().status_code == 303
                num_sent += 1
        return num_sent

    with serving(house.config), ThreadPoolExecutor(NUM_RATERS) as pool:
        sent = list(pool.map(rate_twice_over, tokens))
        with contextlib.closing(house.open()) as database:
            figures = status(database, "first")["first"]
    # Each of fifty could give six pages, and twelve items want twenty raters each.
    assert sum(sent) == sum(num for (num,) in rows(house, "SELECT count(*) FROM turns WHERE state = 'done'"))
    assert rows(house, "SELECT count(*) FROM scores") == [(10 * sum(sent),)]
    assert rows(house, "SELECT count(*) FROM turns GROUP BY rater_id, item_id, is_repeat HAVING count(*) > 1") == []
    per_item = rows(house, "SELECT count(*) FROM turns WHERE kind = 'item' AND state = 'done' GROUP BY item_id")
    assert max(num for (num,) in per_item) <= 20
    assert figures["items"]["complete"] == NUM_POSTS or max(sent) == 6


def test_no_rating_that_was_acknowledged_is_lost_when_the_server_is_killed(make_house: MakeHouse) -> None:
    house = make_house(raters_per_item=8, check_share=0, repeat_share=0)
    tokens = house.study(raters=8)
    acknowledged = Counter[str]()

    def rate_until_it_dies(token: str) -> None:
        rater = browser(house, token)
        rater.start()
        while rater.is_rating:
            rater.rate()
            acknowledged[token] += 1

    with serving(house.config) as server, ThreadPoolExecutor(8) as pool:
        running = [pool.submit(rate_until_it_dies, token) for token in tokens]
        while acknowledged.total() < 20:
            assert not all(one.done() for one in running)
        os.kill(server.pid, signal.SIGKILL)
        errors = [type(one.exception()) for one in running]
    assert any(error is not type(None) and issubclass(error, httpx.HTTPError) for error in errors)
    kept = {number: num for number, num in rows(house, "SELECT rater_id, count(*) FROM turns WHERE state='done' GROUP BY 1")}
    for number, token in enumerate(tokens, start=1):
        assert kept.get(number, 0) >= acknowledged[token]
    with serving(house.config), ThreadPoolExecutor(8) as pool:
        list(pool.map(rate_until_it_dies, tokens))
    with contextlib.closing(house.open()) as database:
        ratings = read_ratings(database, "first")
    assert ratings.counts["choices"] == 8 * NUM_POSTS
    assert ratings.counts["scales"] == 8 * NUM_POSTS * 10
    assert set(ratings.records["scales"]["arm"].to_pylist()) == set(GM_ARMS)


def test_the_log_holds_no_text_and_no_key(house: House) -> None:
    (token, *_) = house.study()
    with serving(house.config) as server:
        rater = browser(house, token)
        rater.start()
        rater.rate()
        rater.send("/item", **rater.form(score=9))
        rows(house, "DROP TABLE scores")
        assert rater.rate().status_code == 503
        server.terminate()
        log = server.communicate(timeout=30)[0].decode()
    for secret in (token, "evenings", "Thank you for writing", "first-empathy", rater.client.cookies["rating"]):
        assert secret not in log
