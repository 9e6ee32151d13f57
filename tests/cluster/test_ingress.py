"""The proxies with TLS, started as shipped: a stream passes piece by piece, a large body does not, nothing is written down."""

import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from llumi.config import ServeConfig
from tests.cluster.files import CLUSTER
from tests.cluster.proxies import caddy
from tests.conftest import free_port

INGRESS = CLUSTER / "ingress"
WORD = "quietlavender"
"""It stands in paths, queries, headers and bodies, and may be in no file afterwards."""


@dataclass
class Router:
    """What stands behind the proxy: it sends a piece, and the next one only once the first was seen at the other end."""

    server: ThreadingHTTPServer
    bodies: list[int] = field(default_factory=list)
    first_seen: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def router() -> Iterator[Router]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            announced = int(self.headers["Content-Length"])
            if len(self.rfile.read(announced)) < announced:  # the proxy passes on what comes, and breaks off above its limit
                self.close_connection = True
                return
            state.bodies.append(announced)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._piece(b"first")
            self._piece(b"second" if state.first_seen.wait(10) else b"late")
            self._piece(b"")

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def _piece(self, content: bytes) -> None:
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state = Router(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        server.shutdown()


@dataclass
class Proxy:
    """A proxy that runs."""

    url: str
    client: httpx.Client
    folder: Path
    process: subprocess.Popen[bytes]


def nginx(folder: Path, certificate: Path, router_port: int, port: int) -> tuple[list[str], dict[str, str]]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    site = (INGRESS / "nginx.conf").read_text(encoding="utf-8")
    for shipped, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "write.example.org;": "localhost;",
        "/etc/ssl/write.example.org.pem": str(certificate / "site.pem"),
        "/etc/ssl/private/write.example.org.key": str(certificate / "site.key"),
        "127.0.0.1:8000": f"127.0.0.1:{router_port}",
    }.items():
        assert shipped in site
        site = site.replace(shipped, here)
    (folder / "site.conf").write_text(site)
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log crit; events {{}}\n"
        f"http {{ access_log {folder}/access.log;\n{temporary}include {folder}/site.conf; }}\n"
    )
    command = [program, "-p", str(folder), "-e", str(folder / "start.log"), "-c", str(folder / "nginx.conf")]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    return command, {}


@pytest.fixture(params=[caddy, nginx], ids=lambda start: start.__name__)
def proxy(request: pytest.FixtureRequest, tmp_path: Path, certificate: Path, router: Router) -> Iterator[Proxy]:
    port = free_port()
    command, environment = request.param(tmp_path, certificate, router.server.server_address[1], port)
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    trust = ssl.create_default_context(cafile=str(certificate / "ca.crt"))
    with httpx.Client(base_url=f"https://localhost:{port}", verify=trust, trust_env=False, timeout=15) as client:
        try:
            _wait(client, process, tmp_path / "output")
            yield Proxy(f"https://localhost:{port}", client, tmp_path, process)
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait(client: httpx.Client, process: subprocess.Popen[bytes], output: Path) -> None:
    for _ in range(100):
        assert process.poll() is None, output.read_text()
        try:
            client.get("/healthz")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(output.read_text())


def test_each_piece_leaves_as_it_comes(proxy: Proxy, router: Router):
    with proxy.client.stream("POST", "/v1/draft", content=b"{}") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"
        router.first_seen.set()
        assert b"".join(pieces) == b"second"


def test_a_body_above_the_limit_does_not_come_in(proxy: Proxy, router: Router):
    limit = ServeConfig().max_body_bytes
    router.first_seen.set()
    assert proxy.client.post("/v1/draft", content=bytes(limit)).status_code == 200
    assert router.bodies == [limit]
    assert proxy.client.post("/v1/draft", content=bytes(limit + 1)).status_code == 413
    assert router.bodies == [limit]


def test_metrics_are_for_the_inside(proxy: Proxy):
    assert proxy.client.get("/healthz").status_code == 200
    assert proxy.client.get("/metrics").status_code == 404


def test_what_people_send_is_in_no_file_of_the_proxy(proxy: Proxy, router: Router):
    router.first_seen.set()
    sent = {"params": {"q": WORD}, "headers": {"X-Word": WORD, "Referer": f"https://localhost/{WORD}"}}
    assert proxy.client.post(f"/{WORD}", content=WORD.encode() * 20_000, **sent).status_code == 200
    assert proxy.client.post(f"/{WORD}", content=WORD.encode() * 200_000, **sent).status_code == 413
    router.server.shutdown()
    router.server.server_close()  # an error of the proxy is what it likes best to write down
    assert proxy.client.get(f"/{WORD}", **sent).status_code == 502
    proxy.process.terminate()
    proxy.process.wait(timeout=20)
    files = [path for path in proxy.folder.rglob("*") if path.is_file()]
    assert proxy.folder / "output" in files
    assert not [path for path in files if WORD.encode() in path.read_bytes()]
