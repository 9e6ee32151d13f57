"""What every engine promises, run over all of them."""

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llumi.config import EngineConfig
from llumi.engine import Delta, Engine, Request, Sampling, open_engine
from llumi.errors import EngineError, PromptTooLongError
from llumi.prompts import gm_prompt
from tests.adapters import write_adapter

POST = "I moved to a new town and I feel lonely in the evenings."
ADAPTERS = ("warm", "plain.1")
OPTIONS = {"vllm": {"enforce_eager": True, "max_model_len": 512}}


@pytest.fixture(
    scope="module",
    params=["echo", pytest.param("hf", id="hf"), pytest.param("vllm", id="vllm", marks=[pytest.mark.vllm, pytest.mark.slow])],
)
def engine_and_loop(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, asyncio.Runner]]:
    if request.param == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    config = EngineConfig(kind=request.param, max_batch_size=4, vllm=OPTIONS.get(request.param, {}))
    with asyncio.Runner() as runner:
        folder = tmp_path_factory.mktemp("adapters")
        adapters = {name: write_adapter(folder / name, tiny_model, seed=len(name)) for name in ADAPTERS}
        engine = open_engine(config, tiny_model, adapters)
        yield engine, runner
        runner.run(engine.close())


def ask(post: str = POST, adapter: str | None = None, **sampling: float) -> Request:
    drawn = Sampling(**({"max_new_tokens": 12, "temperature": 1.0} | sampling))  # type: ignore[arg-type]
    return Request(tuple(gm_prompt(post)), drawn, adapter=adapter)


async def read(engine: Engine, request: Request) -> list[Delta]:
    return [delta async for delta in engine.generate(request)]


async def text_of(engine: Engine, request: Request) -> str:
    return "".join(delta.text for delta in await read(engine, request))


async def read_all(engine: Engine, requests: list[Request], one: Callable = text_of) -> list:
    return await asyncio.gather(*(one(engine, request) for request in requests))


def test_only_the_last_delta_tells_the_end_and_the_counts(engine_and_loop):
    engine, loop = engine_and_loop
    *earlier, last = loop.run(read(engine, ask()))
    assert all(delta.finish_reason is None for delta in earlier)
    assert last.finish_reason in {"stop", "length"}
    assert 0 < last.num_completion_tokens <= 12
    assert last.num_prompt_tokens >= len(POST.split())


def test_the_same_seed_gives_the_same_reply_whatever_shares_its_batch(engine_and_loop):
    engine, loop = engine_and_loop
    mine = ask(seed=5)
    alone = loop.run(text_of(engine, mine))
    crowd = [ask("A longer post about evenings. " * 8, seed=1), mine, ask(temperature=0), ask("Short.", seed=5)]
    assert loop.run(read_all(engine, crowd))[1] == alone


def test_each_request_ends_at_its_own_length(engine_and_loop):
    engine, loop = engine_and_loop
    limits = [1, 7, 3, 12, 5, 2]
    answers = loop.run(read_all(engine, [ask(max_new_tokens=limit) for limit in limits], read))
    assert all(answer[-1].num_completion_tokens <= limit for answer, limit in zip(answers, limits, strict=True))


def test_a_closed_iterator_frees_its_place(engine_and_loop):
    engine, loop = engine_and_loop

    async def leave_early() -> str:
        answer = engine.generate(ask(max_new_tokens=400))
        await anext(answer)
        await answer.aclose()
        return await text_of(engine, ask())

    assert loop.run(leave_early())


def test_a_prompt_beyond_the_context_is_refused_without_its_text(engine_and_loop):
    engine, loop = engine_and_loop
    with pytest.raises(PromptTooLongError) as refusal:
        loop.run(read(engine, ask("lantern " * 5000)))
    assert "lantern" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_refused_prompt_does_not_disturb_its_neighbours(engine_and_loop):
    engine, loop = engine_and_loop

    async def together() -> list:
        asked = [ask(seed=3), ask("lantern " * 5000), ask(seed=3)]
        return await asyncio.gather(*(text_of(engine, request) for request in asked), return_exceptions=True)

    first, refused, last = loop.run(together())
    assert isinstance(refused, PromptTooLongError)
    assert isinstance(first, str)
    assert first == last


def test_requests_for_several_adapters_share_a_batch_and_an_unknown_one_is_refused(engine_and_loop):
    engine, loop = engine_and_loop
    asked = [ask(adapter=name, temperature=0) for name in (None, *ADAPTERS)]
    alone = [loop.run(text_of(engine, request)) for request in asked]
    assert loop.run(read_all(engine, [*asked, ask("Short.", adapter=ADAPTERS[0])]))[:3] == alone
    with pytest.raises(EngineError, match=r"no adapter other; there are: warm, plain\.1"):
        loop.run(read(engine, ask(adapter="other")))
