"""The commands as a researcher types them, and the one line for whatever is wrong."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llumi.cli import app
from tests.rate.conftest import House


def settings(house: House) -> list[str]:
    config = house.config
    return ["--set", f"storage.uri={config.storage.uri}", "--set", f"rate.database={config.rate.database}"]


def figures(*command: str) -> Any:
    shown = CliRunner().invoke(app, ["rate", *command, "--json"])
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.stdout)


def test_a_study_from_its_creation_to_its_export(house: House, tmp_path: Path) -> None:
    created = figures("create", "first", "gm", "gm-heron", "human-reply", "--posts", "5", *settings(house))
    assert created["items"] == {"all": 5, "complete": 0, "raters_per_item": 3}
    links = figures("invite", "first", "--raters", "2", "--set", "rate.public_url=https://rate.example", *settings(house))
    assert list(links) == ["r001", "r002"]
    assert all(link.startswith("https://rate.example/join/") for link in links.values())
    assert list(figures("invite", "first", *settings(house))) == ["r003"]
    assert figures("status", *settings(house))["first"]["raters"] == {"invited": 3, "started": 0, "stopped": 0}
    exported = figures("export", "first", "--out", str(tmp_path / "out"), *settings(house))
    assert exported["counts"]["choices"] == 0
    assert pq.read_table(tmp_path / "out" / "scales.parquet").num_rows == 0


def test_the_database_is_for_its_owner_alone(house: House) -> None:
    house.study()
    file = Path(house.config.rate.database.removeprefix("sqlite:///"))
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["create", "first", "gm", "gm-heron", "gm-wren"], "study first: stands already; take another name"),
        (["create", "First!", "gm", "gm-heron", "gm-wren"], "study 'First!': not a name"),
        (["invite", "second"], "study second: no such study; there are: first"),
        (["export", "first", "--out", "out", "--pairs", "p.ndjson"], "study first: no pair to give"),
        (["status", "--set", "rate.database=sqlite:///nowhere/rate.db"], "nowhere/rate.db: no such database"),
        (["status", "--set", "rate.database=sqlite:///damaged.db"], "damaged.db: no database; restore it, or correct"),
        (["status", "--set", 'rate.database="sqlite:///:memory:"'], "ratings must outlive the server"),
        (["status", "--set", "rate.database=postgresql://a:secret@h/x"], "rate: database: holds a password; take it out"),
        (["status", "--set", "rate.database=mysql://h/x"], "rate.database: 'mysql://h/x' is not right"),
        (["status", "--set", "rate.database=postgresql://127.0.0.1:9/x"], "127.0.0.1:9/x: does not answer (OperationalError)"),
    ],
)
def test_what_is_wrong_is_one_line(command: list[str], line: str, house: House, tmp_path: Path) -> None:
    house.study()
    (tmp_path / "damaged.db").write_bytes(b"not what SQLite writes " * 400)
    # Given first, so that what the case sets comes after it and wins.
    given = [sys.executable, "-m", "llumi.cli", "rate", command[0], *settings(house), *command[1:]]
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "secret" not in done.stderr


def test_a_port_in_use_is_one_line(house: House) -> None:
    house.study()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", house.config.rate.port))
        taken.listen()
        serve = ["serve", *settings(house), "--set", f"rate.port={house.config.rate.port}"]
        command = [sys.executable, "-m", "llumi.cli", "rate", *serve]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "cannot be listened on (Address already in use)" in done.stderr
    assert "Traceback" not in done.stderr
