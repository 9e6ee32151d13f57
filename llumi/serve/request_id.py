"""`X-Request-Id`: the client's where it is an id, else a new one; in every answer, and in the audit log.

An id is hex digits and dashes, such as a UUID: no word of a person fits in.
"""

import re
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_WELL_FORMED = re.compile(r"[0-9a-fA-F-]{8,64}")


class RequestId:
    """ASGI middleware; it stands before everything else."""

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
    headers = MutableHeaders(scope=scope)
    given = headers.getlist(HEADER)
    request_id = given[0] if len(given) == 1 and _WELL_FORMED.fullmatch(given[0]) else str(uuid.uuid4())
    headers[HEADER] = request_id
    return request_id
