"""The same study on a real PostgreSQL server, and a server that goes away and comes back."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llumi.rate.app import DOWN, NOTES, make_app
from llumi.rate.export import read_ratings
from llumi.rate.flags import FlagBox, list_flags, remove_flag
from llumi.rate.forget import forget_items, look_into_studies
from llumi.rate.tables import Flag
from tests.conftest import free_port
from tests.rate.conftest import NUM_POSTS, Browser, MakeHouse, post_rows

ASKER = post_rows("held-out")[3]["post_author"]


class PostgreSQL:
    """A server of its own in a folder; PostgreSQL refuses to run as root, so then as the user `postgres`."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder, self.tools, self.port = folder, tools, free_port()
        self.user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        self.run("initdb", "--auth=trust", "--username=rater", "--pgdata", str(folder / "data"))

    def run(self, tool: str, *arguments: str) -> None:
        command = [str(self.tools / tool), *arguments]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=120, **self.user)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        log = str(self.folder / "log")
        self.run("pg_ctl", "--pgdata", str(self.folder / "data"), "--wait", "--log", log, "--options", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "--pgdata", str(self.folder / "data"), "--wait", "--mode", "immediate", "stop")


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    found = shutil.which("pg_ctl")
    if found is None:
        pytest.skip("no PostgreSQL server is installed (pg_ctl is not on the path)")
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'llumi[postgresql]')")
    import tempfile

    with tempfile.TemporaryDirectory() as made:  # not under pytest's own folder: that is closed to other users
        folder = Path(made)
        if os.geteuid() == 0:
            try:
                shutil.chown(folder, "postgres", "postgres")
            except LookupError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        server = PostgreSQL(folder, Path(found).resolve().parent)
        server.start()
        yield server
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()


def test_a_study_on_postgresql_outlives_its_server(
    server: PostgreSQL, make_house: MakeHouse, starlette_client: Callable[..., Any]
) -> None:
    house = make_house(database=f"postgresql://rater@127.0.0.1:{server.port}/postgres", raters_per_item=3)
    tokens = house.study(raters=8)
    with contextlib.closing(house.open()) as database:
        app = make_app(database, house.config.rate)
        first = Browser(starlette_client(app), tokens[0])
        first.start()
        first.rate()
        form = first.form()
        server.stop()
        down = first.send("/item", **form)
        assert (down.status_code, DOWN in down.text) == (503, True)
        server.start()
        assert NOTES["saved"] in first.send("/item", **form).text

        def rate_all(token: str) -> None:
            rater = Browser(starlette_client(app), token)
            rater.start()
            while rater.is_rating:
                rater.rate()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(rate_all, tokens))
        choices = read_ratings(database, "first").records["choices"].to_pylist()
    per_item: dict[str, set[str]] = {}
    for row in choices:
        if not row["is_repeat"]:
            per_item.setdefault(row["item"], set()).add(row["rater"])
    assert {len(raters) for raters in per_item.values()} == {3}
    assert len({(row["rater"], row["item"], row["is_repeat"]) for row in choices}) == len(choices)


def test_a_person_is_forgotten_on_postgresql(
    server: PostgreSQL, make_house: MakeHouse, starlette_client: Callable[..., Any]
) -> None:
    settings = {"raters_per_item": 1, "check_share": 0, "repeat_share": 0}
    house = make_house(database=f"postgresql://rater@127.0.0.1:{server.port}/postgres", **settings)
    assert look_into_studies(house.config.rate, [], [ASKER]).rows == {}
    (token, *_) = house.study()
    with contextlib.closing(house.open()) as database:
        rater = Browser(starlette_client(make_app(database, house.config.rate)), token)
        rater.start()
        while rater.is_rating:
            rater.rate()
        assert look_into_studies(house.config.rate, [], [ASKER]).rows == {
            "studies/first": {"items": 1, "pages": 1, "scores": 10}
        }
        FlagBox(house.config.rate).keep(Flag(role="gm", model="gm@1", post="one\0two", suggestion="\0", key_id=None))
        [flag] = list_flags(database)
        assert (flag["post"], flag["suggestion"]) == ("one\ufffdtwo", "\ufffd")
        remove_flag(database, flag["id"])
        forget_items(house.config.rate, [], [ASKER])
        assert read_ratings(database, "first").counts["choices"] == NUM_POSTS - 1
    server.run("pg_ctl", "--pgdata", str(server.folder / "data"), "--wait", "stop")
    stored = b"".join(file.read_bytes() for file in (server.folder / "data" / "base").rglob("*") if file.is_file())
    assert post_rows("held-out")[2]["post"].encode() in stored
    assert post_rows("held-out")[3]["post"].encode() not in stored
