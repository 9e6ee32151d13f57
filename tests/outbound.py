"""Watches a command and everything it starts: which addresses do its processes speak to?

Two witnesses, because each is blind somewhere: an audit hook in every Python process sees each attempt, however short;
the kernel's table of connections, read several times a second, sees the C++ processes too (Ray's GCS and raylet).
"""

import contextlib
import functools
import ipaddress
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

HOOK = """
import os, sys
def _note(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
    elif event == "socket.getaddrinfo":
        address = (arguments[0], arguments[1])
    else:
        return
    if isinstance(address, tuple):
        with open(os.environ["LLUMI_TEST_OUTBOUND"], "a") as log:
            log.write(f"{event} {address[0]}\\n")
sys.addaudithook(_note)
"""
SECONDS_BETWEEN_LOOKS = 0.25
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Watched:
    """What a command did: its exit code, its output, every address beyond loopback that was spoken to or looked up, and how
    many addresses the hook saw at all."""

    returncode: int
    output: str
    beyond_loopback: set[str]
    num_addresses_seen: int


def watch(
    command: Sequence[str], environment: dict[str, str], folder: Path, timeout: float, cwd: Path | None = None
) -> Watched:
    """Run `command` to its end under both witnesses; `folder` is theirs, `cwd` where the command is given."""
    (folder / "hook").mkdir(parents=True)
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    attempts = folder / "attempts.txt"
    attempts.touch()
    environment = environment | {"LLUMI_TEST_OUTBOUND": str(attempts), "PYTHONPATH": f"{folder / 'hook'}:{ROOT}"}
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        table = ConnectionTable(process.pid)
        table.start()
        try:
            process.wait(timeout=timeout)
        finally:
            process.kill()
            table.stop()
        output.seek(0)
        text = output.read()
    tried = {tuple(line.split(" ", 1)) for line in attempts.read_text().splitlines()}
    beyond = {f"{event} {host}" for event, host in tried if not stays_here(host)}
    beyond |= {f"connection {host}" for host in table.remote_hosts if not stays_here(host)}
    return Watched(process.returncode, text, beyond, len(tried))


def stays_here(host: str) -> bool:
    """Whether a name or address is this machine's loopback (its own name is looked up in its own hosts file)."""
    if host in ("", "None", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


class ConnectionTable(threading.Thread):
    """Looks at the connections of a process and all its descendants until it is stopped.

    The kernel's table of the whole machine is four short files. Only for a socket in it that is connected to a host beyond
    loopback, and only once, the processes are asked whether it is theirs: that takes a hundred times longer.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.remote_hosts: set[str] = set()
        self._root = psutil.Process(pid)
        self._judged: set[str] = set()
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            leaving = {inode: host for inode, host in remotes_of_this_machine() if not stays_here(host)}
            new = leaving.keys() - self._judged
            if new:
                self.remote_hosts |= {leaving[inode] for inode in new & self._sockets()}
                self._judged |= new
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _sockets(self) -> set[str]:
        """The inodes of all sockets that the family holds."""
        found = set()
        with contextlib.suppress(psutil.Error):
            for process in (self._root, *self._root.children(recursive=True)):
                with contextlib.suppress(OSError):
                    for link in Path(f"/proc/{process.pid}/fd").iterdir():
                        with contextlib.suppress(OSError):
                            found.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        return found


def remotes_of_this_machine() -> Iterator[tuple[str, str]]:
    """The inode and the far end of every connected socket, whosever it is."""
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[2].partition(":")
            inode = fields[9]
            # A connection that is closed already waits without an inode.
            if port != "0000" and inode != "0":
                yield inode, _host(address)


@functools.cache
def _host(address: str) -> str:
    """The kernel writes an address in words of four bytes, each with its last byte first."""
    words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a newcomer: nothing of this session's but where programs and certificates lie."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
