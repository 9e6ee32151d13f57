"""A real cluster on one machine: a head, two workers, an S3 store and a laptop that is no node, each a host of its own."""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from llumi.config import StorageConfig
from llumi.environment import OUTBOUND_OFF

from .hosts import Host, network
from .store import BUCKET, KEYS, ROOT_USER, gateway, make_bucket, wait_until_up

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
UP_SECONDS = 120
DISK_MIB = 512
_FILLER = "filler"
CPUS_PER_NODE = 1
"""So that two ranks, or two actors, never share a node while all three live, and fit on what is left when one is gone."""


@dataclass
class Run:
    """A job that was submitted from the laptop: its log as it comes."""

    process: subprocess.Popen[str]
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, pattern: str, seconds: float = 300) -> str:
        """The first line that matches; raises RuntimeError where the job ends without, or time is up."""
        found = None

        def seen() -> bool:
            nonlocal found
            found = next((line for line in self.lines if re.search(pattern, line)), None)
            return found is not None or self.ended is not None

        with self._news:
            self._news.wait_for(seen, seconds)
        if found is None:
            raise RuntimeError(f"no line like {pattern!r} came:\n{self.log[-3000:]}")
        return found

    def wait(self, seconds: float = 900) -> int:
        """The verdict that `llumi submit` returns."""
        self.process.wait(timeout=seconds)
        self._reader.join()
        return self.process.returncode

    @property
    def seconds(self) -> float:
        """From its submission to its verdict."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def log(self) -> str:
        """Everything that came."""
        return "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        self.process.wait()
        with self._news:
            self.ended = time.monotonic()
            self._news.notify_all()


@dataclass
class Nodes:
    """The hosts, and what is done to them."""

    folder: Path
    head: Host
    workers: tuple[Host, Host]
    store: Host
    laptop: Host

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted. On a real cluster it listens on loopback, and SSH leads there."""
        return f"http://{self.head.address}:8265"

    @property
    def storage(self) -> StorageConfig:
        """The store that all share."""
        return StorageConfig(uri=f"s3://{BUCKET}/main", endpoint_url=f"http://{self.store.address}:9000")

    def start_store(self) -> None:
        """MinIO's gateway code, as JuiceFS ships it; what it held before, it holds again."""
        self.store.environment |= ROOT_USER
        self.store.start(gateway(self.folder, f"{self.store.address}:9000"), self._log("store"))
        wait_until_up(f"http://{self.store.address}:9000")

    def start_head(self) -> None:
        """The head and its dashboard."""
        self._ray_start(self.head, "--head", "--port=6379", f"--dashboard-host={self.head.address}", "--dashboard-port=8265")
        _eventually(lambda: self._get("/api/version") is not None, UP_SECONDS, "the head")

    def start_worker(self, worker: Host) -> None:
        """Until it counts as alive."""
        self._ray_start(worker, f"--address={self.head.address}:6379")
        _eventually(lambda: worker.address in self.alive(), UP_SECONDS, worker.name)

    def kill_worker(self, worker: Host) -> float:
        """Power it off, and wait until the head has noticed: the seconds that it took."""
        worker.kill()
        began = time.monotonic()
        _eventually(lambda: worker.address not in self.alive(), UP_SECONDS, f"the death of {worker.name}")
        return time.monotonic() - began

    def fill_disk(self, worker: Host) -> None:
        """Until nothing more fits on it; `free_disk` ends it."""
        with (next(iter(worker.mounts)) / _FILLER).open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(2**20)):
                pass

    def free_disk(self, worker: Host) -> None:
        """See `fill_disk`."""
        (next(iter(worker.mounts)) / _FILLER).unlink(missing_ok=True)

    def alive(self) -> list[str]:
        """The addresses of the nodes that the head holds for alive."""
        return sorted(row["node_ip"] for row in self._rows("nodes") if row["state"] == "ALIVE")

    def where(self, kind: Literal["tasks", "actors"], name: str) -> set[str]:
        """The addresses of the nodes on which tasks or actors whose name has this part in it have run."""
        address = {row["node_id"]: row["node_ip"] for row in self._rows("nodes")}
        named = "name" if kind == "tasks" else "class_name"
        return {address[row["node_id"]] for row in self._rows(kind) if name in row[named] and row["node_id"] in address}

    def submit(self, job: str, *arguments: str) -> Run:
        """`llumi submit` on the laptop, from the project's folder."""
        command = [str(BIN / "llumi"), "submit", "--address", self.dashboard, job, "--", "--config", str(self.config_file)]
        process = subprocess.Popen(
            self.laptop.inside([*command, *arguments]),
            env=self.laptop.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return Run(process)

    def stop(self, run: Run) -> None:
        """End a job, and wait until it is down."""
        _, job_id = run.wait_for("^submitted ").split()
        self.laptop.run([str(BIN / "llumi"), "jobs", "stop", "--address", self.dashboard, job_id])
        run.wait()

    @property
    def config_file(self) -> Path:
        """At the same place on every node."""
        return self.folder / "ray_config.yaml"

    def _ray_start(self, host: Host, *options: str) -> None:
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--node-ip-address={host.address}"]
        sizes = [f"--num-cpus={CPUS_PER_NODE}", "--num-gpus=0", "--object-store-memory=200000000"]
        host.start([*command, *sizes, f"--temp-dir={self.folder}/ray", *options], self._log(host.name), self.folder)

    def _log(self, name: str) -> object:
        return (self.folder / f"{name}.log").open("ab")

    def _rows(self, kind: str) -> list[dict]:
        answer = self._get(f"/api/v0/{kind}?limit=10000&detail=true")
        return answer["data"]["result"]["result"] if answer else []

    def _get(self, path: str) -> dict | None:
        token = {"Authorization": f"Bearer {(self.folder / 'token').read_text()}"}
        try:
            answer = httpx.get(f"{self.dashboard}{path}", headers=token, timeout=20, trust_env=False)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code == httpx.codes.OK else None


@contextmanager
def three_nodes(settings: str) -> Iterator[Nodes]:
    """A cluster that is up, with `settings` (YAML) beside the address of its store; raises NoNamespacesError."""
    folder = Path(tempfile.mkdtemp(prefix="lu", dir="/tmp"))  # a socket's path may have 107 characters
    disks: list[Path] = []
    try:
        (folder / "token").write_text(secrets.token_hex(32))
        (folder / "token").chmod(0o600)
        environment = {name: os.environ[name] for name in ("LANG", "TERM") if name in os.environ} | OUTBOUND_OFF | KEYS
        environment |= {
            "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "LLUMI_PRIVACY_KEY": "a long key for the trial",
        }
        with network() as hosts:
            made = {
                name: hosts.host(name, number, environment | {"LLUMI_CACHE": f"{folder}/cache-{name}"})
                for number, name in enumerate(("head", "one", "two", "store", "laptop"), start=1)
            }
            (folder / "ray").mkdir()
            for name in ("head", "one", "two"):  # Ray takes them for machines: what one deletes, the others keep
                disk = folder / f"disk-{name}"
                disk.mkdir()
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", disk], check=True)
                disks.append(disk)
                made[name].mounts[disk] = folder / "ray"
            nodes = Nodes(folder, made["head"], (made["one"], made["two"]), made["store"], made["laptop"])
            nodes.start_store()
            make_bucket(f"http://{nodes.store.address}:9000")
            os.environ.update(KEYS)  # this process looks into the store as well
            where = f"  uri: {nodes.storage.uri}\n  endpoint_url: {nodes.storage.endpoint_url}\n"
            nodes.config_file.write_text(f"ray:\n  address: auto\nstorage:\n{where}{settings}")
            nodes.start_head()
            for worker in nodes.workers:
                nodes.start_worker(worker)
            yield nodes
    finally:
        for disk in disks:
            subprocess.run(["umount", "--lazy", disk], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _eventually(true: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} is not there after {seconds:g} s")
        time.sleep(0.2)
