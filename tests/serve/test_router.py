"""The routes in one process, over the echo engine: what a client sends, gets, and sees when something is wrong."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace

import httpx
import pytest

pytest.importorskip("ray")

import ray.exceptions

from llumi.config import ServeConfig
from llumi.engine import Delta, Request
from llumi.engine.echo import EchoEngine
from llumi.errors import EngineError, PromptRefusedError
from llumi.prompts import Role, gm_prompt, im_prompt
from llumi.safety import Resources
from llumi.safety.standard import Standard
from llumi.serve.api import LABEL, ServedModel
from llumi.serve.router import Service, build_app
from tests.serve.keyed import KEY, SECRET, open_access

MARKER = "lantern-in-the-evening"
MODELS = {"gm": ServedModel("gm-dpo1", "0123456789ab"), "im": ServedModel("im-sft", "ba9876543210")}
DRAFT = {"post": "I feel lonely in the evenings.", "max_new_tokens": 4, "seed": 1}
IMPROVE = {**DRAFT, "draft": "Call a friend tonight."}
STANDARD = Standard.load()
CHAT = {"model": "llumi-gm", "messages": [{"role": "user", "content": "Hello to all of you"}], "max_tokens": 3}


class EngineBackend:
    """An engine in this process as a backend; remembers what it was asked and what was left early."""

    def __init__(self, engine: EchoEngine) -> None:
        self.engine = engine
        self.asked: list[Request] = []
        self.left = 0

    async def complete(self, request: Request) -> Delta:
        pieces = [delta async for delta in self.stream(request)]
        return replace(pieces[-1], text="".join(piece.text for piece in pieces))

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.asked.append(request)
        finished = False
        try:
            async for delta in self.engine.generate(request):
                finished = delta.finish_reason is not None
                yield delta
        finally:
            self.left += not finished


class Unreachable(EngineBackend):
    async def complete(self, request: Request) -> Delta:
        raise ray.exceptions.ActorDiedError

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        raise ray.exceptions.ActorDiedError
        yield


async def ready() -> Mapping[Role, bool]:
    return {"gm": True, "im": True}


def service(gm: EchoEngine | None = None, config: ServeConfig | None = None, **changes: object) -> Service:
    backends = {"gm": EngineBackend(gm or EchoEngine()), "im": EngineBackend(EchoEngine())}
    return replace(Service(config or ServeConfig(), MODELS, backends, ready, open_access(), STANDARD), **changes)


def call(of: Service, method: str, path: str, **request: object) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(build_app(of))
        async with httpx.AsyncClient(transport=transport, base_url="http://router", headers=KEY) as client:
            return await client.request(method, path, **request)

    return asyncio.run(send())


def post(path: str, body: dict, of: Service | None = None) -> httpx.Response:
    return call(of or service(), "POST", path, json=body)


def events(response: httpx.Response) -> list[dict]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def shown(country: str) -> list[dict]:
    """The crisis lines of a country as an answer carries them."""
    resources = json.loads(json.dumps([resource.model_dump(exclude={"locales"}) for resource in Resources.load().of(country)]))
    assert resources
    return resources


def failing(error: Exception, after: int = 0) -> EchoEngine:
    """Echo that fails once `after` words are out."""

    class Failing(EchoEngine):
        async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
            for _ in range(after):
                yield Delta("Word. ")
            raise error

    return Failing()


def test_draft_answers_with_model_label_and_usage():
    of = service()
    answer = post("/v1/draft", {**DRAFT, "title": "New here", "temperature": 0, "top_p": 0.5}, of)
    assert answer.status_code == 200
    tokens = answer.json()["usage"]
    assert answer.json() == {
        "reply": "lonely in the evenings.",
        "model": "gm-dpo1@0123456789ab",
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": tokens["prompt_tokens"],
            "completion_tokens": 4,
            "total_tokens": tokens["prompt_tokens"] + 4,
        },
        "label": LABEL,
        "guard": {"decision": "passed", "tier": "none", "refused_by": []},
        "banner": None,
        "resources": shown("*"),
    }
    [asked] = of.backends["gm"].asked
    assert list(asked.messages) == gm_prompt("New here\n\nI feel lonely in the evenings.")
    assert (asked.sampling.max_new_tokens, asked.sampling.temperature, asked.sampling.top_p, asked.sampling.seed) == (
        4,
        0,
        0.5,
        1,
    )


def test_improve_revises_the_draft_with_im():
    of = service()
    answer = post("/v1/improve", IMPROVE, of)
    assert answer.json()["revision"] == "Call a friend tonight."
    assert answer.json()["model"] == "im-sft@ba9876543210"
    assert list(of.backends["im"].asked[0].messages) == im_prompt(DRAFT["post"], IMPROVE["draft"])
    assert of.backends["gm"].asked == []


def test_defaults_come_from_the_config_and_the_limit_holds():
    of = service(config=ServeConfig(max_new_tokens=2, temperature=0.3, top_p=0.8))
    for wanted in ({}, {"max_new_tokens": 50}):
        post("/v1/draft", {"post": "One two three four", **wanted}, of)
    first, second = (request.sampling for request in of.backends["gm"].asked)
    assert (first.max_new_tokens, first.temperature, first.top_p) == (2, 0.3, 0.8)
    assert second.max_new_tokens == 2
    assert first.seed != second.seed


THREE_SENTENCES = "Hello. Are you up? Take care."


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/draft", {"post": THREE_SENTENCES}), ("/v1/improve", {"post": "It is late.", "draft": THREE_SENTENCES})],
)
def test_streamed_drafts_add_up_to_the_whole_answer(path: str, body: dict):
    body = {**body, "max_new_tokens": 6}
    whole = post(path, body).json()
    *pieces, last = events(post(path, {**body, "stream": True}))
    assert [piece["text"] for piece in pieces] == ["Hello.", " Are you up?", " Take care."]
    assert pieces[0]["resources"] == last["resources"]
    assert "".join(piece["text"] for piece in pieces) == whole.get("reply", whole.get("revision"))
    assert last == {key: value for key, value in whole.items() if key not in {"reply", "revision"}}


def test_chat_sends_the_messages_as_they_are():
    of = service()
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Good "}, {"type": "text", "text": "evening"}]},
    ]
    answer = post("/v1/chat/completions", {**CHAT, "model": "llumi-im", "messages": turns}, of).json()
    assert list(of.backends["im"].asked[0].messages) == [turns[0], {"role": "user", "content": "Good evening"}]
    assert answer["choices"][0]["message"]["content"] == "Good evening"
    assert answer["system_fingerprint"] == "im-sft@ba9876543210"


def test_chat_streams_chunks_and_the_usage_when_asked():
    *chunks, last = events(post("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "all of you"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1


class Bluntly(EchoEngine):
    """Says the worst, whatever it is asked."""

    def __init__(self) -> None:
        super().__init__(lambda _: "Nobody would miss you.")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [("/v1/draft", DRAFT), ("/v1/improve", IMPROVE), ("/v1/chat/completions", CHAT)])
def test_no_route_lets_a_refused_reply_through(path: str, body: dict, stream: bool):
    of = service()
    of = replace(of, backends={role: EngineBackend(Bluntly()) for role in of.backends})
    answer = post(path, {**body, "stream": stream, "country": "IE"}, of)
    assert answer.status_code == 200
    assert "miss" not in answer.text
    last = events(answer)[-1] if stream else answer.json()
    decision = "own_draft" if path == "/v1/improve" else "fallback"
    assert last["guard"] == {"decision": decision, "tier": "none", "refused_by": ["encouragement"]}
    assert last["resources"] == shown("IE")
    asked = sum(len(backend.asked) for backend in of.backends.values())
    assert asked == 2


def test_help_comes_first_and_last_in_a_stream_of_chat():
    messages = [{"role": "user", "content": "I am a burden."}, {"role": "user", "content": "It is late. I am up. Are you?"}]
    first, *between, last = events(
        post("/v1/chat/completions", {**CHAT, "messages": messages, "stream": True, "max_tokens": 9})
    )
    assert between
    assert first["banner"] == last["banner"]
    assert "findahelpline.com" in first["banner"]
    assert first["resources"] == last["resources"] == shown("*")
    assert "guard" not in first
    assert last["guard"]["tier"] == "possible"
    assert not any("banner" in chunk for chunk in between)


def test_models_name_the_artifact_behind_them():
    data = call(service(), "GET", "/v1/models").json()["data"]
    assert {entry["id"]: entry["version"] for entry in data} == {
        "llumi-gm": "gm-dpo1@0123456789ab",
        "llumi-im": "im-sft@ba9876543210",
    }


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/draft", {"post": 7, "title": MARKER}, "post"),
        ("/v1/draft", {"title": MARKER}, "post"),
        ("/v1/draft", {"post": ""}, "post"),
        ("/v1/draft", {"post": MARKER, "temperature": MARKER}, "temperature"),
        ("/v1/draft", {"post": MARKER, "max_new_tokens": 0}, "max_new_tokens"),
        ("/v1/draft", {"post": MARKER, MARKER: 1}, "body"),
        ("/v1/improve", {"post": MARKER}, "draft"),
        ("/v1/chat/completions", {**CHAT, "messages": []}, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": MARKER, "content": MARKER}]}, "messages.0.role"),
        ("/v1/chat/completions", {**CHAT, "n": 2}, "n"),
        ("/v1/chat/completions", {**CHAT, "tools": [MARKER]}, "body"),
        ("/v1/draft", [MARKER], "body"),
    ],
)
def test_a_wrong_body_is_422_and_not_repeated(path: str, body: dict, where: str):
    answer = post(path, body)
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert error["param"] == where
    assert error["message"].startswith(f"{where}: ")
    assert error["type"] == "invalid_request_error"
    assert MARKER not in answer.text


def test_a_body_that_is_no_json_is_422_and_not_repeated():
    answer = call(service(), "POST", "/v1/draft", content=f'{{"post": "{MARKER}', headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "body: the body is not valid JSON"


def test_an_unknown_model_is_404_and_not_repeated():
    answer = post("/v1/chat/completions", {**CHAT, "model": MARKER})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "llumi-gm, llumi-im" in answer.text
    assert MARKER not in answer.text


def test_unknown_paths_and_methods_are_in_openais_form_too():
    assert call(service(), "GET", f"/v1/{MARKER}").json()["error"]["message"] == "Not Found"
    assert call(service(), "GET", "/v1/draft").status_code == 405


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("words", "error", "status", "code"),
    [
        (6000, None, 400, "context_length_exceeded"),
        (1, PromptRefusedError("the template refuses turns of system"), 400, "invalid_messages"),
        (1, EngineError("generation failed on cuda"), 500, "engine_error"),
    ],
    ids=["too-long", "refused", "engine"],
)
def test_an_engines_error_becomes_a_status(words: int, error: Exception | None, status: int, code: str, stream: bool):
    answer = post("/v1/draft", {"post": "word " * words, "stream": stream}, service(failing(error) if error else None))
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


def test_an_error_in_the_middle_of_a_stream_is_its_last_event():
    answer = post("/v1/draft", {**DRAFT, "stream": True}, service(failing(EngineError("gone"), after=3)))
    *pieces, last = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert [piece["text"] for piece in pieces] == ["Word.", " Word."]
    assert last["error"]["message"] == "gone"


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_engine_is_504_and_the_generation_ends(stream: bool):
    of = service(EchoEngine(seconds_per_token=30), ServeConfig(timeout_seconds=0.05))
    answer = post("/v1/draft", {**DRAFT, "stream": stream}, of)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "timeout"
    assert of.backends["gm"].left == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_role_that_is_down_leaves_the_other_going(stream: bool):
    of = service()
    of = replace(of, backends={**of.backends, "im": Unreachable(EchoEngine())})
    down = post("/v1/improve", {**IMPROVE, "stream": stream}, of)
    assert (down.status_code, down.json()["error"]["code"]) == (503, "unavailable")
    assert post("/v1/draft", {**DRAFT, "stream": stream}, of).status_code == 200


def test_a_client_that_leaves_ends_the_generation():
    of = service(EchoEngine(seconds_per_token=0.001))
    sent = asyncio.Event()

    async def scenario() -> None:
        body = json.dumps({"post": "Word. " * 1000, "max_new_tokens": 300, "stream": True}).encode()
        requests = iter([{"type": "http.request", "body": body}])

        async def receive() -> dict:
            for message in requests:
                return message
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            if message.get("body"):
                sent.set()

        headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {SECRET}".encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/draft", "headers": headers, "query_string": b""}
        await build_app(of)(scope | {"asgi": {"version": "3.0"}}, receive, send)

    asyncio.run(scenario())
    assert of.backends["gm"].left == 1


async def silent_controller() -> Mapping[Role, bool]:
    raise ray.exceptions.GetTimeoutError


@pytest.mark.parametrize(
    ("readiness", "status", "word"),
    [
        (lambda: _roles(True, True), 200, "ok"),
        (lambda: _roles(True, False), 200, "degraded"),
        (lambda: _roles(False, False), 503, "unavailable"),
        (silent_controller, 503, "unavailable"),
    ],
)
def test_health_tells_of_both_roles(readiness: Callable, status: int, word: str):
    answer = call(service(readiness=readiness), "GET", "/healthz")
    assert (answer.status_code, answer.json()["status"]) == (status, word)
    assert set(answer.json()["roles"]) == {"gm", "im"}


async def _roles(gm: bool, im: bool) -> Mapping[Role, bool]:
    return {"gm": gm, "im": im}
