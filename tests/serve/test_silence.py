"""No text of a person is written anywhere: a real service in a process of its own, asked in every way that a request can end.

A word that nobody else uses goes in wherever a client can put one. Then every file that the service could have written is
read: Ray's session folder, the store with the audit log, the home folder, /tmp, and what the process printed.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import psutil
import pytest

pytest.importorskip("ray")

from llumi.serve.audit import log_files
from llumi.serve.audit_check import verify
from tests.conftest import free_port
from tests.outbound import clean_environment
from tests.serve.failing_service import PID_FILE
from tests.serve.keyed import key_store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
WORD = f"lantern{uuid.uuid4().hex}"
SETTINGS = [
    "serve.engine.kind=echo",
    "serve.body_seconds=1",
    "serve.im.max_ongoing_requests=1",
    "serve.im.max_queued=1",
    "serve.gm.max_ongoing_requests=8",
]
HEADERS = {
    name: WORD for name in ("User-Agent", "X-Request-Id", "X-Forwarded-For", "X-Session-Id", "Cookie", "traceparent", "Origin")
} | {"Referer": f"http://{WORD}/{WORD}?{WORD}"}
LONGER_THAN_ANY_WAIT = 60
LARGEST_FILE = 2**26


@dataclass
class Running:
    """The service, how it is asked, and where it may have written."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    ray_folder: Path
    started: float
    secrets: dict[str, str]

    @property
    def output(self) -> Path:
        return self.folder / "output.txt"

    @property
    def store(self) -> Path:
        return self.folder / "work" / "store"

    def ask(self, method: str, path: str, key: str = "web", headers: dict[str, str] | None = None, **request: object) -> int:
        """The status of the answer; the word stands in the query and in every header where it may."""
        secret = self.secrets.get(key, f"{WORD}-{key}")
        headers = HEADERS | {"Authorization": f"Bearer {secret}"} | (headers or {})
        with httpx.Client(base_url=self.url, trust_env=False, timeout=LONGER_THAN_ANY_WAIT) as client:
            return client.request(method, path, params={WORD: WORD}, headers=headers, **request).status_code

    def draft(self, words: str = "hello", key: str = "web", wait: float | None = None, **body: object) -> int:
        headers = {} if wait is None else {"X-Request-Timeout": str(wait)}
        return self.ask("POST", "/v1/draft", key, headers, json={"post": f"{words} {WORD}", "title": WORD, **body})

    def improve(self, words: str = "hello", wait: float | None = None, **body: object) -> int:
        headers = {} if wait is None else {"X-Request-Timeout": str(wait)}
        return self.ask("POST", "/v1/improve", headers=headers, json={"post": WORD, "draft": f"{WORD} {words}", **body})

    def send(self, content: bytes) -> bytes:
        """Bytes as they are, and all that comes back."""
        with socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), timeout=3) as connection:
            connection.sendall(content)
            received = b""
            with contextlib.suppress(ConnectionError, TimeoutError):
                while chunk := connection.recv(65536):
                    received += chunk
        return received

    @property
    def waiting(self) -> int:
        """How many requests came to where an engine waits."""
        pid_file = self.folder / "pid"
        return len(pid_file.read_text().split()) if pid_file.exists() else 0

    def logs(self) -> str:
        """What the processes of the service have said."""
        return "".join(file.read_text(errors="replace") for file in self.ray_folder.rglob("logs/worker-*.err"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    started = time.time()
    folder = tmp_path_factory.mktemp("silence")
    for name in ("home", "tmp", "work"):
        (folder / name).mkdir()
    ray_folder = Path(tempfile.mkdtemp(prefix="llumi-", dir="/tmp"))  # Ray's sockets must have short paths
    keys = key_store(folder / "work" / "store")
    secrets = {
        "web": keys.create("web", ["gm", "im"])[1],
        "gm only": keys.create("gm-only", ["gm"])[1],
        "sight": keys.create("sight", ["admin"])[1],
        "seldom": keys.create("seldom", ["gm"], requests_per_minute=1)[1],
    }
    port = free_port()
    environment = clean_environment(folder / "home") | {
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(ray_folder),
        "TMPDIR": str(folder / "tmp"),
        PID_FILE: str(folder / "pid"),
    }
    settings = [f"storage.uri={folder / 'work' / 'store'}", f"serve.port={port}", *SETTINGS]
    command = [sys.executable, "-m", "tests.serve.failing_service", "serve"]
    command += [part for setting in settings for part in ("--set", setting)]
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=folder / "work", stdout=output, stderr=output)
    service = Running(process, f"http://127.0.0.1:{port}", folder, ray_folder, started, secrets)
    try:
        wait_until(lambda: "serving http" in service.output.read_text() or process.poll() is not None, 120)
        assert process.poll() is None, service.output.read_text()
        yield service
    finally:
        stop(process)
        shutil.rmtree(ray_folder, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does; what is left after that is killed."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    for left in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.kill()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


def test_answers_and_what_the_guard_refuses(running: Running) -> None:
    for stream in (False, True):
        assert running.draft(stream=stream) == 200
        assert running.improve(stream=stream) == 200
        assert running.draft("please be harsh", stream=stream) == 200
        assert running.improve("please be harsh", stream=stream) == 200
    chat = {"model": "llumi-gm", "messages": [{"role": "user", "content": WORD, "name": WORD}], "user": WORD}
    assert running.ask("POST", "/v1/chat/completions", json=chat) == 200
    flag = {"role": "gm", "model": "echo@0", "post": WORD, "draft": WORD, "suggestion": WORD}
    assert running.ask("POST", "/v1/flags", json=flag) == 201
    for path in ("/", "/static/page.js", "/v1/resources", "/healthz", "/v1/models", "/openapi.json"):
        assert running.ask("GET", path) == 200


def test_what_is_refused(running: Running) -> None:
    chat = {"model": WORD, "messages": [{"role": "user", "content": WORD}]}
    assert running.draft(f"{WORD} " * 5000) == 400
    assert running.ask("POST", "/v1/draft", headers={"X-Request-Timeout": WORD}, json={"post": WORD}) == 400
    assert {running.draft(key=f"wrong {number}") for number in range(40)} == {401}
    assert running.ask("POST", f"/v1/{WORD}/{WORD}", key="wrong", json={WORD: WORD}) == 401
    assert running.ask("POST", "/v1/improve", key="gm only", json={"post": WORD, "draft": WORD}) == 403
    assert running.ask("GET", f"/v1/{WORD}/%2e%2e/{WORD}") == 404
    assert running.ask("POST", "/v1/chat/completions", json=chat) == 404
    assert running.ask("PUT", "/v1/draft", content=WORD) == 405
    assert running.ask("POST", "/v1/draft", json={"post": WORD * 2**16}) == 413
    for body in ({"post": WORD, WORD: WORD}, {"post": [WORD]}, {"post": WORD, "country": WORD}, {"post": WORD, "seed": WORD}):
        assert running.ask("POST", "/v1/draft", json=body) == 422
    assert running.ask("POST", "/v1/draft", content=f'{{"post": "{WORD}') == 422
    assert running.ask("POST", "/v1/flags", json={"post": WORD, "reason": WORD}) == 422
    assert [running.draft(key="seldom") for _ in range(2)] == [200, 429]


def test_bytes_that_are_no_request_of_ours(running: Running) -> None:
    head = f"Host: {WORD}\r\nAuthorization: Bearer {running.secrets['web']}\r\n"
    slow = f"POST /v1/draft?{WORD} HTTP/1.1\r\n{head}Content-Length: 900\r\n\r\n" + '{"post": "' + WORD
    assert running.send(slow.encode()).startswith(b"HTTP/1.1 408")
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n"
    )
    for content in (
        f"GET /{WORD}?{WORD} HTTP/1.1\r\n{head}{upgrade}Sec-WebSocket-Protocol: {WORD}\r\n\r\n",
        f"GET /{WORD} HTTP/9.9\r\nHost: {WORD}\r\n\r\n",
        f"{WORD} {WORD}\r\n\r\n",
        f"{WORD} /v1/draft HTTP/1.1\r\n{head}Connection: close\r\n\r\n",
        f"GET /healthz HTTP/1.1\r\n{WORD}: {WORD * 4000}\r\nHost: x\r\n\r\n",
        f"POST /v1/draft HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n{WORD}\r\n",
    ):
        running.send(content.encode())
    assert running.draft() == 200


def test_time_that_runs_out_a_full_queue_and_clients_that_leave(running: Running) -> None:
    for stream in (False, True):
        assert running.draft("please wait", wait=1, stream=stream) in ({200} if stream else {504})
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(running.improve, "please wait", 3) for _ in range(4)]
        assert {one.result() for one in asked} == {429, 504}
    key = {"Authorization": f"Bearer {running.secrets['web']}"}
    body = {"post": f"please wait {WORD}"}
    with httpx.Client(base_url=running.url, headers=key, trust_env=False) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/draft", json=body, timeout=0.5)
        with client.stream("POST", "/v1/draft", json={**body, "stream": True}) as answer:
            next(answer.iter_lines())
    wait_until(lambda: sum(line["status"] == 499 for line in audit_lines(running)) == 2)


def test_an_engine_that_fails_with_the_text_in_its_mouth(running: Running) -> None:
    for stream in (False, True):
        assert running.draft("please break", stream=stream) == 500
        assert running.improve("please break", stream=stream) == 500
        assert running.draft("please break later", stream=stream) in ({200} if stream else {500})
    assert len(re.findall(r"the engine failed: ValueError at .*failing_service\.py:\d+", running.logs())) == 6
    assert running.draft() == 200, "it goes on to answer whoever comes next"


def test_a_replica_that_is_killed_while_it_answers(running: Running) -> None:
    pid_file = running.folder / "pid"
    pid_file.unlink()
    with ThreadPoolExecutor() as pool:
        whole, stream = (pool.submit(running.draft, "please wait", wait=6, stream=stream) for stream in (False, True))
        wait_until(lambda: running.waiting >= 2)
        os.kill(int(pid_file.read_text().split()[-1]), signal.SIGKILL)
        # The stream's last event is an error; the whole answer is asked of the next replica, for as long as it has time.
        assert (whole.result(), stream.result()) == (504, 200)
    wait_until(lambda: running.draft() == 200)


def test_nothing_of_it_is_written_anywhere(running: Running) -> None:
    """Last on purpose. The search can find: the database of the flags holds the word, since that is what it is for."""
    pages = metrics_pages(running.process.pid)
    sight = httpx.get(
        f"{running.url}/metrics", headers={"Authorization": f"Bearer {running.secrets['sight']}"}, trust_env=False
    )
    stop(running.process)
    assert running.process.returncode == 0, running.output.read_text()
    flags = running.folder / "work" / "llumi-data" / "rate.db"
    assert WORD.encode() in b"".join(part.read_bytes() for part in flags.parent.glob("rate.db*"))
    assert files_with_the_word(running, besides=flags) == []
    assert any("ray_serve" in page for page in pages.values())
    assert "llumi_requests_total" in sight.text
    assert WORD not in sight.text
    assert [port for port, page in pages.items() if WORD in page] == []


def test_the_audit_log_knows_how_each_of_them_ended(running: Running) -> None:
    """After the stop: what was only counted of the wrong keys is written by then."""
    written = audit_lines(running)
    ways = {200, 201, 400, 401, 403, 404, 405, 408, 413, 422, 429, 499, 500, 503, 504}
    assert {line.get("status") for line in written} >= ways
    assert {line.get("guard") for line in written} >= {"passed", "fallback", "own_draft"}
    verdict = verify(running.store / "audit")
    assert verdict.torn == 0
    assert sum(line.get("status") == 401 for line in written) + verdict.refused >= 41
    assert verdict.refused > 0


def audit_lines(running: Running) -> list[dict]:
    return [orjson.loads(line) for file in log_files(running.store / "audit") for line in file.read_bytes().splitlines()]


def files_with_the_word(running: Running, besides: Path) -> list[str]:
    """Every file that is the service's, and every other one below /tmp or in shared memory that is new since its start."""
    found = []
    for root in (running.folder, running.ray_folder, Path("/tmp"), Path("/dev/shm")):
        is_own = root in (running.folder, running.ray_folder)
        for folder, _, names in os.walk(root):
            for file in (Path(folder) / name for name in names):
                with contextlib.suppress(OSError):
                    entry = file.lstat()
                    is_new = entry.st_mtime >= running.started and entry.st_size < LARGEST_FILE
                    if not file.is_file() or file.is_symlink() or file.name.startswith(besides.name) or not (is_own or is_new):
                        continue
                    if WORD.encode() in file.read_bytes() or WORD in str(file):
                        found.append(str(file))
    return found


def metrics_pages(pid: int) -> dict[int, str]:
    """What the processes of the service say of themselves on the ports where they do."""
    ports = set()
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            ports |= {connection.laddr.port for connection in process.net_connections("tcp") if connection.status == "LISTEN"}
    pages = {}
    for port in ports:
        for host in ("127.0.0.1", "127.0.0.2"):
            with contextlib.suppress(httpx.HTTPError, UnicodeError):
                answer = httpx.get(f"http://{host}:{port}/metrics", timeout=3, trust_env=False)
                if answer.status_code == 200:
                    pages[port] = answer.text
    return pages
