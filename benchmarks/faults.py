"""What dies in the middle of work on a cluster, and what that costs: is the result the same, how much longer did it take?

    python benchmarks/faults.py [--only pairs train generate serve head users] [--faults killed store link disk] [--json]

A head, two workers, an S3 store and a laptop, each in a network namespace of its own (common/nodes.py), so root is needed.
Each job is run undisturbed first; then again, from the same inputs, for each of

- "killed": a worker node is powered off (kill -9 of all of it) and stays away;
- "store": the store is killed, and is back after 30 s;
- "link": the cable of a worker node is pulled, and put back after 20 s;
- "disk": the disk of a worker node is full, until the job is done.

`same` says that the artifact is the same: files byte for byte, or of a model all weights to five places. `longer_seconds` is
against the undisturbed run: the time to notice, the work that was repeated, and on two cores much noise. `submissions` above
1 means that the job ended with an error and was submitted again, as its line says. "serve": eight clients ask all the while.
"head": it is killed in training, which ends the job; then cluster and job are started again. "users": two of them run the
whole line at the same time on one cluster, against one alone.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from common import print_rows, side_by_side
from common.hosts import NoNamespacesError
from common.nodes import Nodes, Run, three_nodes
from common.store import BUCKET
from common.tiny import write_tiny_model
from safetensors.numpy import load

from llumi.config import load_config
from llumi.corpus.sample import write_sample
from llumi.models import ensure_base
from llumi.serve.keys import KeyStore
from llumi.storage import Storage, delete_tree

STORE_AWAY_SECONDS = 30
LINK_CUT_SECONDS = 20
PORT = 8000
CLIENTS = 8
SETTLE_SECONDS = 15
SETTINGS = f"""
corpus: {{uri: s3://{BUCKET}/dumps}}
pairs: {{num_buckets: 6}}
train:
  base: BASE
  max_length: 1000
  checkpoint_steps: 20
  sft: {{max_steps: 120}}
  dpo1: {{max_steps: 4}}
generate:
  num_actors: 2
  max_new_tokens: 16
  engine: {{kind: echo, echo_seconds_per_token: 0.3, max_batch_size: 2}}
evaluate: {{num_bootstrap: 200}}
serve:
  host: 0.0.0.0
  port: {PORT}
  engine: {{kind: echo, num_cpus: 0.3, echo_seconds_per_token: 0.02}}
  gm: {{min_replicas: 2, max_replicas: 2}}
"""
DRAFT = {"post": "We walked along the river, and then we had tea. ", "max_new_tokens": 10}

Row = dict[str, object]
Fault = Callable[[Nodes], Row]


@dataclass(frozen=True)
class Work:
    """A job, the artifact that it makes, and when it is in the middle of it."""

    command: tuple[str, ...]
    artifact: str
    in_the_middle: Callable[[Run, Storage], None]


def _after(pattern: str, pause: float = 0) -> Callable[[Run, Storage], None]:
    def wait(run: Run, storage: Storage) -> None:
        run.wait_for(pattern)
        time.sleep(pause)

    return wait


def _first_checkpoint(run: Run, storage: Storage) -> None:
    while not any(info.is_file and f"step-{20:08d}" in info.path for info in _below(storage, "checkpoints/gm-sft")):
        if run.ended:
            raise RuntimeError(f"it ended before its first checkpoint:\n{run.log[-3000:]}")
        time.sleep(0.5)


WORKS = {
    "pairs": Work(("build_pairs",), "pairs/default", _after("pair replies: ", 5)),
    "train": Work(("train", "gm", "sft"), "models/gm-sft", _first_checkpoint),
    "generate": Work(("generate", "gm", "base"), "generations/gm-base", _after(r"generations/gm-base: [0-9]", 12)),
}


def killed(nodes: Nodes) -> Row:
    """A worker node goes, and stays away until the job is done."""
    return {"noticed_seconds": nodes.kill_worker(nodes.workers[0])}


def store(nodes: Nodes) -> Row:
    """The store goes, and comes back with what it held."""
    nodes.store.kill()
    time.sleep(STORE_AWAY_SECONDS)
    nodes.start_store()
    return {}


def link(nodes: Nodes) -> Row:
    """A worker node cannot be reached for a while."""
    nodes.workers[0].cut()
    time.sleep(LINK_CUT_SECONDS)
    nodes.workers[0].heal()
    return {"counted_as_dead": nodes.workers[0].address not in nodes.alive()}


def disk(nodes: Nodes) -> Row:
    """The disk of a worker node takes nothing more until the job is done: no log, no block that is spilled."""
    nodes.fill_disk(nodes.workers[0])
    return {}


FAULTS: dict[str, Fault] = {"killed": killed, "store": store, "link": link, "disk": disk}


def disturbed(nodes: Nodes, name: str, faults: Sequence[str] = tuple(FAULTS)) -> dict[str, Row]:
    """A job undisturbed, and then with each fault."""
    work, storage = WORKS[name], Storage.open(nodes.storage)
    run = nodes.submit(*work.command)
    require(run)
    expected, alone = contents(storage, work.artifact), run.seconds
    rows: dict[str, Row] = {f"{name}, undisturbed": {"seconds": alone, "nodes": len(nodes.alive())}}
    for fault in faults:
        delete_tree(storage.filesystem, storage.path(work.artifact))
        began, submissions = time.monotonic(), 1
        run = nodes.submit(*work.command)
        work.in_the_middle(run, storage)
        figures = FAULTS[fault](nodes)
        while run.wait() and submissions < 3:
            print(_last_line(run), file=sys.stderr)
            submissions += 1
            run = nodes.submit(*work.command)
        require(run)
        seconds = time.monotonic() - began
        figures |= {"seconds": seconds, "longer_seconds": seconds - alone, "submissions": submissions}
        rows[f"{name}, {fault}"] = figures | {"same": same(expected, contents(storage, work.artifact))}
        print(f"{name}, {fault}: {rows[f'{name}, {fault}']}", file=sys.stderr, flush=True)
        bring_back(nodes)
    return rows


def serving(nodes: Nodes, faults: Sequence[str] = tuple(FAULTS)) -> dict[str, Row]:
    """Clients ask while nodes, store and link go."""
    _, secret = KeyStore(Storage.open(nodes.storage)).create("trial", ["gm", "im"])
    run = nodes.submit("serve")
    run.wait_for("serving", 300)
    rows = {}
    for fault in (None, *faults):
        with asked(f"http://{nodes.head.address}:{PORT}", secret) as outcomes:
            time.sleep(SETTLE_SECONDS)
            figures = FAULTS[fault](nodes) if fault else {}
            time.sleep(2 * SETTLE_SECONDS)
        rows[f"serve, {fault or 'undisturbed'}"] = figures | outcomes.figures()
        bring_back(nodes)
    nodes.stop(run)
    return rows


class Outcomes:
    """What came, by status, and the longest time in which no client was answered."""

    def __init__(self) -> None:
        self._lock, self._last, self._gap = threading.Lock(), time.monotonic(), 0.0
        self._by_status: Counter[str] = Counter()

    def add(self, status: str) -> None:
        """One request more."""
        with self._lock:
            self._by_status[status] += 1
            if status == "200":
                self._gap = max(self._gap, time.monotonic() - self._last)
                self._last = time.monotonic()

    def figures(self) -> Row:
        """For the table."""
        requests = self._by_status.total()
        failed = requests - self._by_status["200"]
        return {"requests": requests, "failed": failed, "no_answer_seconds": self._gap, "by_status": dict(self._by_status)}


@contextmanager
def asked(url: str, secret: str) -> Iterator[Outcomes]:
    """Clients that ask until the block ends."""
    outcomes = Outcomes()

    def ask(ended: threading.Event) -> None:
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx.Client(base_url=url, headers=headers, timeout=130, trust_env=False) as client:
            while not ended.is_set():
                try:
                    outcomes.add(str(client.post("/v1/draft", json=DRAFT).status_code))
                except httpx.HTTPError as error:
                    outcomes.add(type(error).__name__)

    with side_by_side(CLIENTS, ask):
        yield outcomes


def head_killed(nodes: Nodes) -> dict[str, Row]:
    """The head goes in the middle of training. All jobs end with it; nothing that was written is lost."""
    work, storage = WORKS["train"], Storage.open(nodes.storage)
    run = nodes.submit(*work.command)
    require(run)
    expected, alone = contents(storage, work.artifact), run.seconds
    delete_tree(storage.filesystem, storage.path(work.artifact))
    began = time.monotonic()
    run = nodes.submit(*work.command)
    work.in_the_middle(run, storage)
    killed_at = time.monotonic()
    nodes.head.kill()
    verdict = run.wait()
    told = time.monotonic() - killed_at
    assert verdict, "a job cannot outlive its head"
    for worker in nodes.workers:
        worker.kill()
    nodes.start_head()
    for worker in nodes.workers:
        nodes.start_worker(worker)
    up = time.monotonic() - killed_at
    again = nodes.submit(*work.command)
    require(again)
    seconds = time.monotonic() - began
    row: Row = {"told_seconds": told, "up_again_seconds": up, "seconds": seconds, "longer_seconds": seconds - alone}
    row |= {"second_run_seconds": again.seconds, "same": same(expected, contents(storage, work.artifact))}
    return {"train, undisturbed": {"seconds": alone}, "train, head killed": row}


def two_users(nodes: Nodes) -> dict[str, Row]:
    """Each has a prefix of the store; the second's corpus is the first's."""

    def pipeline(user: str) -> Run:
        return nodes.submit("pipeline", "--set", f"storage.uri=s3://{BUCKET}/{user}", "--set", "train.sft.max_steps=20")

    alone = pipeline("alone")
    require(alone)
    both = [pipeline(user) for user in ("first", "second")]
    for run in both:
        require(run)
    stores = [
        Storage.open(nodes.storage.model_copy(update={"uri": f"s3://{BUCKET}/{user}"})) for user in ("alone", "first", "second")
    ]
    artifacts = ("pairs/default", "models/gm-sft", "models/im-dpo1", "generations/gm-dpo1")
    expected = [contents(stores[0], artifact) for artifact in artifacts]
    equal = all(same(expected[at], contents(one, artifact)) for one in stores[1:] for at, artifact in enumerate(artifacts))
    times = [run.seconds for run in both]
    row: Row = {"alone_seconds": alone.seconds, "first_seconds": times[0], "second_seconds": times[1]}
    return {"two users": row | {"longer_of_both": max(times) / alone.seconds, "apart": max(times) / min(times), "same": equal}}


def contents(storage: Storage, artifact: str) -> dict[str, object]:
    """Hashes of the files of an artifact; of a model its weights."""
    manifest = storage.manifest(artifact)
    if manifest.kind != "models":
        return {entry.path: entry.sha256 for entry in manifest.files if entry.path.endswith(".parquet")}
    weights: dict[str, object] = {}
    for entry in manifest.files:
        if entry.path.endswith(".safetensors"):
            weights |= {f"{entry.path}/{name}": each for name, each in load(storage.read(f"{artifact}/{entry.path}")).items()}
    return weights


def same(expected: dict[str, object], found: dict[str, object]) -> bool:
    """Whether nothing is lost, nothing double, and nothing else."""
    return bool(expected) and expected.keys() == found.keys() and all(_alike(expected[name], found[name]) for name in expected)


def _alike(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(np.allclose(one, other, rtol=0, atol=1e-5))
    return one == other


def bring_back(nodes: Nodes) -> None:
    """Start again what a fault took."""
    for worker in nodes.workers:
        nodes.free_disk(worker)
        if worker.address not in nodes.alive():
            worker.kill()
            nodes.start_worker(worker)


def require(run: Run) -> None:
    """Raise RuntimeError with the end of the log where the job failed."""
    if run.wait():
        raise RuntimeError(f"the job failed:\n{run.log[-3000:]}")


def _last_line(run: Run) -> str:
    errors = [line.strip() for line in run.lines if line.startswith("error")]
    return errors[-1] if errors else "".join(run.lines[-3:])


def _below(storage: Storage, folder: str) -> list:
    from pyarrow.fs import FileSelector

    return storage.filesystem.get_file_info(FileSelector(storage.path(folder), recursive=True, allow_not_found=True))


def put_sample(nodes: Nodes, num_posts: int) -> None:
    """Made-up dumps, in the store."""
    filesystem = Storage.open(nodes.storage).filesystem
    with tempfile.TemporaryDirectory() as folder:
        write_sample(Path(folder), num_posts)
        for file in Path(folder).iterdir():
            with filesystem.open_output_stream(f"{BUCKET}/dumps/{file.name}", compression=None) as stream:
                stream.write(file.read_bytes())


@contextmanager
def trial_cluster(num_posts: int = 200) -> Iterator[Nodes]:
    """Three nodes with a corpus in their store, and a base that is small enough."""
    with tempfile.TemporaryDirectory(prefix="llumi-") as base:
        write_tiny_model(Path(base))
        with three_nodes(SETTINGS.replace("BASE", base)) as nodes:
            put_sample(nodes, num_posts)
            ensure_base(load_config(nodes.config_file), Storage.open(nodes.storage))
            yield nodes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = [*WORKS, "serve", "head", "users"]
    parser.add_argument("--only", nargs="*", choices=parts, default=parts)
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=[*FAULTS])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, Row] = {}
    try:
        with trial_cluster() as nodes:
            if "pairs" not in arguments.only:
                require(nodes.submit("build_pairs"))
            for part in arguments.only:
                if part in WORKS:
                    figures |= disturbed(nodes, part, arguments.faults)
                elif part == "serve":
                    figures |= serving(nodes, arguments.faults)
                else:
                    figures |= {"head": head_killed, "users": two_users}[part](nodes)
    except NoNamespacesError as error:
        print(f"left out: {error}")
        return
    print_rows(figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
