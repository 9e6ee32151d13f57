"""Submitted pages per second of fifty raters at once, against a page that keeps its ratings in one JSON file.

    python benchmarks/rate.py [--raters 50] [--pages 12] [--repeats 3] [--json]

Both answer a form by a redirect to the next page, and both have a rating on disk (fsync) before they say so. The bare app has
neither leases nor sessions: it writes the whole file anew for each form, which is what a first attempt would do.
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
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from common import free_port

from llumi.config import Config, load_config

PAGE_BYTES = 12_000
"""About what a page of LLUMI weighs."""


def bare_app(folder: Path, port: int) -> None:
    """FastAPI, a lock and a JSON file."""
    import threading

    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, RedirectResponse
    from starlette.concurrency import run_in_threadpool

    app, lock, file = FastAPI(), threading.Lock(), folder / "ratings.json"
    file.write_text("[]")

    def keep(form: str) -> None:
        with lock:
            ratings = json.loads(file.read_text())
            ratings.append(form)
            part = file.with_suffix(".part")
            with part.open("w") as stream:
                json.dump(ratings, stream)
                stream.flush()
                os.fsync(stream.fileno())
            part.rename(file)

    @app.get("/item")
    def item() -> HTMLResponse:
        return HTMLResponse("x" * PAGE_BYTES)

    @app.post("/item")
    async def rate(request: Request) -> RedirectResponse:
        await run_in_threadpool(keep, (await request.body()).decode())
        return RedirectResponse("/item", 303)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def rating_page(config: Config) -> None:
    """`llumi rate serve`."""
    from llumi.rate.database import Database
    from llumi.rate.server import serve

    serve(Database.open(config.rate), config.rate)


@contextlib.contextmanager
def running(serve: Callable[..., None], *arguments: object, port: int) -> Iterator[str]:
    """A server in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
    process.start()
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{url}/item", trust_env=False)
            break
        time.sleep(0.1)
    yield url
    process.terminate()
    process.join()


def make_study(config: Config, raters: int, pages: int) -> list[str]:
    """As many made-up items as it takes; returns the tokens of the raters."""
    from llumi.rate.database import Database
    from llumi.rate.draw import Drawn
    from llumi.rate.study import create_study, invite
    from llumi.rate.tables import Item

    texts = {"post": "The evenings are long since I moved. ", "text_a": "Could you call a friend? ", "text_b": "Take a walk. "}
    long = {name: 12 * text for name, text in texts.items()}
    items = [Item(number=n, post_id=f"post-{n}", arm_a="one", arm_b="two", **long) for n in range(2 * pages)]
    with contextlib.closing(Database.open(config.rate, create=True)) as database:
        create_study(database, config.rate, "bench", Drawn("gm", "evaluation", items, ["one", "two"], {}, {}))
        return list(invite(database, "bench", raters).values())


async def rate_all(url: str, tokens: list[str | None], pages: int) -> float:
    """Submitted pages per second of all raters together; those of the bare app have no token."""
    from llumi.rate.answers import fields_of

    answers = dict.fromkeys(fields_of("gm"), "4") | {"verdict": "left"}

    async def one(token: str | None, client: httpx.AsyncClient, start: asyncio.Barrier) -> None:
        hidden = {"csrf": "x" * 64, "turn": "x" * 22}
        page = ""
        if token is not None:
            page = (await client.get(f"/join/{token}")).text
            page = (await client.post("/start", data={"csrf": _hidden(page, "csrf")})).text
        await start.wait()
        for _ in range(pages):
            if token is not None:
                hidden = {name: _hidden(page, name) for name in ("csrf", "turn")}
            answer = await client.post("/item", data=hidden | answers)
            answer.raise_for_status()
            page = answer.text

    barrier = asyncio.Barrier(len(tokens) + 1)
    async with contextlib.AsyncExitStack() as stack:
        plain = {"base_url": url, "trust_env": False, "timeout": 120, "follow_redirects": True, "verify": False}
        clients = [await stack.enter_async_context(httpx.AsyncClient(**plain)) for _ in tokens]
        raters = [asyncio.create_task(one(*each, barrier)) for each in zip(tokens, clients, strict=True)]
        await barrier.wait()
        started = time.perf_counter()
        await asyncio.gather(*raters)
    return len(tokens) * pages / (time.perf_counter() - started)


def _hidden(page: str, name: str) -> str:
    return page.split(f'name="{name}" value="', 1)[1].split('"', 1)[0]


def compare(raters: int, pages: int, repeats: int) -> dict[str, float]:
    """Medians over rounds, each on a new file and a new database."""
    bare, ours = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            port = free_port()
            with running(bare_app, Path(folder), port, port=port) as url:
                bare.append(asyncio.run(rate_all(url, [None] * raters, pages)))
            port = free_port()
            overrides = [f"rate.database=sqlite:///{folder}/rate.db", f"rate.port={port}", f"rate.raters_per_item={raters}"]
            config = load_config(None, [*overrides, "rate.pages_per_rater=1000"])
            tokens = make_study(config, raters, pages)
            with running(rating_page, config, port=port) as url:
                ours.append(asyncio.run(rate_all(url, tokens, pages)))
    figures = {"bare_submits_per_second": statistics.median(bare), "llumi_submits_per_second": statistics.median(ours)}
    figures["ratio"] = figures["llumi_submits_per_second"] / figures["bare_submits_per_second"]
    return {name: round(value, 2) for name, value in figures.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raters", type=int, default=50)
    parser.add_argument("--pages", type=int, default=12, help="pages of each rater")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = compare(arguments.raters, arguments.pages, arguments.repeats)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"  {name:30}{value:10.2f}")


if __name__ == "__main__":
    main()
