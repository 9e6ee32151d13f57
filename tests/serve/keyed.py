"""A door to stand before routes in one process: a store with a key in it, counts, and an audit log, all of its own."""

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from llumi.config import StorageConfig
from llumi.serve.audit import AuditLog, log_files
from llumi.serve.door import Access
from llumi.serve.keys import KeyStore, make_key, new_secret
from llumi.serve.limits import Limits
from llumi.serve.ring import KeyRing
from llumi.storage import Storage

SECRET = new_secret()
KEY = {"Authorization": f"Bearer {SECRET}"}
_FOLDER = tempfile.TemporaryDirectory(prefix="llumi-")
_NUMBERS = itertools.count()


def key_store(folder: Path, clock: Callable[[], float] = time.time) -> KeyStore:
    return KeyStore(Storage.open(StorageConfig(uri=str(folder))), clock)


def open_access(scopes: tuple[str, ...] = ("gm", "im"), clock: Callable[[], float] = time.monotonic, **limits: int) -> Access:
    """SECRET opens what `scopes` say, within `limits`."""
    folder = Path(_FOLDER.name) / str(next(_NUMBERS))
    key = make_key("tests", SECRET, scopes, 0, **limits)
    return Access(KeyRing(key_store(folder), [key]), Limits(clock), AuditLog(folder / "audit"))


def lines(access: Access) -> list[dict]:
    """What the audit log holds by now."""
    files = log_files(access.audit.folder)
    return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]
