"""Which versions of a role answer, each its share of the requests, and what becomes of one whose replica is lost."""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import ray.exceptions
from pydantic import BaseModel, ConfigDict
from ray.serve.exceptions import RayServeException

from llumi.config import EngineConfig, ServeConfig
from llumi.engine import Delta, Request
from llumi.prompts import Role
from llumi.serve.api import Canary, ServedModel
from llumi.serve.call import CALL
from llumi.serve.holding import Holding

LOOK_SECONDS = 0.25
"""How often a request that waits for a canary looks whether one is there."""

T = TypeVar("T")


class Backend(Protocol):
    """Answers for a version; raises LlumiError, or Ray's errors where no replica can be reached."""

    def has_replica(self) -> bool:
        """Whether there is anybody to answer."""

    async def complete(self, request: Request) -> Delta:
        """The whole answer as one delta."""

    def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The answer piece by piece; closing it ends the generation."""


@dataclass(frozen=True)
class Version:
    """One model in one setting; `name` is that of its deployment, and of the application around it.

    `adapter` is what its replicas are asked to answer with.
    """

    name: str
    model: ServedModel
    backend: Backend
    adapter: str | None = None

    def asked(self, request: Request) -> Request:
        """As its replicas are asked."""
        return replace(request, adapter=self.adapter)


@dataclass(frozen=True)
class Split:
    """Who answers for a role: the stable version, and a `weight` of the requests a canary, where there is one."""

    stable: Version
    canary: Version | None = None
    weight: float = 0

    def attempts(self, seed: str) -> list[Version]:
        """Whom to ask, one after the other while nobody answers; the same for the same seed."""
        again = [self.stable, self.stable]
        return [self.canary, *again] if self.canary and chance(seed) < self.weight else again


class Versions:
    """The versions of a role as one backend; `switch` changes them between two requests.

    A replica that is lost before it gave anything is asked for once more: the stable version's other replicas, or the
    stable version in the place of a canary. A draw is the same by its seed, and only one that ended is counted.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._running = Counter[str]()

    def switch(self, split: Split) -> None:
        """From the next request on; what runs ends where it began."""
        self._split = split

    def running(self, name: str) -> int:
        """How many answers of a version are being written."""
        return self._running[name]

    async def complete(self, request: Request) -> Delta:
        """See Backend."""
        attempts = self._attempts()
        while True:
            version, *attempts = attempts
            try:
                with self._asked(version):
                    return await _unless_gone(version, attempts, version.backend.complete(version.asked(request)))
            except (RayServeException, ray.exceptions.RayError) as error:
                if not _may_go_on(error, version, attempts):
                    raise

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """See Backend."""
        attempts = self._attempts()
        while True:
            version, *attempts = attempts
            begun = False
            try:
                with self._asked(version):
                    async with contextlib.aclosing(version.backend.stream(version.asked(request))) as deltas:
                        first = await _unless_gone(version, attempts, _next(deltas))
                        begun = True
                        yield first
                        async for delta in deltas:
                            yield delta
                        return
            except (RayServeException, ray.exceptions.RayError) as error:
                if begun or not _may_go_on(error, version, attempts):
                    raise

    def _attempts(self) -> list[Version]:
        call = CALL.get(None)
        return self._split.attempts(call.request_id if call else "")

    @contextlib.contextmanager
    def _asked(self, version: Version) -> Iterator[None]:
        """Count the answer, and let the request name who gives it."""
        if call := CALL.get(None):
            call.model = version.model
        self._running[version.name] += 1
        try:
            yield
        finally:
            self._running[version.name] -= 1
            if not self._running[version.name]:
                del self._running[version.name]


class Routed(BaseModel):
    """A version as the routing table names it; `pool` is the deployment that answers for it, alone or for others, too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    pool: str
    holding: Holding

    @property
    def served(self) -> ServedModel:
        """As answers name it."""
        return self.holding.served


class RoleTable(BaseModel):
    """Who answers for a role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stable: Routed
    canary: Routed | None = None
    weight: float = 0

    @property
    def versions(self) -> list[Routed]:
        """All that must run."""
        return [self.stable, *([self.canary] if self.canary else [])]

    @property
    def shown_canary(self) -> Canary | None:
        """As `/v1/models` shows it."""
        return Canary(self.canary.served, self.weight) if self.canary else None


class Table(BaseModel):
    """What a router goes by, and follows while it runs; `revision` tells one from another, `engine` is what all run on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: str
    config: ServeConfig
    engine: EngineConfig
    roles: dict[Role, RoleTable]

    @property
    def names(self) -> set[str]:
        """The deployments that it leads to."""
        return {version.pool for _, version in self.versions}

    @property
    def versions(self) -> list[tuple[Role, Routed]]:
        """All of them, and for which role each answers."""
        return [(role, version) for role, one in self.roles.items() for version in one.versions]


def chance(seed: str) -> float:
    """A number from 0 to 1, as good as drawn, and always the same for `seed`."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]) / 2**56


def _may_go_on(error: Exception, version: Version, attempts: list[Version]) -> bool:
    """Whether to ask the next one: another version in any case, the same one where it was a replica that was lost."""
    if not attempts:
        return False
    return attempts[0] is not version or isinstance(error, ray.exceptions.RayActorError)


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta:
    return await anext(deltas)


async def _unless_gone(version: Version, attempts: list[Version], answer: Coroutine[Any, Any, T]) -> T:
    """What `answer` gives; raises RayActorError where another version could answer, and this one has no replica.

    Serve lets a request wait for the first replica that comes, which may be never.
    """
    if not attempts or attempts[0] is version:
        return await answer
    task = asyncio.ensure_future(answer)
    try:
        while version.backend.has_replica():
            done, _ = await asyncio.wait({task}, timeout=LOOK_SECONDS)
            if done:
                return task.result()
        raise ray.exceptions.RayActorError(error_msg=f"{version.name}: no replica")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
