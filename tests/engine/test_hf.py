"""The embedded engine: exact sampling, whole characters, one line for what is wrong."""

import asyncio
import json
import math
import shutil
from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from llumi.config import EngineConfig  # noqa: E402
from llumi.engine import Delta, Request, Sampling  # noqa: E402
from llumi.engine.hf import HfEngine, take_group  # noqa: E402
from llumi.engine.hf_batch import Batch  # noqa: E402
from llumi.engine.hf_load import LoadedModel  # noqa: E402
from llumi.engine.hf_row import Row, TextStream  # noqa: E402
from llumi.engine.hf_sampling import draw, nucleus  # noqa: E402
from llumi.errors import EngineError, ModelError, PromptRefusedError  # noqa: E402
from llumi.prompts import gm_prompt  # noqa: E402
from tests.adapters import merged_reply, write_adapter  # noqa: E402

RANKS = {"warm": 4, "plain": 12}


def row(prompt: list[int] | None = None, **sampling: float) -> Row:
    return Row(prompt or [5, 6, 7], Sampling(**sampling), lambda _: None)  # type: ignore[arg-type]


class Reply(Row):
    """A row that keeps its tokens."""

    def __init__(self, prompt: list[int], **sampling: float) -> None:
        self.tokens: list[int] = []
        super().__init__(prompt, Sampling(**sampling), lambda _: None)  # type: ignore[arg-type]

    def push(self, token: int, stop_tokens: Collection[int]) -> None:
        """Note it."""
        if not self.finished:
            self.tokens.append(token)
        super().push(token, stop_tokens)


async def answer(engine: HfEngine, request: Request) -> str:
    return "".join([delta.text async for delta in engine.generate(request)])


async def begun(engine: HfEngine) -> tuple[AsyncGenerator[Delta, None], Row]:
    """A reply that takes long, and its row: with the second piece it is in the batch."""
    running = engine.generate(ask(max_new_tokens=900, temperature=0))
    for _ in range(2):
        await anext(running)
    assert engine._batch is not None
    return running, engine._batch.rows[0]


def ask(text: str = "I feel lonely.", **sampling: float) -> Request:
    return Request(tuple(gm_prompt(text)), Sampling(**({"max_new_tokens": 12} | sampling)))  # type: ignore[arg-type]


def test_greedy_agrees_with_plain_transformers(tiny_model: Path):
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    request = ask(temperature=0, max_new_tokens=20)
    text = tokenizer.apply_chat_template(list(request.messages), add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    plain = model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1] :]

    async def ours() -> str:
        engine = HfEngine(EngineConfig(), tiny_model)
        try:
            return (await asyncio.gather(answer(engine, request), answer(engine, ask("A far longer neighbour. " * 9))))[0]
        finally:
            await engine.close()

    assert asyncio.run(ours()) == tokenizer.decode(plain, skip_special_tokens=True).rstrip("\ufffd")


def test_each_row_of_a_batch_is_answered_as_by_the_model_with_its_adapter_merged(tiny_model: Path, tmp_path: Path):
    adapters = {name: write_adapter(tmp_path / name, tiny_model, seed=rank, rank=rank) for name, rank in RANKS.items()}
    posts = ("I feel lonely.", "A far longer post. " * 9)
    asked = [replace(ask(post, temperature=0), adapter=name) for post in posts for name in (None, *adapters)]

    async def together() -> list[str]:
        engine = HfEngine(EngineConfig(), tiny_model, adapters)
        try:
            return await asyncio.gather(*(answer(engine, request) for request in asked))
        finally:
            await engine.close()

    replies = asyncio.run(together())
    assert replies == [merged_reply(tiny_model, adapters.get(request.adapter or ""), request) for request in asked]
    assert len(set(replies)) == len(asked)


def test_sampling_follows_the_softmax_at_each_rows_temperature():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    rows = [row(temperature=0.5, top_p=1, seed=1), row(temperature=2.0, top_p=1, seed=2)]
    for each in rows:
        each.start(None, torch.device("cpu"))
    counts, draws = torch.zeros(2, 4), 4000
    for _ in range(draws):
        counts[torch.arange(2), draw(logits.repeat(2, 1), rows)] += 1
    for temperature, seen in zip((0.5, 2.0), counts / draws, strict=True):
        expected = (logits / temperature).softmax(-1)
        assert torch.allclose(seen, expected, atol=4 * math.sqrt(0.25 / draws))


@pytest.mark.parametrize("vocabulary", [8, 2000], ids=["within-the-likely-candidates", "beyond-them"])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(vocabulary: int):
    torch.manual_seed(1)
    logits = torch.randn(3, vocabulary) * 0.1  # flat: the mass lies in many tokens
    top_p = torch.tensor([[0.5], [0.9], [1.0]])
    kept = nucleus(logits, top_p).isfinite()
    mass = logits.softmax(-1)
    for probabilities, mask, p in zip(mass, kept, top_p[:, 0], strict=True):
        assert probabilities[mask].sum() >= p - 1e-4
        assert probabilities[mask].sum() - probabilities[mask].min() < p
        assert mask.all() or probabilities[mask].min() >= probabilities[~mask].max()


def test_greedy_rows_are_left_alone_beside_sampled_ones():
    logits = torch.randn(2, 50)
    rows = [row(temperature=0), row(temperature=1.0)]
    for each in rows:
        each.start(None, torch.device("cpu"))
    assert draw(logits.clone(), rows)[0] == logits[0].argmax()


@pytest.mark.parametrize("window", [None, 8], ids=["all-columns", "sliding-window"])
def test_rows_that_join_and_leave_get_the_tokens_that_they_get_alone(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int | None
):
    monkeypatch.setattr("llumi.engine.hf_batch.ROOM", 4)  # so that buffers have to grow
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    if window:  # the same weights in the family that has such layers
        settings = json.loads((folder / "config.json").read_text())
        settings |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window}
        (folder / "config.json").write_text(json.dumps(settings))
    model = LoadedModel(EngineConfig(), folder, {})
    plain = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [[5 + (7 * i + start) % 200 for i in range(length)] for start, length in ((0, 9), (3, 40), (11, 4), (2, 70))]
    limits = [22, 5, 12, 8]
    replies = [Reply(prompt, temperature=0, max_new_tokens=limit) for prompt, limit in zip(prompts, limits, strict=True)]
    with torch.inference_mode():
        batch = Batch(model, replies[:1])
        for step in range(40):
            if step in (2, 4, 9):  # longer and shorter than what runs by then
                batch.join(Batch(model, [replies[{2: 1, 4: 2, 9: 3}[step]]]))
            batch.step()
            batch.leave()
            if not batch.rows:
                break
    for reply in replies:
        assert reply.finished
        ids = torch.tensor([reply.prompt])
        alone = plain.generate(ids, max_new_tokens=reply.sampling.max_new_tokens, do_sample=False)[0, ids.shape[1] :]
        assert reply.tokens == alone.tolist()


def test_columns_that_only_a_row_that_left_had_are_cut_off(tiny_model: Path):
    model = LoadedModel(EngineConfig(), tiny_model, {})
    long, short = Reply([5] * 90, temperature=0, max_new_tokens=400), Reply([6] * 10, temperature=0, max_new_tokens=400)
    with torch.inference_mode():
        batch = Batch(model, [long, short])
        long.cancel()
        batch.leave()
        batch.step()
    assert batch._mask.shape == (1, 11)
    assert batch._layers()[0].keys.shape[2] == 11


@pytest.mark.parametrize("text", ["Schöne Grüße 🌻 für dich", "夜は静かだね。", "👩‍👩‍👧 zusammen", "plain words only"])
def test_streamed_pieces_are_whole_characters_and_add_up(tiny_model: Path, text: str):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(text.split())
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_the_limit_cuts_off_is_left_out(tiny_model: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer("warm 🌻", add_special_tokens=False)["input_ids"]
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids[:-1]]
    assert ("".join(pieces) + stream.finish()).strip() == "warm"


def test_a_group_holds_the_row_that_waits_longest_and_those_nearest_in_length():
    waiting = [row([0] * length) for length in (10, 90, 11, 50, 9, 89)]
    assert [len(one.prompt) for one in take_group(waiting, 3, None)] == [10, 11, 9]
    assert [len(one.prompt) for one in take_group(waiting, 3, 200)] == [90, 89]
    assert [len(one.prompt) for one in take_group(waiting, 3, 20)] == [50]
    assert waiting == []


def test_nobody_joins_a_full_batch():
    waiting = [row()]
    assert take_group(waiting, 0, None) == []
    assert len(waiting) == 1


def test_a_request_that_comes_later_is_answered_while_an_earlier_one_runs(tiny_model: Path):
    async def scenario() -> tuple[str, bool]:
        engine = HfEngine(EngineConfig(max_batch_size=2), tiny_model)
        running, earlier = await begun(engine)
        later = await answer(engine, ask(max_new_tokens=3))
        still_runs = not earlier.finished
        await running.aclose()
        await engine.close()
        return later, still_runs

    later, still_runs = asyncio.run(scenario())
    assert later
    assert still_runs


def test_closing_ends_what_runs_and_what_waits(tiny_model: Path):
    async def scenario() -> list:
        engine = HfEngine(EngineConfig(max_batch_size=1), tiny_model)
        running = engine.generate(ask(max_new_tokens=900, temperature=0))
        assert isinstance(await anext(running), Delta)

        async def rest() -> None:
            async for _ in running:
                pass

        both = asyncio.gather(rest(), answer(engine, ask()), return_exceptions=True)
        await asyncio.sleep(0)
        await engine.close()
        return [*await both, *await asyncio.gather(answer(engine, ask()), return_exceptions=True)]

    ends = asyncio.run(scenario())
    assert [type(end) for end in ends] == [EngineError] * 3
    assert all("closed" in str(end) for end in ends)


def test_a_row_that_nobody_reads_gives_its_place_to_the_next(tiny_model: Path):
    async def scenario() -> int:
        engine = HfEngine(EngineConfig(max_batch_size=1), tiny_model)
        left, running = await begun(engine)
        await left.aclose()
        await answer(engine, ask())
        await engine.close()
        return running._num_tokens

    assert asyncio.run(scenario()) < 900


def test_what_fails_raises_and_those_that_run_and_come_go_on(tiny_model: Path):
    async def scenario() -> tuple:
        engine = HfEngine(EngineConfig(), tiny_model)
        running = engine.generate(ask(max_new_tokens=60, temperature=0))
        first = await anext(running)
        bad = await asyncio.gather(answer(engine, ask(temperature=1.0, seed=2**70)), return_exceptions=True)
        rest = [delta async for delta in running]
        good = await answer(engine, ask(max_new_tokens=3))
        await engine.close()
        return bad[0], [first, *rest], good

    failed, deltas, good = asyncio.run(scenario())
    assert isinstance(failed, EngineError)
    assert deltas[-1].finish_reason
    assert good


def test_a_template_that_refuses_the_turns_is_named_without_their_text(tiny_model: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "strict"))
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no ' + messages[0]['content']) }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusing)

    async def scenario() -> None:
        engine = HfEngine(EngineConfig(), folder)
        messages = ({"role": "system", "content": "lantern"}, *gm_prompt("lantern"))
        try:
            await answer(engine, Request(messages, Sampling()))
        finally:
            await engine.close()

    with pytest.raises(PromptRefusedError, match="system, user") as refusal:
        asyncio.run(scenario())
    assert "lantern" not in str(refusal.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"not weights"), "cannot load it"),
    ],
    ids=["no-tokenizer", "broken-weights"],
)
def test_a_folder_that_is_no_model_is_one_line(tiny_model: Path, tmp_path: Path, damage, message: str):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "damaged"))
    damage(folder)
    with pytest.raises(ModelError, match=message) as problem:
        HfEngine(EngineConfig(), folder)
    assert "\n" not in str(problem.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_gpu_that_is_not_there_is_named(tiny_model: Path):
    with pytest.raises(EngineError, match=r"engine\.num_gpus"):
        HfEngine(EngineConfig(num_gpus=1), tiny_model)
