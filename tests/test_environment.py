"""The one switch over the ways out; a local cluster's head asks nobody, its workers keep what the operator has set."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llumi import environment

ROOT = Path(__file__).parents[1]
ASKS_THE_HUB = """
import json, os, llumi
from llumi.environment import worker_environment
from huggingface_hub import snapshot_download
try:
    snapshot_download("somebody/model", local_dir=os.environ["HOME"])
except Exception:
    pass
print(json.dumps(worker_environment() | {name: os.environ[name] for name in worker_environment()}))
"""
PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def test_a_worker_finds_the_operators_proxies_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.clinic.example:3128")
    monkeypatch.delenv("http_proxy", raising=False)
    for name, value in environment.head_environment().items():
        monkeypatch.setenv(name, value)
    assert os.environ["http_proxy"] == os.environ["https_proxy"] == "http://127.0.0.1:9"
    environment.apply()
    assert os.environ["https_proxy"] == "http://proxy.clinic.example:3128"
    assert os.environ["http_proxy"] == ""
    assert not [name for name in os.environ if name.startswith("LLUMI_OWN_")]


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """The address of a hub that has nothing, and the paths that it was asked for."""
    asked: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize(
    ("said", "is_open"),
    [
        ({}, False),
        # What a library's own variable says does not open a way out; nor does anything but 0.
        ({"HF_HUB_OFFLINE": "0", "RAY_USAGE_STATS_ENABLED": "1", "DO_NOT_TRACK": "0"}, False),
        ({"LLUMI_OFFLINE": "off", "HF_HUB_OFFLINE": "0"}, False),
        # What an image or a unit says does not keep it closed.
        ({"LLUMI_OFFLINE": "0", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "0"}, True),
    ],
)
def test_one_switch_decides_whether_a_hub_is_reached(
    said: dict[str, str], is_open: bool, hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, asked = hub
    closed = dict(environment.OUTBOUND_OFF)
    variables = {name: value for name, value in os.environ.items() if name not in closed and name != "LLUMI_OFFLINE"}
    variables |= {"HF_ENDPOINT": url, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ASKS_THE_HUB], env=variables | said, capture_output=True, text=True, check=True
    )
    assert bool(asked) == is_open
    hubs = {name: "0" for name in closed if name.endswith("_OFFLINE")} if is_open else {}
    expected = environment.QUIET | closed | hubs | {"LLUMI_OFFLINE": "0" if is_open else "1"}
    assert json.loads(done.stdout) == expected


@pytest.mark.ray
def test_workers_of_a_local_cluster_have_the_environment_of_their_kind(ray_cluster: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    def seen() -> dict[str, str | None]:
        import llumi  # noqa: F401

        return {name: os.environ.get(name) for name in (*PROXIES, *environment.OUTBOUND_OFF, "POLARS_MAX_THREADS")}

    own = {name: os.environ.get(name, "") for name in PROXIES}
    assert ray.get(seen.remote()) == own | environment.OUTBOUND_OFF | {"POLARS_MAX_THREADS": "1"}
    assert "POLARS_MAX_THREADS" not in os.environ
