"""vLLM's keys are checked against its own arguments; without vLLM the error says how to get it."""

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llumi.config import EngineConfig
from llumi.engine import Request, Sampling, open_engine
from llumi.engine.vllm import engine_arguments
from llumi.errors import ConfigError, EngineError, ModelError
from llumi.prompts import gm_prompt
from tests.adapters import merged_reply, write_adapter
from tests.engine.test_contract import OPTIONS, text_of

HAS_VLLM = importlib.util.find_spec("vllm") is not None
POSTS = ("I moved to a new town and I feel lonely.", "Thank you for telling us. " * 6)


def needs_vllm(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.vllm(pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed")(test))


@pytest.mark.skipif(HAS_VLLM, reason="needs an environment without vLLM")
def test_without_vllm_the_error_says_how_to_install_it(tiny_model: Path):
    with pytest.raises(EngineError, match="pip install vllm"):
        open_engine(EngineConfig(kind="vllm"), tiny_model)


@needs_vllm
@pytest.mark.parametrize(("key", "hint"), [("max_model_length", "did you mean max_model_len"), ("model", "set by LLUMI")])
def test_a_key_that_vllm_does_not_take_is_named(tiny_model: Path, key: str, hint: str):
    with pytest.raises(ConfigError, match=rf"engine\.vllm\.{key}: .*{hint}"):
        open_engine(EngineConfig(kind="vllm", vllm={key: 1}), tiny_model)


@needs_vllm
@pytest.mark.parametrize(("keys", "imported"), [({}, False), ({"seed": 1}, True)])
def test_vllm_is_imported_beforehand_only_where_keys_are_to_be_checked(keys: dict[str, int], imported: bool):
    check = (
        "import sys; from llumi.config import EngineConfig; from llumi.engine import check_engine; "
        f"check_engine(EngineConfig(kind='vllm', vllm={keys}), 'generate.engine'); print('vllm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(imported)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, {}),
        ({"num_gpus": 1}, {}),
        ({"num_gpus": 2}, {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}),
        (
            {"num_gpus": 4, "vllm": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}},
            {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "distributed_executor_backend": "mp"},
        ),
        ({"num_gpus": 0.5}, {"gpu_memory_utilization": 0.45}),
        ({"num_gpus": 0.5, "vllm": {"gpu_memory_utilization": 0.3}}, {"gpu_memory_utilization": 0.3}),
    ],
)
def test_gpus_tell_vllm_how_to_cut_the_model_and_how_much_memory_is_its_own(asked, given, tmp_path: Path):
    arguments = engine_arguments(EngineConfig(kind="vllm", **asked), tmp_path, {})
    always = {"model", "dtype", "max_num_seqs", "enable_log_requests", "disable_log_stats"}
    assert {key: value for key, value in arguments.items() if key not in always} == given


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    ranks = {"warm": 4, "plain": 12}
    return {name: write_adapter(folder / name, tiny_model, seed=rank, rank=rank) for name, rank in ranks.items()}


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2], ids=["whole", "tensor-parallel"])
def test_each_request_is_answered_by_its_own_adapter_as_peft_would(
    processes: int, tiny_model: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    """With two processes, each of them holds half of every layer and of every adapter."""
    if processes > 1:
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # this machine may have one NUMA node alone
    keys = OPTIONS["vllm"] | ({"tensor_parallel_size": processes} if processes > 1 else {})
    config = EngineConfig(kind="vllm", precision="fp32", vllm=keys)
    asked = [ask(adapter=name, post=post) for post in POSTS for name in (None, *adapters)]

    async def answers() -> list[Any]:
        engine = open_engine(config, tiny_model, adapters)
        try:
            together = await asyncio.gather(*(text_of(engine, request) for request in asked))
            unknown = await asyncio.gather(text_of(engine, ask(adapter="other")), return_exceptions=True)
            return [together, *unknown]
        finally:
            await engine.close()

    together, unknown = asyncio.run(answers())
    assert together == [merged_reply(tiny_model, adapters.get(request.adapter or ""), request) for request in asked]
    assert len(set(together[: 1 + len(adapters)])) == 1 + len(adapters)
    assert isinstance(unknown, EngineError)
    assert str(unknown) == "no adapter other; there are: warm, plain"


@needs_vllm
@pytest.mark.parametrize(
    ("settings", "line"), [({"use_dora": True}, "does not yet support DoRA"), ({"bias": "all"}, "bias is not supported")]
)
def test_an_adapter_that_vllm_cannot_serve_is_one_line(settings: dict[str, Any], line: str, tiny_model: Path, tmp_path: Path):
    adapter = write_adapter(tmp_path / "other", tiny_model, settings=settings)
    with pytest.raises(
        ModelError, match=rf"other: vLLM cannot serve this adapter \(.*{line}.*\); set engine.kind=hf"
    ) as problem:
        open_engine(EngineConfig(kind="vllm", vllm=OPTIONS["vllm"]), tiny_model, {"other": adapter})
    assert "\n" not in str(problem.value)


def ask(adapter: str | None = None, post: str = "I moved to a new town and I feel lonely.") -> Request:
    return Request(tuple(gm_prompt(post)), Sampling(max_new_tokens=12, temperature=0), adapter=adapter)
