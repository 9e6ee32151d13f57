"""The store as a node sees it: a folder and a real S3 server, and stores that are not as they should be."""

import email.utils
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llumi.config import StorageConfig
from llumi.doctor.store import leave_mark, look_into_store, remove_mark, store_ahead_seconds
from llumi.storage import Storage

MARK = b"seen by all"


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    return StorageConfig(uri=str(tmp_path)) if request.param == "folder" else request.getfixturevalue("s3_storage")


def names(config: StorageConfig) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    opened = Storage.open(config)
    found = opened.filesystem.get_file_info(FileSelector(opened.path(""), allow_not_found=True))
    return [info.base_name for info in found if info.type == FileType.File]


def test_all_steps_pass_and_leave_nothing(storage: StorageConfig):
    leave_mark(storage, MARK)
    found = look_into_store(storage, MARK, "node-1")
    assert "failed" not in found, found
    assert found["read_milliseconds"] > 0
    assert found["write_megabytes_per_second"] > 0
    remove_mark(storage)
    assert names(storage) == []
    ahead = found["store_ahead_seconds"]
    assert abs(ahead) < 2 if storage.uri.startswith("s3://") else ahead is None


def test_a_folder_that_is_another_one_on_this_node(tmp_path: Path):
    leave_mark(StorageConfig(uri=str(tmp_path / "shared")), MARK)
    found = look_into_store(StorageConfig(uri=str(tmp_path / "other")), MARK, "node-2")
    assert (
        found["failed"] == f"read: {tmp_path / 'other'} is another folder here; mount the same one on every node, or use s3://"
    )
    assert not (tmp_path / "other").exists()


def test_a_key_that_is_refused(s3_storage: StorageConfig, monkeypatch: pytest.MonkeyPatch):
    leave_mark(s3_storage, MARK)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")
    found = look_into_store(s3_storage, MARK, "node-1")
    assert "the store refuses this key" in found["failed"]
    assert abs(found["store_ahead_seconds"]) < 2  # told without a key


@pytest.fixture
def early_store() -> Iterator[str]:
    """A server that refuses everything, an hour ahead of time."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", email.utils.formatdate(time.time() + 3600, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_store_that_is_an_hour_ahead(early_store: str):
    ahead = store_ahead_seconds(StorageConfig(uri="s3://bucket/root", endpoint_url=early_store))
    assert ahead is not None
    assert 3598 < ahead < 3602
    assert store_ahead_seconds(StorageConfig(uri="s3://bucket/root", endpoint_url="http://127.0.0.1:1")) is None
