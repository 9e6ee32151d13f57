"""What `/metrics` says after real requests: what they took, who may read it, and not a word of anybody's."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("ray")

from llumi.config import EngineConfig, ServeConfig, StorageConfig
from llumi.engine import Delta, Request
from llumi.engine.echo import EchoEngine
from llumi.errors import EngineError, LlumiError
from llumi.prompts import Role
from llumi.serve.holding import Holding
from llumi.serve.metrics import REFUSALS
from llumi.serve.replica import EngineReplica
from llumi.serve.router import Service, build_app
from llumi.storage import Storage
from tests.serve.keyed import KEY, lines, open_access
from tests.serve.test_door import Full
from tests.serve.test_router import CHAT, DRAFT, IMPROVE, Bluntly, EngineBackend, failing, service, silent_controller

MARKER = "lantern-in-the-evening"
GM = {"role": "gm", "model": "gm-dpo1@0123456789ab"}
IM = {"role": "im", "model": "im-sft@ba9876543210"}


class Unserved(EngineReplica):
    """A replica that no Serve awaits the end of."""

    def __del__(self) -> None:
        pass


class Replica:
    """A replica of `echo` behind `wait_seconds` of queue, as a backend."""

    def __init__(self, wait_seconds: float) -> None:
        self.replica = Unserved(EngineConfig(kind="echo"), Storage.open(StorageConfig(uri="/tmp")), [Holding.of_echo(None)])
        self.wait_seconds = wait_seconds

    async def complete(self, request: Request) -> Delta:
        await asyncio.sleep(self.wait_seconds)
        return raised(await self.replica.complete(request))

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        await asyncio.sleep(self.wait_seconds)
        async for item in self.replica.stream(request):
            yield raised(item)


def raised(item: Delta | LlumiError) -> Delta:
    assert isinstance(item, Delta)
    return item


def seen(**changes: object) -> Service:
    """The service of the other tests, whose key may read its metrics, too."""
    return service(access=open_access(scopes=("gm", "im", "admin")), **changes)


class Figures:
    """The samples of a page of `/metrics`."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.families = list(text_string_to_metric_families(page))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of those of this name that have these labels; at least one must."""
        found = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        assert found, f"{name} {labels}"
        return sum(found)


def after(of: Service, *requests: tuple[str, str, Mapping[str, object]]) -> Figures:
    """The figures of one router after `requests`, one after the other."""

    async def ask() -> Figures:
        transport = httpx.ASGITransport(build_app(of), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://router", headers=KEY) as client:
            for method, path, request in requests:
                await client.request(method, path, **request)
            page = await client.get("/metrics")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        return Figures(page.text)

    return asyncio.run(ask())


def drafted(**body: object) -> tuple[str, str, Mapping[str, object]]:
    return "POST", "/v1/draft", {"json": {**DRAFT, **body}}


def improved(**body: object) -> tuple[str, str, Mapping[str, object]]:
    return "POST", "/v1/improve", {"json": {**IMPROVE, **body}}


def test_requests_tokens_and_decisions_are_those_of_the_audit_log():
    of = seen()
    figures = after(of, drafted(), drafted(stream=True), improved(), ("POST", "/v1/chat/completions", {"json": CHAT}))
    written = lines(of.access)
    for labels, role in ((GM, "gm"), (IM, "im")):
        of_role = [line for line in written if line["role"] == role]
        assert figures("llumi_requests_total", **labels) == len(of_role)
        assert figures("llumi_guard_decisions_total", **labels, decision="passed") == len(of_role)
        assert figures("llumi_guard_decisions_total", **labels, decision="fallback") == 0
        assert figures("llumi_prompt_tokens_total", **labels) == sum(line["prompt_tokens"] for line in of_role) > 0
        assert figures("llumi_completion_tokens_total", **labels) == sum(line["completion_tokens"] for line in of_role) > 0
        for timed in ("llumi_guard_seconds", "llumi_answer_seconds"):
            assert figures(f"{timed}_count", **labels) == len(of_role)
            assert 0 < figures(f"{timed}_sum", **labels) < 60
    assert figures("llumi_requests_total", **GM, route="/v1/draft", status="200") == 2
    assert figures("llumi_requests_total", **GM, route="/v1/chat/completions", status="200") == 1


def test_decisions_of_the_guard_count_for_the_version_they_were_about():
    of = seen()
    blunt = EngineBackend(Bluntly())
    figures = after(replace(of, backends={"gm": blunt, "im": blunt}), drafted(), drafted(stream=True), improved())
    assert figures("llumi_guard_decisions_total", **GM, decision="fallback") == 2
    assert figures("llumi_guard_decisions_total", **IM, decision="own_draft") == 1
    assert figures("llumi_guard_decisions_total", decision="passed") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_wait_for_a_replica_and_the_first_token_are_told_apart(stream: bool):
    of = seen()
    of = replace(of, backends={"gm": Replica(0.3), "im": Replica(0)})
    of.backends["gm"].replica._engine = EchoEngine(seconds_per_token=0.3)
    figures = after(of, drafted(stream=stream), improved(stream=stream))
    waited = figures("llumi_queue_seconds_sum", **GM)
    first_token, answer = figures("llumi_first_token_seconds_sum", **GM), figures("llumi_answer_seconds_sum", **GM)
    assert waited >= 0.3
    assert first_token >= waited + 0.3
    assert answer >= first_token + 0.6  # three more tokens
    assert figures("llumi_queue_seconds_count", **IM) == figures("llumi_first_token_seconds_count", **IM) == 1


def test_a_refused_draw_waits_twice_and_has_one_first_token():
    of = seen()
    of = replace(of, backends={"gm": Replica(0.5), "im": Replica(0)})
    of.backends["gm"].replica._engine = Bluntly()
    figures = after(of, drafted())
    assert figures("llumi_queue_seconds_count", **GM) == figures("llumi_first_token_seconds_count", **GM) == 1
    assert figures("llumi_queue_seconds_sum", **GM) >= 1
    assert figures("llumi_first_token_seconds_sum", **GM) < figures("llumi_queue_seconds_sum", **GM)


def test_refusals_are_counted_by_kind():
    of = seen(config=ServeConfig(max_body_bytes=5000))
    of = replace(of, backends={**of.backends, "im": Full(EchoEngine())})
    wrong_key = {"headers": {"Authorization": "Bearer llumi_none"}}
    figures = after(
        of,
        ("POST", "/v1/draft", wrong_key),
        ("GET", f"/v1/{MARKER}", wrong_key),
        drafted(**{MARKER: 1}),
        drafted(post="x" * 6000),
        improved(),
        improved(stream=True),
        ("POST", "/v1/chat/completions", {"json": {**CHAT, "model": MARKER}}),
        ("POST", "/v1/draft", {"json": DRAFT, "headers": {"X-Request-Timeout": "soon"}}),
        ("GET", f"/v1/{MARKER}", {}),
        ("POST", "/healthz", {}),
    )
    expected = {
        ("invalid_api_key", "401"): 2,
        ("invalid_body", "422"): 1,
        ("body_too_large", "413"): 1,
        ("queue_full", "429"): 2,
        ("model_not_found", "404"): 1,
        ("invalid_timeout", "400"): 1,
        ("other", "404"): 1,
    }
    rest = {(kind, str(status)): 0 for kind, status in REFUSALS.items()}
    counted = {(s.labels["kind"], s.labels["status"]): s.value for s in figures.samples if s.name == "llumi_refusals_total"}
    assert counted == rest | expected


def test_limits_of_a_key_are_told_from_a_full_queue():
    of = replace(seen(), access=open_access(scopes=("gm", "admin"), tokens_per_minute=60, requests_per_minute=4))

    async def ask() -> str:
        app = build_app(of)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router", headers=KEY) as client:
            for path, body in (("draft", {**DRAFT, "max_new_tokens": 60}), ("draft", DRAFT), ("improve", IMPROVE)):
                await client.post(f"/v1/{path}", json=body)
            page = (await client.get("/metrics")).text
            assert (await client.get("/metrics")).status_code == 429
        return page

    figures = Figures(asyncio.run(ask()))
    assert figures("llumi_refusals_total", kind="tokens_exceeded") == 1
    assert figures("llumi_refusals_total", kind="insufficient_scope") == 1
    assert figures("llumi_refusals_total", kind="rate_limit_exceeded") == 0


def test_a_failure_is_a_status_and_no_refusal():
    of = seen(gm=failing(EngineError("gone"), after=2))
    figures = after(of, drafted(), drafted(stream=True))
    assert figures("llumi_requests_total", **GM, status="500") == 2
    assert figures("llumi_refusals_total") == 0
    assert figures("llumi_answer_seconds_count", **GM) == 0


def test_what_is_being_answered_is_in_flight_and_then_no_more():
    of = seen(gm=EchoEngine(seconds_per_token=30))

    async def ask() -> tuple[Figures, Figures]:
        transport = httpx.ASGITransport(build_app(of))
        async with httpx.AsyncClient(transport=transport, base_url="http://router", headers=KEY) as client:
            under_way = [asyncio.create_task(client.post("/v1/draft", json=DRAFT)) for _ in range(3)]
            while len(of.backends["gm"].asked) < 3:
                await asyncio.sleep(0.01)
            during = Figures((await client.get("/metrics")).text)
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            return during, Figures((await client.get("/metrics")).text)

    during, afterwards = asyncio.run(ask())
    assert during("llumi_requests_in_flight", role="gm") == 3
    assert during("llumi_requests_in_flight", role="im") == 0
    assert afterwards("llumi_requests_in_flight", role="gm") == 0
    assert afterwards("llumi_requests_total", **GM, status="499") == 3


async def replicas() -> Mapping[Role, int]:
    return {"gm": 3, "im": 0}


def test_replicas_that_run_are_counted_and_none_where_nobody_can_tell():
    figures = after(seen(readiness=replicas))
    assert (figures("llumi_replicas_running", role="gm"), figures("llumi_replicas_running", role="im")) == (3, 0)
    assert after(seen(readiness=silent_controller))("llumi_replicas_running") == 0


def test_an_audit_log_that_cannot_be_written_can_be_seen(monkeypatch: pytest.MonkeyPatch):
    of = seen()
    assert after(of)("llumi_audit_writable") == 1
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", lambda *_: 0)
        figures = after(of, drafted(), drafted())
    assert figures("llumi_audit_writable") == 0
    assert figures("llumi_refusals_total", kind="audit_unavailable") == 1
    assert figures("llumi_requests_total", **GM, status="200") == 1


@pytest.mark.parametrize("scopes", [("gm", "im"), ("rate",), ()])
def test_only_a_key_of_scope_admin_reads_them(scopes: tuple[str, ...]):
    of = replace(service(), access=open_access(scopes=scopes))

    async def ask(headers: Mapping[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(of)), base_url="http://router") as client:
            return await client.get("/metrics", headers=headers)

    refused = asyncio.run(ask(KEY))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
    assert 'scope="admin"' in refused.headers["WWW-Authenticate"]
    assert asyncio.run(ask({})).status_code == 401


def test_no_word_of_anybody_and_no_series_from_a_client():
    class Broken(EngineBackend):
        async def complete(self, request: Request) -> Delta:
            raise ZeroDivisionError(MARKER)

    of = seen()
    marked = {**DRAFT, "post": f"I feel lonely, {MARKER}."}
    requests = [
        ("POST", "/v1/draft", {"json": marked}),
        ("POST", "/v1/draft", {"json": {**marked, "stream": True}}),
        ("POST", "/v1/improve", {"json": {**marked, "draft": MARKER}}),
        ("POST", "/v1/draft", {"json": {**marked, MARKER: MARKER}}),
        ("POST", "/v1/chat/completions", {"json": {**CHAT, "model": MARKER, "user": MARKER}}),
        ("GET", f"/v1/{MARKER}?{MARKER}={MARKER}", {}),
        (MARKER.upper(), "/v1/draft", {"headers": {"X-Request-Id": MARKER}}),
        ("POST", "/v1/draft", {"headers": {"Authorization": f"Bearer {MARKER}"}}),
    ]
    once = after(of, *requests)
    often = after(seen(), *requests * 3, *(("GET", f"/v1/{n}", {}) for n in range(50)))
    failed = after(replace(of, backends={**of.backends, "gm": Broken(EchoEngine())}), ("POST", "/v1/draft", {"json": marked}))
    assert failed("llumi_requests_total", **GM, status="500") == 1
    for figures in (once, often, failed):
        assert MARKER not in figures.page.lower()
        assert "tests" not in figures.page  # what the key is called
    assert len(often.samples) == len(once.samples)
