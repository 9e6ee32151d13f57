"""A small store with posts to rate, a study over it, a rater at a browser without a script, and real servers.

Every text is made up and gentle. Names of arms are words that stand in no text, so that a page which lets one slip is found.
"""

import contextlib
import html
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from llumi.config import Config, load_config
from llumi.prompts import Role
from llumi.rate.answers import VERDICT, fields_of
from llumi.rate.database import Database
from llumi.rate.draw import draw_items
from llumi.rate.study import create_study, invite
from llumi.rate.tables import Purpose
from llumi.records import GENERATION_SCHEMA, HELD_OUT_SCHEMA
from llumi.storage import Input, Storage
from tests.conftest import free_port

NUM_POSTS = 12
GM_ARMS = ("gm-heron", "gm-wren")
IM_ARMS = ("im-finch",)
FOLDERS = ("held-out", "drafts")


def post_rows(folder: str, **fields: Any) -> list[dict[str, Any]]:
    """Rows of HELD_OUT_SCHEMA; posts of training and of evaluation are told apart by their words."""
    return [
        {
            "post_id": f"{folder}-{number:02}",
            "post_author": f"{number:024x}",
            "community": "newtown",
            "risk": "none",
            "post": f"The {folder} evenings are long since I moved here, {number} weeks ago.\n<b>I miss my friends.</b>",
            "reply": f"That sounds lonely. Could you call one friend tonight, {number} rings at most?",
            "reply_author": "a" * 24,
            "reply_score": 9,
            "draft": f"Go for a walk, {number} times round the pond.",
            "draft_author": "b" * 24,
            "draft_score": 2,
        }
        | fields
        for number in range(NUM_POSTS)
    ]


def generation_rows(role: str, model: str, word: str, folders: tuple[str, ...] = FOLDERS) -> list[dict[str, Any]]:
    """A reply to every post of some folders, with a word of its own."""
    blank = dict.fromkeys(GENERATION_SCHEMA.names)
    return [
        blank | {"post_id": row["post_id"], "role": role, "model": model, "reply": f"Thank you for writing. A {word} may help."}
        for folder in folders
        for row in post_rows(folder)
    ]


def write_store(config: Config, held_out: list[dict[str, Any]] | None = None) -> Storage:
    """`pairs/default` with both folders, and generations of three models."""
    storage = Storage.open(config.storage)
    tables = {"held-out": held_out or post_rows("held-out"), "drafts": post_rows("drafts")}
    draft = storage.begin("pairs", "default")
    files = [
        draft.write_table(f"{folder}/part-0.parquet", pa.Table.from_pylist(rows, HELD_OUT_SCHEMA))
        for folder, rows in tables.items()
    ]
    pairs = draft.publish(files, fingerprint="pairs", config={}, inputs=[])
    for name, word in zip((*GM_ARMS, *IM_ARMS), ("lamp", "song", "tea"), strict=True):
        write_generation(storage, name, generation_rows(name[:2], name, word), [pairs.as_input()])
    return storage


def write_generation(storage: Storage, name: str, rows: list[dict[str, Any]], inputs: list[Input]) -> None:
    draft = storage.begin("generations", name)
    file = draft.write_table("rows/part-0.parquet", pa.Table.from_pylist(rows, GENERATION_SCHEMA))
    draft.publish([file], fingerprint=name, config={}, inputs=inputs)


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """A deployment with a database; `open` gives it again as another process would see it."""

    config: Config
    clock: Clock = field(default_factory=Clock)

    def open(self) -> Database:
        return Database.open(self.config.rate, create=True, clock=self.clock)

    def study(self, name: str = "first", role: Role = "gm", purpose: Purpose = "evaluation", raters: int = 3) -> list[str]:
        """Create a study of all arms of a role, and invite raters: their tokens."""
        arms = GM_ARMS if role == "gm" else IM_ARMS
        with contextlib.closing(self.open()) as database:
            create_study(database, self.config.rate, name, draw_items(self.config, role, arms, purpose, None))
            return list(invite(database, name, raters).values())


MakeHouse = Callable[..., House]


@pytest.fixture
def make_house(tmp_path: Path) -> MakeHouse:
    """A deployment with its store; arguments are settings of `rate`."""

    def make(**settings: Any) -> House:
        settings = {"database": f"sqlite:///{tmp_path / 'rate.db'}", "port": free_port()} | settings
        overrides = [f"rate.{key}={value}" for key, value in settings.items()]
        config = load_config(None, [f"storage.uri={tmp_path / 'store'}", *overrides])
        write_store(config)
        return House(config)

    return make


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    """Without checks and repeats, two raters an item."""
    return make_house(raters_per_item=2, check_share=0, repeat_share=0)


class Browser:
    """A rater who sends forms; `client` is httpx's, or Starlette's around the application."""

    def __init__(self, client: Any, token: str, role: Role = "gm") -> None:
        self.client, self.role = client, role
        self.page = client.get(f"/join/{token}", follow_redirects=True)

    def hidden(self, name: str) -> str:
        found = re.search(rf'name="{name}" value="([^"]*)"', self.page.text)
        assert found, self.page.text
        return html.unescape(found[1])

    def send(self, path: str, **fields: str) -> Any:
        self.page = self.client.post(path, data=fields, follow_redirects=True)
        return self.page

    def start(self) -> Any:
        return self.send("/start", csrf=self.hidden("csrf"))

    @property
    def is_rating(self) -> bool:
        return 'name="turn"' in self.page.text

    @property
    def replies(self) -> list[str]:
        """The first and the second reply, as they stand on the page."""
        return [html.unescape(text) for text in re.findall(r"<blockquote>(.*?)</blockquote>", self.page.text, re.DOTALL)[1:]]

    def form(self, score: int = 4, verdict: str = "left", **changes: str) -> dict[str, str]:
        """A whole form for the page that is shown."""
        scores = dict.fromkeys(fields_of(self.role), str(score))
        return {"csrf": self.hidden("csrf"), "turn": self.hidden("turn"), **scores, VERDICT: verdict} | changes

    def rate(self, **answers: Any) -> Any:
        return self.send("/item", **self.form(**answers))

    def skip(self) -> Any:
        return self.send("/skip", csrf=self.hidden("csrf"), turn=self.hidden("turn"))


@contextlib.contextmanager
def serving(config: Config, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`llumi rate serve` in a process of its own, answering."""
    rate = config.rate
    command = [sys.executable, "-m", "llumi.cli", "rate", "serve"]
    for key in ("database", "port", "host"):
        command += ["--set", f"rate.{key}={getattr(rate, key)}"]
    server = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{url_of(config)}/support", trust_env=False)
                break
            assert server.poll() is None, server.communicate()[0]
            time.sleep(0.1)
        yield server
    finally:
        server.kill()
        server.wait(timeout=20)


def url_of(config: Config) -> str:
    return f"http://{config.rate.host}:{config.rate.port}"


@pytest.fixture(scope="session")
def starlette_client() -> Callable[..., Any]:
    """A client around the application itself, without a port."""
    from fastapi.testclient import TestClient

    return TestClient
