"""Which version is asked, and who is asked next where nobody answers: in one process, over the echo engine."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

pytest.importorskip("ray")

import grpc.aio
import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from llumi.engine import Delta, Request, Sampling
from llumi.engine.echo import EchoEngine
from llumi.serve.api import ServedModel
from llumi.serve.router import RoleHandle
from llumi.serve.versions import Split, Version, Versions, chance

ASKED = Request(({"role": "user", "content": "One two three"},), Sampling(max_new_tokens=3))
LOST = ray.exceptions.ActorUnavailableError("gone", None)


class Replicas:
    """Fails with each of `errors` after `words`, then answers."""

    def __init__(self, *errors: Exception, words: int = 0, there: bool = True) -> None:
        self.errors, self.words, self.there, self.asked = list(errors), words, there, 0

    def has_replica(self) -> bool:
        return self.there

    async def complete(self, request: Request) -> Delta:
        pieces = [delta async for delta in self.stream(request)]
        return Delta("".join(piece.text for piece in pieces), "stop", 3, len(pieces) - 1)

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.asked += 1
        if not self.there:
            await asyncio.Event().wait()
        for _ in range(self.words if self.errors else 0):
            yield Delta("Word")
        if self.errors:
            raise self.errors.pop(0)
        async for delta in EchoEngine().generate(request):
            yield delta


def versions(stable: Replicas, canary: Replicas | None = None) -> Versions:
    """Every request goes to the canary, where there is one."""
    beside = canary and Version("gm-2", ServedModel("canary", "2"), canary)
    return Versions(Split(Version("gm-1", ServedModel("stable", "1"), stable), beside, 1))


def answer(of: Versions, stream: bool) -> str:
    async def ask() -> str:
        if stream:
            return "".join([delta.text async for delta in of.stream(ASKED)])
        return (await of.complete(ASKED)).text

    return asyncio.run(asyncio.wait_for(ask(), 10))


def test_chances_are_even_and_stay():
    drawn = [chance(str(number)) for number in range(10_000)]
    assert abs(sum(value < 0.1 for value in drawn) - 1000) < 4.5 * 30
    assert chance("7") == drawn[7]
    assert all(0 <= value < 1 for value in drawn)


@pytest.mark.parametrize("stream", [False, True])
def test_a_lost_replica_is_asked_for_once_more(stream: bool):
    stable = Replicas(LOST)
    assert answer(versions(stable), stream) == "One two three"
    assert stable.asked == 2
    with pytest.raises(ray.exceptions.ActorUnavailableError):
        answer(versions(Replicas(LOST, LOST)), stream)


@pytest.mark.parametrize("error", [BackPressureError(1, 1), DeploymentUnavailableError("gm-1")], ids=["full", "gone"])
def test_what_would_not_change_is_not_asked_again(error: Exception):
    stable = Replicas(error)
    with pytest.raises(type(error)):
        answer(versions(stable), stream=False)
    assert stable.asked == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "error", [LOST, BackPressureError(1, 1), DeploymentUnavailableError("gm-2")], ids=["lost", "full", "gone"]
)
def test_the_stable_version_stands_in_for_a_canary(error: Exception, stream: bool):
    stable, canary = Replicas(), Replicas(error)
    assert answer(versions(stable, canary), stream) == "One two three"
    assert (canary.asked, stable.asked) == (1, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_waits_for_a_canary_without_a_replica(stream: bool):
    stable = Replicas()
    assert answer(versions(stable, Replicas(there=False)), stream) == "One two three"
    assert stable.asked == 1


def test_a_stream_that_has_begun_is_not_begun_again():
    stable = Replicas(LOST, words=2)
    with pytest.raises(ray.exceptions.ActorUnavailableError):
        answer(versions(stable), stream=True)
    assert stable.asked == 1
    assert versions(stable).running("gm-1") == 0


def test_a_switch_leaves_what_runs_where_it_began():
    async def scenario() -> None:
        first, second = Replicas(), Replicas()
        of = versions(first)
        stream = of.stream(ASKED)
        await anext(stream)
        of.switch(Split(Version("gm-3", ServedModel("new", "3"), second)))
        assert (of.running("gm-1"), of.running("gm-3")) == (1, 0)
        assert "".join([delta.text async for delta in stream]) == " two three"
        await of.complete(ASKED)
        assert (first.asked, second.asked) == (1, 1)
        assert of.running("gm-1") == 0

    asyncio.run(scenario())


class Broken:
    """A handle of Serve's whose connection breaks in a way of gRPC's own."""

    def __init__(self, error: Exception | None) -> None:
        self.complete = self.stream = self
        self.error = error

    def options(self, **_: object) -> "Broken":
        return self

    def remote(self, _: Request) -> "Broken":
        return self

    def cancel(self) -> None:
        """Nothing runs."""

    def __await__(self):
        raise self.error
        yield

    async def __aiter__(self) -> AsyncGenerator[Delta, None]:
        yield Delta("Word")
        if self.error:
            raise self.error


RPC = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize("error", [RPC, RuntimeError("Unexpected error (StatusCode.INTERNAL): x.")], ids=["grpc", "serve"])
def test_a_broken_connection_is_a_lost_replica(error: Exception):
    handle = RoleHandle(Broken(error))
    with pytest.raises(ray.exceptions.RayActorError, match="connection to a replica broke"):
        asyncio.run(handle.complete(ASKED))
    with pytest.raises(ray.exceptions.RayActorError, match="connection to a replica broke"):
        answer(Versions(Split(Version("gm-1", ServedModel("stable", "1"), handle))), stream=True)


def test_an_answer_without_its_end_is_a_lost_replica():
    with pytest.raises(ray.exceptions.RayActorError, match="in the middle"):
        answer(Versions(Split(Version("gm-1", ServedModel("stable", "1"), RoleHandle(Broken(None))))), stream=True)
