"""From what raters sent to records and to pairs that the stage dpo2 learns from."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llumi.cli import app
from llumi.corpus.privacy import KEY_VARIABLE
from llumi.errors import RateError, RatingsError
from llumi.pairs.human import add_pairs
from llumi.rate.app import make_app
from llumi.rate.export import Ratings, read_ratings, write_pairs, write_records
from llumi.records import CHECK_SCHEMA, CHOICE_SCHEMA, SCALE_SCHEMA
from llumi.safety import SafetyRules
from llumi.storage import Storage
from tests.rate.conftest import IM_ARMS, NUM_POSTS, Browser, House, MakeHouse, generation_rows, write_generation

Judge = Callable[[Browser, int], dict[str, Any]]
REFUSED = next(rule.examples[0] for rule in SafetyRules.load().file.replies if rule.name == "minimising")


def rated(house: House, tokens: list[str], judge: Judge, client: Any, role: Any = "gm") -> Ratings:
    """What comes out once every rater has answered every page as `judge` says."""
    with contextlib.closing(house.open()) as database:
        page = make_app(database, house.config.rate)
        for number, token in enumerate(tokens):
            rater = Browser(client(page), token, role)
            rater.start()
            while rater.is_rating:
                house.clock.now += 7
                rater.rate(**judge(rater, number))
        return read_ratings(database, "first")


def prefers(word: str) -> Judge:
    return lambda rater, _: {"verdict": "left" if word in rater.replies[0] else "right"}


def test_records_have_their_schema_and_time(house: House, starlette_client: Any, tmp_path: Path) -> None:
    ratings = rated(house, house.study(), prefers("lamp"), starlette_client)
    files = write_records(ratings, tmp_path / "out")
    assert [file.name for file in files] == ["scales.parquet", "choices.parquet", "checks.parquet"]
    assert [pq.read_schema(file) for file in files] == [SCALE_SCHEMA, CHOICE_SCHEMA, CHECK_SCHEMA]
    assert ratings.counts == {
        "scales": 20 * NUM_POSTS, "choices": 2 * NUM_POSTS, "checks": 0, "pairs": 0, "ties": 0, "inattentive_raters": 0,
    }  # fmt: skip
    assert set(ratings.records["choices"]["seconds"].to_pylist()) == {7.0}
    written = b"".join(file.read_bytes() for file in files)
    assert b"evenings" not in written


def test_the_commands_come_to_an_outcome(house: House, starlette_client: Any, tmp_path: Path) -> None:
    write_records(rated(house, house.study(), prefers("lamp"), starlette_client), tmp_path / "out")
    shown = CliRunner().invoke(app, ["rate", "outcome", str(tmp_path / "out"), "--json"])
    assert shown.exit_code == 0, shown.output
    tree = json.loads(shown.stdout)
    assert (tree["raters"], tree["items"]) == (2, NUM_POSTS)
    # Both raters like the same arm best, all the way: they agree, and its odds have no bound.
    assert {rate["wins"] + rate["losses"] for rate in tree["win_rates"].values()} == {2 * NUM_POSTS}
    assert tree["agreement"]["alpha"].keys() >= {"empathy", "safety"}
    wrong = CliRunner().invoke(app, ["rate", "outcome", str(tmp_path)])
    assert isinstance(wrong.exception, RatingsError)


def test_repeats_are_marked_and_checks_stand_apart(make_house: MakeHouse, starlette_client: Any) -> None:
    house = make_house(raters_per_item=1, check_share=0.2, repeat_share=0.2)
    ratings = rated(house, house.study(raters=1), prefers("lamp"), starlette_client)
    choices = ratings.records["choices"].to_pylist()
    assert 0 < sum(row["is_repeat"] for row in choices) < NUM_POSTS
    assert {row["item"] for row in choices if row["is_repeat"]} < {row["item"] for row in choices if not row["is_repeat"]}
    assert "check" not in str(choices) + str(ratings.records["scales"].to_pylist())
    assert {row["num_asked"] for row in ratings.records["checks"].to_pylist()} == {11}


@pytest.mark.parametrize("role", ["gm", "im"])
def test_a_check_is_passed_by_whoever_does_what_it_says(role: Any, make_house: MakeHouse, starlette_client: Any) -> None:
    house = make_house(check_share=0.5, repeat_share=0)
    numbers = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}

    def obey(rater: Browser, _: int) -> dict[str, Any]:
        if "short check" not in rater.page.text:
            return {}
        first, second = (next(n for word, n in numbers.items() if f"choose {word} on every" in text) for text in rater.replies)
        changes = {field: str(first if field.startswith("first") else second) for field in rater.form() if "-" in field}
        changes |= {field: "3" for field in changes if field.startswith("both")}
        return {"verdict": "left" if first > second else "right", **changes}

    checks = rated(house, house.study(role=role, raters=1), obey, starlette_client, role).records["checks"].to_pylist()
    assert len(checks) > 5
    assert all(row["num_right"] == row["num_asked"] for row in checks)


def test_no_pair_comes_of_posts_that_are_held_out(house: House, starlette_client: Any, tmp_path: Path) -> None:
    ratings = rated(house, house.study(), prefers("lamp"), starlette_client)
    with pytest.raises(RateError, match=r"study first: no pair to give; .* --purpose training"):
        write_pairs(ratings, "first", tmp_path / "pairs.ndjson")
    assert not (tmp_path / "pairs.ndjson").exists()


def test_pairs_carry_margin_raters_and_agreement_and_ties_are_dropped(make_house: MakeHouse, starlette_client: Any) -> None:
    house = make_house(raters_per_item=3, check_share=0, repeat_share=0)

    def judge(rater: Browser, number: int) -> dict[str, Any]:
        week = int(rater.page.text.split(" weeks ago")[0].rsplit(" ", 1)[1])
        verdict = prefers("lamp" if week % 3 == 0 or number == 0 else "song")(rater, number)
        return {"verdict": "tie"} if week % 3 == 2 and number == 2 else verdict

    ratings = rated(house, house.study(purpose="training"), judge, starlette_client)
    assert (ratings.counts["pairs"], ratings.counts["ties"]) == (8, 4)
    for pair in ratings.pairs:
        unanimous = int(pair["post_id"][-2:]) % 3 == 0
        assert ("lamp" in pair["chosen"]) is unanimous
        assert pair["num_raters"] == 3
        assert pair["weight"] == pytest.approx(1 if unanimous else 1 / 3)
        assert pair["agreement"] == pytest.approx(1 if unanimous else 2 / 3)


def test_who_fails_the_checks_has_no_vote(make_house: MakeHouse, starlette_client: Any) -> None:
    house = make_house(raters_per_item=1, check_share=0.3, repeat_share=0)
    judge = lambda rater, _: {"score": 3, "verdict": "tie"} if "check" in rater.page.text else prefers("lamp")(rater, 0)  # noqa: E731
    ratings = rated(house, house.study(purpose="training", raters=1), judge, starlette_client)
    assert (ratings.counts["pairs"], ratings.counts["inattentive_raters"], ratings.counts["choices"]) == (0, 1, NUM_POSTS)


@pytest.mark.parametrize("role", ["gm", "im"])
def test_the_file_is_what_pairs_add_reads_and_its_veto_holds(
    role: Any, house: House, starlette_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a long key for the tests")
    storage = Storage.open(house.config.storage)
    name = IM_ARMS[0] if role == "im" else "gm-wren"
    rows = generation_rows(role, name, "tea")
    for row in rows[-2:]:
        row["reply"] = f"{REFUSED} {row['post_id']}"
    write_generation(storage, name, rows, [storage.manifest("pairs/default").as_input()])
    other = "walk" if role == "im" else "lamp"

    def judge(rater: Browser, _: int) -> dict[str, Any]:
        return {"verdict": "right" if other in rater.replies[0] else "left"}

    ratings = rated(house, house.study(role=role, purpose="training"), judge, starlette_client, role)
    write_pairs(ratings, "first", tmp_path / "preferred.ndjson")
    assert len((tmp_path / "preferred.ndjson").read_bytes().splitlines()) == NUM_POSTS
    manifest = add_pairs(house.config, "human", tmp_path / "preferred.ndjson")
    assert manifest.counts["rows"]["dropped"] == {"chosen_vetoed": 2}
    assert manifest.metrics["mean_num_raters"] == 2
    assert manifest.metrics["mean_agreement"] == 1
    published = [
        row for split in ("train", "test") for row in storage.read_table("pairs/human", f"{role}-dpo/{split}").to_pylist()
    ]
    assert len(published) == NUM_POSTS - 2
    assert all("tea" in row["chosen"][0]["content"] for row in published)
    assert {row["weight"] for row in published} == {1.0}
    assert {row["rejected_author"] for row in published} == ({"b" * 24} if role == "im" else {None})
