"""The environment of a local cluster's processes: its head asks nobody, its workers keep what the operator has set."""

import os

import pytest

from llumi import environment

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
