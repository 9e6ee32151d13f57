"""The service as a whole: one router, and a GM and an IM deployment that scale and fail apart."""

import contextlib
import errno
import socket
import time
from dataclasses import dataclass, field

import httpx
import ray
from ray import serve as ray_serve
from ray.serve.config import ProxyLocation
from ray.serve.schema import LoggingConfig

from llumi.config import Config
from llumi.errors import ServeError
from llumi.progress import Progress, Tell, silent, untold
from llumi.prompts import ROLES, Role
from llumi.rate.database import anchored
from llumi.safety.standard import Standard
from llumi.serve import rollout
from llumi.serve.audit import audit_folder
from llumi.serve.door import Grounds
from llumi.serve.front import family_of
from llumi.serve.keys import make_key, new_secret
from llumi.serve.running import Applied, Running
from llumi.storage import Storage

ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (what an operator may write into serve.host)


@dataclass(frozen=True)
class Serving:
    """A service that is up: where, and a secret that opens GM and IM as long as it is; it is in no store and in no log."""

    url: str
    secret: str = field(repr=False)


def serve(config: Config, progress: Progress = silent, tell: Tell = untold) -> Serving:
    """Deploy GM and IM behind the router; returns once each role has generated.

    `tell` is given one line: which engine, and why. Raises ServeError, ConfigError, ArtifactError, ModelError or
    EngineError; the service then is not left half up.
    """
    storage = Storage.open(config.storage)
    table = rollout.plan(config, storage, rollout.living_nodes(), tell)
    standard = Standard.load(config.safety, config.serve.allowed)
    rollout.require_room_for(config, [table])
    check_port(config.serve.host, config.serve.port)
    if there := ", ".join(ray_serve.status().applications):
        raise ServeError(f"this cluster serves already ({there}); stop that first, or change it with: llumi serve deploy")
    serving = Serving(base_url(config), new_secret())
    own_key = make_key("start", serving.secret, ROLES, time.time()).model_copy(update={"id": "start"})  # the audit log's name
    grounds = Grounds(storage, own_key, audit_folder(config.serve, storage), anchored(config.rate))
    running = Running(standard, grounds, f"node:{ray.util.get_node_ip_address()}", (Applied(config, table),))
    try:
        # The router listens itself (see Front), and its audit log has a line for each request.
        ray_serve.start(proxy_location=ProxyLocation.Disabled, logging_config=LoggingConfig(enable_access_log=False))
        rollout.start(running, progress)
        for done, role in enumerate(ROLES, start=1):
            _try_role(serving, role, config.serve.timeout_seconds)
            progress("serve: roles that answer", done, len(ROLES))
        running.save()
    except BaseException:
        stop_serving()
        raise
    return serving


def stop_serving() -> None:
    """Take the service down; nothing happens where none is up."""
    ray_serve.shutdown()
    Running.forget()


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
