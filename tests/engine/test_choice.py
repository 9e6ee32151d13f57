"""Which engine a service gets on which cluster: each rule, and the line that tells it."""

import pytest

from llumi.config import EngineConfig, ServeEngineConfig
from llumi.engine.capacity import require_room
from llumi.engine.choice import Installed, choose_engine
from llumi.errors import ConfigError

CPUS: dict[str, float] = {"CPU": 4}
ONE_GPU: dict[str, float] = {"CPU": 16, "GPU": 1}
FOUR_GPUS: dict[str, float] = {"CPU": 64, "GPU": 4}
EVERYTHING = Installed(torch_for_gpus=True, vllm=True)
NO_VLLM = Installed(torch_for_gpus=True, vllm=False)


@pytest.mark.parametrize(
    ("asked", "nodes", "installed", "kind", "num_gpus", "line"),
    [
        ({}, [CPUS], EVERYTHING, "hf", 0, "hf on CPU (no GPU in this cluster)"),
        ({}, [CPUS, FOUR_GPUS], EVERYTHING, "vllm", 1, "vllm on a GPU each (GPUs in this cluster: 4, for 2 replicas)"),
        ({}, [FOUR_GPUS], NO_VLLM, "hf", 1, "pip install vllm)"),
        ({}, [FOUR_GPUS], Installed(torch_for_gpus=False, vllm=True), "hf", 0, "but torch here is built for CPUs alone)"),
        ({}, [ONE_GPU], EVERYTHING, "hf", 0.5, "hf on shared GPUs (GPUs in this cluster: 1, for 2 replicas; vllm would want"),
        ({"num_gpus": 0.5}, [ONE_GPU], EVERYTHING, "vllm", 0.5, "vllm on shared GPUs (serve.engine.num_gpus is 0.5)"),
        ({"num_gpus": 0}, [FOUR_GPUS], EVERYTHING, "hf", 0, "hf on CPU (serve.engine.num_gpus is 0)"),
        ({"num_gpus": 2}, [FOUR_GPUS], EVERYTHING, "vllm", 2, "vllm on 2 GPUs each (serve.engine.num_gpus is 2)"),
        ({"vllm": {"tensor_parallel_size": 2}}, [FOUR_GPUS], EVERYTHING, "vllm", 2, "vllm on 2 GPUs each"),
        ({"kind": "hf"}, [FOUR_GPUS], EVERYTHING, "hf", 1, "hf on a GPU each (serve.engine.kind is hf; GPUs in this cluster"),
        ({"kind": "hf"}, [CPUS], EVERYTHING, "hf", 0, "hf on CPU (serve.engine.kind is hf; no GPU in this cluster)"),
        ({"kind": "hf", "vllm": {"tensor_parallel_size": 2}}, [FOUR_GPUS], EVERYTHING, "hf", 1, "hf on a GPU each"),
        ({"kind": "vllm"}, [ONE_GPU], NO_VLLM, "vllm", 1, "vllm on a GPU each (serve.engine.kind is vllm; "),
        ({"kind": "vllm"}, [CPUS], EVERYTHING, "vllm", 0, "vllm on CPU (serve.engine.kind is vllm; no GPU in this cluster)"),
        ({"kind": "echo"}, [FOUR_GPUS], EVERYTHING, "echo", 0, "echo (serve.engine.kind is echo)"),
    ],
)
def test_what_is_set_counts_and_the_rest_follows_from_the_cluster(asked, nodes, installed, kind, num_gpus, line):
    choice = choose_engine(ServeEngineConfig(**asked), 2, nodes, installed)
    assert (choice.engine.kind, choice.engine.num_gpus) == (kind, num_gpus)
    assert line in choice.line
    assert "\n" not in choice.line


def test_every_other_key_goes_along():
    asked = ServeEngineConfig(max_batch_size=5, num_cpus=3, precision="bf16", vllm={"seed": 1})
    assert choose_engine(asked, 2, [CPUS]).engine == EngineConfig(
        max_batch_size=5, num_cpus=3, precision="bf16", vllm={"seed": 1}
    )


@pytest.mark.parametrize("wanted", range(1, 41))
def test_engines_that_share_gpus_fit_on_them(wanted: int):
    choice = choose_engine(ServeEngineConfig(num_cpus=0.1), wanted, [ONE_GPU, FOUR_GPUS], NO_VLLM)
    require_room("serve.engine", wanted, choice.engine, [ONE_GPU, FOUR_GPUS])


def test_a_model_over_several_gpus_without_vllm_is_said():
    with pytest.raises(ConfigError, match=r"serve\.engine\.num_gpus: 2 GPUs for one model need vLLM, which is not installed"):
        choose_engine(ServeEngineConfig(num_gpus=2), 2, [FOUR_GPUS], NO_VLLM)


def test_a_model_over_several_gpus_needs_them_on_one_node():
    split = choose_engine(ServeEngineConfig(num_gpus=2), 2, [FOUR_GPUS], EVERYTHING).engine
    require_room("serve.engine", 2, split, [FOUR_GPUS])
    with pytest.raises(ConfigError, match=r"2 engines of 2 GPU each do not fit \(GPUs per node: 1, 1, 1, 1\)"):
        require_room("serve.engine", 2, split, [ONE_GPU] * 4)


def test_a_share_that_is_no_binary_fraction_fits_as_often_as_it_should():
    require_room("serve.engine", 10, EngineConfig(num_gpus=0.1, num_cpus=0.1), [ONE_GPU])
