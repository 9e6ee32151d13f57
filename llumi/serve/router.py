"""The routes, in front of whatever answers for a role: Serve's deployments in production, an engine in a test."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import ray.exceptions
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from ray import serve
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

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
from llumi.serve.door import LIVENESS, Access, Door, Grounds
from llumi.serve.front import Front
from llumi.serve.guard import Guard
from llumi.serve.guarded import Guarded
from llumi.serve.request_id import RequestId
from llumi.serve.writing import OPEN_PATHS, add_writing_page

APPLICATION = "llumi"
HEALTH_SECONDS = 5
"""How long `/healthz` waits for word of the replicas."""

QUEUE_RETRY_SECONDS = 5
"""When to come again to a full queue: about as long as an answer takes."""

Readiness = Callable[[], Awaitable[Mapping[Role, bool]]]


class Backend(Protocol):
    """Answers for one role; raises LlumiError, or Ray's errors where no replica can be reached."""

    async def complete(self, request: EngineRequest) -> Delta:
        """The whole answer as one delta."""

    def stream(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """The answer piece by piece; closing it ends the generation."""


@dataclass(frozen=True)
class Service:
    """What the routes need: the defaults, who answers in which version, who is ready, who may ask, what may be said, and
    where flags go.
    """

    config: ServeConfig
    models: Mapping[Role, ServedModel]
    backends: Mapping[Role, Backend]
    readiness: Readiness
    access: Access
    standard: Standard
    rate: RateConfig = field(default_factory=RateConfig)

    @cached_property
    def guard(self) -> Guard:
        """Between every backend and every route."""
        return Guard(self.standard, self.config)


class RoleHandle:
    """The replicas of one role as a backend; their errors of ours come as values (see EngineReplica)."""

    def __init__(self, handle: DeploymentHandle) -> None:
        # From process to process by gRPC: by Ray's object store, a short answer takes twice as long.
        self._handle = handle.options(_by_reference=False)
        self._streaming = self._handle.options(stream=True)

    async def complete(self, request: EngineRequest) -> Delta:
        """See Backend."""
        response = self._handle.complete.remote(request)
        try:
            return _raised(await response)
        except asyncio.CancelledError:
            response.cancel()
            raise

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """See Backend."""
        response = self._streaming.stream.remote(request)
        try:
            async for item in response:
                yield _raised(item)
        finally:
            response.cancel()


class Router:
    """The ingress of the service: the routes over the two roles' handles, and the HTTP server before them."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        config: ServeConfig,
        models: Mapping[Role, ServedModel],
        standard: Standard,
        grounds: Grounds,
        handles: Mapping[Role, DeploymentHandle],
    ) -> None:
        backends = {role: RoleHandle(handle) for role, handle in handles.items()}
        service = Service(config, models, backends, running_roles, grounds.access(), standard, grounds.rate)
        self._front = await Front.open(build_app(service), config.host, config.port)

    async def check_health(self) -> None:
        """Called by Serve from time to time: raises unless the routes are reached."""
        self._front.check()

    async def __del__(self) -> None:
        """Finish what runs."""
        await asyncio.shield(self._front.close())


async def running_roles() -> Mapping[Role, bool]:
    """Which roles have a replica that runs; a replica runs as long as it generates (EngineReplica.check_health)."""
    status = await asyncio.to_thread(serve.status)
    deployments = status.applications[APPLICATION].deployments
    return {role: deployments[role].replica_states.get("RUNNING", 0) > 0 for role in CHAT_MODELS.values()}


def build_app(service: Service) -> FastAPI:
    """The routes over `service`. No page of it loads anything from outside the network."""
    app = FastAPI(title="LLUMI", docs_url=None, redoc_url=None)
    app.add_exception_handler(ApiError, _show)
    app.add_exception_handler(RequestValidationError, _show)
    app.add_exception_handler(HTTPException, _show)

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
        return model_list(service.models)

    @app.get(LIVENESS)
    async def healthz() -> Response:
        return await _health(service)

    add_writing_page(app, service.config.country, FlagBox(service.rate), keyed)
    paths = {route.path for route in app.routes if isinstance(route, APIRoute)}
    app.add_middleware(Door, config=service.config, access=service.access, paths=paths, open_paths={LIVENESS, *OPEN_PATHS})
    app.add_middleware(RequestId)  # outside of the door
    return app


async def _draft(service: Service, role: Role, field: Any, body: DraftBody) -> Response:
    model = service.models[role]
    CALL.get().admit(role, model, body.most_tokens(service.config))
    if not body.stream:
        return JSONResponse(draft_answer(field, model, await _complete(service, role, body)))

    def event_of(delta: Guarded) -> str:
        text = event(draft_piece(delta)) if delta.text else ""
        return text + event(draft_end(model, delta)) if delta.finish_reason else text

    return await _streamed(_deltas(service, role, body), event_of)


async def _chat(service: Service, body: ChatBody) -> Response:
    role = CHAT_MODELS.get(body.model)
    if role is None:
        raise bad_request(404, f"model: no such model; there are {', '.join(CHAT_MODELS)}", "model_not_found", "model")
    CALL.get().admit(role, service.models[role], body.most_tokens(service.config))
    answer = ChatAnswer.to(body, service.models[role])
    if not body.stream:
        return JSONResponse(answer.completion(await _complete(service, role, body)))
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    first = True

    def event_of(delta: Guarded) -> str:
        nonlocal first
        text = event(answer.chunk(delta, first=first))
        first = False
        return text + event(answer.usage_chunk(delta)) if delta.finish_reason and with_usage else text

    return await _streamed(_deltas(service, role, body), event_of)


async def _complete(service: Service, role: Role, body: Body) -> Guarded:
    call = CALL.get()
    with _api_errors(service, role):
        async with asyncio.timeout_at(call.deadline):
            request = body.request(service.config)
            answer = await service.guard.complete(case_of(role, body), request, service.backends[role])
    call.answered(answer)
    return answer


async def _deltas(service: Service, role: Role, body: Body) -> AsyncGenerator[Guarded, None]:
    """The answer piece by piece, all of it within the request's time limit."""
    call = CALL.get()
    with _api_errors(service, role):
        guarded = service.guard.stream(case_of(role, body), body.request(service.config), service.backends[role])
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
    roles: Mapping[Role, bool] = dict.fromkeys(CHAT_MODELS.values(), False)
    with contextlib.suppress(TimeoutError, RayServeException, ray.exceptions.RayError, KeyError):
        async with asyncio.timeout(HEALTH_SECONDS):
            roles = await service.readiness()
    status = "ok" if all(roles.values()) else "degraded" if any(roles.values()) else "unavailable"
    states = {role: {"ready": ready, "model": str(service.models[role])} for role, ready in roles.items()}
    return JSONResponse({"status": status, "roles": states}, status_code=200 if any(roles.values()) else 503)


@contextlib.contextmanager
def _api_errors(service: Service, role: Role) -> Any:
    """What a client may see of what went wrong behind the router."""
    try:
        yield
    except TimeoutError:
        limit = f"{service.config.timeout_seconds:g} s (serve.timeout_seconds), or X-Request-Timeout"
        raise server_error(504, f"{role}: no whole answer within {limit}", "timeout") from None
    except LlumiError as error:
        raise from_llumi(error) from None
    except BackPressureError:
        message = f"{role}: too many requests wait already (serve.{role}.max_queued); come again later"
        raise too_many(message, "queue_full", QUEUE_RETRY_SECONDS) from None
    except (RayServeException, ray.exceptions.RayError) as error:
        raise server_error(503, f"{role}: no replica answers ({type(error).__name__}); try again", "unavailable") from None


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
    return JSONResponse(shown.body, shown.status, shown.headers)
