"""`X-Request-Id`: the client's where it is an id, else a new one; in every answer, and in the audit log.

An id is hex digits and dashes, such as a UUID: no word of a person fits in, and it stands in Serve's logs too.
"""

import re
import uuid

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_WELL_FORMED = re.compile(r"[0-9a-fA-F-]{8,64}")
_FOR_SERVE = {b"x_request_timeout_seconds", b"x_request_disconnect_disabled", b"serve_multiplexed_model_id", b"x_session_id"}
"""Headers that would tell Serve's proxy how to treat a request: not for a client to say. It fails where they are no UTF-8."""


class RequestId:
    """ASGI middleware. It stands before the routes, and before Serve's own proxy, which would echo whatever it is sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the id in the place of any other."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _set_request_id(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def _set_request_id(scope: Scope) -> str:
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name.lower().replace(b"-", b"_") not in _FOR_SERVE]
    headers = MutableHeaders(scope=scope)
    given = headers.getlist(HEADER)
    request_id = given[0] if len(given) == 1 and _WELL_FORMED.fullmatch(given[0]) else str(uuid.uuid4())
    headers[HEADER] = request_id
    return request_id


def proxy_middlewares() -> list[Middleware]:
    """What Serve's proxy asks for by way of RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(RequestId)]
