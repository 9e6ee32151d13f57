"""Tokens/s of bulk generation, against a plain transformers loop: one prompt at a time, and in batches.

    python benchmarks/generate.py [--model FOLDER] [--posts 16] [--json]

All three answer the same made-up posts greedily with the same model (the embedded one unless told otherwise) on as many
threads, in one run; figures are medians. Bulk generation counts the start of its actor, as whoever waits for it does.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llumi.config import Config, load_config
from llumi.models import EMBEDDED, ensure_base, fetch_model
from llumi.prompts import gm_prompt
from llumi.ray_session import ray_session
from llumi.records import HELD_OUT_SCHEMA
from llumi.storage import Storage

BATCH = 16
LOOP_PROMPTS = 6
"""One prompt at a time is slow and steady: a few tell its speed."""


def made_up_posts(number: int) -> dict[str, str]:
    """Posts of different lengths."""
    sentence = "I moved to a new town and I feel lonely in the evenings."
    return {f"post-{index}": " ".join([sentence] * (1 + index % 5)) for index in range(number)}


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


def bulk_tokens_per_second(config: Config, repeats: int) -> float:
    """Of `llumi.generate.run.generate`, its actor's start included."""
    from llumi.generate.run import generate

    with ray_session(config.ray):
        return statistics.median(generate(config, "gm", "base").metrics["tokens_per_second"] for _ in range(repeats))


def compare(model: str, num_posts: int, max_new_tokens: int, repeats: int) -> dict[str, float]:
    """Tokens per second by way of generating."""
    posts = made_up_posts(num_posts)
    with tempfile.TemporaryDirectory() as store:
        overrides = [f"storage.uri={store}", f"train.base={model}", f"generate.max_new_tokens={max_new_tokens}"]
        config = load_config(None, [*overrides, "generate.temperature=0", f"generate.engine.max_batch_size={BATCH}"])
        storage = Storage.open(config.storage)
        ensure_base(config, storage)
        publish_held_out(storage, posts)
        bulk = bulk_tokens_per_second(config, repeats)
        plain = PlainTransformers(fetch_model(storage, "base"), int(config.generate.engine.num_cpus), max_new_tokens)
        texts = sorted(posts.values(), key=len)
        loop = statistics.median(plain.tokens_per_second([text]) for text in texts[:: max(1, num_posts // LOOP_PROMPTS)])
        batches = [texts[start : start + BATCH] for start in range(0, num_posts, BATCH)]
        batched = statistics.median(plain.tokens_per_second(batch) for batch in batches * repeats)
    return {name: round(value, 2) for name, value in (("one_at_a_time", loop), ("batched", batched), ("bulk", bulk))}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help="a model folder")
    parser.add_argument("--posts", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = compare(arguments.model, arguments.posts, arguments.max_new_tokens, arguments.repeats)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:16}{value:8.2f} tokens/s")


if __name__ == "__main__":
    main()
