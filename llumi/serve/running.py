"""The service that runs: where another process finds its cluster, and what was applied to it, newest last."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray.experimental import internal_kv

from llumi.config import Config
from llumi.errors import ServeError
from llumi.safety.standard import Standard
from llumi.serve.door import Grounds
from llumi.serve.versions import Table
from llumi.storage import Storage

BESIDE_S3 = "~/.local/state/llumi"
KEPT = 10
"""How many deploys can be taken back."""

_NAMESPACE, _KEY, _CHANGING = b"llumi", b"running", b"changing"


@dataclass(frozen=True)
class Applied:
    """A config that served, and the versions that it led to."""

    config: Config
    table: Table


@dataclass(frozen=True)
class Running:
    """What a service was started with, which stays as long as it runs, and all that was applied since."""

    standard: Standard
    grounds: Grounds
    node: str
    applied: tuple[Applied, ...]

    @property
    def now(self) -> Applied:
        """What serves."""
        return self.applied[-1]

    def with_applied(self, applied: Applied) -> "Running":
        """After a deploy."""
        return replace(self, applied=(*self.applied, applied)[-KEPT:])

    def save(self) -> None:
        """Keep it in the cluster: it goes with the service."""
        internal_kv._internal_kv_put(_KEY, ray.cloudpickle.dumps(self), overwrite=True, namespace=_NAMESPACE)

    @classmethod
    def find(cls) -> "Running":
        """What this cluster serves; raises ServeError where that is nothing."""
        kept = internal_kv._internal_kv_get(_KEY, namespace=_NAMESPACE)
        if kept is None:
            raise ServeError("no service runs on this cluster; start one with: llumi serve")
        running: Running = ray.cloudpickle.loads(kept)
        return running

    @staticmethod
    def forget() -> None:
        """Nothing serves any more."""
        internal_kv._internal_kv_del(_KEY, namespace=_NAMESPACE)


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Nobody else changes the service meanwhile: raises ServeError where another process is at it, and lives."""
    holder = internal_kv._internal_kv_get(_CHANGING, namespace=_NAMESPACE)
    if holder is not None and holder.decode() not in _living_processes():
        internal_kv._internal_kv_del(_CHANGING, namespace=_NAMESPACE)  # what it began, the next deploy ends
    own = ray.get_runtime_context().get_job_id().encode()
    if internal_kv._internal_kv_put(_CHANGING, own, overwrite=False, namespace=_NAMESPACE):
        raise ServeError("another deploy or rollback is under way; try again when it has ended")
    try:
        yield
    finally:
        internal_kv._internal_kv_del(_CHANGING, namespace=_NAMESPACE)


def _living_processes() -> set[str]:
    """Those that are connected to the cluster, by the name that Ray gives them."""
    return {job["JobID"] for job in ray._private.state.jobs() if not job["IsDead"]}


@contextlib.contextmanager
def announced(config: Config) -> Iterator[None]:
    """Let other processes of this user find the cluster as long as the service runs; only they may read where it is."""
    path = address_file(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"address": ray.get_runtime_context().gcs_address, "pid": os.getpid()}, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def address_file(config: Config) -> Path:
    """Beside a local store, else in this user's own folder."""
    storage = Storage.open(config.storage, create=False)
    return (Path(storage.root) if storage.is_local else Path(BESIDE_S3).expanduser()) / "serving.json"
