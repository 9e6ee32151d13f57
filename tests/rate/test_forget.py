"""People are taken out of a study while it runs: no byte of theirs stays, and raters go on as if nothing had happened."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from llumi.errors import DatabaseError
from llumi.rate import database as database_module
from llumi.rate.app import NOTES, make_app
from llumi.rate.database import Database
from llumi.rate.export import read_ratings
from llumi.rate.forget import forget_items, look_into_studies
from llumi.rate.study import status
from tests.rate.conftest import NUM_POSTS, Browser, House, MakeHouse, post_rows

POSTS = post_rows("held-out")


def bytes_of(house: House) -> bytes:
    """All that the database has on disk."""
    file = Path(house.config.rate.database.removeprefix("sqlite:///"))
    return b"".join(part.read_bytes() for part in file.parent.glob(f"{file.name}*"))


def number_on(rater: Browser) -> int:
    """Which post a page shows."""
    return int(rater.page.text.split(" weeks ago")[0].rsplit(" ", 1)[1])


def test_what_a_person_wrote_goes_with_its_pages_and_scores_while_raters_are_at_work(
    house: House, starlette_client: Any
) -> None:
    tokens = house.study()
    with contextlib.closing(house.open()) as database:
        app = make_app(database, house.config.rate)
        first, second = (Browser(starlette_client(app), token) for token in tokens[:2])
        first.start()
        gone = [number_on(first)]
        first.rate()
        first.rate()
        gone.append(number_on(first))
        form = first.form()
        authors, posts = [POSTS[gone[0]]["post_author"]], [POSTS[gone[1]]["post_id"]]
        assert POSTS[gone[0]]["post"].encode() in bytes_of(house)

        found = look_into_studies(house.config.rate, posts, authors)
        assert found.rows == {"studies/first": {"items": 2, "pages": 2, "scores": 10}}
        forget_items(house.config.rate, posts, authors)
        assert look_into_studies(house.config.rate, posts, authors).rows == {}
        stored = bytes_of(house)
        for number, row in enumerate(POSTS):
            assert (row["post"].encode() in stored) is (number not in gone)
            assert (row["post_author"].encode() in stored) is (number not in gone)

        assert NOTES["unknown"] in first.send("/item", **form).text
        second.start()
        for rater in (first, second):
            while rater.is_rating:
                assert number_on(rater) not in gone
                assert rater.rate().status_code == 200
        assert read_ratings(database, "first").counts["choices"] == 2 * (NUM_POSTS - 2)
        assert status(database)["first"]["items"] == {"all": NUM_POSTS - 2, "complete": NUM_POSTS - 2, "raters_per_item": 2}


def test_a_study_of_which_nothing_is_left_still_stands(make_house: MakeHouse, starlette_client: Any) -> None:
    house = make_house(check_share=0.5, repeat_share=0)
    (token, *_) = house.study(role="im")
    forget_items(house.config.rate, [], [POSTS[0]["draft_author"]])
    with contextlib.closing(house.open()) as database:
        rater = Browser(starlette_client(make_app(database, house.config.rate)), token, "im")
        assert not rater.start().text.count("<fieldset")
        assert rater.page.status_code == 200
        assert status(database)["first"]["ratings"] == {"wanted": 0, "given": 0, "missing": 0}
    assert b"short check" in bytes_of(house)


def test_bytes_that_a_run_that_died_left_go_with_the_next_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.study()

    def die(_: Database) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Database, "compact", die)
        with pytest.raises(KeyboardInterrupt):
            forget_items(house.config.rate, [], [POSTS[3]["post_author"]])
    forget_items(house.config.rate, [], [POSTS[3]["post_author"]])
    assert POSTS[3]["post"].encode() not in bytes_of(house)
    assert POSTS[2]["post"].encode() in bytes_of(house)


def test_others_who_hold_the_database_are_said(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.2)
    house.study()
    with contextlib.closing(house.open()) as other:

        def meanwhile(session: Session) -> None:
            session.connection()  # takes the lock
            with pytest.raises(DatabaseError, match="does not answer"):
                forget_items(house.config.rate, [], [POSTS[3]["post_author"]])

        other.run(meanwhile)
    assert POSTS[3]["post"].encode() in bytes_of(house)


@pytest.mark.parametrize("there", [False, True])
def test_without_a_study_nothing_is_found_and_nothing_made(there: bool, make_house: MakeHouse) -> None:
    house = make_house()
    file = Path(house.config.rate.database.removeprefix("sqlite:///"))
    if there:
        file.touch()
    assert look_into_studies(house.config.rate, ["x"], ["y"]).rows == {}
    forget_items(house.config.rate, ["x"], ["y"])
    assert file.exists() is there
