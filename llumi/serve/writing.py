"""The writing page at `/`: its files, the crisis lines beside it, and the flags that come from it.

The files and the crisis lines are for whoever opens the page, with a key or without (`OPEN_PATHS`): they hold no text.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.params import Depends
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from llumi.errors import RateError
from llumi.prompts import Role
from llumi.rate.flags import FlagBox
from llumi.rate.tables import Flag, Reason
from llumi.safety import Resources
from llumi.safety.resources import EVERYWHERE
from llumi.serve.api import server_error
from llumi.serve.call import CALL

WEB = Path(__file__).with_name("web")
PAGE = "page.html"
FILES: Mapping[str, Path] = {
    "/" if file.name == PAGE else f"/static/{file.name}": file for file in sorted(WEB.iterdir()) if file.is_file()
}
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
RESOURCES = "/v1/resources"
OPEN_PATHS = frozenset({*FILES, RESOURCES})
MAX_FLAGGED_CHARACTERS = 100_000
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}
_log = logging.getLogger(__name__)


class FlagBody(BaseModel):
    """`POST /v1/flags`: a suggestion that is unsafe, what it answered, and if wanted why. The texts are kept."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Role
    model: str = Field(pattern=r"^[\w.@-]+$", max_length=200)
    reason: Reason | None = None
    post: str = Field(min_length=1, max_length=MAX_FLAGGED_CHARACTERS)
    draft: str | None = Field(None, max_length=MAX_FLAGGED_CHARACTERS)
    suggestion: str = Field(min_length=1, max_length=MAX_FLAGGED_CHARACTERS)


def add_writing_page(app: FastAPI, country: str, lines: Resources, flags: FlagBox, keyed: Sequence[Depends]) -> None:
    """The page's routes on `app`; a flag asks for a key (`keyed` says so in the OpenAPI document), and names it.

    The crisis `lines` of all countries go out together: which one somebody looks for is told to nobody.
    """
    for path, file in FILES.items():
        app.add_api_route(path, _sender(file), methods=["GET"], include_in_schema=False)
    by_country = {code: _shown(lines, code) for code in (*lines.countries, EVERYWHERE)}
    country = country.upper()
    shown = {"country": country, "resources": _shown(lines, country), "countries": by_country}

    @app.get(RESOURCES)
    async def resources() -> dict[str, Any]:
        return shown

    @app.post("/v1/flags", dependencies=keyed)
    def flag(body: FlagBody) -> Response:
        key = CALL.get().key
        try:
            number = flags.keep(Flag(**body.model_dump(), key_id=key and key.id))
        except RateError as error:
            _log.warning("a flag is not kept: %s", error)
            raise server_error(503, "the flag could not be kept; try again", "unavailable") from None
        return JSONResponse({"flag": number}, 201)


def _shown(lines: Resources, country: str) -> list[dict[str, Any]]:
    return [resource.model_dump(exclude={"locales"}) for resource in lines.of(country)]


def _sender(file: Path) -> Any:
    content = file.read_bytes()
    kind = MEDIA_TYPES[file.suffix]

    async def send() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return send
