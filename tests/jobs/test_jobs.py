"""Every job of `jobs/`, submitted with the real `ray job submit` to a cluster started with `ray start --head`."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from llumi.config import Stage, StorageConfig, load_config
from llumi.corpus.sample import write_sample
from llumi.environment import OUTBOUND_OFF
from llumi.prompts import Role
from llumi.rate.app import make_app
from llumi.rate.draw import draw_items
from llumi.rate.export import read_ratings, write_pairs
from llumi.rate.study import create_study, invite
from llumi.records import HUMAN_REPLY
from llumi.serve.keys import KeyStore
from llumi.storage import Input, Storage
from llumi.submit import STOPS_IN_PEACE
from llumi.train.lineage import find_pairs, find_parent
from llumi.train.run import train_fingerprint
from tests.conftest import free_port
from tests.jobs.proxy import wire_to
from tests.rate.conftest import Browser, House

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TRAIN_GENERATIONS = ("gm-sft-train", "im-base-drafts")
START_SECONDS = 300
"""A head, its agent or a service is up within 20 s on an idle machine; others may be at work beside."""


@dataclass(frozen=True)
class Cluster:
    """A head node with a dashboard, and the deployment that its jobs work on."""

    dashboard: str
    environment: dict[str, str]
    overrides: list[str]
    storage: Storage

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}

    def llumi(self, *arguments: str, cwd: Path = ROOT, **changes: str) -> subprocess.CompletedProcess[str]:
        """A command that speaks to the dashboard; `changes` are of its environment."""
        return subprocess.run(
            [sys.executable, "-m", "llumi.cli", *arguments],
            cwd=cwd,
            env=self.own_environment | changes,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )

    @property
    def own_environment(self) -> dict[str, str]:
        """That of a machine beside the cluster, which knows its dashboard."""
        return self.environment | {"RAY_API_SERVER_ADDRESS": self.dashboard, "PYTHONPATH": str(ROOT)}

    def submit(
        self, *command: str, job: str, wait: bool = True, variables: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        submit = [str(BIN / "ray"), "job", "submit", "--address", self.dashboard, "--working-dir", str(ROOT)]
        entrypoint = [sys.executable, f"jobs/{job}.py", *self.overrides, *command]
        return subprocess.run(
            [
                *submit,
                *(["--runtime-env-json", variables] if variables else []),
                *([] if wait else ["--no-wait", "--submission-id", job]),
                "--",
                *entrypoint,
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("jobs")
    write_sample(folder / "corpus", 100)
    ray_folder = Path(tempfile.mkdtemp(prefix="llumi-", dir="/tmp"))
    port, dashboard_port, serve_port = free_port(), free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        **OUTBOUND_OFF,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "LLUMI_PRIVACY_KEY": "a long key for the tests",
        **STOPS_IN_PEACE,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    start = f"start --head --node-ip-address=127.0.0.1 --port={port} --num-cpus=4 --num-gpus=0 --object-store-memory={2**29}"
    start += f" --dashboard-host=127.0.0.1 --dashboard-port={dashboard_port} --temp-dir={ray_folder} --block"
    # A cluster of other tests may hold the agent's own port; without its agent a head takes no job.
    start += f" --dashboard-agent-listen-port={free_port()}"
    values = {
        "storage.uri": folder / "store",
        "corpus.uri": folder / "corpus",
        "train.base": tiny_model,
        "train.num_workers": 1,
        "train.max_length": 1000,
        "train.sft.max_steps": 1,
        "train.dpo1.max_steps": 1,
        "generate.max_posts": 3,
        "generate.max_new_tokens": 4,
        "pairs.revisions.max_pairs": 40,
        "generate.engine.kind": "echo",
        "serve.engine.kind": "echo",
        "serve.port": serve_port,
    }
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen([BIN / "ray", *start.split()], env=environment, stdout=log, stderr=log)
    try:
        dashboard = f"http://127.0.0.1:{dashboard_port}"
        _wait_until_up(f"{dashboard}/api/version", START_SECONDS, {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"})
        _wait_for_agent(dashboard, environment, START_SECONDS)
        yield Cluster(dashboard, environment, overrides, Storage.open(StorageConfig(uri=str(folder / "store"))))
    finally:
        _end(head)
        shutil.rmtree(ray_folder, ignore_errors=True)


def _end(head: subprocess.Popen[bytes]) -> None:
    """At once, with all its processes: `ray start --block` would wait half a minute for each of them to say goodbye."""
    processes = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=60)


def _wait_until_up(url: str, seconds: float, headers: dict[str, str] | None = None) -> httpx.Response:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(url, headers=headers, timeout=10)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == httpx.codes.OK:
            return answer
        time.sleep(0.5)
    raise TimeoutError(f"{url} did not answer within {seconds} s")


def _wait_for_agent(dashboard: str, environment: dict[str, str], seconds: float) -> None:
    """The agent that starts jobs comes up some seconds after the dashboard that takes them."""
    command = [str(BIN / "ray"), "job", "submit", "--address", dashboard, "--", "true"]
    deadline = time.monotonic() + seconds
    while (
        done := subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    ).returncode:
        assert time.monotonic() < deadline, f"the head takes no job: {done.stdout}{done.stderr}"


def assert_succeeded(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def stand_for(cluster: Cluster, role: Role, stage: Stage, source: str) -> None:
    """A copy of the model `source`, as if the stage had been trained with the cluster's settings."""
    storage = cluster.storage
    config = load_config(ROOT / "ray_config.yaml", [value for value in cluster.overrides if value != "--set"])
    draft = storage.begin("models", f"{role}-{stage}")
    files = [entry for entry in draft.upload(storage.fetch(f"models/{source}")) if entry.path != "manifest.json"]
    inputs = [find_parent(config, storage, role, stage).as_input(), find_pairs(config, storage, stage).as_input()]
    draft.publish(files, fingerprint=train_fingerprint(config, storage, role, stage), config={}, inputs=inputs)


def test_build_pairs(cluster: Cluster) -> None:
    assert_succeeded(cluster.submit(job="build_pairs"))
    assert cluster.storage.manifest("pairs/default").counts["candidate_pairs"]["kept"] > 0


def test_sweep(cluster: Cluster) -> None:
    """Its one point is what the jobs after it take for GM's SFT model."""
    done = cluster.submit("gm", "sft", "--set", "train.sft.learning_rate=[2e-4]", job="sweep")
    assert_succeeded(done)
    assert "best by held-out loss: gm-sft-" in done.stdout
    storage = cluster.storage
    (point,) = [model for model in storage.list("models") if model.name != "base"]
    assert point.name.startswith("gm-sft-")
    assert point.inputs[0].name == "models/base"
    stand_for(cluster, "gm", "sft", point.name)


def preferred_by_raters(cluster: Cluster, folder: Path) -> Path:
    """The pairs of a study over train posts whose one rater likes what people wrote better than what the model wrote."""
    assert_succeeded(cluster.submit("gm", "gm-sft", "--posts", "train", "--set", "generate.max_posts=24", job="generate"))
    rules = {"database": f"sqlite:///{folder}/rate.db", "raters_per_item": 1, "check_share": 0, "repeat_share": 0}
    house = House(load_config(None, [f"storage.uri={cluster.storage.uri}", *(f"rate.{key}={rules[key]}" for key in rules)]))
    by_people = set(cluster.storage.read_table("pairs/default", "drafts")["reply"].to_pylist())
    with contextlib.closing(house.open()) as database:
        drawn = draw_items(house.config, "gm", (HUMAN_REPLY, "gm-sft-train"), "training", None)
        create_study(database, house.config.rate, "second", drawn)
        (token,) = invite(database, "second", 1).values()
        rater = Browser(TestClient(make_app(database, house.config.rate)), token)
        rater.start()
        while rater.is_rating:
            rater.rate(verdict="left" if rater.replies[0] in by_people else "right")
        ratings = read_ratings(database, "second")
    assert ratings.counts["pairs"] == len(drawn.items) == 24
    assert {pair["chosen"] for pair in ratings.pairs} <= by_people
    write_pairs(ratings, "second", folder / "preferred.ndjson")
    return folder / "preferred.ndjson"


def test_train_dpo2_on_what_raters_preferred_with_its_checkpoints_on_s3(
    cluster: Cluster, s3_storage: StorageConfig, tmp_path: Path
) -> None:
    """From the SFT model as DPO1, so that the one stage is what is seen."""
    storage, local = Storage.open(s3_storage), cluster.storage
    ancestors: list[Input] = []
    for name, source in (("base", "base"), ("gm-sft", "gm-sft"), ("gm-dpo1", "gm-sft")):
        draft = storage.begin("models", name)
        files = [entry for entry in draft.upload(local.fetch(f"models/{source}")) if entry.path != "manifest.json"]
        ancestors = [draft.publish(files, fingerprint=name, config={}, inputs=ancestors).as_input()]
    preferred = preferred_by_raters(cluster, tmp_path)
    s3 = ["--set", f"storage.uri={s3_storage.uri}", "--set", f"storage.endpoint_url={s3_storage.endpoint_url}"]
    credentials = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    added = [
        sys.executable,
        "-m",
        "llumi.cli",
        "pairs",
        "add",
        "human",
        str(preferred),
        *cluster.overrides,
        *s3,
    ]
    subprocess.run(added, cwd=ROOT, env=cluster.environment | credentials, check=True, capture_output=True, timeout=400)
    variables = json.dumps({"env_vars": credentials | {"LLUMI_CACHE": str(tmp_path / "cache")}})
    done = cluster.submit(
        "gm",
        "dpo2",
        *s3,
        "--set",
        "train.dpo2.max_steps=3",
        "--set",
        "train.checkpoint_steps=1",
        job="train",
        variables=variables,
    )
    assert_succeeded(done)
    manifest = storage.manifest("models/gm-dpo2")
    assert [given.name for given in manifest.inputs] == ["models/gm-dpo1", "pairs/human"]
    assert manifest.metrics["steps"] == 3
    assert storage.find("references/human-gm-by-gm-dpo1") is not None


def test_generate(cluster: Cluster) -> None:
    assert_succeeded(cluster.submit("gm", "gm-sft", job="generate"))
    assert cluster.storage.read_table("generations/gm-sft", "rows").num_rows == 3


def test_evaluate(cluster: Cluster) -> None:
    assert_succeeded(cluster.submit("gm-sft", job="evaluate"))
    assert "report.html" in {entry.path for entry in cluster.storage.manifest("evaluations/default").files}


def test_serve_until_the_job_is_stopped(cluster: Cluster) -> None:
    assert_succeeded(cluster.submit(job="serve", wait=False))
    port = next(value for value in cluster.overrides if value.startswith("serve.port=")).partition("=")[2]
    _wait_until_up(f"http://127.0.0.1:{port}/healthz", START_SECONDS)
    _, secret = KeyStore(cluster.storage).create("web", ["gm"])
    # An id that is none, and no UTF-8.
    headers = {"Authorization": f"Bearer {secret}".encode(), "X-Request-Id": b"\xff"}

    def ask() -> httpx.Response:
        body = {"post": "The evenings are quiet."}
        return httpx.post(f"http://127.0.0.1:{port}/v1/draft", json=body, headers=headers, timeout=60)

    deadline = time.monotonic() + START_SECONDS
    while (answer := ask()).status_code == httpx.codes.UNAUTHORIZED:
        assert time.monotonic() < deadline, "the router never reads the new key"
        time.sleep(0.5)
    assert answer.status_code == httpx.codes.OK
    assert answer.json()["reply"]
    stop = [str(BIN / "ray"), "job", "stop", "--address", cluster.dashboard, "serve"]
    subprocess.run(stop, env=cluster.environment, check=True, capture_output=True, timeout=120)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5)


def test_teach(cluster: Cluster) -> None:
    # As its revision, `echo` gives the end of a draft: near the draft, and shorter.
    drafts = ("im", "base", "--posts", "drafts", "--set", "generate.max_new_tokens=25")
    assert_succeeded(cluster.submit(*drafts, job="generate"))
    assert_succeeded(cluster.submit("im-base-drafts", job="teach"))
    taught = cluster.storage.manifest("pairs/default-taught")
    account = taught.counts["drafts"]
    assert account["drafts"] == account["kept"] + sum(account["dropped"].values())
    assert [given.name for given in taught.inputs] == ["pairs/default", "generations/im-base-drafts"]
    rows = cluster.storage.read_table("pairs/default-taught", "im-dpo/train").to_pylist()
    assert rows
    for row in rows:
        revision, draft = (row[side][0]["content"].split() for side in ("chosen", "rejected"))
        assert revision[-len(draft) :] == draft[-25:]


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    """A team's own project, whose one job counts slowly."""
    (tmp_path / "jobs").mkdir()
    count = (
        "import sys, time\nfor number in range(int(sys.argv[1])):\n    print('line', number, flush=True)\n    time.sleep(0.1)\n"
    )
    (tmp_path / "jobs" / "count.py").write_text(count)
    return tmp_path


@contextlib.contextmanager
def submitted(cluster: Cluster, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`llumi submit`, while it runs."""
    command = [sys.executable, "-m", "llumi.cli", "submit", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=cluster.own_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], end: str) -> list[str]:
    """What it writes, up to and with the line `end`."""
    lines = []
    while not lines or lines[-1] != end:
        line = process.stdout.readline()
        assert line, f"it ended before {end!r}: {process.stderr.read()}"
        lines.append(line.rstrip("\n"))
    return lines


def test_a_log_is_followed_over_a_cut_connection_without_a_line_lost_or_repeated(cluster: Cluster, counting: Path) -> None:
    resources = ("--num-cpus", "0.5", "--memory", "0.1", "--by", "ada")
    with (
        wire_to(int(cluster.dashboard.rpartition(":")[2])) as wire,
        submitted(cluster, counting, "--address", f"http://127.0.0.1:{wire.port}", *resources, "count", "--", "60") as process,
    ):
        lines = read_until(process, "line 10")
        assert wire.cut()
        lines += process.stdout.read().splitlines()
        said = process.stderr.read()
        process.wait(START_SECONDS)
    assert [line for line in lines if line.startswith("line")] == [f"line {number}" for number in range(60)]
    assert process.returncode == 0, said
    assert "the connection to the cluster was cut" in said
    job_id = said.splitlines()[1].removeprefix("submitted ")
    assert said.splitlines()[-1] == f"succeeded {job_id}"
    # What `ray job logs` prints.
    theirs = subprocess.run(
        [str(BIN / "ray"), "job", "logs", "--address", cluster.dashboard, job_id],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=START_SECONDS,
    )
    assert "\n".join(lines) in theirs.stdout


def test_a_job_goes_on_after_ctrl_c_and_is_found_read_and_stopped(cluster: Cluster, counting: Path) -> None:
    with submitted(cluster, counting, "--by", "ada", "count", "--", "100000") as process:
        read_until(process, "line 3")
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        process.wait(START_SECONDS)
    assert process.returncode == 130
    *_, submitted_line, last = said.splitlines()
    job_id = submitted_line.removeprefix("submitted ")
    assert re.fullmatch(r"count-[0-9a-f]{6}", job_id)
    assert last.startswith(f"{job_id} goes on; follow it with: llumi jobs logs --follow")
    elsewhere = f"http://127.0.0.1:{free_port()}"
    with ThreadPoolExecutor(2) as pool:
        listed, table, log, unknown, nowhere, wrong, missing = pool.map(
            lambda arguments: cluster.llumi(*arguments[0], **arguments[1]),
            [
                (("jobs", "list", "--json"), {}),
                (("jobs", "list"), {}),
                (("jobs", "logs", job_id), {}),
                (("jobs", "logs", "--follow", "count-none"), {}),
                (("jobs", "stop", "--address", elsewhere, job_id), {}),
                (("jobs", "list"), {"RAY_AUTH_TOKEN": "of another cluster"}),
                (("jobs", "list"), {"RAY_AUTH_MODE": "disabled"}),
            ],
        )
    (job,) = [job for job in json.loads(listed.stdout)["jobs"] if job["id"] == job_id]
    assert (job["status"], job["by"], job["command"]) == ("RUNNING", "ada", "python jobs/count.py 100000")
    assert job_id in table.stdout
    assert "line 0\nline 1\n" in log.stdout
    asked = f"--address {cluster.dashboard}"
    for refused, line in (
        (unknown, f"count-none: the cluster at {cluster.dashboard} knows no such job"),
        (nowhere, f"--address {elsewhere}: no Ray dashboard answers"),
        (wrong, f"{asked}: the cluster asks for a token, and none or a wrong one was sent"),
        (missing, f"{asked}: the cluster asks for a token, and none or a wrong one was sent"),
    ):
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: {line}")
        assert refused.stderr.count("\n") == 1
    stopped = cluster.llumi("jobs", "stop", job_id)
    assert stopped.stdout == f"stopped {job_id}\n", stopped.stderr
    assert cluster.llumi("jobs", "logs", "--follow", job_id).returncode == 1


def test_llumi_submit_follows_the_log_and_returns_the_verdict(cluster: Cluster, tmp_path: Path) -> None:
    """The pipeline goes on from what stands, and trains no model again; pairs are those that `ray job submit` made."""
    stand_for(cluster, "gm", "dpo1", "gm-sft")
    stand_for(cluster, "im", "sft", "gm-sft")
    stand_for(cluster, "im", "dpo1", "gm-sft")
    before = cluster.storage.list("models")

    with ThreadPoolExecutor() as pool:
        done, again, failed, fleeting = pool.map(
            lambda arguments: cluster.llumi("submit", *arguments),
            [
                ("pipeline", "--", *cluster.overrides),
                ("build_pairs", "--", *cluster.overrides, "--set", f"storage.uri={tmp_path}/store"),
                ("generate", "--", "gm", "gm-none", *cluster.overrides),
                ("build_pairs",),
            ],
        )
    assert_succeeded(done)
    assert "stands pairs/default" in done.stdout
    assert cluster.storage.list("models") == before
    made = {generation.name for generation in cluster.storage.list("generations")}
    assert made == {*(f"{role}-{model}" for role in ("gm", "im") for model in ("base", "sft", "dpo1")), *TRAIN_GENERATIONS}
    assert cluster.storage.find("evaluations/default") is not None
    assert_succeeded(again)
    ours, theirs = (
        {entry.path: entry.sha256 for entry in store.manifest("pairs/default").files}
        for store in (Storage.open(StorageConfig(uri=str(tmp_path / "store"))), cluster.storage)
    )
    assert ours == theirs
    assert failed.returncode == 1
    assert "models/gm-none: no such artifact" in failed.stdout
    assert fleeting.returncode == 1
    assert "storage.uri: llumi-data would go with this job's working directory" in fleeting.stdout
    jobs = httpx.get(f"{cluster.dashboard}/api/jobs/", headers=cluster.authorization, timeout=60).json()
    submitted = [job for job in jobs if "llumi_version" in job["metadata"]]
    assert {job["metadata"]["job_name"] for job in submitted} >= {"build_pairs", "generate", "pipeline"}
    assert all(job["runtime_env"]["env_vars"].items() >= STOPS_IN_PEACE.items() for job in submitted)
