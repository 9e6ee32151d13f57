"""A service that cannot start says why in one line, and leaves nothing half up."""

import importlib.util
import shutil
import socket
from pathlib import Path

import pytest

pytest.importorskip("ray")

from ray import serve as ray_serve

from llumi.config import Config
from llumi.errors import ArtifactError, ConfigError, EngineError, ModelError, ServeError
from llumi.models import ensure_base
from llumi.serve.app import serve, stop_serving
from llumi.serve.holding import Holding
from llumi.storage import Storage
from tests.adapters import write_adapter
from tests.conftest import free_port

pytestmark = pytest.mark.ray


def with_serve(config: Config, **keys: object) -> Config:
    return config.model_copy(update={"serve": config.serve.model_copy(update={"port": free_port(), **keys})})


def test_a_model_that_is_not_there_is_named(config: Config, ray_cluster: None):
    with pytest.raises(ArtifactError, match="models/base: no such artifact"):
        serve(with_serve(config))


def test_what_the_cluster_cannot_hold_is_named(config: Config, ray_cluster: None):
    ensure_base(config, Storage.open(config.storage))
    gpus, told = config.serve.engine.model_copy(update={"num_gpus": 1}), list[str]()
    with pytest.raises(ConfigError, match=r"serve\.engine\.num_gpus: 2 engines of 1 GPU each do not fit"):
        serve(with_serve(config, engine=gpus), tell=told.append)
    [line] = told
    assert line.startswith(("engine: hf on a GPU each (serve.engine.num_gpus is 1;", "engine: vllm on a GPU each"))


def test_an_adapter_of_another_model_is_said_before_anything_starts(
    config: Config, ray_cluster: None, tiny_model: Path, tmp_path: Path
):
    ensure_base(config, Storage.open(config.storage))
    wider = write_adapter(tmp_path / "wider", tiny_model, wider=True)
    gm = config.serve.gm.model_copy(update={"adapter": str(wider)})
    with pytest.raises(ModelError, match=r"wider: .* has size \d+, and \d+ in .*base; it was trained on another model"):
        serve(with_serve(config, gm=gm))
    assert ray_serve.status().applications == {}


def test_an_adapter_is_told_by_its_name_and_a_version_of_it_and_its_model(config: Config, tiny_model: Path, tmp_path: Path):
    storage = Storage.open(config.storage)
    ensure_base(config, storage)
    versions = {Holding.find(storage, "base").served.version}
    for seed in (1, 2):
        adapter = write_adapter(tmp_path / f"gm adapter {seed}", tiny_model, seed=seed)
        found = Holding.find(storage, "base", str(adapter))
        assert found.served.name == f"gm-adapter-{seed}"
        found.require(storage)
        versions.add(found.served.version)
    assert len(versions) == 3
    shutil.rmtree(adapter)
    write_adapter(adapter, tiny_model, seed=3)
    with pytest.raises(ArtifactError, match=r"gm-adapter-2: version \w+ was replaced"):
        found.require(storage)


def test_without_rules_nothing_starts(config: Config, ray_cluster: None):
    ensure_base(config, Storage.open(config.storage))
    absent = config.model_copy(update={"safety": config.safety.model_copy(update={"rules": Path("no-such-rules.yaml")})})
    with pytest.raises(ConfigError, match=r"no-such-rules\.yaml: cannot be read"):
        serve(with_serve(absent))
    assert ray_serve.status().applications == {}


def test_a_port_in_use_is_said_before_anything_starts(config: Config, ray_cluster: None):
    ensure_base(config, Storage.open(config.storage))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServeError, match=f"{port}: the port is in use"):
            serve(with_serve(config, port=port))
    assert ray_serve.status().applications == {}


def test_a_model_without_tokenizer_is_said_before_anything_starts(config: Config, ray_cluster: None):
    storage = Storage.open(config.storage)
    ensure_base(config, storage)
    (Path(storage.path("models/base")) / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"base: no tokenizer \(tokenizer\.json\)"):
        serve(with_serve(config))
    assert ray_serve.status().applications == {}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="needs an environment without vLLM")
def test_a_replicas_own_error_comes_back_and_nothing_stays_up(config: Config, ray_cluster: None):
    ensure_base(config, Storage.open(config.storage))
    absent = with_serve(config, engine=config.serve.engine.model_copy(update={"kind": "vllm"}))
    with pytest.raises(EngineError, match="pip install vllm") as problem:
        serve(absent)
    assert "\n" not in str(problem.value)
    assert ray_serve.status().applications == {}
    with socket.create_server(("127.0.0.1", absent.serve.port)):
        pass


def test_stopping_where_nothing_runs_is_quiet(ray_cluster: None):
    stop_serving()
    stop_serving()
