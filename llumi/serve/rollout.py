"""How a config becomes what serves: versions come up beside those that run, answer, are switched to; then the old ones go.

Each version is an application of Serve's with one deployment, so that it comes, scales, fails and goes by itself. The
router is another. It is never restarted: its code version and its arguments stay, and its Table is its `user_config`,
which Serve hands to the replica that runs.
"""

import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.api import RunTarget, run_many
from ray.serve.handle import DeploymentHandle

from llumi import errors
from llumi.config import CanaryConfig, Config, EngineConfig, RoleConfig
from llumi.engine import check_engine
from llumi.engine.capacity import require_room
from llumi.engine.choice import choose_engine
from llumi.errors import ConfigError, LlumiError, ServeError
from llumi.models import newest_model
from llumi.progress import Progress, Tell, silent, untold
from llumi.prompts import ROLES, Role
from llumi.serve.holding import BASE, Holding
from llumi.serve.replica import PROBE, EngineReplica
from llumi.serve.router import APPLICATION, Router
from llumi.serve.running import Applied, Running, changing
from llumi.serve.versions import RoleTable, Routed, Table
from llumi.storage import Storage, digest

HEALTH_CHECK_SECONDS = 10
HEALTH_CHECK_TIMEOUT_SECONDS = 120
"""A busy engine may keep the probe waiting for a whole batch."""

CONSTRUCTOR_RETRIES = 2
"""A store may stumble once; a model that cannot be loaded stays so, and whoever starts the service waits to hear it."""

CODE_VERSION = "1"
"""Of every deployment: by default Serve takes a new one each time, and restarts all replicas."""

NAME_LENGTH = 8
DRAIN_MARGIN_SECONDS = 10
SWITCH_SECONDS = 60
POLL_SECONDS = 0.2

Nodes = Sequence[Mapping[str, float]]

_FIXED = ("storage", "safety", "rate", "serve.host", "serve.port", "serve.audit", "serve.allowed")
"""What the router stands on; it stays until the service is started anew."""


def plan(config: Config, storage: Storage, nodes: Nodes, tell: Tell = untold) -> Table:
    """What `config` leads to on `nodes`; `tell` is given one line: which engine, and why.

    Raises ConfigError, ArtifactError or ModelError where it cannot serve.
    """
    replicas = sum(pool.min_replicas for pool in config.serve.pools)
    choice = choose_engine(config.serve.engine, replicas, nodes)
    tell(f"engine: {choice.line}")
    check_engine(choice.engine, "serve.engine")
    roles = {role: _role_table(config, choice.engine, storage, role) for role in ROLES}
    if config.serve.shared_base:
        roles = _in_one_pool(roles)
    return Table(revision=uuid.uuid4().hex, config=config.serve, engine=choice.engine, roles=roles)


def deploy(config: Config, progress: Progress = silent) -> Table:
    """Apply `config` to the service that runs, and return once what it replaces has finished.

    Raises ServeError, ConfigError, ArtifactError, ModelError or EngineError; then what served serves on.
    """
    with changing():
        running = Running.find()
        for key in _FIXED:
            if _value(config, key) != _value(running.now.config, key):
                raise ConfigError(f"{key}: cannot change while the service runs; end it, and start it with this config")
        table = plan(config, Storage.open(config.storage), living_nodes())
        _apply(running, Applied(config, table), progress)
        running.with_applied(Applied(config, table)).save()
    return table


def rollback(progress: Progress = silent) -> Table:
    """Go back to what served before the last deploy; raises as `deploy`, and ServeError where there was none."""
    with changing():
        running = Running.find()
        if len(running.applied) == 1:
            raise ServeError("nothing served before: no deploy is there to take back")
        before, now = running.applied[-2], running.now
        require_standing(before, now.table)
        table = before.table.model_copy(update={"revision": uuid.uuid4().hex})
        _apply(running, Applied(before.config, table), progress)
        Running(running.standard, running.grounds, running.node, (*running.applied[:-2], Applied(before.config, table))).save()
    return table


def start(running: Running, progress: Progress = silent) -> None:
    """Bring up all that a service begins with; raises as `deploy`."""
    progress("serve: replicas", 0)
    _bring_up(running.now, running.now.table.names)
    _run([RunTarget(_router(running, running.now.table), APPLICATION, None)])


def require_standing(before: Applied, now: Table) -> None:
    """Raise ArtifactError where a version of `before` neither runs in `now` nor can be loaded again."""
    if before.table.engine.kind == "echo":
        return
    storage = Storage.open(before.config.storage)
    for _, version in before.table.versions:
        if version.pool not in now.names:
            version.holding.require(storage)


def require_room_for(config: Config, tables: Sequence[Table]) -> None:
    """Raise ConfigError unless the cluster holds the replicas of all versions in `tables`, side by side."""
    pools = {version.pool: table.config.scaling(role) for table in tables for role, version in table.versions}
    replicas = sum(pool.min_replicas for pool in pools.values())
    require_room("serve.engine", replicas, tables[-1].engine, living_nodes())


def states(table: Table) -> dict[str, dict[str, object]]:
    """Each version of `table` by its name: what it serves, its share, its replicas and their state."""
    applications = ray_serve.status().applications
    found: dict[str, dict[str, object]] = {}
    for role, split in table.roles.items():
        for version in split.versions:
            canary = version == split.canary
            application = applications.get(version.pool)
            deployments = application.deployments.values() if application else []
            found[version.name] = {
                "role": role,
                "model": str(version.served),
                "share": split.weight if canary else 1 - split.weight,
                "replicas": sum(deployment.replica_states.get("RUNNING", 0) for deployment in deployments),
                "state": str(application.status.value) if application else "GONE",
            }
    return found


def _apply(running: Running, new: Applied, progress: Progress) -> None:
    old = running.now.table
    require_room_for(new.config, [old, new.table])
    fresh = new.table.names - old.names
    progress("serve: new versions", 0)
    try:
        _bring_up(new, fresh)
    except BaseException:
        _delete(fresh)
        raise
    progress("serve: switching", 0)
    _bring_up(new, new.table.names - fresh, probe=False)  # their scaling, in place
    _run([RunTarget(_router(running, new.table), APPLICATION, None)])
    router = _handle(APPLICATION)
    deadline = time.monotonic() + SWITCH_SECONDS
    while router.revision.remote().result(timeout_s=SWITCH_SECONDS) != new.table.revision:
        if time.monotonic() > deadline:
            raise ServeError("the router does not take up the new versions; see Ray's logs")
        time.sleep(POLL_SECONDS)
    progress("serve: what runs finishes", 0)
    gone = [name for name in ray_serve.status().applications if name != APPLICATION and name not in new.table.names]
    deadline = time.monotonic() + running.now.config.serve.timeout_seconds + DRAIN_MARGIN_SECONDS
    while router.running.remote(gone).result(timeout_s=SWITCH_SECONDS) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    _delete(gone)


def _bring_up(applied: Applied, names: Iterable[str], probe: bool = True) -> None:
    """Run these versions, until each has really generated: a ping would not show that a model answers."""
    config, storage = applied.config, Storage.open(applied.config.storage)
    wanted = sorted(names)
    if not wanted:
        return
    _run([RunTarget(_pool(applied, storage, name), name, None) for name in wanted])
    for version in [version for _, version in applied.table.versions if version.pool in wanted and probe]:
        asked = replace(PROBE, adapter=version.holding.adapter)
        try:
            answer = _handle(version.pool).complete.remote(asked).result(timeout_s=config.serve.timeout_seconds)
        except (TimeoutError, ray.exceptions.RayError) as error:
            raise ServeError(f"{version.name}: does not generate ({type(error).__name__}); see Ray's logs") from None
        if isinstance(answer, LlumiError):
            raise answer


def _run(targets: Sequence[RunTarget]) -> None:
    """Deploy, and wait until every replica runs."""
    try:
        run_many(targets)
    except RuntimeError as error:
        applications = ray_serve.status().applications
        messages = [
            deployment.message
            for target in targets
            if target.name in applications
            for deployment in applications[target.name].deployments.values()
        ]
        raise _replica_error("\n".join([str(error), *messages])) from None


def _handle(name: str) -> DeploymentHandle[Any]:
    """The application's handle for a process without an event loop."""
    handle = ray_serve.get_app_handle(name)
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=True)
    return handle


def _delete(names: Iterable[str]) -> None:
    """Let these versions end; a replica finishes what it was asked."""
    for name in names:
        ray_serve.delete(name, _blocking=False)


def _router(running: Running, table: Table) -> Application:
    deployment = ray_serve.deployment(
        Router,
        name="router",
        user_config=table.model_dump(mode="json"),
        health_check_period_s=HEALTH_CHECK_SECONDS,
        # Where `serve` was called: there its port was looked at, its flags' SQLite file lies, and its URL leads.
        ray_actor_options={"num_cpus": 0, "resources": {running.node: 0.001}},
    ).options(version=CODE_VERSION, _internal=True)
    return deployment.bind(running.standard, running.grounds)


def _pool(applied: Applied, storage: Storage, name: str) -> Application:
    """The replicas of the versions whose pool has this name."""
    behind = [(role, version) for role, version in applied.table.versions if version.pool == name]
    scaling, engine = applied.config.serve.scaling(behind[0][0]), applied.table.engine
    deployment = ray_serve.deployment(
        EngineReplica,
        name=name,
        max_ongoing_requests=scaling.max_ongoing_requests,
        max_queued_requests=scaling.max_queued,
        autoscaling_config={
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
            "upscale_delay_s": scaling.upscale_seconds,
            "downscale_delay_s": scaling.downscale_seconds,
        },
        max_constructor_retry_count=CONSTRUCTOR_RETRIES,
        health_check_period_s=HEALTH_CHECK_SECONDS,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_SECONDS,
        # A replica that goes, since fewer are needed or its version was replaced, finishes what it was asked.
        graceful_shutdown_timeout_s=applied.config.serve.timeout_seconds + DRAIN_MARGIN_SECONDS,
        ray_actor_options={"num_cpus": engine.num_cpus, "num_gpus": engine.num_gpus},
    ).options(version=CODE_VERSION, _internal=True)
    return deployment.bind(engine, storage, tuple(dict.fromkeys(version.holding for _, version in behind)))


def _role_table(config: Config, engine: EngineConfig, storage: Storage, role: Role) -> RoleTable:
    wanted = config.serve.role(role)
    stable = _routed(config, engine, storage, role, wanted)
    if wanted.canary is None:
        return RoleTable(stable=stable)
    canary = _routed(config, engine, storage, role, wanted.canary)
    if canary.name == stable.name:
        raise ConfigError(f"serve.{role}.canary.model: {canary.served.name} is the model beside it already; name another")
    return RoleTable(stable=stable, canary=canary, weight=wanted.canary.weight)


def _routed(config: Config, engine: EngineConfig, storage: Storage, role: Role, wanted: RoleConfig | CanaryConfig) -> Routed:
    if engine.kind == "echo":
        holding = Holding.of_echo(wanted.model)
    else:
        name = wanted.model or (BASE if wanted.adapter else newest_model(storage, role))
        find = Holding.on_base if config.serve.shared_base else Holding.find
        holding = find(storage, name, wanted.adapter)
    # Another setting of the engine is another version: its replicas are not those that run.
    made_of = [holding.served.name, holding.served.version, engine.model_dump(mode="json")]
    own = f"{role}-{digest(made_of)[:NAME_LENGTH]}"
    return Routed(name=own, pool=own, holding=holding)


def _in_one_pool(roles: Mapping[Role, RoleTable]) -> dict[Role, RoleTable]:
    """The same versions, answered for by replicas that hold the adapters of all."""
    names = [version.name for one in roles.values() for version in one.versions]
    shared = {"pool": f"shared-{digest(names)[:NAME_LENGTH]}"}
    return {
        role: one.model_copy(
            update={
                "stable": one.stable.model_copy(update=shared),
                "canary": one.canary.model_copy(update=shared) if one.canary else None,
            }
        )
        for role, one in roles.items()
    }


def living_nodes() -> Nodes:
    """The Ray resources of each node that lives."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _value(config: Config, key: str) -> object:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _replica_error(report: str) -> LlumiError:
    """The error of ours that ended a replica, from the tracebacks that Serve reports; else the first line."""
    found = re.findall(r"^llumi\.errors\.(\w+): (.+)$", report, flags=re.MULTILINE)
    if found:
        kind, message = found[-1]
        error: LlumiError = getattr(errors, kind)(message)
        return error
    return ServeError(f"the replicas do not start ({report.splitlines()[0][:200]}); see Ray's logs")
