"""What `llumi plan` predicts, against this machine: pairs at two sizes, and training steps of two models.

    python benchmarks/plan.py [--millions 0.5 2] [--only pairs scratch train]

Pairs: seconds, memory and scratch of `llumi pairs build`, each over its prediction for as many cores as there are here.
Scratch: what a piece of scratch costs to read, of which a build reads more than its corpus has lines once that is large; in a
folder, in an S3 store on loopback, and in the same store behind a way of 20 ms in each direction.
Training: a plan's hours are FLOPs over a share of what the hardware can do. That share is measured for two models of 12 and
40 million parameters, against products of large matrices on the same cores; and so is the ratio of their times, which a plan
takes to be that of their FLOPs. A GPU would be measured by `benchmarks/train.py --gpu`.
"""

import argparse
import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import corpus
import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import torch
import train as train_benchmark
from common import free_port
from common.store import far_away, s3_store

from llumi.capacity.figures import COMPRESSED, SCRATCH_PIECE, UTILISATION, Range
from llumi.capacity.gpus import GPUS
from llumi.capacity.inputs import Hardware, Question
from llumi.capacity.pairs import piece_seconds, plan_pairs
from llumi.capacity.shapes import MODELS
from llumi.config import RayConfig, StorageConfig, TrainConfig
from llumi.pairs.scratch import Exchange
from llumi.ray_session import ray_session
from llumi.storage import Storage, delete_tree
from llumi.train.throughput import ModelShape, flops_per_token

SHAPES = {
    "small": train_benchmark.SHAPES["small"],
    "medium": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 12},
}
VOCABULARY = 2000
LENGTH = 512
WORKERS = 2
LOCAL_READ_SECONDS = 2e-5
FAR_MILLISECONDS = 20
NUM_FILES, NUM_FAR_FILES, NUM_BUCKETS, BUCKETS_READ, ROWS_OF_A_CHUNK = 100, 48, 512, 8, 14_000


def main() -> None:
    """Print measured, predicted, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, nargs="+", default=[0.25, 1.0], help="Comments; 2 8 is the full measure.")
    parser.add_argument("--only", nargs="+", choices=["pairs", "scratch", "train"], default=["pairs", "scratch", "train"])
    options = parser.parse_args()
    if "pairs" in options.only:
        with tempfile.TemporaryDirectory(prefix="llumi-bench-") as name:
            for millions in options.millions:
                measure_pairs(Path(name), round(millions * 1e6))
    if "scratch" in options.only:
        with tempfile.TemporaryDirectory(prefix="llumi-bench-") as name:
            measure_distances(Path(name))
    if "train" in options.only:
        measure_training()


def measure_pairs(folder: Path, num_comments: int) -> None:
    """One build, as a whole process from nothing."""
    dumps = folder / f"dumps-{num_comments}"
    corpus.generate(dumps, num_comments, 0.0)
    compressed = sum(dump.stat().st_size for dump in dumps.iterdir())
    watched = Watched(folder / "store" / "scratch")
    with watched:
        seconds, mib = corpus.measured(corpus.llumi(folder, dumps))
    hardware = Hardware(GPUS["h100"], 1, 1, os.cpu_count() or 1, 1e9, 1e9, LOCAL_READ_SECONDS)
    plan = plan_pairs(Question(num_comments, 1.0, MODELS["135m"], TrainConfig(), hardware, 1))
    each = f"{compressed / num_comments:.0f} bytes each in the dumps (a plan reckons with {COMPRESSED.value.typical:g})"
    print(f"pairs build, {num_comments:,} comments, {each}")
    print(f"  load of the machine while it ran: {os.getloadavg()[0]:.1f}, on {os.cpu_count()} cores")
    _row("seconds", seconds, plan.seconds)
    _row("memory, GiB", mib / 1024, plan.memory_bytes * (1 / 2**30))
    _row("core seconds", watched.core_seconds, plan.seconds * hardware.cores)
    _row("scratch, MB", watched.scratch_bytes / 1e6, plan.scratch_bytes * 1e-6)


class Watched:
    """The most that lay in a folder, and the processor time of this process's descendants, however busy the machine is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scratch_bytes = folder, 0
        self._spent: dict[tuple[int, float], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def core_seconds(self) -> float:
        """User and system time of every process that was seen, up to the last look at it."""
        return sum(self._spent.values())

    def _watch(self) -> None:
        while not self._stop.wait(0.3):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._spent[process.pid, process.create_time()] = times.user + times.system
            sizes = 0
            for path, _, names in os.walk(self.folder):
                for name in names:
                    with contextlib.suppress(OSError):
                        sizes += (Path(path) / name).stat().st_size
            self.scratch_bytes = max(self.scratch_bytes, sizes)


def measure_distances(folder: Path) -> None:
    """Scratch in a folder, in a store that is near, and in one that is far."""
    port = free_port()
    measure_scratch(StorageConfig(uri=str(folder / "here")), NUM_FILES)
    with s3_store(folder, port) as near, far_away(port, FAR_MILLISECONDS) as far_port:
        measure_scratch(near, NUM_FILES)
        far = near.model_copy(update={"endpoint_url": f"http://127.0.0.1:{far_port}"})
        measure_scratch(far, NUM_FAR_FILES, 2 * FAR_MILLISECONDS / 1000)


def measure_scratch(config: StorageConfig, num_files: int, answer_seconds: float = 0) -> None:
    """The second pass of a build in small: buckets that have a piece in each of many files."""
    storage, chance = Storage.open(config), np.random.default_rng(0)
    schema = pa.schema([("post_id", pa.uint64()), ("body", pa.large_string()), ("score", pa.int64())])
    exchange = Exchange(storage, "scratch/bench", NUM_BUCKETS, schema)
    for number in range(num_files):
        ids = chance.integers(0, 2**60, ROWS_OF_A_CHUNK, dtype=np.uint64)
        rows = pl.DataFrame({"post_id": ids, "body": ["a gentle word or two"] * len(ids), "score": np.arange(len(ids))})
        exchange.add(exchange.write(f"{number:03}", rows, pl.Series(chance.integers(0, NUM_BUCKETS, len(ids)))))
    wall, cores = time.perf_counter(), time.process_time()
    for bucket in range(BUCKETS_READ):
        exchange.read(bucket)
    pieces = BUCKETS_READ * num_files
    each, core_each = ((now - then) / pieces for now, then in ((time.perf_counter(), wall), (time.process_time(), cores)))
    print(f"reading {pieces} pieces of scratch at {config.uri}, an answer takes {answer_seconds * 1e3:.0f} ms")
    if answer_seconds:  # this process is the way, too, so its core seconds say little
        _row("seconds, each", each, piece_seconds(answer_seconds))
    else:
        _row("core seconds, each", core_each, SCRATCH_PIECE.value)
    delete_tree(storage.filesystem, storage.path("scratch/bench"))


def measure_training() -> None:
    """SFT of the whole of two random models through `llumi train`."""
    peak = _matrix_flops()
    print(f"products of matrices, fp32, one thread: {peak / 1e9:.0f} GFLOP/s")
    seconds_per_token, flops = {}, {}
    for name, shape in SHAPES.items():
        options = argparse.Namespace(
            corpus=None, model=None, shape="small", gpu=False, pairs=64, batch=2, workers=WORKERS, zero=2, max_length=LENGTH
        )
        train_benchmark.SHAPES["small"] = shape
        with tempfile.TemporaryDirectory(prefix="llumi-bench-") as folder, ray_session(RayConfig(num_cpus=4)):
            bench = train_benchmark.Bench(options, Path(folder))
            run = bench.ours(name, bench.config("train.method=full", f"train.peak_tflops={peak / 1e12}"), "sft")
            tokens = bench.storage.list("models")[-1].metrics["tokens_per_second"]
        parameters = _parameters(shape)
        flops[name] = flops_per_token(ModelShape(parameters, 0, shape["num_hidden_layers"], shape["hidden_size"]), LENGTH / 2)
        seconds_per_token[name] = 1 / tokens
        print(f"SFT of {parameters / 1e6:.0f} million parameters, {tokens:.0f} tokens/s, {run.a_step:.2f} s a step")
        _row("share of the peak", tokens * flops[name] / (WORKERS * peak), UTILISATION.value)
    measured = seconds_per_token["medium"] / seconds_per_token["small"]
    print("time of a token, the larger over the smaller model")
    _row("ratio", measured, Range.exactly(flops["medium"] / flops["small"]))


def _parameters(shape: dict[str, int]) -> int:
    """Those that a token is multiplied with: all but the input embedding."""
    hidden, keys = shape["hidden_size"], 6 * shape["hidden_size"] // shape["num_attention_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * shape["intermediate_size"]
    return shape["num_hidden_layers"] * layer + VOCABULARY * hidden


def _matrix_flops(size: int = 2048, repeats: int = 8) -> float:
    torch.set_num_threads(1)
    one, other = torch.rand(size, size), torch.rand(size, size)
    one @ other
    started = time.process_time()
    for _ in range(repeats):
        one @ other
    return 2 * size**3 * repeats / (time.process_time() - started)


def _row(name: str, measured: float, predicted: Range) -> None:
    inside = "within" if predicted.low <= measured <= predicted.high else "outside"
    expected = f"{predicted.typical:8.3g} ({predicted.low:.3g} to {predicted.high:.3g})"
    ratio = f"ratio {measured / predicted.typical:.2f}, {inside}"
    print(f"  {name:20} measured {measured:8.3g}   predicted {expected}   {ratio}")


if __name__ == "__main__":
    main()
