"""Hosts of their own on one machine: network namespaces on one switch, which can lose power or their cable.

Needs root and `ip` (iproute2). This process reaches every host; hosts reach one another and nothing else.
"""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


class NoNamespacesError(Exception):
    """Network namespaces cannot be made here, or not by this user; in one line."""


@dataclass
class Host:
    """A network namespace with one address; what runs in it belongs to it."""

    name: str
    address: str
    cable: str
    """The switch's end of it."""

    switch: str
    environment: dict[str, str] = field(default_factory=dict)
    mounts: dict[Path, Path] = field(default_factory=dict)
    """Folders of this machine, and where each stands on this host alone: a disk of its own."""

    def start(self, command: Sequence[str], log: IO[bytes], folder: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a program that goes on; what it says goes to `log`."""
        return subprocess.Popen(self.inside(command), env=self.environment, stdout=log, stderr=log, cwd=folder)

    def run(
        self, command: Sequence[str], seconds: float = 120, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        environment = self.environment | dict(variables or {})
        return subprocess.run(
            self.inside(command), env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    def kill(self) -> None:
        """Power off: every process at once, with kill -9."""
        while pids := _ip("netns", "pids", self.name).split():
            for pid in map(int, pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Pull the cable at the switch: nothing comes or goes, and nobody is told."""
        _ip("link", "set", self.cable, "nomaster")

    def heal(self) -> None:
        """Put the cable back."""
        _ip("link", "set", self.cable, "master", self.switch)

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on this host."""
        for own, place in self.mounts.items():
            command = ["sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(own), str(place), *command]
        return ["ip", "netns", "exec", self.name, *command]


@dataclass
class Network:
    """One switch; `prefix` are the first three numbers of its addresses, and .254 is this process."""

    prefix: str
    mark: str
    hosts: list[Host] = field(default_factory=list)

    @property
    def switch(self) -> str:
        """The bridge's name."""
        return f"lb{self.mark}"

    def host(self, name: str, number: int, environment: Mapping[str, str]) -> Host:
        """A new host with the address <prefix>.<number>."""
        host = Host(
            f"llumi-{self.mark}-{name}", f"{self.prefix}.{number}", f"l{number}{self.mark}", self.switch, dict(environment)
        )
        self.hosts.append(host)
        _ip("netns", "add", host.name)
        _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", host.name, "link", "set", device, "up")
        _ip("link", "set", host.cable, "master", self.switch, "up")
        return host


@contextmanager
def network() -> Iterator[Network]:
    """A network that goes, with all that runs in it, when the block ends; raises NoNamespacesError."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NoNamespacesError("network namespaces need root and ip (apt-get install iproute2)")
    mark = secrets.token_hex(2)
    made = Network(f"10.201.{int(mark[:2], 16)}", mark)
    try:
        _ip("link", "add", made.switch, "type", "bridge")
        _ip("address", "add", f"{made.prefix}.254/24", "dev", made.switch)
        _ip("link", "set", made.switch, "up")
        yield made
    finally:
        for host in made.hosts:
            with suppress(NoNamespacesError):
                host.kill()
                _ip("netns", "delete", host.name)
        with suppress(NoNamespacesError):
            _ip("link", "delete", made.switch)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNamespacesError(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
