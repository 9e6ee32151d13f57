"""What every request passes before the routes: its key, its limits, its body; and behind them, its line in the audit log."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llumi.config import RateConfig, ServeConfig
from llumi.serve.api import ApiError, bad_request, no_entry, server_error, too_many
from llumi.serve.audit import AuditLog, utc_now
from llumi.serve.call import CALL, CLIENT_LEFT, Call
from llumi.serve.keys import Key, KeyStore
from llumi.serve.limits import Limits
from llumi.serve.metrics import PATH as METRICS
from llumi.serve.metrics import Metrics
from llumi.serve.refusals import Refusals
from llumi.serve.request_id import HEADER as REQUEST_ID
from llumi.serve.ring import KeyRing
from llumi.serve.unforeseen import kind_and_place
from llumi.storage import Storage

_log = logging.getLogger(__name__)
UNKNOWN = 401
"""The status for whoever brings no key that opens."""

LIVENESS = "/healthz"
"""Open to whoever asks whether the service is up."""

TIMEOUT_HEADER = "x-request-timeout"
"""For how many seconds the client will wait, where that is less than the service would."""


@dataclass(frozen=True)
class Access:
    """What the door needs of a router: who may come in, how often, and where it is written down."""

    ring: KeyRing
    limits: Limits
    audit: AuditLog

    @cached_property
    def refusals(self) -> Refusals:
        """Writes the lines of those whom no key let in."""
        return Refusals(self.audit)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """The time of an application on this access; at its end what was only counted is written."""
        yield
        self.refusals.settle()


@dataclass(frozen=True)
class Grounds:
    """What a router stands on where it runs: the store of the keys, one key beside them, the log's folder, and the rating
    database, where flags go.
    """

    storage: Storage
    own_key: Key
    audit: Path
    rate: RateConfig

    def access(self) -> Access:
        """Read the keys, watch them from now on, and go on with the log; raises StoreError, AccessError or AuditError."""
        ring = KeyRing(KeyStore(self.storage), [self.own_key])
        access = Access(ring, Limits(), AuditLog(self.audit))
        ring.watch()
        return access


class Door:
    """ASGI middleware around the routes of `paths`, but for `open_paths`; within it CALL is set.

    What is open needs no key, and is neither counted nor written down: it answers everybody the same.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        config: ServeConfig,
        access: Access,
        metrics: Metrics,
        paths: Collection[str],
        open_paths: Collection[str],
    ) -> None:
        self._app = app
        self._config = config
        self._access = access
        self._metrics = metrics
        self._paths = paths
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what no route of ours is for is not named in the log, since a path may hold anything."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        route = scope["path"] if scope["path"] in self._paths else None
        deadline = asyncio.get_running_loop().time() + self._config.timeout_seconds
        call = Call(headers[REQUEST_ID], route, deadline, self._access.limits)
        answer = _Watched(send)
        self._metrics.begun(call)
        context = CALL.set(call)
        try:
            await self._answer(scope, headers, receive, answer, call)
        except Exception as error:  # whoever is outside would log its message, in which there may be text
            _log.error("a request failed: %s", kind_and_place(error))
            if answer.status is None:
                await _response(server_error(500, "internal error", "internal_error"))(scope, receive, answer)
            answer.status, answer.ended = 500, True
        finally:
            CALL.reset(context)
            call.status = call.status or (answer.status if answer.ended else CLIENT_LEFT)
            call.settle()
            seconds = time.monotonic() - call.started
            self._metrics.ended(call, seconds)
            written_by = self._access.refusals if call.status == UNKNOWN else self._access.audit
            written_by.write({"time": utc_now(), **call.audit_fields(), "seconds": round(seconds, 3)})

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: "_Watched", call: Call) -> None:
        try:
            call.key = self._key(headers)
            self._count(call, call.key)
            call.deadline = min(call.deadline, _patience(headers))
            body = await self._body(headers, receive)
        except ApiError as error:
            call.refused(error)
            await _response(error)(scope, receive, send)
        except ConnectionResetError:
            return
        else:
            await _while_there(self._app, scope, _Client(body, receive), send)

    def _key(self, headers: Headers) -> Key:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise no_entry("no key; send one as Authorization: Bearer llumi_...", known=False)
        key, refusal = self._access.ring.find(secret.strip())
        if key is None:
            raise no_entry("nobody has this key here; ask whoever runs this service for one", known=True)
        if refusal is not None:
            raise no_entry(f"this key {refusal}; ask whoever runs this service for another", known=True)
        return key

    def _count(self, call: Call, key: Key) -> None:
        if not self._access.audit.writable and call.route != METRICS:  # there an operator sees that it is not
            raise server_error(503, "the audit log cannot be written, and nothing is answered without it", "audit_unavailable")
        if key.requests_per_minute is not None:
            window = self._access.limits.requests_of(key)
            if wait := window.wait_seconds(1, key.requests_per_minute):
                raise too_many(f"this key has {key.requests_per_minute} requests a minute", "rate_limit_exceeded", wait)
            window.take(1)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body; raises ApiError where it is too long or too slow, ConnectionResetError where the client leaves."""
        limit = self._config.max_body_bytes
        too_large = bad_request(
            413,
            f"the body is longer than {limit} bytes (serve.max_body_bytes)",
            "body_too_large",
            headers={"Connection": "close"},
        )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._config.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    more = message.get("more_body", False)
        except TimeoutError:
            limit_text = f"{self._config.body_seconds:g} s (serve.body_seconds)"
            close = {"Connection": "close"}
            raise bad_request(408, f"the body did not come within {limit_text}", "body_too_slow", headers=close) from None
        return bytes(body)


def _response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


class _Watched:
    """An ASGI `send` that knows what was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)


def _patience(headers: Headers) -> float:
    """Until when the client waits, by the event loop's clock; raises ApiError for a header that is no number of seconds."""
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return float("inf")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise bad_request(400, "X-Request-Timeout: not a number of seconds above 0", "invalid_timeout", "X-Request-Timeout")
    return asyncio.get_running_loop().time() + seconds


class _Client:
    """An ASGI `receive` that gives the body in one piece, then waits until the client leaves."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._messages = [{"type": "http.request", "body": body, "more_body": False}]
        self._receive = receive
        self._gone = asyncio.Event()

    async def __call__(self) -> Message:
        if self._messages:
            return self._messages.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def leaves(self) -> None:
        """Returns when the client has left, or was answered."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()


async def _while_there(app: ASGIApp, scope: Scope, client: _Client, send: _Watched) -> None:
    """Let `app` answer, and cancel it when the client leaves before the end: no model writes for nobody."""
    answering = asyncio.ensure_future(app(scope, client, send))
    leaving = asyncio.create_task(client.leaves())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if send.ended:
            await asyncio.wait({answering})
    finally:
        leaving.cancel()
        answering.cancel()
        await asyncio.wait({answering})
        # asyncio would log what a task raised and nobody asked for, message and all.
        problem = None if answering.cancelled() else answering.exception()
    if problem is not None:
        raise problem
