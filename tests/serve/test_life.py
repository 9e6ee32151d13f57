"""What happens to requests while a service changes: canaries, deploys, rollbacks, lost replicas, more and fewer of them."""

import contextlib
import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import orjson
import pytest

pytest.importorskip("ray")

import ray
from common import side_by_side

from llumi.config import Config, load_config
from llumi.errors import ConfigError, EngineError, ServeError
from llumi.serve import rollout
from llumi.serve.app import serve, stop_serving
from llumi.serve.audit import log_files
from llumi.serve.running import Running, address_file, announced, changing
from llumi.storage import Storage
from tests.conftest import free_port

pytestmark = pytest.mark.ray

WORDS = 20
SENTENCE = "We walked along the river, and then we had tea. "
POST = {"post": SENTENCE * 2, "max_new_tokens": WORDS}
"""An answer takes 0.2 s, so that some are always being written."""

LONG = {"post": SENTENCE * 40, "max_new_tokens": 400, "stream": True}
CLIENTS = 4
CANARY_WEIGHT = 0.3
CANARY_REQUESTS = 200


class Live:
    """A service, the config that it was last given, and clients for it."""

    def __init__(self, folder: Path) -> None:
        self.overrides = [f"storage.uri={folder}", f"serve.port={free_port()}", "serve.engine.kind=echo"]
        self.overrides += ["safety.likeness=false"]  # else the router, not the replicas, is what so many clients wait for
        self.overrides += ["serve.engine.echo_seconds_per_token=0.01", "serve.max_new_tokens=400"]
        self.serving = serve(self.config())

    def config(self, *overrides: str) -> Config:
        return load_config(None, [*self.overrides, *overrides])

    def client(self) -> httpx.Client:
        key = {"Authorization": f"Bearer {self.serving.secret}"}
        return httpx.Client(base_url=self.serving.url, headers=key, timeout=60, trust_env=False)

    def model(self) -> str:
        with self.client() as client:
            return str(client.post("/v1/draft", json={**POST, "max_new_tokens": 1}).json()["model"])

    @contextlib.contextmanager
    def load(self, clients: int = CLIENTS, path: str = "/v1/draft") -> Iterator[list[httpx.Response]]:
        """Clients that ask again and again for as long as the block runs; their answers, each of which must have come."""
        answers, failures = list[httpx.Response](), list[Exception]()

        def ask(stopped: threading.Event) -> None:
            with self.client() as client:
                while not stopped.is_set():
                    try:
                        answers.append(client.post(path, json=POST))
                    except httpx.HTTPError as error:
                        failures.append(error)

        with side_by_side(clients, ask):
            yield answers
        assert failures == []


@pytest.fixture(scope="module")
def live(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    yield Live(tmp_path_factory.mktemp("store"))
    stop_serving()


def wait_until(condition: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


def replicas(name: str) -> list[str]:
    """The actors of the deployments whose names begin so."""
    return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if f"::{name}" in actor["name"]]


def kill(actor: str) -> None:
    """End the process of a replica as a crash would; asked itself, since other clusters may have processes of that name."""
    handle = ray.get_actor(actor, namespace="serve")
    os.kill(ray.get(handle.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)


def drafts_in_the_audit_log(live: Live) -> list[str]:
    """The version that answered each of them."""
    files = log_files(Path(Storage.open(live.config().storage).root) / "audit")
    lines = [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]
    return [line["model"] for line in lines if line["route"] == "/v1/draft"]


def test_a_deploy_under_load_loses_nothing_and_lets_streams_end_where_they_began(live: Live):
    router = replicas("llumi#")
    lines: list[str] = []

    def read() -> None:
        with live.client() as client, client.stream("POST", "/v1/draft", json=LONG) as answer:
            lines.extend(line.removeprefix("data: ") for line in answer.iter_lines() if line)

    reading = threading.Thread(target=read)
    with live.load() as answers:
        wait_until(lambda: len(answers) > 2 * CLIENTS)
        reading.start()
        table = rollout.deploy(live.config("serve.gm.model=gm-new", "serve.timeout_seconds=100"))
        wait_until(lambda: answers[-1].json()["model"] == "gm-new@0")
        before = len(answers)
        wait_until(lambda: len(answers) > before + 2 * CLIENTS)
    reading.join()
    assert {answer.status_code for answer in answers} == {200}
    models = [answer.json()["model"] for answer in answers]
    assert set(models) == {"echo@0", "gm-new@0"}
    assert set(models[before:]) == {"gm-new@0"}
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["usage"]["completion_tokens"] == 400
    assert replicas("llumi#") == router
    wait_until(lambda: len(replicas("gm-")) == 1)
    assert replicas(table.roles["gm"].stable.name)


def test_a_rollback_brings_back_what_served_before(live: Live):
    with live.load() as answers:
        rollout.rollback()
        wait_until(lambda: answers[-1].json()["model"] == "echo@0")
    assert {answer.status_code for answer in answers} == {200}
    with pytest.raises(ServeError, match="nothing served before"):
        rollout.rollback()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="needs an environment without vLLM")
def test_a_version_that_cannot_load_leaves_the_old_one_serving(live: Live):
    draft = Storage.open(live.config().storage).begin("models", "broken")
    names = ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")
    draft.publish([draft.write(name, b"{}") for name in names], fingerprint="", config={}, inputs=[])
    wanted = live.config("serve.gm.model=broken", "serve.im.model=broken", "serve.engine.kind=vllm")
    with live.load(1) as answers, pytest.raises(EngineError, match="pip install vllm") as problem:
        rollout.deploy(wanted)
    assert "\n" not in str(problem.value)
    assert {answer.json()["model"] for answer in answers} == {"echo@0"}
    assert len(Running.find().applied) == 1
    wait_until(lambda: len(replicas("gm-") + replicas("im-")) == 2)


def test_what_a_router_stands_on_is_refused_in_one_line(live: Live):
    with pytest.raises(ConfigError, match=r"^serve\.port: cannot change while the service runs"):
        rollout.deploy(live.config(f"serve.port={free_port()}"))
    with pytest.raises(ConfigError, match=r"^serve\.gm\.canary\.model: echo is the model beside it already"):
        rollout.deploy(live.config("serve.gm.canary={model: echo, weight: 0.5}"))


def test_two_deploys_at_once_are_refused_unless_the_first_one_died(live: Live):
    with changing(), pytest.raises(ServeError, match=r"^another deploy or rollback is under way; try again"):
        rollout.deploy(live.config())
    died = "import ray; ray.init(log_to_driver=False); from llumi.serve.running import changing; changing().__enter__()"
    kill_itself = "; import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    address = ray.get_runtime_context().gcs_address
    ended = subprocess.run([sys.executable, "-c", died + kill_itself], env=os.environ | {"RAY_ADDRESS": address}, check=False)
    assert ended.returncode == -signal.SIGKILL
    wait_until(_may_change)


def _may_change() -> bool:
    with contextlib.suppress(ServeError), changing():
        return True
    return False


def test_a_canary_answers_its_share_and_without_a_replica_nobody_notices(live: Live):
    table = rollout.deploy(live.config(f"serve.gm.canary={{model: gm-canary, weight: {CANARY_WEIGHT}}}"))
    canary = table.roles["gm"].canary.name
    short = {**POST, "max_new_tokens": 1}
    with live.client() as client:
        shown = client.get("/v1/models").json()["data"][0]
        assert (shown["version"], shown["canary"]) == ("echo@0", {"version": "gm-canary@0", "weight": CANARY_WEIGHT})
        models = Counter(client.post("/v1/draft", json=short).json()["model"] for _ in range(CANARY_REQUESTS))
        expected = CANARY_REQUESTS * CANARY_WEIGHT
        spread = (CANARY_REQUESTS * CANARY_WEIGHT * (1 - CANARY_WEIGHT)) ** 0.5
        assert models.total() == models["gm-canary@0"] + models["echo@0"]
        assert abs(models["gm-canary@0"] - expected) < 4.5 * spread
        wait_until(lambda: Counter(drafts_in_the_audit_log(live)[-CANARY_REQUESTS:]) == models)
        asked = {"model": "llumi-gm", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "stream": True}
        prints = Counter(
            json.loads(client.post("/v1/chat/completions", json=asked).text.split("\n\n")[0][6:])["system_fingerprint"]
            for _ in range(20)
        )
        assert set(prints) <= {"echo@0", "gm-canary@0"}
    with live.load() as answers:
        for actor in replicas(canary):
            kill(actor)
        wait_until(lambda: len(answers) > 20 * CLIENTS)
    assert {answer.status_code for answer in answers} == {200}
    rollout.rollback()


def test_a_killed_replica_ends_its_streams_with_an_error_and_nothing_else_fails(live: Live):
    table = rollout.deploy(live.config("serve.gm.min_replicas=2", "serve.gm.max_replicas=2"))
    name = table.roles["gm"].stable.name
    wait_until(lambda: len(replicas("gm-")) == len(replicas(name)) == 2)
    streams: list[list[str]] = []

    def read() -> None:
        with live.client() as client, client.stream("POST", "/v1/draft", json=LONG) as answer:
            assert answer.status_code == 200
            lines: list[str] = []
            streams.append(lines)
            lines += [line.removeprefix("data: ") for line in answer.iter_lines() if line]

    readers = [threading.Thread(target=read) for _ in range(8)]
    with live.load(8) as answers:
        wait_until(lambda: len(answers) > 16)
        for begun, reader in enumerate(readers, start=1):  # one after the other, so that both replicas get some
            reader.start()
            wait_until(lambda begun=begun: len(streams) == begun)
        kill(replicas("gm-")[0])
        for reader in readers:
            reader.join()
        wait_until(lambda: len(replicas("gm-")) == 2)
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}
    assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {WORDS}
    ends = Counter(lines[-1] == "[DONE]" for lines in streams)
    assert set(ends) == {True, False}  # each replica had some
    for lines in streams:
        if lines[-1] != "[DONE]":
            error = json.loads(lines[-1])["error"]
            assert (error["type"], error["code"]) == ("server_error", "unavailable")
    rollout.rollback()


def test_more_and_fewer_replicas_under_load_lose_nothing(live: Live):
    scaling = ["serve.gm.max_replicas=3", "serve.gm.target_ongoing_requests=2"]
    scaling += ["serve.gm.upscale_seconds=0", "serve.gm.downscale_seconds=0"]
    with live.load(1) as light:
        with live.load(9) as heavy:
            rollout.deploy(live.config(*scaling))
            wait_until(lambda: len(replicas("gm-")) == 3)
        wait_until(lambda: len(replicas("gm-")) == 1)
    assert {answer.status_code for answer in [*light, *heavy]} == {200}


def test_another_process_finds_the_service_and_changes_it_and_nobody_else_may_read_where(live: Live):
    def llumi(*arguments: str) -> subprocess.CompletedProcess[str]:
        keys = [part for override in live.overrides for part in ("--set", override)]
        command = [sys.executable, "-m", "llumi.cli", "serve", *arguments, *keys]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)

    router, path = replicas("llumi#"), address_file(live.config())
    with announced(live.config()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        done = llumi("deploy", "--json", "--set", "serve.gm.model=gm-other")
        assert done.returncode == 0, done.stderr
        assert "gm-other@0" in {version["model"] for version in json.loads(done.stdout)["versions"].values()}
        assert live.model() == "gm-other@0"
        assert replicas("llumi#") == router
    done = llumi("status")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"no service runs here ({path} does not stand)" in done.stderr
