"""A limit holds in every minute, also across its borders."""

import random

from llumi.serve.limits import WINDOW_SECONDS, Window


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_no_minute_holds_more_than_the_limit_whatever_comes():
    clock, dice = Clock(), random.Random(7)
    window, taken = Window(clock), []
    for _ in range(3000):
        clock.now += dice.expovariate(1)
        amount = dice.randint(1, 4)
        if window.wait_seconds(amount, 30) == 0:
            window.take(amount)
            taken.append((clock.now, amount))
    assert len(taken) > 100
    for start, _ in taken:
        assert sum(amount for at, amount in taken if start <= at < start + WINDOW_SECONDS) <= 30


def test_the_wait_is_as_long_as_it_must_be_and_no_longer():
    clock = Clock()
    window = Window(clock)
    for clock.now in (0.0, 10.0, 20.0):
        assert window.wait_seconds(1, 3) == 0
        window.take(1)
    clock.now = 25.0
    assert window.wait_seconds(1, 3) == 35
    assert window.wait_seconds(2, 3) == 45
    clock.now = 60.0
    assert window.wait_seconds(1, 3) == 0
    assert window.wait_seconds(2, 3) == 10


def test_what_was_expected_gives_way_to_what_it_came_to():
    clock = Clock()
    window = Window(clock)
    taken = window.take(90)
    assert window.wait_seconds(20, 100) > 0
    window.settle(taken, 30)
    assert window.wait_seconds(70, 100) == 0
    window.settle(taken, 150)
    assert window.wait_seconds(1, 100) == WINDOW_SECONDS
    clock.now = WINDOW_SECONDS
    window.settle(taken, 0)
    assert window.wait_seconds(100, 100) == 0


def test_more_than_the_limit_fits_into_an_empty_minute_alone():
    clock = Clock()
    window = Window(clock)
    assert window.wait_seconds(500, 100) == 0
    window.take(500)
    assert window.wait_seconds(1, 100) == WINDOW_SECONDS
