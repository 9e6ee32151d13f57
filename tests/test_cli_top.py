"""`llumi top` before a service that really listens, on loopback."""

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from rich.console import Console
from typer.testing import CliRunner, Result

pytest.importorskip("ray")

from llumi.cli import app
from llumi.errors import AccessError, LlumiError, ServeError
from llumi.serve.front import Front
from llumi.serve.keys import KeyStore, new_secret
from llumi.serve.ring import KeyRing
from llumi.serve.router import Service, build_app
from llumi.serve.sight import Between, Reader, Reading, quantile
from llumi.watch import watch
from tests.conftest import free_port
from tests.serve.keyed import KEY, SECRET, key_store, open_access
from tests.serve.test_metrics import Replica, replicas
from tests.serve.test_router import CHAT, DRAFT, IMPROVE, service

EVERY = ["--every", "0.5"]


class Listening:
    """An app on a port of this machine, until `close`."""

    def __init__(self, of: FastAPI, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._front = self._within(Front.open(of, "127.0.0.1", self.port))

    def _within(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        self._within(self._front.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


def service_of_replicas(**changes: object) -> Service:
    access = open_access(scopes=("gm", "im", "admin"))
    return replace(service(access=access, readiness=replicas), backends={"gm": Replica(0), "im": Replica(0)}, **changes)


@pytest.fixture
def listening() -> Iterator[Listening]:
    there = Listening(build_app(service_of_replicas()))
    yield there
    there.close()


@pytest.fixture
def asking(listening: Listening) -> Iterator[None]:
    """Somebody who asks all the time, and was answered once."""
    answered, over = threading.Event(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=listening.url, headers=KEY, trust_env=False) as client:
            while not over.is_set():
                assert client.post("/v1/draft", json=DRAFT).status_code == 200
                assert client.post("/v1/improve", json={**IMPROVE, "stream": True}).status_code == 200
                client.post("/v1/chat/completions", json={**CHAT, "n": 2})
                answered.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert answered.wait(30)
    yield
    over.set()
    thread.join(30)


def run(*arguments: str, key: str = SECRET) -> Result:
    return CliRunner().invoke(app, ["top", *arguments], env={"LLUMI_KEY": key})


@pytest.mark.usefixtures("asking")
def test_figures_for_scripts(listening: Listening):
    shown = run(listening.url, "--json", *EVERY)
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout)
    assert (figures["url"], figures["audit_writable"]) == (listening.url, True)
    gm, im = figures["roles"]
    assert (gm["role"], gm["model"], gm["replicas"]) == ("gm", "gm-dpo1@0123456789ab", 3)
    assert (im["role"], im["model"], im["replicas"]) == ("im", "im-sft@ba9876543210", 0)
    for row in (gm, im):
        assert row["requests_per_second"] * figures["seconds"] == pytest.approx(sum(row["statuses"].values()), abs=0.01)
        assert row["decisions"]["passed"] == row["statuses"]["200"] > 0
        assert row["completion_tokens_per_second"] > row["requests_per_second"]
        for times in (row["first_token_seconds"], row["queue_seconds"], row["guard_seconds"]):
            assert 0 < times["p50"] <= times["p95"] < 30
    assert figures["refusals"]["invalid_body"] > 0


@pytest.mark.usefixtures("asking")
def test_one_table(listening: Listening, tmp_path: Path):
    (tmp_path / "key").write_text(f"{SECRET}\n")
    shown = run(listening.url, "--once", *EVERY, "--key-file", str(tmp_path / "key"), key="")
    assert shown.exit_code == 0, shown.output
    assert "gm-dpo1@0123456789ab" in shown.stdout
    assert "passed" in shown.stdout
    assert "refusals: invalid_body" in shown.stdout
    assert SECRET not in shown.output


def test_a_service_that_nobody_asks_has_a_table_too(listening: Listening):
    shown = run(listening.url, *EVERY)
    assert "- / -" in shown.stdout
    assert "refusals: none    failures: none" in shown.stdout


def refused(*arguments: str, key: str = SECRET) -> LlumiError:
    shown = run(*arguments, *EVERY, key=key)
    assert isinstance(shown.exception, LlumiError), shown.output
    assert "\n" not in str(shown.exception)
    assert SECRET not in str(shown.exception)
    return shown.exception


def test_what_is_wrong_is_one_line(listening: Listening, tmp_path: Path):
    assert "set LLUMI_KEY, or give --key-file" in str(refused(listening.url, key=" "))
    assert "this key does not open" in str(refused(listening.url, key=new_secret()))
    assert "no line of ASCII text" in str(refused(listening.url, key="llumi_\u00e9"))
    assert "No such file" in str(refused(listening.url, "--key-file", str(tmp_path / "none")))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert "cannot be read (no text)" in str(refused(listening.url, "--key-file", str(tmp_path / "bytes")))
    assert "no service answers there (ConnectError)" in str(refused(f"http://127.0.0.1:{free_port()}"))
    assert "not the address of a service" in str(refused("127.0.0.1:8000"))
    assert "not the address of a service" in str(refused("http://[::1"))


def test_a_key_without_the_scope_is_told_how_to_get_one():
    without = Listening(build_app(replace(service(), access=open_access(scopes=("gm",)))))
    assert "has no scope admin; make one with: llumi keys create" in str(refused(without.url))
    without.close()


def test_a_key_with_a_limit_is_told_so():
    limited = Listening(build_app(replace(service(), access=open_access(scopes=("admin",), requests_per_minute=1))))
    assert "may not ask so often" in str(refused(limited.url))
    limited.close()


def test_what_is_no_service_of_llumi_is_said():
    other = FastAPI()
    other.add_api_route("/sub/metrics", lambda: "none of ours")
    there = Listening(other)
    assert "answers 404, as no service of LLUMI does" in str(refused(there.url))
    assert "has metrics that are none of LLUMI's" in str(refused(f"{there.url}/sub"))
    there.close()


class Acting(Reader):
    """Does something before each reading but the first, then ends the watch as Ctrl-C does."""

    def __init__(self, url: str, *acts: Callable[[], object]) -> None:
        super().__init__(url, SECRET)
        self.acts: Iterator[Callable[[], object]] = iter((lambda: None, *acts))

    def read(self) -> Reading:
        act = next(self.acts, None)
        if act is None:
            raise KeyboardInterrupt
        act()
        return super().read()


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=200)


def test_the_live_view_outlives_a_service_that_goes_and_comes_back():
    of = service_of_replicas()
    there = [Listening(build_app(of))]
    console = terminal()

    def back() -> None:
        there.append(Listening(build_app(of), there[0].port))

    watch(Acting(there[0].url, lambda: None, there[0].close, back), console, 0.05, 60)
    there[1].close()
    shown = console.file.getvalue()
    gone = shown.index("no service answers there")
    assert "gm-dpo1@0123456789ab" in shown[:gone]
    assert "gm-dpo1@0123456789ab" in shown[gone:]


def test_the_live_view_ends_when_its_key_does(tmp_path: Path):
    store: KeyStore = key_store(tmp_path)
    _, secret = store.create("watch", ["admin"])
    ring = KeyRing(store)
    of = service_of_replicas()
    there = Listening(build_app(replace(of, access=replace(of.access, ring=ring))))

    def revoke() -> None:
        store.revoke("watch")
        ring.refresh()

    reader = Acting(there.url, lambda: None, revoke)
    reader._client.headers["Authorization"] = f"Bearer {secret}"
    with pytest.raises(AccessError, match="does not open"):
        watch(reader, terminal(), 0.05, 60)
    there.close()


def reading(at: float, requests: float) -> Reading:
    labels = {"role": "gm", "model": "m", "status": "200"}
    decisions = {tuple(sorted({"role": "gm", "model": "m", "decision": "passed"}.items())): requests}
    return Reading(
        at, {"llumi_requests_total": {tuple(sorted(labels.items())): requests}, "llumi_guard_decisions_total": decisions}
    )


def test_a_router_that_began_anew_counts_from_its_start():
    [row] = Between(reading(0, 100), reading(10, 120)).figures()["roles"]
    assert row["requests_per_second"] == 2
    [row] = Between(reading(0, 100), reading(10, 30)).figures()["roles"]
    assert row["requests_per_second"] == 3
    assert row["decisions"] == {"passed": 30}


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ([(1, 10), (2, 20), (float("inf"), 20)], 0.5, 1),
        ([(1, 10), (2, 20), (float("inf"), 20)], 0.75, 1.5),
        ([(1, 0), (2, 20), (float("inf"), 20)], 0.5, 1.5),
        ([(1, 0), (2, 10), (float("inf"), 20)], 0.95, 2),
        ([(1, 0), (float("inf"), 0)], 0.5, None),
        ([], 0.5, None),
    ],
)
def test_quantiles_are_those_of_prometheus(buckets: list[tuple[float, float]], q: float, expected: float | None):
    assert quantile(q, buckets) == expected


def test_an_error_of_the_service_is_no_key_error():
    with pytest.raises(ServeError, match="not the address"):
        Reader("ftp://127.0.0.1", SECRET).read()
