"""The routes, in front of whatever answers for a role: Serve's deployments in production, an engine in a test."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import grpc.aio
import ray.exceptions
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from ray import serve
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from llumi.config import RateConfig, ServeConfig
from llumi.engine import Delta
from llumi.engine import Request as EngineRequest
from llumi.errors import LlumiError
from llumi.prompts import Role
from llumi.rate.flags import FlagBox
from llumi.safety.standard import Standard
from llumi.serve.api import (
    CHAT_MODELS,
    DONE,
    ApiError,
    Body,
    Canary,
    ChatAnswer,
    ChatBody,
    DraftBody,
    ImproveBody,
    ServedModel,
    bad_request,
    draft_answer,
    draft_end,
    draft_piece,
    event,
    from_llumi,
    from_validation,
    model_list,
    server_error,
    too_many,
)
from llumi.serve.call import CALL
from llumi.serve.cases import case_of
from llumi.serve.clocked import Clocked
from llumi.serve.door import LIVENESS, Access, Door, Grounds
from llumi.serve.front import Front
from llumi.serve.guard import Guard, Source
from llumi.serve.guarded import Guarded
from llumi.serve.metrics import PATH as METRICS
from llumi.serve.metrics import Metrics
from llumi.serve.request_id import RequestId
from llumi.serve.unforeseen import kind_and_place
from llumi.serve.versions import Routed, Split, Table, Version, Versions
from llumi.serve.writing import OPEN_PATHS, add_writing_page

APPLICATION = "llumi"
HEALTH_SECONDS = 5
"""How long `/healthz` and `/metrics` wait for word of the replicas."""

QUEUE_RETRY_SECONDS = 5
"""When to come again to a full queue: about as long as an answer takes."""

SWITCH_SECONDS = 0.0005
"""After how long the guard's threads give way to the event loop: with Python's 5 ms each step of a stream waits for so long."""

_log = logging.getLogger(__name__)
Readiness = Callable[[], Awaitable[Mapping[Role, int]]]
"""How many replicas of each role run."""


@dataclass(frozen=True)
class Service:
    """What the routes need: the defaults, who answers in which version, who is ready, who may ask, what may be said, and
    where flags go. An answer names the version that gave it, which Call knows; `models` are the stable ones.
    """

    config: ServeConfig
    models: Mapping[Role, ServedModel]
    backends: Mapping[Role, Source]
    readiness: Readiness
    access: Access
    standard: Standard
    rate: RateConfig = field(default_factory=RateConfig)
    canaries: Mapping[Role, Canary] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)

    @cached_property
    def guard(self) -> Guard:
        """Between every backend and every route."""
        return Guard(self.standard, self.config)


class RoleHandle:
    """The replicas of a version, or of several, as a backend; their errors of ours come as values (see EngineReplica)."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        # From process to process by gRPC: by Ray's object store, a short answer takes twice as long.
        self._handle = handle.options(_by_reference=False)
        self._streaming = self._handle.options(stream=True)

    def has_replica(self) -> bool:
        """See Backend; only Serve's own list of replicas tells it at once."""
        requests = self._handle._router._asyncio_router.request_router
        return requests is None or bool(requests.curr_replicas)

    async def complete(self, request: EngineRequest) -> Delta:
        """See Backend."""
        response = self._handle.complete.remote(request)
        try:
            with _lost_replicas():
                return _raised(await response)
        except asyncio.CancelledError:
            response.cancel()
            raise

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """See Backend."""
        response = self._streaming.stream.remote(request)
        ended = False
        try:
            with _lost_replicas():
                async for item in response:
                    delta = _raised(item)
                    ended = delta.finish_reason is not None
                    yield delta
                if not ended:
                    raise ray.exceptions.RayActorError(error_msg="the replica ended in the middle of its answer")
        finally:
            response.cancel()


class Router:
    """The ingress of the service: the routes over the handles of all versions, and the HTTP server before them.

    Serve gives it its Table when it starts, and each later one while it goes on (`reconfigure`).
    """

    def __init__(self, standard: Standard, grounds: Grounds) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        self._standard, self._grounds = standard, grounds
        self._access = grounds.access()
        self._versions: dict[Role, Versions] = {}
        self._handles: dict[str, RoleHandle] = {}
        self._metrics = Metrics()
        self._current = _Current()
        self._front: Front | None = None
        self._table: Table | None = None

    async def reconfigure(self, table: dict[str, Any]) -> None:
        """Go by another Table: what was asked before goes on in its own version, under its own limits."""
        new = Table.model_validate(table)
        for role, routed in new.roles.items():
            canary = self._version(routed.canary) if routed.canary else None
            split = Split(self._version(routed.stable), canary, routed.weight)
            if role in self._versions:
                self._versions[role].switch(split)
            else:
                self._versions[role] = Versions(split)
        self._handles = {name: handle for name, handle in self._handles.items() if name in new.names}
        self._current.app = build_app(self._service(new))
        if self._front is None:
            self._front = await Front.open(self._current, new.config.host, new.config.port)
        self._table = new

    async def revision(self) -> str | None:
        """Of the table that it goes by."""
        return self._table.revision if self._table else None

    async def running(self, names: list[str]) -> int:
        """How many answers are being written by these versions."""
        return sum(versions.running(name) for versions in self._versions.values() for name in names)

    async def check_health(self) -> None:
        """Called by Serve from time to time: raises unless the routes are reached."""
        if self._front is not None:
            self._front.check()

    async def __del__(self) -> None:
        """Finish what runs."""
        if self._front is not None:
            await asyncio.shield(self._front.close())

    def _version(self, routed: Routed) -> Version:
        if routed.pool not in self._handles:
            self._handles[routed.pool] = RoleHandle(serve.get_deployment_handle(routed.pool, app_name=routed.pool))
        return Version(routed.pool, routed.served, self._handles[routed.pool], routed.holding.adapter)

    def _service(self, table: Table) -> Service:
        return Service(
            table.config,
            {role: routed.stable.served for role, routed in table.roles.items()},
            self._versions,
            partial(running_roles, table),
            self._access,
            self._standard,
            self._grounds.rate,
            {role: routed.shown_canary for role, routed in table.roles.items() if routed.shown_canary},
            self._metrics,
        )


class _Current:
    """The app of the table that holds; a request stays with the one that it came to."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def running_roles(table: Table) -> Mapping[Role, int]:
    """How many replicas of each role run, of whichever version; one runs as long as it generates (EngineReplica)."""
    status = await asyncio.to_thread(serve.status)
    running = {
        name: sum(deployment.replica_states.get("RUNNING", 0) for deployment in application.deployments.values())
        for name, application in status.applications.items()
    }
    pools = {role: {version.pool for version in routed.versions} for role, routed in table.roles.items()}
    return {role: sum(running.get(pool, 0) for pool in pools[role]) for role in table.roles}


def build_app(service: Service) -> FastAPI:
    """The routes over `service`. No page of it loads anything from outside the network."""
    app = FastAPI(title="LLUMI", docs_url=None, redoc_url=None, lifespan=service.access.lifespan)
    app.add_exception_handler(ApiError, _show)
    app.add_exception_handler(RequestValidationError, _show)
    app.add_exception_handler(HTTPException, _show)

    for role, model in service.models.items():
        service.metrics.serves(role, model)
    for role, canary in service.canaries.items():
        service.metrics.serves(role, canary.model)
    keyed = [Depends(HTTPBearer(auto_error=False))]  # so that the OpenAPI document says it; Door asks for the key

    @app.post("/v1/draft", dependencies=keyed)
    async def draft(body: DraftBody) -> Response:
        return await _draft(service, "gm", "reply", body)

    @app.post("/v1/improve", dependencies=keyed)
    async def improve(body: ImproveBody) -> Response:
        return await _draft(service, "im", "revision", body)

    @app.post("/v1/chat/completions", dependencies=keyed)
    async def chat(body: ChatBody) -> Response:
        return await _chat(service, body)

    @app.get("/v1/models", dependencies=keyed)
    async def models() -> dict[str, Any]:
        return model_list(service.models, service.canaries)

    @app.get(LIVENESS)
    async def healthz() -> Response:
        return await _health(service)

    @app.get(METRICS, dependencies=keyed)
    async def sight() -> Response:
        CALL.get().require("admin")
        page = service.metrics.page(await _replicas(service), audit_writable=service.access.audit.writable)
        return Response(page, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    add_writing_page(app, service.config.country, service.standard.resources, FlagBox(service.rate), keyed)
    paths = {route.path for route in app.routes if isinstance(route, APIRoute)}
    open_paths = {LIVENESS, *OPEN_PATHS}
    app.add_middleware(
        Door, config=service.config, access=service.access, metrics=service.metrics, paths=paths, open_paths=open_paths
    )
    app.add_middleware(RequestId)  # outside of the door
    return app


async def _draft(service: Service, role: Role, field: Any, body: DraftBody) -> Response:
    model = service.models[role]
    CALL.get().admit(role, model, body.most_tokens(service.config))
    if not body.stream:
        answer = await _complete(service, role, body)
        return JSONResponse(draft_answer(field, CALL.get().model or model, answer))

    def event_of(delta: Guarded) -> str:
        text = event(draft_piece(delta)) if delta.text else ""
        return text + event(draft_end(CALL.get().model or model, delta)) if delta.finish_reason else text

    return await _streamed(_deltas(service, role, body), event_of)


async def _chat(service: Service, body: ChatBody) -> Response:
    role = CHAT_MODELS.get(body.model)
    if role is None:
        raise bad_request(404, f"model: no such model; there are {', '.join(CHAT_MODELS)}", "model_not_found", "model")
    CALL.get().admit(role, service.models[role], body.most_tokens(service.config))
    answer = ChatAnswer.to(body, service.models[role])
    if not body.stream:
        whole = await _complete(service, role, body)
        return JSONResponse(answer.by(CALL.get().model).completion(whole))
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    first = True

    def event_of(delta: Guarded) -> str:
        nonlocal first, answer
        answer = answer.by(CALL.get().model)
        text = event(answer.chunk(delta, first=first))
        first = False
        return text + event(answer.usage_chunk(delta)) if delta.finish_reason and with_usage else text

    return await _streamed(_deltas(service, role, body), event_of)


async def _complete(service: Service, role: Role, body: Body) -> Guarded:
    call = CALL.get()
    with _api_errors(service, role):
        async with asyncio.timeout_at(call.deadline):
            request = body.request(service.config)
            answer = await service.guard.complete(case_of(role, body), request, Clocked(service.backends[role], call))
    call.answered(answer)
    return answer


async def _deltas(service: Service, role: Role, body: Body) -> AsyncGenerator[Guarded, None]:
    """The answer piece by piece, all of it within the request's time limit."""
    call = CALL.get()
    with _api_errors(service, role):
        source = Clocked(service.backends[role], call)
        guarded = service.guard.stream(case_of(role, body), body.request(service.config), source)
        async with contextlib.aclosing(guarded) as deltas:
            while True:
                async with asyncio.timeout_at(call.deadline):
                    delta = await anext(deltas)
                if delta.finish_reason:
                    call.answered(delta)
                yield delta
                if delta.finish_reason:
                    return


async def _streamed(deltas: AsyncGenerator[Guarded, None], event_of: Callable[[Guarded], str]) -> Response:
    """Server-sent events. What fails before the first piece is a plain error; later it is the stream's last event."""
    first = await anext(deltas)

    async def events() -> AsyncIterator[str]:
        async with contextlib.aclosing(deltas):
            yield event_of(first)
            try:
                async for delta in deltas:
                    yield event_of(delta)
            except ApiError as error:
                CALL.get().status = error.status
                yield event(error.body)
                return
            yield DONE

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _health(service: Service) -> Response:
    """200 while a role answers ("degraded" where one does not), 503 when none does: this router lives either way."""
    roles = {role: number > 0 for role, number in (await _replicas(service)).items()}
    status = "ok" if all(roles.values()) else "degraded" if any(roles.values()) else "unavailable"
    states = {
        role: {"ready": ready, "model": str(service.models[role])}
        | ({"canary": service.canaries[role].shown()} if role in service.canaries else {})
        for role, ready in roles.items()
    }
    return JSONResponse({"status": status, "roles": states}, status_code=200 if any(roles.values()) else 503)


async def _replicas(service: Service) -> Mapping[Role, int]:
    """How many replicas of each role run; none where nobody can tell."""
    with contextlib.suppress(TimeoutError, RayServeException, ray.exceptions.RayError, KeyError):
        async with asyncio.timeout(HEALTH_SECONDS):
            return await service.readiness()
    return dict.fromkeys(CHAT_MODELS.values(), 0)


@contextlib.contextmanager
def _api_errors(service: Service, role: Role) -> Any:
    """What a client may see of what went wrong behind the router."""
    try:
        yield
    except ApiError:
        raise
    except TimeoutError:
        limit = f"{service.config.timeout_seconds:g} s (serve.timeout_seconds), or X-Request-Timeout"
        raise server_error(504, f"{role}: no whole answer within {limit}", "timeout") from None
    except LlumiError as error:
        raise from_llumi(error) from None
    except BackPressureError:
        section = "shared" if service.config.shared_base else role
        message = f"{role}: too many requests wait already (serve.{section}.max_queued); come again later"
        raise too_many(message, "queue_full", QUEUE_RETRY_SECONDS) from None
    except (RayServeException, ray.exceptions.RayError) as error:
        raise server_error(503, f"{role}: no replica answers ({type(error).__name__}); try again", "unavailable") from None
    except Exception as error:  # whoever is outside would log its message
        _log.error("%s: an answer failed: %s", role, kind_and_place(error))
        raise server_error(500, "internal error", "internal_error") from None


@contextlib.contextmanager
def _lost_replicas() -> Iterator[None]:
    """A replica that is gone, told in one way: gRPC's own errors come through Serve where the connection broke."""
    try:
        yield
    except ray.exceptions.RayError:
        raise
    except (grpc.aio.AioRpcError, RuntimeError) as error:
        raise ray.exceptions.RayActorError(error_msg=f"the connection to a replica broke ({type(error).__name__})") from None


def _raised(item: Delta | LlumiError) -> Delta:
    if isinstance(item, LlumiError):
        raise item
    return item


async def _show(request: Request, error: Exception) -> JSONResponse:
    """Every error in OpenAI's form."""
    match error:
        case ApiError():
            shown = error
        case RequestValidationError():
            shown = from_validation(error.errors())
        case HTTPException(status_code=status, detail=detail):
            shown = bad_request(status, str(detail), "http_error", headers=error.headers)
        case _:
            shown = server_error(500, "internal error", "internal_error")
    if call := CALL.get(None):  # none where no key is needed
        call.refused(shown)
    return JSONResponse(shown.body, shown.status, shown.headers)
