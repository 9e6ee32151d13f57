"""The guard: the one way by which text of a model leaves the service.

A reply is judged before its first byte is sent: as a whole, or in a stream sentence by sentence, each with its neighbours.
One that is refused is drawn once more; then a fixed text takes its place. What cannot be judged is not sent.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from llumi.config import ServeConfig
from llumi.engine import Delta, Request
from llumi.prompts import Role
from llumi.safety import Tier
from llumi.safety.standard import Standard
from llumi.serve.gate import Gate
from llumi.serve.guarded import Decision, Guarded, Help

JUDGES_AT_ONCE = 4
SECOND_TEMPERATURE = 0.7
"""Of a second draw where the first was greedy: another seed alone would give the same reply."""

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Source(Protocol):
    """What the guard asks of whoever answers for a role (see router.Backend)."""

    async def complete(self, request: Request) -> Delta:
        """The whole answer as one delta."""

    def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The answer piece by piece."""


@dataclass(frozen=True, slots=True)
class Case:
    """What an answer is judged by: its role, the `post` (what people wrote to the model), and for a revision its `draft`.

    `draft_may_stand`: the draft is the person's own words and nothing else, so that it can be the answer. `country` as
    the request names it.
    """

    role: Role
    post: str
    draft: str | None = None
    draft_may_stand: bool = False
    country: str | None = None


class _RefusedError(Exception):
    """The names of what refuses a text; never the text."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class _UnjudgedError(Exception):
    """A judge failed or took too long."""


class Guard:
    """Lets through what passes `standard`; its judges work on threads, beside the event loop."""

    def __init__(self, standard: Standard, config: ServeConfig) -> None:
        """Raises ModelError where this process lacks what the standard judges with."""
        standard.warm_up()
        self._standard = standard
        self._config = config
        self._threads = ThreadPoolExecutor(JUDGES_AT_ONCE, thread_name_prefix="guard")

    async def complete(self, case: Case, request: Request, source: Source) -> Guarded:
        """The whole answer."""
        spent, refused_by = _Spent(), tuple[str, ...]()
        async with self._tier_of(case) as tier:
            for decision, asked in self._draws(request):
                answer = await source.complete(asked)
                spent.add(answer)
                try:
                    await self._judge_whole(case, answer.text, spent)
                except _RefusedError as refusal:
                    refused_by = refusal.names
                    continue
                except _UnjudgedError:
                    return spent.on(self._fixed(case, await tier, "error", refused_by))
                helped = Guarded(answer.text, self._help(case, await tier), answer.finish_reason, decision, refused_by)
                return spent.on(helped)
            return spent.on(await self._instead(case, await tier, refused_by, spent))

    async def stream(self, case: Case, request: Request, source: Source) -> AsyncGenerator[Guarded, None]:
        """The answer in sentences. What has left cannot be drawn again: a refusal after it ends the stream kindly."""
        spent, refused_by, sent = _Spent(), tuple[str, ...](), False
        async with self._tier_of(case) as tier:
            for decision, asked in self._draws(request):
                try:
                    async with contextlib.aclosing(self._passed(case, source.stream(asked), spent)) as passed:
                        async for piece in passed:
                            ends = piece.finish_reason is not None
                            helped = replace(piece, help=self._help(case, await tier) if ends or not sent else None)
                            sent = True
                            yield spent.on(replace(helped, decision=decision, refused_by=refused_by)) if ends else helped
                except _RefusedError as refusal:
                    refused_by = refusal.names
                    if sent:
                        yield spent.on(self._closing(case, await tier, "fallback", refused_by))
                        return
                except _UnjudgedError:
                    ending = self._closing if sent else self._fixed
                    yield spent.on(ending(case, await tier, "error", refused_by))
                    return
                else:
                    return
            yield spent.on(await self._instead(case, await tier, refused_by, spent))

    async def _passed(self, case: Case, deltas: AsyncGenerator[Delta, None], spent: "_Spent") -> AsyncGenerator[Guarded, None]:
        """Each piece of the reply once it was judged; raises as `_judge` for the first that may not leave."""
        gate = Gate()
        async with contextlib.aclosing(deltas):
            async for delta in deltas:
                spent.add_piece(delta)
                for latest, recent, end, is_last in gate.add(delta.text, ended=delta.finish_reason is not None):
                    lost = await self._judge(case, latest, recent, gate.text[:end], spent)
                    if lost and is_last:
                        raise _RefusedError(lost)
                    if not lost:  # else a later sentence may still hold what the draft names
                        yield Guarded(gate.release(end), finish_reason=delta.finish_reason if is_last else None)

    async def _judge_whole(self, case: Case, text: str, spent: "_Spent") -> None:
        if lost := await self._judge(case, text, text, text, spent):
            raise _RefusedError(lost)

    async def _judge(self, case: Case, latest: str, recent: str, whole: str, spent: "_Spent") -> tuple[str, ...]:
        """What `whole` lacks of the draft; raises _RefusedError where `latest`, the end of `recent`, may not leave, or
        _UnjudgedError.
        """
        with spent.judging():
            refused, lost = await self._beside_the_loop(_verdict, self._standard, case.draft, latest, recent, whole)
        if refused:
            raise _RefusedError(refused)
        return lost

    @contextlib.asynccontextmanager
    async def _tier_of(self, case: Case) -> AsyncIterator[Awaitable[Tier | None]]:
        """The tier of the post, told while the model writes."""
        task = asyncio.create_task(self._tier(case))
        try:
            yield task
        finally:
            task.cancel()

    async def _tier(self, case: Case) -> Tier | None:
        try:
            return await self._beside_the_loop(self._standard.tier, case.post)
        except _UnjudgedError:
            return None

    async def _beside_the_loop(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._config.guard.timeout_seconds):
                return await loop.run_in_executor(self._threads, partial(work, *arguments, **named))
        except Exception as error:
            _log.warning("the guard could not judge (%s)", type(error).__name__)
            raise _UnjudgedError from None

    def _draws(self, request: Request) -> tuple[tuple[Decision, Request], ...]:
        """The request, and the same with another seed."""
        sampling = request.sampling
        warm = sampling.temperature or self._config.temperature or SECOND_TEMPERATURE
        again = replace(sampling, seed=(sampling.seed + 1) % 2**63, temperature=warm)
        return ("passed", request), ("regenerated", replace(request, sampling=again))

    def _help(self, case: Case, tier: Tier | None) -> Help:
        resources = self._standard.resources.of(case.country or self._config.country)
        return Help(tier, self._standard.answers.banner(tier, resources), resources)

    async def _instead(self, case: Case, tier: Tier | None, refused_by: tuple[str, ...], spent: "_Spent") -> Guarded:
        """In the place of refused replies: the person's own draft if it passes, else the fixed text."""
        if case.draft is None or not case.draft_may_stand:
            return self._fixed(case, tier, "fallback", refused_by)
        try:
            await self._judge_whole(case, case.draft, spent)
        except (_RefusedError, _UnjudgedError) as problem:
            return self._fixed(case, tier, "error" if isinstance(problem, _UnjudgedError) else "fallback", refused_by)
        return Guarded(case.draft, self._help(case, tier), "stop", "own_draft", refused_by)

    def _fixed(self, case: Case, tier: Tier | None, decision: Decision, refused_by: tuple[str, ...]) -> Guarded:
        text = self._standard.answers.fallback(case.role)
        return Guarded(text, self._help(case, tier), "content_filter", decision, refused_by)

    def _closing(self, case: Case, tier: Tier | None, decision: Decision, refused_by: tuple[str, ...]) -> Guarded:
        text = f"\n\n{self._standard.answers.closing}"
        return Guarded(text, self._help(case, tier), "content_filter", decision, refused_by)


class _Spent:
    """Tokens of all draws, where prompts count once, and the time of their judges."""

    def __init__(self) -> None:
        self._prompt = self._finished = self._pieces = 0
        self._guard_seconds = 0.0

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Count the time within."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._guard_seconds += time.monotonic() - started

    def add(self, answer: Delta) -> None:
        """A whole reply."""
        self._prompt, self._pieces = answer.num_prompt_tokens, 0
        self._finished += answer.num_completion_tokens

    def add_piece(self, delta: Delta) -> None:
        """A piece; the last of a reply counts for all of them."""
        if delta.finish_reason:
            self.add(delta)
        else:
            self._pieces += 1

    def on(self, guarded: Guarded) -> Guarded:
        """The piece with what was spent."""
        return replace(
            guarded,
            num_prompt_tokens=self._prompt,
            num_completion_tokens=self._finished + self._pieces,
            guard_seconds=self._guard_seconds,
        )


def _verdict(
    standard: Standard, draft: str | None, latest: str, recent: str, whole: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What refuses the recent sentences, and what the whole reply lacks of its draft."""
    return standard.refusals(recent, draft, latest), () if draft is None else standard.lost(draft, whole)
