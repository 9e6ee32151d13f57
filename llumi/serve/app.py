"""The service as a whole: one router, and a GM and an IM deployment that scale and fail apart."""

import contextlib
import errno
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
import ray
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.config import ProxyLocation
from ray.serve.schema import LoggingConfig

from llumi import errors
from llumi.config import Config
from llumi.engine import check_engine
from llumi.engine.capacity import require_room
from llumi.errors import LlumiError, ServeError
from llumi.models import fetch_model, newest_model
from llumi.progress import Progress, silent
from llumi.prompts import ROLES, Role
from llumi.rate.database import anchored
from llumi.safety.standard import Standard
from llumi.serve.api import ServedModel
from llumi.serve.audit import audit_folder
from llumi.serve.door import Grounds
from llumi.serve.front import family_of
from llumi.serve.keys import make_key, new_secret
from llumi.serve.replica import EngineReplica
from llumi.serve.router import APPLICATION, Router
from llumi.storage import Storage

ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (what an operator may write into serve.host)
HEALTH_CHECK_SECONDS = 10
HEALTH_CHECK_TIMEOUT_SECONDS = 120
"""A busy engine may keep the probe waiting for a whole batch."""

CONSTRUCTOR_RETRIES = 2
"""A store may stumble once; a model that cannot be loaded stays so, and whoever starts the service waits to hear it."""

VERSION_LENGTH = 12


@dataclass(frozen=True)
class Serving:
    """A service that is up: where, and a secret that opens GM and IM as long as it is; it is in no store and in no log."""

    url: str
    secret: str = field(repr=False)


def serve(config: Config, progress: Progress = silent) -> Serving:
    """Deploy GM and IM behind the router; returns once each role has generated.

    Raises ServeError, ConfigError, ArtifactError, ModelError or EngineError; the service then is not left half up.
    """
    storage = Storage.open(config.storage)
    models = {role: served_model(config, storage, role) for role in ROLES}
    check_engine(config.serve.engine, "serve.engine")
    standard = Standard.load(config.safety.rules, config.serve.allowed, likeness=config.safety.likeness)
    replicas = sum(config.serve.role(role).min_replicas for role in ROLES)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    require_room("serve.engine", replicas, config.serve.engine, nodes)
    check_port(config.serve.host, config.serve.port)
    if there := ", ".join(ray_serve.status().applications):
        raise ServeError(f"this cluster serves already ({there}); stop that first")
    serving = Serving(base_url(config), new_secret())
    try:
        progress("serve: replicas", 0)
        # The router listens itself (see Front), and its audit log has a line for each request.
        ray_serve.start(proxy_location=ProxyLocation.Disabled, logging_config=LoggingConfig(enable_access_log=False))
        _deploy(build_graph(config, storage, models, standard, serving.secret))
        for done, role in enumerate(ROLES, start=1):
            _try_role(serving, role, config.serve.timeout_seconds)
            progress("serve: roles that answer", done, len(ROLES))
    except BaseException:
        stop_serving()
        raise
    return serving


def stop_serving() -> None:
    """Take the service down; nothing happens where none is up."""
    ray_serve.shutdown()


def build_graph(
    config: Config, storage: Storage, models: Mapping[Role, ServedModel], standard: Standard, secret: str
) -> Application:
    """Router -> GM, IM; `secret` opens both, beside the keys of the store."""
    handles = {role: _role_deployment(config, storage, role, models[role]) for role in ROLES}
    router = ray_serve.deployment(
        Router,
        name="router",
        health_check_period_s=HEALTH_CHECK_SECONDS,
        # Where `serve` was called: there its port was looked at, its flags' SQLite file lies, and its URL leads.
        ray_actor_options={"num_cpus": 0, "resources": {f"node:{ray.util.get_node_ip_address()}": 0.001}},
    )
    own_key = make_key("start", secret, ROLES, time.time()).model_copy(update={"id": "start"})  # the audit log names it so
    grounds = Grounds(storage, own_key, audit_folder(config.serve, storage), anchored(config.rate))
    return router.bind(config.serve, dict(models), standard, grounds, handles)


def _role_deployment(config: Config, storage: Storage, role: Role, model: ServedModel) -> Application:
    scaling, engine = config.serve.role(role), config.serve.engine
    deployment = ray_serve.deployment(
        EngineReplica,
        name=role,
        max_ongoing_requests=scaling.max_ongoing_requests,
        max_queued_requests=scaling.max_queued,
        autoscaling_config={
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
        },
        max_constructor_retry_count=CONSTRUCTOR_RETRIES,
        health_check_period_s=HEALTH_CHECK_SECONDS,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_SECONDS,
        ray_actor_options={"num_cpus": engine.num_cpus, "num_gpus": engine.num_gpus},
    )
    return deployment.bind(engine, storage, model.name)


def served_model(config: Config, storage: Storage, role: Role) -> ServedModel:
    """The artifact that stands behind `role`; raises ArtifactError or ModelError where it cannot. `echo` has none."""
    if config.serve.engine.kind == "echo":
        return ServedModel("echo", "0")
    name = config.serve.role(role).model or newest_model(storage, role)
    version = storage.manifest(f"models/{name}").as_input().sha256[:VERSION_LENGTH]
    if storage.is_local:  # no copy is needed to see at once what a replica would only find minutes later
        fetch_model(storage, name)
    return ServedModel(name, version)


def base_url(config: Config) -> str:
    """Where the service is reached from this machine."""
    host = "127.0.0.1" if config.serve.host in ANY_ADDRESS else config.serve.host
    return f"http://{host}:{config.serve.port}"


def check_port(host: str, port: int) -> None:
    """Raise ServeError unless this machine can listen there."""
    with socket.socket(family_of(host)) as probe:
        # Connections that were closed a moment ago do not hold the port; one that listens does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ServeError(
                    f"{host}:{port}: the port is in use; choose another with --set serve.port={port + 1}"
                ) from None
            reason = error.strerror or str(error)
            raise ServeError(f"serve.host: {host}:{port} cannot be listened on ({reason}); use 127.0.0.1 or 0.0.0.0") from None


def _deploy(graph: Application) -> None:
    """Deploy and wait until every replica runs."""
    try:
        ray_serve.run(graph, name=APPLICATION, route_prefix=None)
    except RuntimeError as error:
        deployments = ray_serve.status().applications[APPLICATION].deployments.values()
        raise _replica_error("\n".join([str(error), *(deployment.message for deployment in deployments)])) from None


def _replica_error(report: str) -> LlumiError:
    """The error of ours that ended a replica, from the tracebacks that Serve reports; else the first line."""
    found = re.findall(r"^llumi\.errors\.(\w+): (.+)$", report, flags=re.MULTILINE)
    if found:
        kind, message = found[-1]
        error: LlumiError = getattr(errors, kind)(message)
        return error
    return ServeError(f"the replicas do not start ({report.splitlines()[0][:200]}); see Ray's logs")


def _try_role(serving: Serving, role: Role, timeout_seconds: float) -> None:
    """One real, short generation through the whole service; a ping would not show that a model answers."""
    route, body = ("draft", {}) if role == "gm" else ("improve", {"draft": "Hello."})
    wanted = {"post": "Hello.", "max_new_tokens": 1, **body}
    try:
        with contextlib.closing(httpx.Client(trust_env=False)) as client:
            key = {"Authorization": f"Bearer {serving.secret}"}
            answer = client.post(f"{serving.url}/v1/{route}", json=wanted, headers=key, timeout=timeout_seconds + 5)
    except httpx.HTTPError as error:
        raise ServeError(f"{serving.url}: {role} does not answer ({type(error).__name__}); see Ray's logs") from None
    if answer.status_code != httpx.codes.OK:
        raise ServeError(f"{serving.url}: {role} answers {answer.status_code} ({answer.json()['error']['message']})")
