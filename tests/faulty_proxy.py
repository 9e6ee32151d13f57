"""A store on a bad day: a proxy before a real S3 server that fails every n-th request, or all of them for a while."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
_OF_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass
class FaultyProxy:
    """`endpoint_url` is where to send requests; `num_requests` and `num_failed` count them. While it `is_away` all fail."""

    upstream: str
    every: int
    endpoint_url: str = ""
    num_requests: int = 0
    num_failed: int = 0
    is_away: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fails_now(self) -> int:
        """0 for a request that is passed on; else the how-manieth failure it is."""
        with self.lock:
            self.num_requests += 1
            is_bad = self.num_requests % self.every == 0
            self.num_failed += is_bad
            return self.num_failed if is_bad else 0


@contextlib.contextmanager
def faulty_proxy(upstream: str, every: int) -> Iterator[FaultyProxy]:
    """Every `every`-th request is not passed on: in turn it is answered 503 SlowDown, or its connection is cut."""
    proxy = FaultyProxy(upstream.removeprefix("http://"), every)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            body = self.read_body()
            failure = proxy.fails_now()
            if proxy.is_away:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            elif failure % 2:
                self.answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
            elif failure:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self.pass_on(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815  (the names that http.server calls)

        def read_body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body

        def pass_on(self, body: bytes) -> None:
            connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # Host as it came: the signature covers it
                if name.lower() not in {*_OF_ONE_HOP, "content-length"}:
                    connection.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            headers = [entry for entry in response.getheaders() if entry[0].lower() not in _OF_ONE_HOP]
            self.answer(response.status, headers, response.read())
            connection.close()

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            has_length = any(name.lower() == "content-length" for name, _ in headers)
            for name, value in headers if has_length else [*headers, ("Content-Length", str(len(body)))]:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.endpoint_url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
