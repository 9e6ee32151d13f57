"""Flags in a real database: kept whole, counted without text, removed, and added to a database from before there were flags."""

import contextlib
import json
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from typer.testing import CliRunner

from llumi.cli import app
from llumi.config import RateConfig
from llumi.errors import DatabaseError, RateError
from llumi.rate.database import Database, anchored
from llumi.rate.flags import NO_REASON, FlagBox, count_flags, list_flags, remove_flag
from llumi.rate.tables import Base, Flag

POST = "The evenings are long, and the lamp by the window stays on."


@pytest.fixture
def config(tmp_path: Path) -> RateConfig:
    return RateConfig(database=f"sqlite:///{tmp_path / 'rate.db'}")


def flag(**fields: str | None) -> Flag:
    told = {"role": "im", "model": "im-dpo1@0123456789ab", "post": POST, "draft": "Go out.", "suggestion": "Just go out."}
    return Flag(**(told | {"reason": None, "key_id": None} | fields))


def test_a_flag_is_on_disk_with_all_that_is_needed_to_act(config: RateConfig) -> None:
    numbers = [FlagBox(config).keep(flag(reason="tone", key_id="k-1")), FlagBox(config).keep(flag(role="gm", draft=None))]
    with contextlib.closing(Database.open(config)) as database:
        first, second = list_flags(database)
    assert [first["id"], second["id"]] == numbers
    assert first.pop("flagged_at").startswith("20")
    assert first == {
        "id": numbers[0],
        "role": "im",
        "model": "im-dpo1@0123456789ab",
        "key_id": "k-1",
        "reason": "tone",
        "post": POST,
        "draft": "Go out.",
        "suggestion": "Just go out.",
    }
    assert (second["draft"], second["reason"]) == (None, None)


def test_a_character_that_no_database_holds_does_not_cost_the_alarm(config: RateConfig) -> None:
    FlagBox(config).keep(flag(post=f"{POST}\0", draft=None, suggestion="\0Just go out."))
    with contextlib.closing(Database.open(config)) as database:
        [kept] = list_flags(database)
    assert (kept["post"], kept["suggestion"], kept["draft"]) == (f"{POST}\ufffd", "\ufffdJust go out.", None)


def test_counts_hold_no_text(config: RateConfig) -> None:
    box = FlagBox(config)
    for reason in ("tone", None, "tone"):
        box.keep(flag(reason=reason))
    with contextlib.closing(Database.open(config)) as database:
        counts = count_flags(list_flags(database))
    assert counts["flags"] == 3
    assert counts["reason"] == {"tone": 2, NO_REASON: 1}
    assert counts["model"] == {"im-dpo1@0123456789ab": 3}
    assert "evenings" not in json.dumps(counts)


def test_a_removed_flag_is_gone_and_an_unknown_one_is_said(config: RateConfig) -> None:
    number = FlagBox(config).keep(flag())
    with contextlib.closing(Database.open(config)) as database:
        remove_flag(database, number)
        assert list_flags(database) == []
        with pytest.raises(RateError, match=f"flag {number}: no such flag"):
            remove_flag(database, number)


def test_a_database_from_before_there_were_flags_gets_the_table(config: RateConfig) -> None:
    engine = create_engine(config.database)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE flags"))
    with contextlib.closing(Database.open(config)) as database:
        assert list_flags(database) == []
    assert inspect(engine).has_table("flags")
    engine.dispose()


def test_a_box_whose_database_is_away_goes_on_once_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("in the way")
    box = FlagBox(RateConfig(database=f"sqlite:///{tmp_path / 'folder' / 'rate.db'}"))
    with pytest.raises(RateError, match="cannot be made"):
        box.keep(flag())
    (tmp_path / "folder").unlink()
    assert box.keep(flag()) == 1


def test_no_text_is_in_the_error_of_a_database_that_is_broken(config: RateConfig) -> None:
    box = FlagBox(config)
    box.keep(flag())
    engine = create_engine(config.database)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE flags"))
    engine.dispose()
    with pytest.raises(DatabaseError) as problem:
        box.keep(flag())
    assert POST not in str(problem.value)


def test_a_relative_file_is_anchored_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = anchored(RateConfig(database="sqlite:///kept/rate.db"))
    assert here.database == f"sqlite:///{tmp_path}/kept/rate.db"
    assert anchored(here) == here
    elsewhere = RateConfig(database="postgresql://rater@db.example/llumi")
    assert anchored(elsewhere) == elsewhere


def test_the_command_counts_shows_and_removes(config: RateConfig) -> None:
    number = FlagBox(config).keep(flag(reason="harmful"))

    def flags(*arguments: str) -> str:
        shown = CliRunner().invoke(app, ["rate", "flags", *arguments, "--set", f"rate.database={config.database}"])
        assert shown.exit_code == 0, shown.output
        return shown.stdout

    assert "harmful" in flags()
    assert "evenings" not in flags()
    [whole] = json.loads(flags("--json"))["rows"]
    assert whole["post"] == POST
    flags("--remove", str(number))
    assert json.loads(flags("--json"))["rows"] == []
