"""How pairs and bulk generation gain from more workers, and what a store that is far away costs them.

    python benchmarks/scaling.py [--workers 1 2 4] [--posts 500] [--prompts 24] [--repeats 3] [--json]

Each run is a cluster of its own in a new process that is pinned to as many cores as it has workers, as far as there are so
many; Ray's start is not in its time. Pairs have one logical CPU more than workers, for the reader, which mostly waits.
Replies are written by the embedded model, one thread an actor. `efficiency` is the time with one worker, over the time with
n times the cores that n workers got: above two workers on a machine of two cores it says what crowding costs, not what
a larger machine would bring. "far": the same store behind a way of so many milliseconds in each direction.
Figures are medians; the runs of a repeat take turns.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import free_port, print_rows
from common.store import far_away, s3_store
from generate import made_up_posts, publish_held_out

from llumi.config import Config, RayConfig, StorageConfig, load_config
from llumi.corpus.sample import write_sample
from llumi.models import ensure_base
from llumi.storage import Storage, delete_tree

FAR_MILLISECONDS = 20


def run(work: str, config: Config, workers: int) -> float:
    """Seconds of one run, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (work, config, workers))


def measure(work: str, config: Config, workers: int) -> float:
    """Called in a new process, before Ray is: its cores are inherited by all that it starts."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    from llumi.generate.run import generate
    from llumi.pairs.build import build_pairs
    from llumi.ray_session import ray_session

    with ray_session(RayConfig(num_cpus=workers + (work == "pairs"))):
        began = time.perf_counter()
        if work == "pairs":
            build_pairs(config.model_copy(update={"pairs": config.pairs.model_copy(update={"name": "trial"})}))
        else:
            generate(config, "gm", "base")
        return time.perf_counter() - began


def measured(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, object]]:
    """A row for each work, number of workers and distance."""
    os.environ["LLUMI_PRIVACY_KEY"] = "a long key for the trial"
    write_sample(folder / "corpus", args.posts)
    port = free_port()
    seconds: dict[tuple[str, str, int], list[float]] = {}
    with s3_store(folder, port) as near, far_away(port, FAR_MILLISECONDS) as far_port:
        far = near.model_copy(update={"endpoint_url": f"http://127.0.0.1:{far_port}"})
        publish_held_out(Storage.open(near), made_up_posts(args.prompts))
        ensure_base(config_of(near, folder, 1), Storage.open(near))
        for _ in range(args.repeats):
            for work in ("pairs", "generate"):
                for workers in args.workers:
                    for distance, storage in {"near": near, "far": far}.items():
                        config = config_of(storage, folder, workers)
                        took = run(work, config, workers)
                        print(f"{work}, {distance}, {workers}: {took:.1f} s", file=sys.stderr, flush=True)
                        seconds.setdefault((work, distance, workers), []).append(took)
                        forget(Storage.open(near))
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    rows: dict[str, dict[str, object]] = {}
    for (work, distance, workers), value in medians.items():
        cores = min(workers, os.cpu_count() or 1)
        gain = medians[work, distance, args.workers[0]] / value
        rows[f"{work}, {distance}, {workers}"] = {
            "seconds": value, "cores": cores, "gain": gain, "efficiency": gain / cores,
            "far_over_near": value / medians[work, "near", workers],
        }  # fmt: skip
    return rows


def config_of(storage: StorageConfig, folder: Path, workers: int) -> Config:
    """As many actors as workers, and small batches."""
    settings = [f"corpus.uri={folder / 'corpus'}", "pairs.num_buckets=16", f"pairs.revisions.num_actors={workers}"]
    settings += [f"generate.num_actors={workers}", "generate.max_new_tokens=16", "generate.engine.max_batch_size=8"]
    return load_config(None, settings).model_copy(update={"storage": storage})


def forget(storage: Storage) -> None:
    """So that the next run does the same work."""
    for artifact in ("pairs/trial", "generations/gm-base"):
        delete_tree(storage.filesystem, storage.path(artifact))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--posts", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llumi-") as folder:
        print_rows(measured(args, Path(folder)), as_json=args.json)


if __name__ == "__main__":
    main()
