"""The HTTP server of a router, in the router's own process: a proxy before it would take as long as all that it does.

It listens itself on `serve.host` and `serve.port`, so that a request crosses one border between processes, not two.
"""

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from llumi.errors import ServeError

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 90
"""Longer than clients keep a connection that they do not use: they would send a request into one that is being closed."""

DRAIN_SECONDS = 15
"""For how long a router that is told to end goes on with what it was asked; Serve kills it after 20."""


class Front:
    """Answers HTTP with an app from `open` to `close`."""

    def __init__(self, server: uvicorn.Server, running: asyncio.Task[None]) -> None:
        self._server = server
        self._running = running

    @classmethod
    async def open(cls, app: ASGIApp, host: str, port: int) -> "Front":
        """Listen; raises ServeError where this machine cannot."""
        try:
            # A router that takes over from another listens already while that one finishes what it was asked.
            listening = socket.create_server((host, port), family=family_of(host), backlog=BACKLOG, reuse_port=True)
        except OSError as error:
            raise ServeError(f"{host}:{port} cannot be listened on ({error.strerror or error})") from None
        config = uvicorn.Config(
            app,
            # Its own log would hold paths, which may hold anything.
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        return cls(server, running)

    def check(self) -> None:
        """Raise ServeError unless it answers still."""
        if self._running.done():
            raise ServeError("the router's HTTP server has ended")

    async def close(self) -> None:
        """Take no new connection, and wait for what runs."""
        self._server.should_exit = True
        await self._running


def family_of(host: str) -> socket.AddressFamily:
    """IPv6 where `host` is such an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
