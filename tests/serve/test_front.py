"""The router's own HTTP server: it answers, says what it cannot, and hands over to another without losing a request."""

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from llumi.errors import ServeError
from llumi.serve.front import Front
from tests.conftest import free_port


def app_named(name: str, may_end: asyncio.Event | None = None) -> FastAPI:
    """Says its name, and in a stream says it again once it `may_end`."""
    app = FastAPI()

    @app.get("/name")
    async def say() -> str:
        return name

    @app.get("/twice")
    async def twice() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield name
            await may_end.wait()
            yield name

        return StreamingResponse(pieces())

    return app


def client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)


def test_another_takes_over_while_the_first_finishes_what_it_was_asked():
    async def hand_over() -> None:
        port, may_end = free_port(), asyncio.Event()
        first = await Front.open(app_named("first", may_end), "127.0.0.1", port)
        async with client(port) as one, one.stream("GET", "/twice") as answer:
            pieces = answer.aiter_text()
            assert await anext(pieces) == "first"
            second = await Front.open(app_named("second"), "127.0.0.1", port)
            closing = asyncio.create_task(first.close())
            await asyncio.sleep(0.3)
            async with client(port) as other:
                assert [(await other.get("/name")).json() for _ in range(3)] == ["second"] * 3
            assert not closing.done()
            may_end.set()
            assert await anext(pieces) == "first"
        await closing
        with pytest.raises(ServeError, match="has ended"):
            first.check()
        second.check()
        await second.close()

    asyncio.run(hand_over())


def test_an_address_that_is_not_this_machines_is_one_line():
    with pytest.raises(ServeError, match=r"^192\.0\.2\.1:\d+ cannot be listened on \(.+\)$"):
        asyncio.run(Front.open(FastAPI(), "192.0.2.1", free_port()))


def test_a_port_that_another_holds_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServeError, match=rf"^127\.0\.0\.1:{port} cannot be listened on"):
            asyncio.run(Front.open(FastAPI(), "127.0.0.1", port))


def test_what_is_no_http_ends_the_connection_and_nothing_else():
    async def babble() -> None:
        port = free_port()
        front = await Front.open(app_named("here"), "127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\xff\xfe\x00 nothing \r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
        async with client(port) as one:
            assert (await one.get("/name")).json() == "here"
        await front.close()

    asyncio.run(babble())
