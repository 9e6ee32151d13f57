"""What the metrics cost a request, and a reading costs the router.

    python benchmarks/sight.py [--requests 300] [--rounds 7] [--json]

The app of the router in one process over the `echo` engine, asked one request after the other: as it is, and with metrics
that count nothing and a backend that is not timed; without likeness, in which both would drown. The two take turns, round
by round; figures are medians over the rounds of the CPU microseconds of a request, client and all, since other work on the
machine would drown them in seconds of the clock. Beside them, the counting alone, called as the door does, and one page of
`/metrics`.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import httpx

from llumi.config import SafetyConfig, ServeConfig, StorageConfig
from llumi.engine import Delta, Request
from llumi.engine.echo import EchoEngine
from llumi.prompts import Role
from llumi.safety.standard import Standard
from llumi.serve import router
from llumi.serve.api import ServedModel
from llumi.serve.audit import AuditLog
from llumi.serve.call import Call
from llumi.serve.door import Access
from llumi.serve.guard import Source
from llumi.serve.keys import KeyStore, make_key, new_secret
from llumi.serve.limits import Limits
from llumi.serve.metrics import Metrics
from llumi.serve.ring import KeyRing
from llumi.storage import Storage

BODY = {"post": "The flat is so quiet in the evenings since the move here.", "max_new_tokens": 16, "seed": 1}
MODELS: Mapping[Role, ServedModel] = {"gm": ServedModel("gm-dpo1", "0123456789ab"), "im": ServedModel("im-sft", "ba98")}
COUNTED = 20_000
PAGES = 50


class Here:
    """The echo engine as a backend, with the durations of a replica."""

    def __init__(self) -> None:
        self._engine = EchoEngine()

    async def complete(self, request: Request) -> Delta:
        """See Backend."""
        pieces = [delta async for delta in self._engine.generate(request)]
        whole = "".join(piece.text for piece in pieces)
        return replace(pieces[-1], text=whole, first_token_seconds=0.0, replica_seconds=0.0)

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """See Backend."""
        async for delta in self._engine.generate(request):
            yield delta


class Blind(Metrics):
    """Counts nothing."""

    def begun(self, call: Call) -> None:
        """See Metrics."""

    def ended(self, call: Call, seconds: float) -> None:
        """See Metrics."""


def not_clocked(source: Source, call: Call) -> Source:
    """The source as it is."""
    return source


@contextmanager
def blind() -> Iterator[None]:
    """Apps that are built and asked within see nothing."""
    with mock.patch.object(router, "Metrics", Blind), mock.patch.object(router, "Clocked", not_clocked):
        yield


async def both_run() -> Mapping[Role, int]:
    """See Readiness."""
    return {"gm": 1, "im": 1}


def open_service(folder: Path, secret: str) -> router.Service:
    """A service over the echo engine, whose audit log is in `folder`."""
    ring = KeyRing(KeyStore(Storage.open(StorageConfig(uri=str(folder)))), [make_key("b", secret, ("gm", "im", "admin"), 0)])
    access = Access(ring, Limits(), AuditLog(folder / "audit"))
    return router.Service(
        ServeConfig(), MODELS, {"gm": Here(), "im": Here()}, both_run, access, Standard.load(SafetyConfig(likeness=False))
    )


async def microseconds_a_request(client: httpx.AsyncClient, requests: int, stream: bool) -> float:
    """Of requests one after the other."""
    started = time.process_time()
    for _ in range(requests):
        answer = await client.post("/v1/draft", json={**BODY, "stream": stream})
        assert answer.status_code == 200
        assert '"refused_by":["' not in answer.text
    return 1e6 * (time.process_time() - started) / requests


async def requests_with_and_without(service: router.Service, secret: str, requests: int, rounds: int) -> dict[str, float]:
    """Medians of both apps, asked in turns, and of the ratio within a round."""
    key = {"Authorization": f"Bearer {secret}"}

    def client_of() -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(router.build_app(service)), base_url="http://router", headers=key
        )

    figures: dict[str, float] = {}
    seeing = client_of()
    with blind():
        unseeing = client_of()
    async with seeing, unseeing:
        for stream in (False, True):
            times: dict[str, list[float]] = {"with": [], "without": []}
            for _ in range(rounds + 1):
                with blind():
                    times["without"].append(await microseconds_a_request(unseeing, requests, stream))
                times["with"].append(await microseconds_a_request(seeing, requests, stream))
            kind = "stream" if stream else "whole"
            pairs = list(zip(times["with"], times["without"], strict=True))[1:]  # the first warms up
            figures[f"{kind}_with_us"] = statistics.median(seen for seen, _ in pairs)
            figures[f"{kind}_without_us"] = statistics.median(unseen for _, unseen in pairs)
            figures[f"{kind}_ratio"] = statistics.median(seen / unseen for seen, unseen in pairs)
        started = time.process_time()
        for _ in range(PAGES):
            page = await seeing.get("/metrics")
        figures["page_ms"] = 1e3 * (time.process_time() - started) / PAGES
        figures["page_bytes"] = len(page.content)
    return figures


def counting_us(count: Callable[[Metrics, Call], None]) -> float:
    """Of one `count` of a request that was answered."""
    metrics = Metrics()
    for role, model in MODELS.items():
        metrics.serves(role, model)
    call = Call("0" * 8, "/v1/draft", 0.0, Limits(), role="gm", model=MODELS["gm"], guard="passed", status=200)
    call.first_token_seconds = call.queue_seconds = call.guard_seconds = 0.1
    call.prompt_tokens = call.completion_tokens = 20
    started = time.process_time()
    for _ in range(COUNTED):
        count(metrics, call)
    return 1e6 * (time.process_time() - started) / COUNTED


def begin_and_end(metrics: Metrics, call: Call) -> None:
    """As the door does for each request."""
    metrics.begun(call)
    metrics.ended(call, 0.2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    secret = new_secret()
    with tempfile.TemporaryDirectory(prefix="llumi-") as folder:
        service = open_service(Path(folder), secret)
        figures = asyncio.run(requests_with_and_without(service, secret, arguments.requests, arguments.rounds))
        service.access.audit.close()
    figures["counting_us"] = statistics.median(counting_us(begin_and_end) for _ in range(arguments.rounds))
    if arguments.json:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:20} {value:10.3f}")


if __name__ == "__main__":
    main()
