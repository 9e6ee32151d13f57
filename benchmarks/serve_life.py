"""What a running service loses while it changes, and what it keeps of memory: over the `echo` engine, on loopback.

    python benchmarks/serve_life.py [--soak 1] [--clients 8] [--json]

One service, whose words take 10 ms each, is asked without a pause by clients that do not come again after an error; every
answer is counted by its status, and what did not come at all as "no answer".

"rolling update": a deploy of another model, and its rollback. "canary": the share of a canary of weight 0.1, with the
bounds that 99.9% of fair draws keep. "killed": of two replicas one is killed -9 while streams and whole answers are
written; "seconds to recovery" end when Serve runs two again. "scale": replicas from 1 to 3 and back, by load.

"soak": for so many minutes drafts, revisions, chats, streams, bodies that are wrong and clients that leave in the middle;
the resident memory of router and replicas is read every few seconds. The slope is that of a straight line through the
medians of twelve stretches behind a warm-up of a fifth of the time, its 95% interval from their scatter. Whatever is
answered otherwise than it must be is "unexplained".
"""

import argparse
import contextlib
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
import ray
from common import free_port, print_rows, side_by_side

from llumi.config import Config, load_config
from llumi.ray_session import ray_session
from llumi.serve import rollout
from llumi.serve.app import Serving, serve, stop_serving

WORDS = 20
SENTENCE = "We walked along the river, and then we had tea. "
DRAFT = {"post": SENTENCE * 2, "max_new_tokens": WORDS}
LONG = {"post": SENTENCE * 20, "max_new_tokens": 200, "stream": True}
MESSAGES = [{"role": "user", "content": SENTENCE * 2}]
WEIGHT = 0.1
CANARY_REQUESTS = 1000
STREAMS = 8
PATIENCE_SECONDS = 120
STRETCHES = 12
STUDENT_95 = 2.228
"""Of Student's t with STRETCHES - 2 degrees of freedom, two-sided."""

BOUND_999 = 3.29
WARM_UP = 0.2
Figures = dict[str, float | int | dict[str, int]]


class Life:
    """A service, its config, and those who ask it."""

    def __init__(self, store: str, clients: int) -> None:
        self.clients = clients
        self._fixed = [f"storage.uri={store}", f"serve.port={free_port()}", "serve.engine.kind=echo"]
        self._fixed += ["serve.engine.echo_seconds_per_token=0.01", "serve.gm.max_queued=1000", "serve.im.max_queued=1000"]
        self.serving: Serving = serve(self.config())

    def config(self, *overrides: str) -> Config:
        """The service's config with changes."""
        return load_config(None, [*self._fixed, *overrides])

    def client(self) -> httpx.Client:
        """With the key of the service."""
        key = {"Authorization": f"Bearer {self.serving.secret}"}
        return httpx.Client(base_url=self.serving.url, headers=key, timeout=PATIENCE_SECONDS, trust_env=False)

    @contextlib.contextmanager
    def load(self, clients: int | None = None) -> Iterator[Counter[str]]:
        """Clients that ask until the block ends; what came, by status."""
        outcomes = Counter[str]()

        def ask(ended: threading.Event) -> None:
            with self.client() as client:
                while not ended.is_set():
                    outcomes[_outcome(lambda: client.post("/v1/draft", json=DRAFT))] += 1

        with side_by_side(clients or self.clients, ask):
            yield outcomes


def update(life: Life) -> Figures:
    """A deploy and its rollback."""
    with life.load() as outcomes:
        began = time.perf_counter()
        rollout.deploy(life.config("serve.gm.model=second", "serve.im.model=second"))
        deployed = time.perf_counter()
        rollout.rollback()
        ended = time.perf_counter()
    return {"deploy_seconds": deployed - began, "rollback_seconds": ended - deployed} | _counted(outcomes)


def canary(life: Life) -> Figures:
    """The share that a canary gets."""
    rollout.deploy(life.config(f"serve.gm.canary={{model: second, weight: {WEIGHT}}}"))
    with life.client() as client:
        short = {**DRAFT, "max_new_tokens": 1}
        models = Counter(client.post("/v1/draft", json=short).json()["model"] for _ in range(CANARY_REQUESTS))
    rollout.rollback()
    bound = BOUND_999 * (WEIGHT * (1 - WEIGHT) / CANARY_REQUESTS) ** 0.5
    share = models["second@0"] / CANARY_REQUESTS
    return {"weight": WEIGHT, "requests": CANARY_REQUESTS, "share": share, "low": WEIGHT - bound, "high": WEIGHT + bound}


def killed(life: Life) -> Figures:
    """A replica of two ends with kill -9."""
    table = rollout.deploy(life.config("serve.gm.min_replicas=2", "serve.gm.max_replicas=2"))
    name = table.roles["gm"].stable.name
    _wait_until(lambda: len(replicas("gm-")) == 2 == _running(life))  # none is left that only finishes
    ends = Counter[str]()

    def read() -> None:
        with life.client() as client, client.stream("POST", "/v1/draft", json=LONG) as answer:
            *_, last = [line for line in answer.iter_lines() if line]
            ends["whole" if last == "data: [DONE]" else "error event" if '"error"' in last else "cut off"] += 1

    readers = [threading.Thread(target=read) for _ in range(STREAMS)]
    with life.load() as outcomes:
        for reader in readers:
            reader.start()
        time.sleep(1)
        lost = replicas(name)[0]
        os.kill(pid_of(lost), signal.SIGKILL)
        began = time.perf_counter()
        _wait_until(lambda: lost not in replicas(name) and _running(life) == 2)
        recovered = time.perf_counter() - began
        for reader in readers:
            reader.join()
    rollout.rollback()
    return {"seconds_to_recovery": recovered, "streams": dict(ends)} | _counted(outcomes)


def scale(life: Life) -> Figures:
    """From one replica to three, and back."""
    keys = ["serve.gm.max_replicas=3", "serve.gm.target_ongoing_requests=2"]
    keys += ["serve.gm.upscale_seconds=2", "serve.gm.downscale_seconds=5"]
    rollout.deploy(life.config(*keys))
    with life.load(1) as light:
        with life.load(max(life.clients, 8)) as heavy:
            began = time.perf_counter()
            _wait_until(lambda: _running(life) == 3)
            up = time.perf_counter() - began
        began = time.perf_counter()
        _wait_until(lambda: _running(life) == 1 and len(replicas("gm-")) == 1)
        down = time.perf_counter() - began
    rollout.rollback()
    return {"seconds_to_three": up, "seconds_to_one": down} | _counted(light + heavy)


def soak(life: Life, minutes: float) -> Figures:
    """Everything at once, for long; the slope of memory by process, and what was answered otherwise than it must be."""
    pids = {"router": pid_of(replicas("llumi#")[0])}
    pids |= {role: pid_of(replicas(f"{role}-")[0]) for role in ("gm", "im")}
    ended, outcomes, unexplained = threading.Event(), Counter[str](), Counter[str]()

    def ask(number: int) -> None:
        chooser = random.Random(number)
        with life.client() as client:
            while not ended.is_set():
                name = chooser.choice(list(KINDS))
                wrong = _outcome_of(KINDS[name], client)
                outcomes[name] += 1
                if wrong:
                    unexplained[f"{name}: {wrong}"] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(life.clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
    while (seconds := time.monotonic() - began) < 60 * minutes:
        for name, pid in pids.items():
            samples[name].append((seconds / 3600, _resident_mib(pid)))
        time.sleep(min(5, 60 * minutes / 200))
    ended.set()
    for thread in threads:
        thread.join()
    row: Figures = {"minutes": minutes, "requests": outcomes.total(), "by_kind": dict(outcomes)}
    row |= {"unexplained": unexplained.total(), "unexplained_kinds": dict(unexplained)}
    for name, points in samples.items():
        slope, half_width = _slope(points)
        row |= {f"{name}_mib": points[-1][1], f"{name}_mib_per_hour": slope, f"{name}_mib_per_hour_95": half_width}
    return row


def _whole(path: str, body: dict) -> Callable[[httpx.Client], str]:
    def ask(client: httpx.Client) -> str:
        answer = client.post(path, json=body)
        return "" if answer.status_code == httpx.codes.OK else str(answer.status_code)

    return ask


def _streamed(path: str, body: dict) -> Callable[[httpx.Client], str]:
    def ask(client: httpx.Client) -> str:
        with client.stream("POST", path, json={**body, "stream": True}) as answer:
            lines = [line for line in answer.iter_lines() if line]
        whole = answer.status_code == httpx.codes.OK and lines[-1:] == ["data: [DONE]"]
        return "" if whole else f"{answer.status_code}, cut off"

    return ask


def _wrong(client: httpx.Client) -> str:
    answer = client.post("/v1/draft", json={"post": ""})
    return "" if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY else str(answer.status_code)


def _without_key(client: httpx.Client) -> str:
    answer = client.post("/v1/draft", json=DRAFT, headers={"Authorization": "Bearer nobody"})
    return "" if answer.status_code == httpx.codes.UNAUTHORIZED else str(answer.status_code)


def _leaving(client: httpx.Client) -> str:
    with client.stream("POST", "/v1/draft", json=LONG) as answer:
        next(answer.iter_lines())
    return "" if answer.status_code == httpx.codes.OK else str(answer.status_code)


KINDS: dict[str, Callable[[httpx.Client], str]] = {
    "draft": _whole("/v1/draft", DRAFT),
    "improve": _whole("/v1/improve", {**DRAFT, "draft": "Call a friend."}),
    "chat": _whole("/v1/chat/completions", {"model": "llumi-gm", "messages": MESSAGES, "max_tokens": WORDS}),
    "stream": _streamed("/v1/draft", DRAFT),
    "chat stream": _streamed("/v1/chat/completions", {"model": "llumi-im", "messages": MESSAGES, "max_tokens": WORDS}),
    "wrong body": _wrong,
    "no key": _without_key,
    "leaves": _leaving,
}


def replicas(name: str) -> list[str]:
    """The actors of the deployments whose names begin so."""
    return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if f"::{name}" in actor["name"]]


def pid_of(actor: str) -> int:
    """The process of a replica."""
    handle = ray.get_actor(actor, namespace="serve")
    return int(ray.get(handle.__ray_call__.remote(lambda _: os.getpid())))


def _running(life: Life) -> int:
    """How many replicas of GM Serve says run."""
    table = rollout.Running.find().now.table
    return int(str(rollout.states(table)[table.roles["gm"].stable.name]["replicas"]))


def _outcome(ask: Callable[[], httpx.Response]) -> str:
    try:
        return str(ask().status_code)
    except httpx.HTTPError:
        return "no answer"


def _outcome_of(kind: Callable[[httpx.Client], str], client: httpx.Client) -> str:
    try:
        return kind(client)
    except httpx.HTTPError as error:
        return type(error).__name__


def _counted(outcomes: Counter[str]) -> Figures:
    good = outcomes["200"]
    return {"requests": outcomes.total(), "failed": outcomes.total() - good, "by_status": dict(outcomes)}


def _slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    """MiB an hour behind the warm-up, and half the width of its 95% interval."""
    steady = points[int(WARM_UP * len(points)) :]
    size = len(steady) / STRETCHES
    stretches = [steady[int(number * size) : int((number + 1) * size)] for number in range(STRETCHES)]
    hours = [statistics.fmean(hour for hour, _ in stretch) for stretch in stretches]
    mib = [statistics.median(value for _, value in stretch) for stretch in stretches]
    line = statistics.linear_regression(hours, mib)
    scatter = sum((value - line.intercept - line.slope * hour) ** 2 for hour, value in zip(hours, mib, strict=True))
    middle = statistics.fmean(hours)
    spread = sum((hour - middle) ** 2 for hour in hours)
    return line.slope, STUDENT_95 * (scatter / (STRETCHES - 2) / spread) ** 0.5


def _resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not come to pass within {PATIENCE_SECONDS} s")
        time.sleep(0.1)


def _rounded(row: Figures) -> Figures:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soak", type=float, default=1, metavar="MINUTES", help="how long the soak lasts")
    parser.add_argument("--clients", type=int, default=8, help="who asks at once")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        config = load_config(None, [f"storage.uri={store}"])
        with ray_session(config.ray.model_copy(update={"num_cpus": 8})):
            life = Life(store, arguments.clients)
            try:
                figures = {work.__name__: _rounded(work(life)) for work in (update, canary, killed, scale)}
                figures["soak"] = _rounded(soak(life, arguments.soak))
            finally:
                stop_serving()
    print_rows(figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
