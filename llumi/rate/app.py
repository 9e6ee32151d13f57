"""The rating page as an application: plain HTML that works without a script, and one clear sentence for whatever goes wrong.

Routes that only show something may be asked for again at will; everything else is a form with the token of its session.
"""

from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Cookie, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.orm import Session
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llumi.config import RateConfig
from llumi.errors import DatabaseError
from llumi.rate.answers import read_answers, skip, submit
from llumi.rate.database import Database
from llumi.rate.rendering import Pages
from llumi.rate.sessions import SESSION_SECONDS, form_token, is_form_token, rater_of, sign_in
from llumi.rate.tables import Rater
from llumi.rate.turns import Closed, Page, next_page, open_page, release
from llumi.safety import Resources

COOKIE = "rating"
MAX_FORM_BYTES = 16_384
STATIC = Path(__file__).with_name("static")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}
NOTES: dict[str, str] = {
    "saved": "Saved. Thank you.",
    "skipped": "Skipped, and that is fine.",
    "already": "That page was answered before; what you sent first is kept. Here is where you are now.",
    "lapsed": "That page was open for a long time, and somebody else has rated it since. Nothing is wrong; here is another.",
    "unknown": "That page is not one of yours any more. Here is where you are now.",
}
"""What the next page says of the last one, by what became of it."""

NO_LINK = "This link is not known here. Please open the whole link that you were sent, or ask for a new one."
SIGNED_OUT = "You are not signed in on this device. Please open the link that you were sent once more."
FOREIGN_FORM = "This page is from an earlier visit. Please go back to where you are, and send it again from there."
DOWN = "The page cannot save or show anything just now. All that you sent before is kept. Please try again in a minute."

Form = dict[str, str]


def make_app(database: Database, config: RateConfig, resources: Resources | None = None) -> FastAPI:
    """The application over one database; raters see the crisis lines of `resources`, else those that LLUMI ships."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=STATIC))
    pages = Pages(config, resources or Resources.load())
    _add_safeguards(app, pages)
    _add_entrance(app, database, pages, secure=(config.public_url or "").startswith("https://"))
    _add_rating(app, database, pages)
    return app


class WithHeaders:
    """`HEADERS` on every answer. An ASGI class, since a middleware of functions runs each request in a task of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _form(request: Request) -> Form:
    """The fields of a form; the last one counts where a name comes twice."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, "That is more than this page can have sent. Please go back and send it again.")
    fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    request.state.form = fields  # so that a page about a database that is down can offer to send it again
    return fields


Fields = Annotated[Form, Depends(_form)]
CookieToken = Annotated[str, Cookie(alias=COOKIE)]


def _add_safeguards(app: FastAPI, pages: Pages) -> None:
    app.add_middleware(WithHeaders)

    @app.exception_handler(DatabaseError)
    async def down(request: Request, _: Exception) -> HTMLResponse:
        form: Form = getattr(request.state, "form", {})
        page = pages.render("down", sentence=DOWN, action=request.url.path, form=form)
        return HTMLResponse(page, 503, {"Retry-After": "60"})

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> HTMLResponse:
        sentence = error.detail if error.status_code not in {404, 405} or error.detail == NO_LINK else "There is no such page."
        return HTMLResponse(pages.render("message", sentence=sentence), error.status_code)


def _add_entrance(app: FastAPI, database: Database, pages: Pages, *, secure: bool) -> None:
    @app.get("/join/{invitation}")
    def join(invitation: str) -> Response:
        cookie = database.run(lambda session: sign_in(session, invitation, database.clock()))
        if cookie is None:
            raise HTTPException(404, NO_LINK)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, cookie, int(SESSION_SECONDS), httponly=True, samesite="lax", secure=secure)
        return response

    @app.get("/")
    def welcome(cookie: CookieToken = "") -> HTMLResponse:
        rater = database.run(lambda session: _signed_in(session, cookie, database))
        return HTMLResponse(pages.render("welcome", csrf=form_token(cookie), returning=rater.started_at is not None))

    @app.get("/support")
    def support(cookie: CookieToken = "") -> HTMLResponse:
        return HTMLResponse(pages.render("support", csrf=form_token(cookie) if cookie else None))

    @app.get("/healthz")
    def health() -> dict[str, str]:
        database.run(lambda session: session.connection().exec_driver_sql("SELECT 1").scalar_one())
        return {"status": "ok"}


def _add_rating(app: FastAPI, database: Database, pages: Pages) -> None:
    def page_of(session: Session, cookie: str) -> tuple[Rater, Page | None]:
        rater = _signed_in(session, cookie, database)
        return rater, next_page(session, rater, database.clock()) if rater.started_at is not None else None

    def page_of_form(session: Session, form: Form, cookie: str) -> Page | Closed:
        rater = _signed_in(session, cookie, database, form)
        return open_page(session, rater, form.get("turn", ""), database.clock())

    @app.post("/start")
    def start(form: Fields, cookie: CookieToken = "") -> Response:
        def begin(session: Session) -> None:
            rater = _signed_in(session, cookie, database, form)
            rater.started_at, rater.stopped_at = rater.started_at or database.clock(), None

        database.run(begin)
        return RedirectResponse("/item", 303)

    @app.get("/item")
    def item(note: str = "", cookie: CookieToken = "") -> Response:
        rater, page = database.run(lambda session: page_of(session, cookie))
        if rater.started_at is None or rater.stopped_at is not None:
            return RedirectResponse("/", 303)
        said = NOTES.get(note, "")
        if page is None:
            return HTMLResponse(pages.render("finished", csrf=form_token(cookie), note=said))
        return HTMLResponse(pages.item(page, form_token(cookie), said, {}, {}))

    @app.post("/item")
    def rate(form: Fields, cookie: CookieToken = "") -> Response:
        def keep(session: Session) -> str | tuple[Page, dict[str, str]]:
            page = page_of_form(session, form, cookie)
            if isinstance(page, str):
                return page
            answers = read_answers(page.study.role, form)
            if isinstance(answers, dict):
                return page, answers
            submit(session, page, answers, database.clock())
            return "saved"

        kept = database.run(keep)
        if isinstance(kept, str):
            return _to_next(kept)
        page, problems = kept
        return HTMLResponse(pages.item(page, form_token(cookie), "", form, problems), 422)

    @app.post("/skip")
    def pass_over(form: Fields, cookie: CookieToken = "") -> Response:
        def close(session: Session) -> str:
            page = page_of_form(session, form, cookie)
            if isinstance(page, str):
                return page
            skip(page, database.clock())
            return "skipped"

        return _to_next(database.run(close))

    @app.post("/stop")
    def stop(form: Fields, cookie: CookieToken = "") -> Response:
        def leave(session: Session) -> None:
            rater = _signed_in(session, cookie, database, form)
            rater.stopped_at = database.clock()
            release(session, rater, database.clock())

        database.run(leave)
        return RedirectResponse("/stopped", 303)

    @app.get("/stopped")
    def stopped(cookie: CookieToken = "") -> HTMLResponse:
        return HTMLResponse(pages.render("stopped", csrf=form_token(cookie) if cookie else None))


def _to_next(note: str) -> Response:
    return RedirectResponse(f"/item?note={note}", 303)


def _signed_in(session: Session, cookie: str, database: Database, form: Form | None = None) -> Rater:
    """The rater at the browser; where a `form` was sent, it must come from a page of this session."""
    rater = rater_of(session, cookie, database.clock()) if cookie else None
    if rater is None:
        raise HTTPException(401, SIGNED_OUT)
    if form is not None and not is_form_token(cookie, form.get("csrf", "")):
        raise HTTPException(403, FOREIGN_FORM)
    return rater
