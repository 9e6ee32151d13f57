"""What one node says of itself.

Sent to the nodes as code and not as a name, and with the standard library alone: so a node answers that has another
version of LLUMI, or none.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
NVIDIA_SMI_SECONDS = 10


class Worker:
    """A process on the node that does what it is asked."""

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What `function` gives there."""
        return function(*arguments)


def now() -> float:
    """The node's clock."""
    return time.time()


def look(switches: Sequence[str]) -> dict[str, Any]:
    """All that the verdicts ask of a node but the store; `switches` are names of environment variables."""
    return {
        "versions": {"python": platform.python_version()} | _installed(),
        "constraints": _constraints(),
        "gpus": _gpus(),
        "worker_environment": {name: os.environ.get(name) for name in switches},
        "raylet_environment": _environment_of_raylet(switches),
        "disks": _disks(),
        "memory": _memory(),
        "shared_memory": _shared_memory(),
    }


def _installed() -> dict[str, str]:
    """All packages with their versions; of one that is there twice, the one that is imported."""
    found: dict[str, str] = {}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), package.version)
    return found


def _constraints() -> str | None:
    """The digest of the constraints file beside LLUMI, where it was installed from a folder."""
    found = importlib.util.find_spec("llumi")
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parents[1] / "constraints.txt"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _gpus() -> list[dict[str, Any]]:
    if shutil.which(NVIDIA_SMI[0]) is None:
        return []
    try:
        said = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines() if line.count(",") == 2]
    return [{"name": name, "memory_mib": memory, "driver": driver} for name, memory, driver in rows]


def _environment_of_raylet(switches: Sequence[str]) -> dict[str, str | None] | None:
    """What Ray itself was started with on this node; a worker is the raylet's child. None where the system does not tell."""
    try:
        raw = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return None
    known = dict(entry.split("=", 1) for entry in raw.decode(errors="replace").split("\0") if "=" in entry)
    return {name: known.get(name) for name in switches}


def _disks() -> dict[str, dict[str, Any]]:
    """What each folder is for that jobs write to, where it is, and how much is free there."""
    cache = Path(os.environ.get("LLUMI_CACHE", "~/.cache/llumi")).expanduser()
    folders = {"working folder": Path.cwd(), "copies of models": cache, **_ray_folders()}
    disks = {}
    for purpose, folder in folders.items():
        there = next(place for place in (folder, *folder.parents) if place.exists())
        usage = shutil.disk_usage(there)
        disks[purpose] = {"path": str(folder), "free_bytes": usage.free, "total_bytes": usage.total}
    return disks


def _ray_folders() -> dict[str, Path]:
    import ray

    node = ray._private.worker.global_worker.node
    folders = {"Ray's session": Path(node.get_session_dir_path())}
    with contextlib.suppress(AttributeError, TypeError, KeyError, ValueError):
        spill = json.loads(node._object_spilling_config)["params"]["directory_path"]
        folders["Ray's spilled objects"] = Path(spill if isinstance(spill, str) else spill[0])
    return folders


def _memory() -> dict[str, int] | None:
    """Total and free bytes, within the limit of a container where there is one; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, free = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    with contextlib.suppress(OSError, ValueError):  # no limit reads "max"
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, free = min(total, limit), min(free, limit - used)
    return {"total_bytes": total, "free_bytes": free}


def _shared_memory() -> int | None:
    """Size of /dev/shm in bytes, in which Ray keeps objects on Linux."""
    try:
        return shutil.disk_usage("/dev/shm").total  # noqa: S108
    except OSError:
        return None
