"""The embedded engine: exact sampling, whole characters, one line for what is wrong."""

import asyncio
import math
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from llumi.config import EngineConfig  # noqa: E402
from llumi.engine import Delta, Request, Sampling  # noqa: E402
from llumi.engine.hf import HfEngine, take_batch  # noqa: E402
from llumi.engine.hf_batch import Row, RowSampler, TextStream, nucleus  # noqa: E402
from llumi.errors import EngineError, ModelError, PromptRefusedError  # noqa: E402
from llumi.prompts import gm_prompt  # noqa: E402


def row(prompt: list[int] | None = None, **sampling: float) -> Row:
    return Row(prompt or [1, 2, 3], Sampling(**sampling), lambda _: None)  # type: ignore[arg-type]


async def answer(engine: HfEngine, request: Request) -> str:
    return "".join([delta.text async for delta in engine.generate(request)])


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


def test_sampling_follows_the_softmax_at_each_rows_temperature():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    rows = [row(temperature=0.5, top_p=1, seed=1), row(temperature=2.0, top_p=1, seed=2)]
    sampler, draws = RowSampler(rows, torch.device("cpu")), 4000
    counts = torch.zeros(2, 4)
    for _ in range(draws):
        chosen = sampler(torch.zeros(2, 1), logits.repeat(2, 1)).argmax(-1)
        counts[torch.arange(2), chosen] += 1
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
    assert torch.equal(RowSampler(rows, torch.device("cpu"))(torch.zeros(2, 1), logits.clone())[0], logits[0])


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


def test_a_batch_holds_the_oldest_request_and_those_nearest_in_length():
    lengths = [10, 90, 11, 50, 9, 89]
    pending = [row([0] * length) for length in lengths]
    assert [len(one.prompt) for one in take_batch(pending, 3)] == [10, 11, 9]
    assert [len(one.prompt) for one in take_batch(pending, 3)] == [90, 89, 50]
    assert pending == []


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


def test_a_cancelled_row_ends_the_batch_that_nobody_reads(tiny_model: Path):
    async def scenario() -> int:
        engine = HfEngine(EngineConfig(max_batch_size=1), tiny_model)
        left = engine.generate(ask(max_new_tokens=900, temperature=0))
        await anext(left)
        [running] = engine._running
        await left.aclose()
        await answer(engine, ask())
        await engine.close()
        return running._num_tokens

    assert asyncio.run(scenario()) < 900


def test_a_failing_batch_raises_and_the_engine_goes_on(tiny_model: Path):
    async def scenario() -> tuple:
        engine = HfEngine(EngineConfig(), tiny_model)
        bad = await asyncio.gather(answer(engine, ask(temperature=1.0, seed=2**70)), return_exceptions=True)
        good = await answer(engine, ask(max_new_tokens=3))
        await engine.close()
        return bad[0], good

    failed, good = asyncio.run(scenario())
    assert isinstance(failed, EngineError)
    assert isinstance(good, str)


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
