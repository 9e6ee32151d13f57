"""The service on vLLM: a model cut over two processes inside each replica, and an adapter that was trained elsewhere on GM."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

pytest.importorskip("ray")

import ray

from llumi.config import RayConfig, load_config
from llumi.models import ensure_base
from llumi.ray_session import ray_session
from llumi.serve.app import Serving, serve, stop_serving
from llumi.storage import Storage
from tests.adapters import write_adapter
from tests.conftest import free_port
from tests.engine.test_contract import OPTIONS

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.vllm]
POST = {"post": "I moved to a new town and I feel lonely.", "max_new_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def serving(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    if ray.is_initialized():
        pytest.skip("needs a cluster of its own, whose environment it sets (pytest -m vllm)")
    folder = tmp_path_factory.mktemp("service")
    adapter = write_adapter(folder / "elsewhere", tiny_model)
    keys = OPTIONS["vllm"] | {"tensor_parallel_size": 2}
    told: list[str] = []
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # this machine may have one NUMA node alone
        config = load_config(
            None,
            [
                f"storage.uri={folder / 'store'}", f"train.base={tiny_model}", f"serve.port={free_port()}",
                "serve.engine.kind=vllm", f"serve.engine.vllm={keys}", f"serve.gm.adapter={adapter}",
            ],
        )  # fmt: skip
        ensure_base(config, Storage.open(config.storage))
        with ray_session(RayConfig(num_cpus=4)):
            yield serve(config, tell=told.append)
            stop_serving()
    assert told == ["engine: vllm on CPU (serve.engine.kind is vllm; no GPU in this cluster)"]


def test_the_adapter_answers_for_gm_and_the_base_for_im(serving: Serving):
    with httpx.Client(base_url=serving.url, headers={"Authorization": f"Bearer {serving.secret}"}, trust_env=False) as client:
        draft = client.post("/v1/draft", json=POST, timeout=120).json()
        revision = client.post("/v1/improve", json=POST | {"draft": "Call a friend."}, timeout=120).json()
    assert draft["model"].startswith("elsewhere@")
    assert revision["model"].startswith("base@")
    assert draft["usage"]["completion_tokens"] > 0


def test_the_processes_of_a_model_are_children_of_its_replica(serving: Serving):
    """On GPUs they inherit what Ray lets the replica see."""
    workers = [process for process in psutil.process_iter(["name"]) if (process.info["name"] or "").startswith("VLLM::Worker")]
    replicas = [parent for worker in workers for parent in worker.parents() if "ServeReplica" in " ".join(parent.cmdline())]
    assert len(workers) == 4
    assert len(set(replicas)) == 2
