"""The store, as one node sees it: all that jobs ask of it, once and small, and how far its clock is from the node's."""

import contextlib
import email.utils
import os
import ssl
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pyarrow.fs as pafs

from llumi.config import StorageConfig
from llumi.errors import LlumiError, StoreError
from llumi.storage import Storage, delete_file

PROBE = ".doctor"
"""Below the root of the store, so that a policy can allow it; each node's own files begin like this, too."""

CLOCK_SECONDS = 5
LARGE_BYTES = 11 * 2**20
"""More than one part of a multipart upload, which S3 wants to have 5 MiB at least."""

SMALL_READS = 5


def leave_mark(config: StorageConfig, mark: bytes) -> None:
    """Write what every node should see; raises StoreError or OSError."""
    Storage.open(config).write(PROBE, mark)


def remove_mark(config: StorageConfig) -> None:
    """Delete it again; raises StoreError or OSError."""
    storage = Storage.open(config, create=False)
    delete_file(storage.filesystem, storage.path(PROBE))


def look_into_store(config: StorageConfig, mark: bytes, name: str) -> dict[str, Any]:
    """Write, read, list, upload in parts and delete as `name`; figures, or `failed`, which says at which step and why.

    `store_ahead_seconds` is how far the clock of an S3 store is ahead of this node's, to within a second.
    """
    clock = {"store_ahead_seconds": store_ahead_seconds(config)}
    steps: list[str] = ["open"]
    try:
        return clock | _use(Storage.open(config, create=False), mark, f"{PROBE}-{name}", steps)
    except (LlumiError, OSError) as error:
        return clock | {"failed": f"{steps[-1]}: {str(error).splitlines()[0][:200]}"}


def _use(storage: Storage, mark: bytes, name: str, steps: list[str]) -> dict[str, float]:
    """Every step is named in `steps` before it is tried."""
    steps.append("read")
    seen = storage.read(PROBE)
    if seen != mark:
        raise StoreError(f"{storage.uri} is another folder here; mount the same one on every node, or use s3://")
    files = (name, f"{name}-large")
    try:
        figures = _write_and_read(storage, files, mark, steps)
        steps.append("list")
        listed = {info.base_name for info in storage.filesystem.get_file_info(pafs.FileSelector(storage.path("")))}
        if not listed.issuperset(files):
            raise StoreError(f"{storage.uri}: what was written is not in the list of what is there")
        steps.append("delete")
        for file in files:
            storage.filesystem.delete_file(storage.path(file))
    except (LlumiError, OSError):
        with contextlib.suppress(OSError):
            for file in files:
                delete_file(storage.filesystem, storage.path(file))
        raise
    if storage.read(name) is not None:
        raise StoreError(f"{storage.uri}: what was deleted is still there")
    return figures


def _write_and_read(storage: Storage, files: tuple[str, str], mark: bytes, steps: list[str]) -> dict[str, float]:
    small, large = files
    content = os.urandom(LARGE_BYTES)
    steps.append("write")
    storage.write(small, mark)
    reads = [_timed(storage, small)[1] for _ in range(SMALL_READS)]
    steps.append("upload in parts")
    started = time.perf_counter()
    storage.write(large, content)
    written = time.perf_counter() - started
    back, read = _timed(storage, large)
    if back != content:
        raise StoreError(f"{storage.uri}: what was read is not what was written")
    megabytes = LARGE_BYTES / 1e6
    return {
        "read_milliseconds": sorted(reads)[SMALL_READS // 2] * 1e3,
        "write_megabytes_per_second": megabytes / written,
        "read_megabytes_per_second": megabytes / read,
    }


def _timed(storage: Storage, path: str) -> tuple[bytes | None, float]:
    started = time.perf_counter()
    content = storage.read(path)
    return content, time.perf_counter() - started


def store_ahead_seconds(config: StorageConfig, environment: Mapping[str, str] = os.environ) -> float | None:
    """By the Date of an S3 store's answer, whatever it answers; None for a folder, and where it does not answer.

    Asked without a key: a store whose clock is more than 15 minutes off refuses every signature.
    """
    if not config.uri.startswith("s3://"):
        return None
    endpoint = config.endpoint_url or environment.get("AWS_ENDPOINT_URL") or f"https://s3.{config.region}.amazonaws.com"
    url = endpoint if "://" in endpoint else f"https://{endpoint}"
    trusted = ssl.create_default_context(cafile=environment.get("SSL_CERT_FILE"))
    asked = time.time()
    try:
        answer = httpx.head(url, timeout=CLOCK_SECONDS, verify=trusted, trust_env=False)
        date = email.utils.parsedate_to_datetime(answer.headers["date"])
    except (httpx.HTTPError, KeyError, ValueError):
        return None
    # The Date has whole seconds, cut off: on average half a second has gone by since.
    return date.timestamp() + 0.5 - (asked + time.time()) / 2
