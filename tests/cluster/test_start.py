"""The commands of the units, started for real: a head and a worker with addresses of their own, a token, a drain on stop."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("ray")

from tests.cluster.files import BARE_METAL, SYSTEMD, env_file, unit

HEAD, WORKER = "10.201.77.1", "10.201.77.2"
BIN = Path(sys.executable).parent
PROGRAM_OF_JOB = """
import json, ray
ray.init()
address = ray.remote(lambda: ray.util.get_node_ip_address())
alive = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
where = [address.options(resources={f"node:{known}": 0.01}).remote() for known in alive]
print("nodes", json.dumps(sorted(ray.get(where))))
"""

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip (apt-get install iproute2)"
    ),
]


@dataclass
class Host:
    """A network namespace with one address, and what a unit would give the commands that run in it."""

    name: str
    address: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, unit_name: str) -> subprocess.Popen[bytes]:
        """Start what the unit starts, with its environment."""
        settings = unit(SYSTEMD / f"{unit_name}.service")
        self.environment = dict(
            word.split("=", 1) for line in settings["Environment"] for word in shlex.split(self._here(line))
        )
        self.environment |= env_file(BARE_METAL / "llumi.env") | {"LLUMI_NODE_IP": self.address, "LLUMI_HEAD": f"{HEAD}:6379"}
        self.environment["LLUMI_RAY_OPTIONS"] = "--num-cpus=1 --object-store-memory=100000000"
        command = re.sub(r"\$\{?(\w+)\}?", lambda name: self.environment[name[1]], self._here(settings["ExecStart"][0]))
        log = (self.folder / f"{self.name}.log").open("wb")
        return subprocess.Popen([*self._inside(), *shlex.split(command)], env=self.environment, stdout=log, stderr=log)

    def run(self, command: list[str], seconds: int = 120, **more: str) -> subprocess.CompletedProcess[str]:
        """Run one command on this host to its end."""
        return subprocess.run(
            [*self._inside(), *(self._here(word) for word in command)],
            env=self.environment | more, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def logs(self) -> str:
        """What went wrong, for a failing test."""
        files = [self.folder / f"{self.name}.log", *self.folder.glob("ray/session_latest/logs/*.err")]
        files += self.folder.glob("ray/session_latest/logs/dashboard*.log")
        return "\n".join(f"== {file.name}\n{file.read_text()[-1500:]}" for file in files)

    def _inside(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def _here(self, text: str) -> str:
        shipped = {"/opt/llumi/.venv/bin": BIN, "/var/lib/llumi": self.folder, "/etc/llumi/ray.token": self.folder / "token"}
        for place, here in shipped.items():
            text = text.replace(place, str(here))
        return text


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with a cable between them, and nothing else that they could reach."""
    folder = Path(tempfile.mkdtemp(prefix="lu", dir="/tmp"))  # a socket's path may have 107 characters
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    mark = secrets.token_hex(2)
    head, worker = (Host(f"llumi-{mark}-{role}", ip, folder) for role, ip in (("head", HEAD), ("worker", WORKER)))
    commands = [f"ip netns add {head.name}", f"ip netns add {worker.name}",
                f"ip link add lh{mark} netns {head.name} type veth peer name lw{mark} netns {worker.name}"]  # fmt: skip
    for host, end in ((head, f"lh{mark}"), (worker, f"lw{mark}")):
        commands += [f"ip -n {host.name} address add {host.address}/30 dev {end}", f"ip -n {host.name} link set {end} up",
                     f"ip -n {host.name} link set lo up"]  # fmt: skip
    try:
        for command in commands:
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        yield head, worker
    finally:
        for host in (head, worker):
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def nodes(head: Host) -> list[str]:
    """The addresses on which a job, submitted on the head, runs a task."""
    submit = [str(BIN / "ray"), "job", "submit", "--address", "http://127.0.0.1:8265", "--", "python", "-c", PROGRAM_OF_JOB]
    done = head.run(submit)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = re.findall(r"^nodes (.+)$", done.stdout, re.MULTILINE)
    return json.loads(line)


def eventually(true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(1)
    return True


def test_the_units_make_a_cluster_that_asks_for_its_token_and_drains(hosts: tuple[Host, Host]):
    head, worker = hosts
    processes = [head.start("llumi-head")]
    try:
        post = shlex.split(unit(SYSTEMD / "llumi-head.service")["ExecStartPost"][0])
        up = head.run(post, 150)
        assert up.returncode == 0, up.stdout + up.stderr + head.logs()
        processes.append(worker.start("llumi-worker"))

        # Nobody comes in without the token, and to the dashboard not at all from another machine.
        ask = "import sys, httpx; print(httpx.get(sys.argv[1] + '/api/jobs/', trust_env=False, timeout=5).status_code)"
        locked = lambda: head.run([sys.executable, "-c", ask, "http://127.0.0.1:8265"]).stdout.strip() == "401"  # noqa: E731
        assert eventually(locked, 90), head.logs()
        assert "refused" in worker.run([sys.executable, "-c", ask, f"http://{HEAD}:8265"]).stderr
        assert eventually(lambda: nodes(head) == [HEAD, WORKER], 60), worker.logs()
        health = [str(BIN / "ray"), "health-check", "--address", f"{HEAD}:6379"]
        assert worker.run(health).returncode == 0
        assert worker.run(health, RAY_AUTH_TOKEN_PATH="", RAY_AUTH_TOKEN="f" * 64).returncode != 0

        stopped = time.monotonic()
        processes[1].send_signal(signal.SIGTERM)
        assert processes[1].wait(timeout=150) == 1  # as the unit says
        assert time.monotonic() - stopped < 60  # nothing ran, so nothing is waited for
        said = (head.folder / "ray/session_latest/logs/gcs_server.out").read_text()
        assert "draining" in said.lower()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=60)
