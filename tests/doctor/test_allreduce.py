"""Every pair meets once, side by side; two real processes reduce, and a pair that cannot reach one another says so in time."""

import itertools
import multiprocessing
import time

import pytest

from llumi.doctor.allreduce import all_reduce, open_port, rounds


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 33])
def test_every_pair_once_and_nobody_twice_in_a_round(count: int):
    played = list(rounds(count))
    assert sorted(itertools.chain(*played)) == list(itertools.combinations(range(count), 2))
    assert len(played) == count - 1 + count % 2
    for pairs in played:
        players = list(itertools.chain(*pairs))
        assert len(players) == len(set(players))


@pytest.mark.slow
def test_two_processes_reduce_and_those_that_cannot_say_where_it_ended(monkeypatch: pytest.MonkeyPatch):
    here = ("127.0.0.1", "127.0.0.1")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        figures = pool.starmap(all_reduce, [(rank, here, port, "gloo", 30.0) for port in [open_port()] for rank in (0, 1)], 1)
        started = time.monotonic()
        (alone,) = pool.starmap(all_reduce, [(1, here, open_port(), "gloo", 2.0)])
    assert all(each["megabytes_per_second"] > 1 and each["latency_microseconds"] > 0 for each in figures)
    assert alone["failed"].startswith("meeting at 127.0.0.1:")
    assert time.monotonic() - started < 30

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none0")  # they meet, and have no interface to speak from
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        figures = pool.starmap(all_reduce, [(rank, here, port, "gloo", 5.0) for port in [open_port()] for rank in (0, 1)], 1)
    assert all(each["failed"].startswith("gloo between them: ") for each in figures)
