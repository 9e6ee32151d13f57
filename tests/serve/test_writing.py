"""What the writing page is given, and what becomes of a flag, over the routes in one process."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

pytest.importorskip("ray")

from llumi.config import RateConfig, ServeConfig
from llumi.rate.database import Database
from llumi.rate.flags import list_flags
from llumi.rate.tables import Reason
from llumi.serve.api import LABEL
from llumi.serve.router import Service, build_app
from llumi.serve.writing import FILES, MAX_FLAGGED_CHARACTERS, OPEN_PATHS
from tests.serve.keyed import SECRET
from tests.serve.test_router import MARKER, call, post, service

FLAG = {
    "role": "im",
    "model": "im-sft@ba9876543210",
    "reason": "minimising",
    "post": f"The evenings are long, {MARKER}.",
    "draft": "Go out.",
    "suggestion": "Just go out.",
}


@pytest.fixture
def flagging(tmp_path: Path) -> Service:
    return service(rate=RateConfig(database=f"sqlite:///{tmp_path / 'kept' / 'rate.db'}"))


def kept(of: Service) -> list[dict[str, Any]]:
    with contextlib.closing(Database.open(of.rate)) as database:
        return list_flags(database)


@pytest.mark.parametrize("path", FILES)
def test_every_file_comes_with_a_policy_that_lets_nothing_in(path: str) -> None:
    answer = call(service(), "GET", path)
    assert answer.status_code == 200
    assert answer.content == FILES[path].read_bytes()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_modules_and_styles_are_sent_as_what_they_are() -> None:
    kinds = {path: call(service(), "GET", path).headers["Content-Type"].split(";")[0] for path in FILES}
    assert kinds["/"] == "text/html"
    assert kinds["/static/page.js"] == kinds["/static/diff.js"] == "text/javascript"
    assert kinds["/static/writing.css"] == "text/css"


def test_the_page_says_what_the_service_says() -> None:
    page = call(service(), "GET", "/").text
    assert LABEL in page
    assert set(re.findall(r'<option value="(\w+)">', page)) == set(get_args(Reason))
    assert not re.search(r"<script(?![^>]* src=)|<style|\bstyle=|\bon\w+=|<form|https?://", page)


def test_nothing_else_is_served_from_the_folder() -> None:
    for path in ("/static/", "/static/none.js", "/static/page.html", "/static/..%2fwriting.py"):
        assert call(service(), "GET", path).status_code == 404


def test_crisis_lines_are_those_of_the_country() -> None:
    def names(country: str) -> list[str]:
        answer = call(service(config=ServeConfig(country=country)), "GET", "/v1/resources").json()
        assert answer["country"] == country
        assert all("locales" not in resource for resource in answer["resources"])
        return [resource["name"] for resource in answer["resources"]]

    assert names("IE")[0] == "Samaritans"
    assert call(service(config=ServeConfig(country="ie")), "GET", "/v1/resources").json()["country"] == "IE"
    assert "Samaritans" not in names("*")
    assert names("*")[0] == "Find A Helpline"


def test_the_lines_of_every_country_come_together() -> None:
    answer = call(service(config=ServeConfig(country="IE")), "GET", "/v1/resources").json()
    assert answer["countries"]["IE"] == answer["resources"]
    assert {"US", "DE", "EU", "*"} <= set(answer["countries"])
    assert answer["countries"]["US"][0]["numbers"][0] == "988"


def test_what_is_open_to_whoever_comes_takes_no_text() -> None:
    methods = {route.path: route.methods for route in build_app(service()).routes if route.path in OPEN_PATHS}
    assert set(methods) == OPEN_PATHS
    assert set().union(*methods.values()) == {"GET"}


def test_a_flag_is_kept_in_the_rating_database(flagging: Service) -> None:
    assert not Path(flagging.rate.database.removeprefix("sqlite:///")).exists()
    answers = [post("/v1/flags", body, flagging) for body in (FLAG, FLAG | {"reason": None, "draft": None, "role": "gm"})]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(201, {"flag": 1}), (201, {"flag": 2})]
    first, second = kept(flagging)
    assert {key: first[key] for key in FLAG} == FLAG
    key, _ = flagging.access.ring.find(SECRET)
    assert key is not None
    assert (first["key_id"], second["reason"], second["draft"]) == (key.id, None, None)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"reason": MARKER}, "reason"),
        ({"role": MARKER}, "role"),
        ({"model": f"{MARKER} {MARKER}"}, "model"),
        ({"post": ""}, "post"),
        ({"suggestion": "word " * MAX_FLAGGED_CHARACTERS}, "suggestion"),
        ({MARKER: MARKER}, "body"),
    ],
)
def test_a_wrong_flag_is_422_not_repeated_and_not_kept(change: dict[str, str], where: str, flagging: Service) -> None:
    answer = post("/v1/flags", FLAG | change, flagging)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, where)
    assert MARKER not in answer.text
    assert not Path(flagging.rate.database.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize("text", ["one\0two", "\0"])
def test_a_character_that_no_text_has_does_not_cost_the_alarm(text: str, flagging: Service) -> None:
    assert post("/v1/flags", FLAG | {"post": text, "suggestion": text}, flagging).status_code == 201
    [flag] = kept(flagging)
    assert flag["post"] == flag["suggestion"] == text.replace("\0", "\ufffd")


def test_half_a_character_is_422(flagging: Service) -> None:
    body = json.dumps(FLAG | {"post": "\ud800"}).encode()
    answer = call(flagging, "POST", "/v1/flags", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_a_database_that_is_away_is_503_without_a_word_of_where_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file where the folder would be")
    of = service(rate=RateConfig(database=f"sqlite:///{tmp_path / 'taken' / 'rate.db'}"))
    answer = post("/v1/flags", FLAG, of)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert str(tmp_path) not in answer.text
    assert "correct rate.database" in caplog.text
    assert MARKER not in caplog.text
