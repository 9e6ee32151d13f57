"""What several benchmarks share; `make bench` runs the files of the folder above alone."""

import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

_LETTERS = "bdfgklmnprstvz"
_names = ("".join(letters).capitalize() for letters in itertools.product(_LETTERS, "aeiou", _LETTERS, "aeiou", _LETTERS, "ae"))


def never_read(text: str) -> str:
    """`text` with a name at the end of each sentence that no sentence had before: the guard remembers what it has read."""
    return re.sub(r"[.?!]", lambda end: f", {next(_names)}{end.group()}", text)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def side_by_side(count: int, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """`work` in so many threads, each of which is handed the event that the end of the block sets; all have ended then."""
    ended = threading.Event()
    threads = [threading.Thread(target=work, args=(ended,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def print_rows(figures: Mapping[str, Mapping[str, object]], *, as_json: bool) -> None:
    """The figures by row, for a person or as one line of JSON."""
    if as_json:
        print(json.dumps(figures))
        return
    for name, row in figures.items():
        print(f"\n{name}")
        for figure, value in row.items():
            print(f"  {figure:34}{f'{value:10.3f}' if isinstance(value, float) else value}")
