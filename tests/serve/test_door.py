"""Who gets in, how much of it, with what body; and the line that each request leaves."""

import asyncio
import json
import os
import re
import uuid
from dataclasses import replace
from functools import partial

import httpx
import openai
import pytest

pytest.importorskip("ray")

from ray.serve.exceptions import BackPressureError

from llumi.config import ServeConfig
from llumi.engine import Delta, Request
from llumi.engine.echo import EchoEngine
from llumi.errors import EngineError
from llumi.serve.audit_check import verify
from llumi.serve.keys import new_secret
from llumi.serve.limits import WINDOW_SECONDS
from llumi.serve.refusals import LINES_A_MINUTE, Refusals
from llumi.serve.request_id import RequestId
from llumi.serve.ring import KeyRing
from llumi.serve.router import Service, build_app
from tests.serve.keyed import SECRET, key_store, lines, open_access
from tests.serve.test_router import CHAT, DRAFT, IMPROVE, EngineBackend, call, failing, post, service

MARKER = "lantern-in-the-evening"
ROUTES = [
    ("POST", "/v1/draft"),
    ("POST", "/v1/improve"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/nothing"),
    ("OPTIONS", "/v1/draft"),
]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def with_key(of: Service, method: str, path: str, key: str | None, **request) -> httpx.Response:
    headers = {} if key is None else {"Authorization": key}
    return call(of, method, path, headers=headers, **request)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "key",
    ["", "Bearer", "Bearer  ", f"Basic {SECRET}", SECRET, f"Bearer {new_secret()}", "Bearer \xff"],
    ids=["empty", "no secret", "blank", "basic", "bare", "unknown", "no text"],  # secrets differ from process to process
)
def test_nothing_but_liveness_opens_without_a_key(method: str, path: str, key: str):
    of = service()
    answer = call(of, method, path, headers={"Authorization": key.encode("latin-1")}, content=b"{")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="llumi"')
    assert call(of, "GET", "/healthz", headers={"Authorization": ""}).status_code == 200


def test_a_right_key_opens_every_route():
    of = service()
    assert post("/v1/draft", DRAFT, of).status_code == 200
    assert post("/v1/improve", IMPROVE, of).status_code == 200
    assert post("/v1/chat/completions", CHAT, of).status_code == 200
    assert call(of, "GET", "/v1/models").status_code == 200
    assert "HTTPBearer" in call(of, "GET", "/openapi.json").text
    assert with_key(of, "GET", "/v1/models", f"bearer {SECRET}").status_code == 200


def test_a_closed_key_is_told_why(tmp_path):
    store = key_store(tmp_path)
    _, secret = store.create("web", ["gm"])
    ring = KeyRing(store)
    of = service()
    of = replace(of, access=replace(of.access, ring=ring))
    assert with_key(of, "POST", "/v1/draft", f"Bearer {secret}", json=DRAFT).status_code == 200
    store.revoke("web")
    ring.refresh()
    refused = with_key(of, "POST", "/v1/draft", f"Bearer {secret}", json=DRAFT)
    assert (refused.status_code, refused.json()["error"]["message"][:20]) == (401, "this key was revoked")
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]


def test_a_scope_opens_its_own_routes():
    of = replace(service(), access=open_access(scopes=("gm",)))
    assert post("/v1/draft", DRAFT, of).status_code == 200
    for path, body in (("/v1/improve", IMPROVE), ("/v1/chat/completions", {**CHAT, "model": "llumi-im", "user": "admin"})):
        refused = post(path, body, of)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "insufficient_scope"
        assert 'scope="im"' in refused.headers["WWW-Authenticate"]
    assert of.backends["im"].asked == []
    assert call(of, "GET", "/v1/models").status_code == 200


def test_a_thousand_wrong_keys_are_a_thousand_times_401():
    of = service()
    before = len(of.access.ring._by_hash), len(of.access.limits._requests)

    async def knock() -> set[int]:
        transport = httpx.ASGITransport(build_app(of))
        async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
            answers = [
                (await client.post("/v1/draft", json=DRAFT, headers={"Authorization": f"Bearer {new_secret()}"}))
                for _ in range(1000)
            ]
        return {answer.status_code for answer in answers}

    assert asyncio.run(knock()) == {401}
    assert (len(of.access.ring._by_hash), len(of.access.limits._requests)) == before
    assert of.backends["gm"].asked == []


def test_requests_a_minute_end_in_429_and_begin_again():
    clock = Clock()
    of = replace(service(), access=open_access(clock=clock, requests_per_minute=3))
    assert [post("/v1/draft", DRAFT, of).status_code for _ in range(4)] == [200, 200, 200, 429]
    clock.now = 50.5
    refused = post("/v1/draft", DRAFT, of)
    assert refused.headers["Retry-After"] == "10"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    clock.now = WINDOW_SECONDS
    assert post("/v1/draft", DRAFT, of).status_code == 200


def test_tokens_a_minute_count_what_was_generated():
    clock = Clock()
    of = replace(service(), access=open_access(clock=clock, tokens_per_minute=100))
    cost = post("/v1/draft", DRAFT, of).json()["usage"]["total_tokens"]
    free = 100 - cost
    assert post("/v1/draft", {**DRAFT, "max_new_tokens": free + 1}, of).status_code == 429
    assert post("/v1/draft", {**DRAFT, "max_new_tokens": free}, of).status_code == 200
    clock.now = WINDOW_SECONDS
    assert post("/v1/draft", {**DRAFT, "max_new_tokens": 100}, of).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_counted_before_they_are_there(stream: bool):
    """Of requests side by side, each of which would fit alone, so many are let in as fit together."""
    of = service(EchoEngine(seconds_per_token=0.01))
    of = replace(of, access=open_access(tokens_per_minute=100))

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(build_app(of))
        body = {**DRAFT, "max_new_tokens": 40, "stream": stream}
        key = {"Authorization": f"Bearer {SECRET}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://router", headers=key) as client:
            answers = await asyncio.gather(*(client.post("/v1/draft", json=body) for _ in range(3)))
        return sorted(answer.status_code for answer in answers)

    assert asyncio.run(ask()) == [200, 200, 429]


def test_what_failed_costs_no_tokens_and_what_was_left_costs_all():
    of = replace(service(failing(EngineError("gone"))), access=open_access(tokens_per_minute=50))
    for _ in range(3):
        assert post("/v1/draft", {**DRAFT, "max_new_tokens": 50}, of).status_code == 500
    of = service(EchoEngine(seconds_per_token=30), ServeConfig(timeout_seconds=0.05))
    of = replace(of, access=open_access(tokens_per_minute=50))
    assert [post("/v1/draft", {**DRAFT, "max_new_tokens": 50}, of).status_code for _ in range(2)] == [504, 429]


class Full(EngineBackend):
    async def complete(self, request: Request) -> Delta:
        raise BackPressureError(num_queued_requests=2, max_queued_requests=2)

    async def stream(self, request: Request):
        raise BackPressureError(num_queued_requests=2, max_queued_requests=2)
        yield


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_429_with_a_time_to_come_again(stream: bool):
    of = service()
    of = replace(of, backends={**of.backends, "gm": Full(EchoEngine())}, access=open_access(tokens_per_minute=10))
    for _ in range(3):
        refused = post("/v1/draft", {**DRAFT, "max_new_tokens": 10, "stream": stream}, of)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["Retry-After"]) > 0


def test_the_openai_client_understands_a_wrong_key_a_wrong_scope_and_a_limit():
    of = replace(service(), access=open_access(scopes=("gm",), requests_per_minute=2))
    client = httpx.Client(transport=InProcess(of))
    right = openai.OpenAI(base_url="http://router/v1", api_key=SECRET, http_client=client, max_retries=0)
    wrong = openai.OpenAI(base_url="http://router/v1", api_key="none", http_client=client, max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    assert right.chat.completions.create(**CHAT).choices[0].message.content == "all of you"
    with pytest.raises(openai.PermissionDeniedError):
        right.chat.completions.create(**{**CHAT, "model": "llumi-im"})
    with pytest.raises(openai.RateLimitError) as limit:
        right.models.list()
    assert int(limit.value.response.headers["Retry-After"]) <= WINDOW_SECONDS


class InProcess(httpx.BaseTransport):
    """The routes for a client that knows no event loop."""

    def __init__(self, of: Service) -> None:
        self.of = of

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = call(self.of, request.method, request.url.path, headers=request.headers, content=request.read())
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def test_a_body_above_the_limit_is_413_with_or_without_its_length():
    of = service(config=ServeConfig(max_body_bytes=2000))
    body = json.dumps({"post": "x" * 2000}).encode()

    async def in_pieces():
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    for content in (body, in_pieces()):
        refused = call(of, "POST", "/v1/draft", content=content)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
        assert refused.headers["Connection"] == "close"
    huge = call(of, "POST", "/v1/draft", content=b"", headers={"Content-Length": "9" * 5000})
    assert huge.status_code == 413
    assert post("/v1/draft", {"post": "x" * 1900}, of).status_code == 200


def test_a_body_that_does_not_come_is_408():
    of = service(config=ServeConfig(body_seconds=0.05))

    async def slow():
        yield b'{"post": "'
        await asyncio.sleep(30)

    refused = call(of, "POST", "/v1/draft", content=slow())
    assert (refused.status_code, refused.json()["error"]["code"]) == (408, "body_too_slow")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b'{"post": "\xc3\x28"}',
        b'{"post": "\\ud800"}',
        b'{"post": "\\u0000"}',
        b"[" * 100_000,
        b'{"post": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"post": "a", "temperature": NaN}',
        b'{"post": "a", "temperature": 1e999}',
        b'{"\\ud800": 1}',
        b"null",
        b"",
    ],
    ids=lambda content: repr(content[:30]),
)
@pytest.mark.parametrize("path", ["/v1/draft", "/v1/improve", "/v1/chat/completions"])
def test_a_body_that_is_none_is_the_clients_own_fault(path: str, content: bytes):
    answer = call(service(), "POST", path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in ((200, 422) if b"u0000" in content else (400, 422))
    if answer.status_code != 200:
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_request_id_is_the_clients_where_it_is_one_and_a_new_one_else():
    of = service()
    given = str(uuid.uuid4())
    assert post_with(of, given).headers.get_list("X-Request-Id") == [given]
    for wrong in (MARKER, "", "0" * 65, "\xff\xfe", "1234567\t"):
        answer = post_with(of, wrong)
        assert answer.status_code == 200
        [made] = answer.headers.get_list("X-Request-Id")
        assert uuid.UUID(made)
    assert call(of, "GET", "/healthz").headers["X-Request-Id"]
    assert call(of, "GET", "/v1/models", headers={"Authorization": ""}).headers["X-Request-Id"]
    assert lines(of.access)[0]["request"] == given


def test_a_request_id_replaces_what_stands_behind_it_would_answer():
    async def behind(scope, receive, send) -> None:
        echo = [(b"x-request-id", b"one"), (b"x-request-id", b"other")]
        await send({"type": "http.response.start", "status": 200, "headers": echo})
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> httpx.Response:
        sent: list[dict] = []

        async def send(message: dict) -> None:
            sent.append(message)

        await RequestId(behind)({"type": "http", "headers": [(b"accept", b"*/*")]}, None, send)
        return httpx.Response(200, headers=sent[0]["headers"])

    assert len(asyncio.run(ask()).headers.get_list("X-Request-Id")) == 1


def post_with(of: Service, request_id: str) -> httpx.Response:
    return call(of, "POST", "/v1/draft", json=DRAFT, headers={"X-Request-Id": request_id.encode("latin-1")})


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_waits_less_long_is_answered_sooner(stream: bool):
    of = service(EchoEngine(seconds_per_token=30))
    answer = call(of, "POST", "/v1/draft", json={**DRAFT, "stream": stream}, headers={"X-Request-Timeout": "0.05"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert of.backends["gm"].left == 1
    short = service(EchoEngine(seconds_per_token=30), ServeConfig(timeout_seconds=0.05))
    assert call(short, "POST", "/v1/draft", json=DRAFT, headers={"X-Request-Timeout": "600"}).status_code == 504
    for wrong in ("soon", "-1", "0", "nan"):
        assert call(of, "POST", "/v1/draft", json=DRAFT, headers={"X-Request-Timeout": wrong}).status_code == 400


def test_every_request_leaves_its_line_and_no_text():
    of = replace(service(), access=open_access(scopes=("gm",), requests_per_minute=8))
    text = {"post": f"I feel lonely, {MARKER}.", "max_new_tokens": 2}
    used = post("/v1/draft", text, of).json()["usage"]
    post("/v1/draft", {**text, "stream": True}, of)
    post("/v1/draft", {**text, MARKER: MARKER}, of)
    post("/v1/improve", {**text, "draft": MARKER}, of)
    post("/v1/chat/completions", {**CHAT, "model": MARKER}, of)
    call(of, "GET", f"/v1/{MARKER}?{MARKER}={MARKER}")
    call(of, "GET", "/v1/models", headers={"Authorization": f"Bearer {MARKER}"})
    call(of, MARKER.upper(), "/v1/draft", headers={"X-Request-Id": MARKER})
    post("/v1/draft", text, of)
    post("/v1/draft", text, of)
    call(of, "GET", "/healthz")
    written = lines(of.access)
    [key] = of.access.ring._by_hash.values()
    assert [(line["route"], line["role"], line["status"]) for line in written] == [
        ("/v1/draft", "gm", 200),
        ("/v1/draft", "gm", 200),
        ("/v1/draft", None, 422),
        ("/v1/improve", "im", 403),
        ("/v1/chat/completions", None, 404),
        (None, None, 404),
        ("/v1/models", None, 401),
        ("/v1/draft", None, 405),
        ("/v1/draft", "gm", 200),
        ("/v1/draft", None, 429),
    ]
    assert [line["key"] for line in written] == [None if line["status"] == 401 else key.id for line in written]
    for line in written[:2]:
        assert line["model"] == "gm-dpo1@0123456789ab"
        assert (line["prompt_tokens"], line["completion_tokens"]) == (used["prompt_tokens"], used["completion_tokens"])
        assert line["guard"] == "passed"
        assert 0 <= line["seconds"] < 60
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert MARKER.encode() not in b"".join(file.read_bytes() for file in of.access.audit.folder.iterdir())
    assert verify(of.access.audit.folder).lines == len(written)


def test_a_flood_of_wrong_keys_leaves_a_few_lines_and_a_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llumi.serve.door.Refusals", partial(Refusals, seconds=0.5))
    of = service()
    app = build_app(of)

    async def ask(client: httpx.AsyncClient, secret: str) -> int:
        return (await client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})).status_code

    async def flood() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router") as client:
            statuses = [await ask(client, f"{MARKER}-{number}") for number in range(1000)]
            assert await ask(client, SECRET) == 200
            await asyncio.sleep(0.6)
            statuses.append(await ask(client, MARKER))
        assert set(statuses) == {401}
        async with of.access.lifespan(app):
            pass

    asyncio.run(flood())
    verdict = verify(of.access.audit.folder)
    written = lines(of.access)
    one_by_one = sum(line.get("status") == 401 for line in written)
    assert verdict.refused == sum(line.get("refused", 0) for line in written)
    assert one_by_one + verdict.refused == 1001
    assert len(written) < 250
    [counted, *_] = [line for line in written if "refused" in line]
    assert counted["since"] < counted["time"]


def test_what_was_counted_is_written_when_the_service_ends_and_kept_while_the_disk_is_full(monkeypatch: pytest.MonkeyPatch):
    access = open_access()

    async def refuse() -> None:
        for _ in range(LINES_A_MINUTE + 5):
            access.refusals.write({"time": "2026-11-26T10:00:00.000Z", "status": 401})
        with monkeypatch.context() as disk:
            disk.setattr(os, "write", lambda *_: 0)
            access.refusals.settle()
        access.refusals.write({"time": "2026-11-26T10:01:00.000Z", "status": 401})
        async with access.lifespan(None):
            pass

    asyncio.run(refuse())
    *before, last = lines(access)
    assert [line["status"] for line in before] == [401] * (LINES_A_MINUTE + 1)
    assert (last["refused"], last["since"]) == (5, "2026-11-26T10:00:00.000Z")


def test_an_error_in_the_middle_of_a_stream_has_its_own_status_in_the_log():
    of = service(failing(EngineError("gone"), after=2))
    assert post("/v1/draft", {**DRAFT, "stream": True}, of).status_code == 200
    assert [line["status"] for line in lines(of.access)] == [500]


@pytest.mark.parametrize("body", [DRAFT, {**DRAFT, "stream": True}], ids=["whole", "stream"])
def test_a_defect_is_500_and_said_without_its_message(body: dict, caplog: pytest.LogCaptureFixture):
    of = service(failing(ValueError(MARKER)))
    answer = post("/v1/draft", body, of)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert [line["status"] for line in lines(of.access)] == [500]
    assert "gm: an answer failed: ValueError at " in caplog.text
    assert MARKER not in caplog.text + answer.text


def test_a_defect_of_a_route_is_500_and_said_without_its_message(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise ExceptionGroup(MARKER, [ValueError(MARKER)])

    monkeypatch.setattr("llumi.serve.router.model_list", broken)
    of = service()
    answer = call(of, "GET", "/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert [line["status"] for line in lines(of.access)] == [500]
    assert "a request failed: ValueError at " in caplog.text
    assert MARKER not in caplog.text + answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_499_in_the_log(stream: bool):
    of = service(EchoEngine(seconds_per_token=0.005))

    async def leave() -> None:
        app = build_app(of)
        body = json.dumps({"post": "The evening is quiet. " * 250, "max_new_tokens": 300, "stream": stream}).encode()
        begun = asyncio.Event()
        sent = iter([{"type": "http.request", "body": body}])

        async def receive() -> dict:
            for message in sent:
                return message
            await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            begun.set()

        headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {SECRET}".encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/draft", "headers": headers, "query_string": b""}
        request = asyncio.create_task(app(scope | {"asgi": {"version": "3.0"}}, receive, send))
        if not stream:
            while not of.backends["gm"].asked:
                await asyncio.sleep(0.001)
            begun.set()
        await asyncio.gather(request, return_exceptions=True)

    asyncio.run(leave())
    assert [line["status"] for line in lines(of.access)] == [499]
    assert of.backends["gm"].left == 1


def test_who_leaves_before_the_body_is_there_asks_nothing():
    of = service()

    async def leave() -> None:
        async def receive() -> dict:
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            raise AssertionError("nobody is there to be answered")

        headers = [(b"authorization", f"Bearer {SECRET}".encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/draft", "headers": headers, "query_string": b""}
        await build_app(of)(scope, receive, send)

    asyncio.run(leave())
    assert [line["status"] for line in lines(of.access)] == [499]
    assert of.backends["gm"].asked == []


def test_nothing_is_answered_while_the_audit_log_cannot_be_written(monkeypatch: pytest.MonkeyPatch):
    of = service()
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", lambda *_: 0)
        assert post("/v1/draft", DRAFT, of).status_code == 200  # it was under way when the disk was found full
        refused = post("/v1/draft", DRAFT, of)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "audit_unavailable")
    assert post("/v1/draft", DRAFT, of).status_code == 503  # its own line fits again
    assert post("/v1/draft", DRAFT, of).status_code == 200
