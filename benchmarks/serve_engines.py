"""What the `hf` engine gains by answering requests together, and a service by holding both roles on one base.

    python benchmarks/serve_engines.py [--model FOLDER] [--clients 16] [--requests 32] [--repeats 3] [--json]

"together": tokens/s of one engine for the same requests, one by one, and by `--clients` who begin one after the other and
each ask again as soon as they are answered. Posts and replies are of different lengths.

"one base": the memory of the replicas of a whole service with `serve.shared_base`, against one in which GM and IM have a
model each. Both models are the base with LoRA of rank 16 in all linear layers, random but real, merged and as adapters;
both services must give the same answers, greedily.
"""

import argparse
import asyncio
import contextlib
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil
from common import free_port, print_rows

from llumi.adapters import ADAPTER_FOLDER
from llumi.config import EngineConfig, load_config
from llumi.engine import Engine, Request, Sampling, open_engine
from llumi.models import EMBEDDED, ensure_base, fetch_model
from llumi.prompts import ROLES, Role, gm_prompt
from llumi.ray_session import ray_session
from llumi.serve.app import serve, stop_serving
from llumi.storage import Storage

SENTENCE = "I moved to a new town and I feel lonely in the evenings."
STAGGER_SECONDS = 0.2
"""After which the next client begins."""

REPLICA = re.compile(r"ray::ServeReplica:(gm|im|shared)-")
POST = {"post": SENTENCE, "max_new_tokens": 24, "temperature": 0}


def requests_of(number: int) -> list[Request]:
    """Posts of one to five sentences, replies of up to 16, 32, 48 or 64 tokens."""
    return [
        Request(
            tuple(gm_prompt(f"Week {index}. " + " ".join([SENTENCE] * (1 + index % 5)))),
            Sampling(max_new_tokens=16 * (1 + index % 4), seed=index),
        )
        for index in range(number)
    ]


async def tokens_per_second(engine: Engine, requests: Sequence[Request], clients: int) -> float:
    """Of all replies together, from the first request to the last token."""
    left, tokens = iter(requests), 0

    async def one_client(number: int) -> None:
        nonlocal tokens
        await asyncio.sleep(number * STAGGER_SECONDS)
        for request in left:
            async for delta in engine.generate(request):
                tokens += delta.num_completion_tokens

    started = time.perf_counter()
    await asyncio.gather(*(one_client(number) for number in range(clients)))
    return tokens / (time.perf_counter() - started)


def compare_together(model: Path, clients: int, num_requests: int, repeats: int) -> dict[str, float]:
    """Tokens/s one by one and together, by turns."""
    requests = requests_of(num_requests)

    async def measure() -> list[tuple[float, float]]:
        engine = open_engine(EngineConfig(max_batch_size=clients), model)
        await tokens_per_second(engine, requests[:2], 1)
        rounds = [
            (await tokens_per_second(engine, requests, 1), await tokens_per_second(engine, requests, clients))
            for _ in range(repeats)
        ]
        await engine.close()
        return rounds

    rounds = asyncio.run(measure())
    alone, together = (statistics.median(each) for each in zip(*rounds, strict=True))
    ratio = statistics.median(together / alone for alone, together in rounds)
    return {"one_by_one_tokens_per_second": alone, "together_tokens_per_second": together, "ratio": ratio}


def publish_roles(storage: Storage, base: Path) -> None:
    """`models/gm-sft` and `models/im-sft`, as training would publish them, with random adapters in place of trained ones."""
    from peft import get_peft_model
    from torch import manual_seed, nn
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llumi.config import TrainConfig
    from llumi.train.adapter import save_adapter
    from llumi.train.settings import lora

    parent = storage.manifest("models/base").as_input()
    for seed, role in enumerate(ROLES):
        with tempfile.TemporaryDirectory() as scratch:
            manual_seed(seed)
            adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora(TrainConfig()))
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:  # A is random from the start
                    nn.init.normal_(weight, std=0.005)
            save_adapter(adapted, parent, base, Path(scratch))
            adapted.merge_and_unload(adapter_names=["default"]).save_pretrained(scratch)
            AutoTokenizer.from_pretrained(base).save_pretrained(scratch)
            draft = storage.begin("models", f"{role}-sft")
            draft.publish(draft.upload(Path(scratch)), fingerprint=role, config={}, inputs=[parent])


def serve_once(store: str, *overrides: str) -> tuple[int, dict[Role, str]]:
    """The resident bytes of all replicas once both roles answered, and the answers."""
    config = load_config(None, [f"storage.uri={store}", f"serve.port={free_port()}", *overrides])
    with ray_session(config.ray):
        serving = serve(config)
        key = {"Authorization": f"Bearer {serving.secret}"}
        with httpx.Client(base_url=serving.url, headers=key, trust_env=False, timeout=120) as client:
            drafted = client.post("/v1/draft", json=POST).raise_for_status().json()["reply"]
            revised = client.post("/v1/improve", json=POST | {"draft": SENTENCE}).raise_for_status().json()["revision"]
        resident = sum(process.memory_info().rss for process in replicas())
        stop_serving()
    return resident, {"gm": drafted, "im": revised}


def replicas() -> Iterator[psutil.Process]:
    """The processes of this service that hold a model."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if REPLICA.match(" ".join(process.cmdline())):
                yield process


def compare_memory(model: str) -> dict[str, float]:
    """Bytes of the replicas and of what they load, with a model each and on one base."""
    with tempfile.TemporaryDirectory() as store:
        config = load_config(None, [f"storage.uri={store}", f"train.base={model}"])
        storage = Storage.open(config.storage)
        ensure_base(config, storage)
        publish_roles(storage, fetch_model(storage, "base"))
        apart, answers = serve_once(store)
        shared, same = serve_once(store, "serve.shared_base=true")
        if same != answers:
            raise SystemExit("the shared base answers otherwise than the merged models")
        base = weights_of(storage, "base")
        on_base = base + sum(weights_of(storage, f"{role}-sft", f"{ADAPTER_FOLDER}/") for role in ROLES)
        merged = sum(weights_of(storage, f"{role}-sft") for role in ROLES)
    figures = {"two_models_mb": apart / 1e6, "shared_base_mb": shared / 1e6, "ratio": shared / apart}
    return figures | {
        "two_models_weights_mb": merged / 1e6,
        "shared_base_weights_mb": on_base / 1e6,
        "weights_ratio": on_base / merged,
    }


def weights_of(storage: Storage, model: str, folder: str = "") -> int:
    """The bytes of the weights that lie in a folder of a model."""
    files = {entry.path: entry.num_bytes for entry in storage.manifest(f"models/{model}").files}
    return sum(num for path, num in files.items() if re.fullmatch(rf"{folder}[^/]*\.safetensors", path))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help="a model folder")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--only", choices=("together", "one-base"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = {}
    if arguments.only != "one-base":
        with tempfile.TemporaryDirectory() as store:
            config = load_config(None, [f"storage.uri={store}", f"train.base={arguments.model}"])
            storage = Storage.open(config.storage)
            ensure_base(config, storage)
            model = fetch_model(storage, "base")
            figures["together"] = compare_together(model, arguments.clients, arguments.requests, arguments.repeats)
    if arguments.only != "together":
        figures["one base"] = compare_memory(arguments.model)
    figures = {name: {key: round(value, 3) for key, value in row.items()} for name, row in figures.items()}
    print_rows(figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
