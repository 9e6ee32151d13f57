"""`llumi keys` and `llumi audit` as an operator types them."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from llumi import job
from llumi.cli import app
from llumi.config import Config, load_config
from llumi.errors import LlumiError
from llumi.serve.audit import AuditLog
from llumi.serve.ring import KeyRing
from tests.serve.keyed import key_store


def run(*command: str) -> Result:
    return CliRunner().invoke(app, list(command))


@pytest.fixture
def here(tmp_path: Path) -> list[str]:
    return ["--set", f"storage.uri={tmp_path}"]


def figures(*command: str) -> Any:
    shown = run(*command, "--json")
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.stdout)


def test_a_key_from_its_making_to_its_end(tmp_path: Path, here: list[str]) -> None:
    assert "no key yet" in run("keys", "list", *here).stdout
    wanted = ["--scope", "gm", "--scope", "im", "--requests-per-minute", "60", "--tokens-per-minute", "9000", "--expires", "90"]
    made = figures("keys", "create", "clinic-web", *wanted, *here)
    [listed] = figures("keys", "list", *here)["keys"]
    assert listed == {key: value for key, value in made.items() if key != "secret"}
    assert (listed["scopes"], listed["requests_per_minute"], listed["state"]) == ("gm im", 60, "open")
    renewed = figures("keys", "rotate", "clinic-web", "--grace", "24", *here)
    assert renewed["old_secret_until"] is not None
    ring = KeyRing(key_store(tmp_path))
    assert ring.find(made["secret"])[1] is ring.find(renewed["secret"])[1] is None
    table = run("keys", "list", *here).stdout
    assert "clinic-web" in table
    assert made["secret"] not in table
    assert renewed["id"] in run("keys", "revoke", "clinic-web", *here).stdout
    assert [key["state"] for key in figures("keys", "list", *here)["keys"]] == ["revoked"]


def test_a_secret_is_shown_on_a_line_of_its_own(tmp_path: Path, here: list[str]) -> None:
    shown = run("keys", "create", "web", "--scope", "gm", *here).stdout
    assert KeyRing(key_store(tmp_path)).find(shown.splitlines()[1])[1] is None


def test_a_scope_is_needed_and_must_be_one(here: list[str]) -> None:
    assert run("keys", "create", "web", *here).exit_code == 2
    with pytest.raises(LlumiError, match="scope everything: no such scope; there are gm, im, rate, admin"):
        CliRunner().invoke(app, ["keys", "create", "web", "--scope", "everything", *here], catch_exceptions=False)
    with pytest.raises(LlumiError, match="key web: no open key"):
        CliRunner().invoke(app, ["keys", "revoke", "web", *here], catch_exceptions=False)


def test_the_chain_is_said_to_hold_in_one_line_or_where_it_does_not(tmp_path: Path, here: list[str]) -> None:
    log = AuditLog(tmp_path / "audit")
    for _ in range(3):
        log.write({"status": 200})
    log.close()
    held = run("audit", "verify", *here).stdout
    assert held.startswith("the chain holds: 3 lines from number 1; head ")
    assert held.count("\n") == 1
    found = figures("audit", "verify", *here)
    assert (found["lines"], found["torn"]) == (3, 0)
    assert run("audit", "verify", "--head", found["head"], *here).exit_code == 0
    [file] = (tmp_path / "audit").glob("*.jsonl")
    assert run("audit", "verify", str(file)).stdout == held
    log = AuditLog(tmp_path / "audit")
    log.write({"refused": 980, "since": "2026-11-26T10:00:00.000Z"})
    log.close()
    counted = "the chain holds: 4 lines from number 1, in which 980 refused requests are only counted; head "
    assert run("audit", "verify", *here).stdout.startswith(counted)
    assert figures("audit", "verify", *here)["refused"] == 980
    file.write_bytes(file.read_bytes().replace(b"200", b"500", 1))
    with pytest.raises(LlumiError, match=r"audit-000001\.jsonl:1: the chain breaks here: this line was altered"):
        CliRunner().invoke(app, ["audit", "verify", *here], catch_exceptions=False)


def with_host(tmp_path: Path, host: str = "127.0.0.1") -> Config:
    return load_config(None, [f"storage.uri={tmp_path}", f"serve.host={host}"])


def said(monkeypatch: pytest.MonkeyPatch, config: Config, *, terminal: bool = True, make_first: bool = True) -> str:
    console = Console(force_terminal=terminal, no_color=True, record=True, width=300, file=None)
    monkeypatch.setattr(job, "console", console)
    job.say_who_gets_in(config, "http://127.0.0.1:8000", make_first=make_first)
    return console.export_text()


def test_the_first_key_is_made_where_only_this_machine_can_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = said(monkeypatch, with_host(tmp_path))
    curl = shown.splitlines()[-1]
    secret = curl.partition("Bearer ")[2].partition("'")[0]
    assert curl.startswith("curl http://127.0.0.1:8000/v1/draft ")
    assert KeyRing(key_store(tmp_path)).find(secret)[1] is None
    assert said(monkeypatch, with_host(tmp_path)) == ""


@pytest.mark.parametrize(
    ("host", "terminal", "make_first"), [("0.0.0.0", True, True), ("127.0.0.1", False, True), ("127.0.0.1", True, False)]
)
def test_no_secret_is_made_where_others_could_read_or_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, terminal: bool, make_first: bool
) -> None:
    shown = said(monkeypatch, with_host(tmp_path, host), terminal=terminal, make_first=make_first)
    assert "nobody has a key yet; make one: llumi keys create NAME --scope gm --scope im" in shown
    assert not key_store(tmp_path).any_open()
