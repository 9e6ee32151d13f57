"""The writing page on a port of loopback over the echo engine, and somebody who writes on it in a real browser."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from llumi.config import RateConfig, ServeConfig
from llumi.engine import Request
from llumi.engine.echo import EchoEngine
from llumi.serve.api import DONE, event
from llumi.serve.router import Service
from tests.conftest import free_port
from tests.serve.keyed import SECRET
from tests.serve.test_router import EngineBackend, service

POST = "Since I moved here the evenings are very quiet. My old friends write less and less, and I do not want to be a burden."
DRAFT = "That sounds hard. Maybe just join a club, there are always people. I am sure your friends did not mean it."
REVISION = (
    "That sounds hard, and I am glad that you wrote. Would a club feel possible, or would one phone call be enough for now? "
    "Your friends may not know how quiet it is. Anna at the library knows 3 groups."
)
REPLY = "Quiet evenings in a new place can feel very long. Would you like to write to one old friend tonight, before 9?"


def page_service(
    database: Path,
    config: ServeConfig | None = None,
    seconds_per_token: float = 0,
    revision: str = REVISION,
    reply: str = REPLY,
) -> Service:
    """GM and IM as engines that say `reply` and `revision`, with flags in a SQLite file."""

    def echo(text: str) -> EngineBackend:
        def say(_: Request) -> str:
            return text

        return EngineBackend(EchoEngine(say, seconds_per_token))

    rate = RateConfig(database=f"sqlite:///{database}")
    return service(config=config or ServeConfig(country="IE"), backends={"gm": echo(reply), "im": echo(revision)}, rate=rate)


@contextlib.contextmanager
def listening(app: Any) -> Iterator[str]:
    """An ASGI application on a port; its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = server.force_exit = True  # also where an answer is still being written
    thread.join(20)


class Writer:
    """Somebody at the page; keeps what the browser complains of, and what it asks for elsewhere."""

    def __init__(self, browser: Any, url: str, key: str = SECRET, **device: Any) -> None:
        self.context = browser.new_context(**device)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: None if asked.url.startswith(url) else self.outside.append(asked.url))
        self.page.goto(url)
        if key:
            self.page.evaluate("key => sessionStorage.setItem('llumi key', key)", key)
            self.page.reload()
        self.page.locator("#lines li").first.wait_for(state="attached")

    def fill(self, **texts: str) -> None:
        for name, text in texts.items():
            self.page.locator(f"#{name}").fill(text)

    def improve(self, post: str = POST, draft: str = DRAFT) -> None:
        """Ask for a revision, and wait until it stands there."""
        self.fill(post=post, draft=draft)
        with self.page.expect_response("**/v1/improve"):
            self.page.get_by_role("button", name="Improve mine").click()
        self.page.locator("#ask-improve[aria-disabled=false]").wait_for()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    @property
    def text(self) -> str:
        """What the person would copy."""
        return str(self.page.locator("#result").input_value())

    @property
    def said(self) -> str:
        return str(self.page.locator("#said").text_content())

    def answer(self, path: str, status: int = 200, headers: dict[str, str] | None = None, **body: Any) -> None:
        """Let the browser get this answer from a route, as a service with keys and a guard would give it; `text` in a piece."""
        kind, content = "application/json", json.dumps(body)
        if status == 200:
            kind = "text/event-stream"
            content = event({"text": body.pop("text")}) + event(body) + DONE
        self.page.route(
            f"**{path}", lambda route: route.fulfill(status=status, headers=headers, content_type=kind, body=content)
        )
