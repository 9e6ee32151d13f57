"""All-reduce between two processes, and which pairs of nodes meet when.

Sent to the nodes as code, with llumi/interfaces.py, so it needs nothing but torch there.
"""

import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from llumi.interfaces import speak_from

SMALL_REPEATS, LARGE_REPEATS = 20, 3
LARGE_BYTES = {"gloo": 16 * 2**20, "nccl": 256 * 2**20}


def rounds(count: int) -> Iterator[list[tuple[int, int]]]:
    """Every pair of `count` players once, nobody twice in a round: a round-robin tournament by the circle method.

    One player stays, all others move on by one place a round, and who sits opposite one another plays; with an odd
    number one of them has nobody opposite. So there are count - 1 rounds, or count where that is odd.
    """
    players: list[int | None] = [*range(count), *([None] if count % 2 else [])]
    for _ in range(len(players) - 1):
        half = len(players) // 2
        opposite = zip(players[:half], reversed(players[half:]), strict=True)
        yield [(min(a, b), max(a, b)) for a, b in opposite if a is not None and b is not None]
        players = [players[0], players[-1], *players[1:-1]]


def open_port() -> int:
    """A port of this node that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def all_reduce(rank: int, addresses: tuple[str, str], port: int, backend: str, seconds: float) -> dict[str, Any]:
    """One of two ranks: its latency in microseconds and MB/s of all-reduce, or `failed`, which says at which step and why.

    `addresses` are those of both nodes. Rank 0 listens on `port`; both speak from their own address, as ranks of a training
    run do, and wait `seconds` for one another at each step. With two ranks every byte of the tensor crosses the wire once in
    either direction, so MB/s is the tensor's size by the time.
    """
    import torch
    import torch.distributed as dist

    device = "cuda" if backend == "nccl" else "cpu"
    step = f"meeting at {addresses[0]}:{port}"
    speak_from(addresses[rank])
    try:
        patience = timedelta(seconds=seconds)
        store = dist.TCPStore(addresses[0], port, world_size=2, is_master=rank == 0, timeout=patience)
        step = f"{backend} between them"
        dist.init_process_group(backend, store=store, rank=rank, world_size=2, timeout=patience)
        small = torch.full((1,), float(rank + 1), device=device)
        dist.all_reduce(small)
        if small.item() != 3:
            return {"failed": f"{backend} between them: 1 + 2 gave {small.item():g}"}
        large = torch.zeros(LARGE_BYTES[backend] // small.element_size(), device=device)
        latency, duration = _seconds_each(small, SMALL_REPEATS), _seconds_each(large, LARGE_REPEATS)
    except (RuntimeError, ValueError) as error:
        return {"failed": f"{step}: {str(error).splitlines()[0][:160]}"}
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return {"latency_microseconds": latency * 1e6, "megabytes_per_second": LARGE_BYTES[backend] / duration / 1e6}


def _seconds_each(tensor: Any, repeats: int) -> float:
    import torch.distributed as dist

    dist.all_reduce(tensor)  # the first one opens connections
    dist.barrier()
    started = time.perf_counter()
    for _ in range(repeats):
        dist.all_reduce(tensor)
    tensor.flatten()[0].item()  # waits for a GPU
    return (time.perf_counter() - started) / repeats
