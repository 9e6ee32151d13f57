"""What the router adds: latency and requests/s over the `echo` engine, against a bare FastAPI app around the same engine.

    python benchmarks/serve.py [--requests 300] [--json]

Both answer the same draft on loopback, one after the other in one run; figures are medians over `--repeats` rounds.
"door" is what the key, the limits, the body and the line in the audit log take of that, in this process and around nothing.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from llumi.config import Config, ServeConfig, StorageConfig, load_config
from llumi.ray_session import ray_session
from llumi.serve.app import Serving, serve, stop_serving
from llumi.serve.audit import AuditLog
from llumi.serve.audit_check import verify
from llumi.serve.door import Access, Door
from llumi.serve.keys import KeyStore, make_key, new_secret
from llumi.serve.limits import Limits
from llumi.serve.ring import KeyRing
from llumi.storage import Storage

BODY = {"post": "I moved to a new town and I feel lonely in the evenings.", "max_new_tokens": 16, "seed": 1}
CLIENTS = (1, 16)


def bare_app(port: int) -> None:
    """FastAPI and uvicorn around one engine, and nothing else."""
    import uvicorn
    from fastapi import FastAPI

    from llumi.engine.echo import EchoEngine
    from llumi.serve.api import DraftBody, ServedModel, draft_answer
    from llumi.serve.guarded import Guarded

    app, engine, config = FastAPI(), EchoEngine(), ServeConfig()

    @app.post("/v1/draft")
    async def draft(body: DraftBody) -> dict:
        deltas = [delta async for delta in engine.generate(body.request(config))]
        return draft_answer("reply", ServedModel("echo", "0"), Guarded("".join(delta.text for delta in deltas)))

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


@contextlib.contextmanager
def bare(port: int) -> Iterator[Serving]:
    """The bare app in a process of its own; it asks for no key."""
    process = multiprocessing.get_context("spawn").Process(target=bare_app, args=(port,), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{url}/v1/draft", json=BODY, trust_env=False)
            break
        time.sleep(0.1)
    yield Serving(url, "none")
    process.terminate()
    process.join()


@contextlib.contextmanager
def routed(config: Config) -> Iterator[Serving]:
    """The service on a local cluster, with its keys and its audit log."""
    with ray_session(config.ray):
        yield serve(config)
        stop_serving()


async def load(serving: Serving, clients: int, requests: int) -> tuple[list[float], float]:
    """Seconds of each request, and of the whole round."""
    seconds: list[float] = []
    left = iter(range(requests))

    async def one_client() -> None:
        key = {"Authorization": f"Bearer {serving.secret}"}
        async with httpx.AsyncClient(base_url=serving.url, headers=key, trust_env=False, timeout=60) as client:
            for _ in left:
                started = time.perf_counter()
                (await client.post("/v1/draft", json=BODY)).raise_for_status()
                seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(one_client() for _ in range(clients)))
    return seconds, time.perf_counter() - started


def measure(serving: Serving, clients: int, requests: int, repeats: int) -> dict[str, float]:
    """Medians over the rounds, after one to warm up."""
    asyncio.run(load(serving, clients, max(clients, requests // 5)))
    rounds = [asyncio.run(load(serving, clients, requests)) for _ in range(repeats)]
    percentiles = [statistics.quantiles(seconds, n=100) for seconds, _ in rounds]
    return {
        "p50_ms": 1000 * statistics.median(cut[49] for cut in percentiles),
        "p99_ms": 1000 * statistics.median(cut[98] for cut in percentiles),
        "requests_per_second": statistics.median(requests / whole for _, whole in rounds),
    }


def compare(requests: int, repeats: int) -> dict[str, dict[str, float]]:
    """The figures by number of clients."""
    with tempfile.TemporaryDirectory() as store:
        config = load_config(None, [f"storage.uri={store}", f"serve.port={_free_port()}", "serve.engine.kind=echo"])
        with bare(_free_port()) as serving:
            plain = {clients: measure(serving, clients, requests, repeats) for clients in CLIENTS}
        with routed(config) as serving:
            ours = {clients: measure(serving, clients, requests, repeats) for clients in CLIENTS}
    return {f"{clients} clients": _row(plain[clients], ours[clients]) for clients in CLIENTS}


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
        door = Door(nothing, ServeConfig(), access, {"/v1/draft"})
        rounds = [asyncio.run(through(door, scope, requests)) for _ in range(1 + repeats)][1:]
        access.audit.close()
        assert verify(Path(store) / "audit").lines == (1 + repeats) * requests
    return {"door": {"median_us": round(1e6 * statistics.median(rounds), 1)}}


async def through(door: Door, scope: dict, requests: int) -> float:
    """The median seconds of one request."""
    body = json.dumps(BODY).encode()

    async def receive() -> dict:
        return {"type": "http.request", "body": body}

    async def send(message: dict) -> None:
        pass

    seconds = []
    for _ in range(requests):
        started = time.perf_counter()
        await door(scope, receive, send)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


async def nothing(scope: dict, receive: object, send: Callable) -> None:
    """An app that answers at once."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _row(plain: dict[str, float], ours: dict[str, float]) -> dict[str, float]:
    row = {f"bare_{key}": value for key, value in plain.items()} | {f"router_{key}": value for key, value in ours.items()}
    row["added_p50_ms"] = ours["p50_ms"] - plain["p50_ms"]
    row["added_p99_ms"] = ours["p99_ms"] - plain["p99_ms"]
    row["requests_per_second_ratio"] = ours["requests_per_second"] / plain["requests_per_second"]
    return {key: round(value, 3) for key, value in row.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300, help="requests per round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = door_microseconds(arguments.requests, arguments.repeats) | compare(arguments.requests, arguments.repeats)
    if arguments.json:
        print(json.dumps(figures))
        return
    for clients, row in figures.items():
        print(f"\n{clients}")
        for name, value in row.items():
            print(f"  {name:34}{value:10.3f}")


if __name__ == "__main__":
    main()
