"""Who gets which item: as many raters as wanted, nothing twice, leases that end, and chance that the seed decides."""

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select

from llumi.rate.answers import Answers, fields_of, skip, submit
from llumi.rate.database import Database
from llumi.rate.tables import Item, Rater, Turn
from llumi.rate.turns import REPEAT_GAP, Page, next_page, open_page, release
from tests.rate.conftest import NUM_POSTS, House, MakeHouse

ANSWERS = Answers(dict.fromkeys(fields_of("gm"), 3), "tie")


def numbered(session: Any, number: int) -> Rater:
    return session.scalars(select(Rater).where(Rater.number == number)).one()


def open_next(database: Database, number: int) -> Page | None:
    return database.run(lambda session: next_page(session, numbered(session, number), database.clock()))


def close(database: Database, number: int, page: Page, answers: Answers | None = ANSWERS) -> str:
    def work(session: Any) -> str:
        found = open_page(session, numbered(session, number), page.turn.token, database.clock())
        if isinstance(found, str):
            return found
        if answers is None:
            skip(found, database.clock())
        else:
            submit(session, found, answers, database.clock())
        return "kept"

    return database.run(work)


def rate_all(database: Database, number: int) -> list[Page]:
    pages = []
    while (page := open_next(database, number)) is not None:
        pages.append(page)
        assert close(database, number, page) == "kept"
    return pages


def test_every_item_gets_its_raters_and_no_rater_an_item_twice(house: House) -> None:
    house.study(raters=3)
    database = house.open()
    seen = {number: [page.item.number for page in rate_all(database, number)] for number in (1, 2, 3)}
    assert Counter(item for items in seen.values() for item in items) == dict.fromkeys(range(NUM_POSTS), 2)
    assert all(len(set(items)) == len(items) for items in seen.values())
    assert seen[1] != sorted(seen[1])


def test_a_page_that_is_opened_again_is_the_same_page(house: House) -> None:
    house.study()
    database = house.open()
    first, again = open_next(database, 1), open_next(database, 1)
    assert first is not None
    assert again is not None
    assert first.turn.token == again.turn.token


def test_what_is_open_counts_as_taken_until_its_lease_ends(make_house: MakeHouse) -> None:
    house = make_house(raters_per_item=1, check_share=0, repeat_share=0, lease_seconds=60)
    house.study(raters=2)
    database = house.open()
    held = open_next(database, 1)
    assert held is not None
    assert len(rate_all(database, 2)) == NUM_POSTS - 1
    house.clock.now += 61
    (late,) = rate_all(database, 2)
    assert late.item.id == held.item.id
    # The first rater comes back: the place is gone, nothing is kept twice, and there is nothing else left.
    assert close(database, 1, held) == "lapsed"
    assert close(database, 1, held) == "lapsed"
    assert open_next(database, 1) is None
    with database._engine.connect() as connection:
        assert connection.execute(select(Turn.id).where(Turn.state == "done")).fetchall().__len__() == NUM_POSTS


def test_a_lease_that_ended_is_renewed_where_nobody_took_the_place(make_house: MakeHouse) -> None:
    house = make_house(lease_seconds=60)
    house.study()
    database = house.open()
    page = open_next(database, 1)
    assert page is not None
    house.clock.now += 3600
    again = open_next(database, 1)
    assert again is not None
    assert again.turn.token == page.turn.token
    house.clock.now += 3600
    assert close(database, 1, page) == "kept"


def test_who_stops_gives_the_place_to_somebody_else(make_house: MakeHouse) -> None:
    house = make_house(raters_per_item=1, check_share=0, repeat_share=0)
    house.study(raters=2)
    database = house.open()
    assert open_next(database, 1)
    database.run(lambda session: release(session, numbered(session, 1), database.clock()))
    assert len(rate_all(database, 2)) == NUM_POSTS


def test_a_skipped_item_goes_to_others_and_does_not_come_back(house: House) -> None:
    house.study(raters=3)
    database = house.open()
    page = open_next(database, 1)
    assert page is not None
    assert close(database, 1, page, None) == "kept"
    assert close(database, 1, page) == "already"
    assert page.item.number not in [page.item.number for page in rate_all(database, 1)]
    others = [page.item.number for number in (2, 3) for page in rate_all(database, number)]
    assert others.count(page.item.number) == 2


def test_checks_and_repeats_come_by_their_shares_and_are_extra(make_house: MakeHouse) -> None:
    house = make_house(raters_per_item=4, check_share=0.2, repeat_share=0.2, pages_per_rater=100)
    house.study(raters=4)
    database = house.open()
    for number in range(1, 5):
        pages = rate_all(database, number)
        kinds = Counter(page.turn.kind for page in pages)
        assert kinds["item"] == NUM_POSTS
        assert abs(kinds["check"] - 0.2 * len(pages)) <= 1
        assert abs(kinds["repeat"] - 0.2 * len(pages)) <= 2
        first_at = {page.item.id: page.turn.position for page in pages if page.turn.kind == "item"}
        for page in pages:
            if page.turn.kind == "repeat":
                assert page.turn.position - first_at[page.item.id] > REPEAT_GAP
    assert database.run(lambda session: session.scalars(select(Turn.id).where(Turn.is_repeat)).all())


def test_nobody_gets_more_pages_than_the_limit(make_house: MakeHouse) -> None:
    house = make_house(pages_per_rater=5)
    house.study()
    assert len(rate_all(house.open(), 1)) == 5


@pytest.mark.parametrize(("seed", "same"), [(17, True), (18, False)])
def test_order_and_sides_follow_from_the_seed(seed: int, same: bool, make_house: MakeHouse, tmp_path: Any) -> None:
    def course(database: str, seed: int) -> list[tuple[str, str, bool]]:
        house = make_house(seed=seed, database=f"sqlite:///{tmp_path / database}", check_share=0.1, repeat_share=0.1)
        house.study()
        pages = rate_all(house.open(), 1)
        return [(page.item.post_id, page.turn.kind, page.turn.swapped) for page in pages]

    first = course("a.db", 17)
    assert {swapped for _, _, swapped in first} == {True, False}
    assert (course("b.db", seed) == first) is same


def test_raters_meet_items_in_orders_of_their_own(make_house: MakeHouse) -> None:
    house = make_house(raters_per_item=9, check_share=0, repeat_share=0)
    house.study()
    database = house.open()
    assert [page.item.number for page in rate_all(database, 1)] != [page.item.number for page in rate_all(database, 2)]


def test_no_constraint_lets_a_double_or_a_score_out_of_range_in(house: House) -> None:
    from sqlalchemy.exc import IntegrityError

    from llumi.rate.tables import Score

    house.study()
    database = house.open()
    page = open_next(database, 1)
    assert page is not None
    scores = [Score(turn_id=page.turn.id, reply="a", dimension="safety", score=score) for score in (6, 0)]
    for score in scores:
        with pytest.raises(IntegrityError):
            database.run(lambda session, score=score: session.add(score))
    copy = {column.name: getattr(page.turn, column.name) for column in Turn.__table__.columns} | {"id": None, "token": "other"}
    with pytest.raises(IntegrityError):
        database.run(lambda session: session.add(Turn(**copy)))
    assert database.run(lambda session: session.scalar(select(Item.id).where(Item.id == page.item.id)))
