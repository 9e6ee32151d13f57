"""What the router adds: latency and requests/s over the `echo` engine, against two services without any of it.

    python benchmarks/serve.py [--requests 400] [--repeats 5] [--set safety.likeness=false] [--json]

"app" is FastAPI and uvicorn around one engine in one process: nothing can be nearer to it. "serve" is what a user would
write otherwise, the same app as a deployment of Ray Serve with its defaults. "router" is LLUMI: keys, limits, guard and
audit line, and a replica in a process of its own. All three are up at once and are asked by turns, on loopback, for
a draft; figures are medians over the rounds. Paced clients ask every 0.3 s, so that a latency is not mostly the wait for
a core that the same clients keep busy; "flat out" they ask again at once.

"door" is what the key, the limits, the body and the line in the audit log take of that, in this process and around nothing.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import aiohttp
import httpx
from common import free_port, never_read, print_rows

from llumi.config import Config, ServeConfig, StorageConfig, load_config
from llumi.ray_session import ray_session
from llumi.serve.app import Serving, serve, stop_serving
from llumi.serve.audit import AuditLog
from llumi.serve.audit_check import verify
from llumi.serve.door import Access, Door
from llumi.serve.keys import KeyStore, make_key, new_secret
from llumi.serve.limits import Limits
from llumi.serve.metrics import Metrics
from llumi.serve.ring import KeyRing
from llumi.storage import Storage

POST = "The flat is so quiet in the evenings since the move to this town."
PACE_SECONDS = 0.3
LOADS = {"1 client, paced": (1, PACE_SECONDS), "16 clients, paced": (16, PACE_SECONDS), "16 clients, flat out": (16, 0.0)}
PACED_REQUESTS = {1: 60, 16: 400}
"""In a round; one client that paces itself would take long for more."""

SERVE_DEFAULTS = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"}


def new_body() -> dict[str, object]:
    """Of a request. No two have a sentence in common, nor have their replies, since the guard remembers what it has read."""
    return {"post": never_read(POST), "max_new_tokens": 16, "seed": 1}


def make_app() -> object:
    """FastAPI around one engine, and nothing else."""
    from fastapi import FastAPI

    from llumi.engine.echo import EchoEngine
    from llumi.serve.api import DraftBody, ServedModel, draft_answer
    from llumi.serve.guarded import Guarded

    app, engine, config = FastAPI(), EchoEngine(), ServeConfig()

    @app.post("/v1/draft")
    async def draft(body: DraftBody) -> dict:
        deltas = [delta async for delta in engine.generate(body.request(config))]
        return draft_answer("reply", ServedModel("echo", "0"), Guarded("".join(delta.text for delta in deltas)))

    return app


def run_app(port: int) -> None:
    """The app by itself."""
    import uvicorn

    uvicorn.run(make_app(), host="127.0.0.1", port=port, log_level="error")


def run_serve(port: int) -> None:
    """The app as a deployment, on a cluster of its own."""
    os.environ.update(SERVE_DEFAULTS)
    import ray
    from ray import serve as ray_serve

    ray.init(address="local", num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False)
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    app = make_app()
    deployed = ray_serve.deployment(max_ongoing_requests=1000)(ray_serve.ingress(app)(type("Bare", (), {})))
    ray_serve.run(deployed.bind(), name="bare")
    time.sleep(10**6)


@contextlib.contextmanager
def started(target: Callable[[int], None]) -> Iterator[Serving]:
    """A service in a process of its own; it asks for no key."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(port,))
    process.start()
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(f"{url}/v1/draft", json=new_body(), trust_env=False).status_code == httpx.codes.OK:
                break
        time.sleep(0.1)
    try:
        yield Serving(url, "none")
    finally:
        process.terminate()
        process.join()


@contextlib.contextmanager
def routed(config: Config) -> Iterator[Serving]:
    """The service on a local cluster, with its keys, its guard and its audit log."""
    with ray_session(config.ray):
        try:
            yield serve(config)
        finally:
            stop_serving()


async def load(serving: Serving, clients: int, requests: int, pace_seconds: float) -> tuple[list[float], float]:
    """Seconds of each request, and of the whole round."""
    seconds: list[float] = []
    left = iter(range(requests))

    async def one_client(number: int) -> None:
        key = {"Authorization": f"Bearer {serving.secret}"}
        due = time.perf_counter() + pace_seconds * number / clients
        async with aiohttp.ClientSession(headers=key) as client:
            for _ in left:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += pace_seconds
                asked = new_body()
                began = time.perf_counter()
                async with client.post(f"{serving.url}/v1/draft", json=asked) as answer:
                    answer.raise_for_status()
                    body = await answer.read()
                seconds.append(time.perf_counter() - began)
                if b'"refused_by":["' in body:
                    raise ValueError("the guard refused what the engine echoes, so that more than one reply would be timed")

    began = time.perf_counter()
    await asyncio.gather(*(one_client(number) for number in range(clients)))
    return seconds, time.perf_counter() - began


def measure(services: dict[str, Serving], clients: int, pace_seconds: float, requests: int, repeats: int) -> dict[str, float]:
    """Medians over the rounds, after one to warm up; the services take turns within each."""
    requests = PACED_REQUESTS[clients] if pace_seconds else requests
    rounds: dict[str, list[tuple[list[float], float]]] = {name: [] for name in services}
    for turn in range(1 + repeats):
        for name, serving in services.items():
            done = asyncio.run(load(serving, clients, requests, pace_seconds if turn else 0))
            rounds[name] += [done] if turn else []
    row: dict[str, float] = {}
    for name, measured in rounds.items():
        cuts = [statistics.quantiles(seconds, n=100) for seconds, _ in measured]
        row[f"{name}_p50_ms"] = 1000 * statistics.median(cut[49] for cut in cuts)
        row[f"{name}_p99_ms"] = 1000 * statistics.median(cut[98] for cut in cuts)
        row[f"{name}_requests_per_second"] = statistics.median(requests / whole for _, whole in measured)
    for peer in ("app", "serve"):
        row[f"added_to_{peer}_p50_ms"] = row["router_p50_ms"] - row[f"{peer}_p50_ms"]
        row[f"added_to_{peer}_p99_ms"] = row["router_p99_ms"] - row[f"{peer}_p99_ms"]
        if not pace_seconds:
            row[f"requests_per_second_of_{peer}"] = row["router_requests_per_second"] / row[f"{peer}_requests_per_second"]
    return {name: round(value, 3) for name, value in row.items()}


def compare(requests: int, repeats: int, overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """The figures by load."""
    with tempfile.TemporaryDirectory() as store:
        config = load_config(None, [f"storage.uri={store}", f"serve.port={free_port()}", "serve.engine.kind=echo", *overrides])
        with started(run_app) as app, started(run_serve) as bare, routed(config) as router:
            services = {"app": app, "serve": bare, "router": router}
            return {name: measure(services, *shape, requests, repeats) for name, shape in LOADS.items()}


def door_microseconds(requests: int, repeats: int) -> dict[str, dict[str, float]]:
    """The median time of a request to an app that does nothing, with the door before it."""
    with tempfile.TemporaryDirectory() as store:
        secret = new_secret()
        storage = Storage.open(StorageConfig(uri=store))
        key = make_key("bench", secret, ["gm"], time.time(), requests_per_minute=10**9)
        access = Access(KeyRing(KeyStore(storage), [key]), Limits(), AuditLog(Path(store) / "audit"))
        scope = {
            "type": "http",
            "path": "/v1/draft",
            "headers": [(b"authorization", f"Bearer {secret}".encode()), (b"x-request-id", b"0" * 32)],
        }
        door = Door(nothing, config=ServeConfig(), access=access, metrics=Metrics(), paths={"/v1/draft"}, open_paths=())
        rounds = [asyncio.run(through(door, scope, requests)) for _ in range(1 + repeats)][1:]
        access.audit.close()
        assert verify(Path(store) / "audit").lines == (1 + repeats) * requests
    return {"door": {"median_us": round(1e6 * statistics.median(rounds), 1)}}


async def through(door: Door, scope: dict, requests: int) -> float:
    """The median seconds of one request."""
    body = json.dumps(new_body()).encode()
    seconds = []
    for _ in range(requests):
        messages = [{"type": "http.request", "body": body}]

        async def receive(messages: list[dict] = messages) -> dict:
            if messages:
                return messages.pop()
            return await asyncio.Event().wait()

        began = time.perf_counter()
        await door(scope, receive, send)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


async def send(message: dict) -> None:
    """Nobody listens."""


async def nothing(scope: dict, receive: object, send: Callable) -> None:
    """An app that answers at once."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400, help="requests per round, flat out")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="of the router's config")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = door_microseconds(arguments.requests, arguments.repeats) | compare(
        arguments.requests, arguments.repeats, arguments.set
    )
    print_rows(figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
