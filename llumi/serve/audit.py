"""The audit log: a line for each request, without any text, chained so that a later change shows.

A line is JSON. Its last field, `hash`, is the SHA-256 of the line without that field; `previous` is the hash of the line
before, and `number` counts from 1, both on through the files of the folder. Whoever can write to the folder could write a
whole new chain: a hash that was noted elsewhere (`llumi audit verify --head`) shows that as well.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llumi.config import ServeConfig
from llumi.errors import AuditError
from llumi.storage import Storage

GENESIS = "0" * 64
"""What stands in the place of the hash before the first line."""

FILE_BYTES = 64 * 2**20
FILE_NAME = re.compile(r"audit-\d{6}\.jsonl")
LOCK_NAME = "lock"
LOCK_SECONDS = 30.0
"""How long a new router waits for the one that it replaces to let go of the log."""

TAIL_BYTES = 2**20
"""Longer than any line; a line holds ids and figures alone."""

_HASH_FIELD = re.compile(rb',"hash":"([0-9a-f]{64})"}$')
_HASH_FIELD_BYTES = 75
_log = logging.getLogger(__name__)


BESIDE_S3 = "~/.local/state/llumi/audit"


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain: where the next one goes on."""

    number: int = 0
    hash: str = GENESIS


def sealed(fields: Mapping[str, Any], head: Head) -> tuple[bytes, Head]:
    """The line after `head` with its newline, and the head that it makes."""
    body = orjson.dumps({"number": head.number + 1, **fields, "previous": head.hash})
    line_hash = hashlib.sha256(body).hexdigest()
    return body[:-1] + b',"hash":"' + line_hash.encode() + b'"}\n', Head(head.number + 1, line_hash)


def opened(line: bytes) -> dict[str, Any] | None:
    """The fields of a line without its newline; None where a crash tore it. Raises AuditError for one that was altered."""
    match = _HASH_FIELD.search(line, max(0, len(line) - _HASH_FIELD_BYTES))
    if match is None:
        return None
    if hashlib.sha256(line[: match.start()] + b"}").hexdigest().encode() != match[1]:
        raise AuditError("this line was altered")
    fields: dict[str, Any] = orjson.loads(line)
    return fields


def audit_folder(config: ServeConfig, storage: Storage) -> Path:
    """Where the log is, on the node of the router."""
    if config.audit is not None:
        return config.audit.expanduser().absolute()
    return Path(storage.root) / "audit" if storage.is_local else Path(BESIDE_S3).expanduser()


def log_files(folder: Path) -> list[Path]:
    """The files of a log, in order."""
    return sorted(file for file in folder.glob("*") if FILE_NAME.fullmatch(file.name))


class AuditLog:
    """Writes the log of one router; `close` lets another go on with it."""

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES, lock_seconds: float = LOCK_SECONDS) -> None:
        """Go on with the log in `folder`, or begin it; a line that a crash tore is closed off.

        Raises AuditError where the folder cannot be written to, another router writes to it, or its last line was altered.
        """
        self.folder = folder
        self._file_bytes = file_bytes
        self.writable = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder, lock_seconds)
            self._file, self._head = _resumed(folder)
        except OSError as error:
            raise AuditError(f"{folder}: cannot be written to ({error.strerror}); correct serve.audit") from None

    def write(self, fields: Mapping[str, Any]) -> None:
        """Append one line, in one piece. Where the disk refuses, `writable` is False until a line fits again."""
        line, head = sealed(fields, self._head)
        try:
            if self._file.size and self._file.size + len(line) > self._file_bytes:
                number = int(self._file.path.stem.removeprefix("audit-"))
                self._file.close()
                self._file = _Growing(self.folder / _name(number + 1))
            self._file.append(line)
        except OSError as error:
            if self.writable:
                _log.error("%s: cannot be written to (%s); nothing is answered until it can", self.folder, error.strerror)
            self.writable = False
            return
        self._head, self.writable = head, True

    def close(self) -> None:
        """Give the files back."""
        self._file.close()
        os.close(self._lock)


class _Growing:
    """A file that grows by whole pieces: of one that the disk does not take, nothing stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self.size = path.stat().st_size if path.exists() else 0

    def append(self, content: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        written = 0
        try:
            written = os.write(self._descriptor, content)
        finally:
            if written != len(content):
                os.ftruncate(self._descriptor, self.size)
        if written != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _resumed(folder: Path) -> tuple[_Growing, Head]:
    """The last file and the head; what stands behind it, torn by a crash, is closed off by a line with its hash."""
    files = log_files(folder)
    file = _Growing(files[-1] if files else folder / _name(1))
    tail = _tail(files[-1]) if files else b""
    head, end = _last_whole(tail, file.path)
    if end == 0 and len(files) > 1:
        head, _ = _last_whole(_tail(files[-2]), files[-2])
    if torn := tail[end:]:
        line, head = sealed({"time": utc_now(), "torn": hashlib.sha256(torn).hexdigest()}, head)
        file.append(b"\n" + line)
    elif tail and not tail.endswith(b"\n"):  # the line is whole, but for its newline
        file.append(b"\n")
    return file, head


def _last_whole(tail: bytes, path: Path) -> tuple[Head, int]:
    """The head that the last whole line of `tail` makes, and where the line ends, its newline counted."""
    end = len(tail)
    while end > 0:
        start = tail.rfind(b"\n", 0, end - 1) + 1
        try:
            fields = opened(tail[start:end].removesuffix(b"\n"))
        except AuditError:
            raise AuditError(
                f"{path}: its last line was altered; keep this log, and name another folder in serve.audit"
            ) from None
        if fields is not None:
            return Head(fields["number"], fields["hash"]), end
        end = start
    return Head(), 0


def _tail(path: Path) -> bytes:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return stream.read()


def _locked(folder: Path, seconds: float) -> int:
    """A file descriptor that holds the folder's lock as long as it is open; the system frees it with the process."""
    lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock)
                raise AuditError(
                    f"{folder}: another service writes its log there; name another folder in serve.audit"
                ) from None
            time.sleep(0.1)
        else:
            return lock


def _name(number: int) -> str:
    return f"audit-{number:06}.jsonl"


def utc_now() -> str:
    """The time as the log writes it."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"
