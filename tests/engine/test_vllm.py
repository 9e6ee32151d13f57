"""vLLM's keys are checked against its own arguments; without vLLM the error says how to get it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from llumi.config import EngineConfig
from llumi.engine import open_engine
from llumi.errors import ConfigError, EngineError

HAS_VLLM = importlib.util.find_spec("vllm") is not None


@pytest.mark.skipif(HAS_VLLM, reason="needs an environment without vLLM")
def test_without_vllm_the_error_says_how_to_install_it(tiny_model: Path):
    with pytest.raises(EngineError, match="pip install vllm"):
        open_engine(EngineConfig(kind="vllm"), tiny_model)


@pytest.mark.vllm
@pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed")
@pytest.mark.parametrize(("key", "hint"), [("max_model_length", "did you mean max_model_len"), ("model", "set by LLUMI")])
def test_a_key_that_vllm_does_not_take_is_named(tiny_model: Path, key: str, hint: str):
    with pytest.raises(ConfigError, match=rf"engine\.vllm\.{key}: .*{hint}"):
        open_engine(EngineConfig(kind="vllm", vllm={key: 1}), tiny_model)


@pytest.mark.vllm
@pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed")
@pytest.mark.parametrize(("keys", "imported"), [({}, False), ({"seed": 1}, True)])
def test_vllm_is_imported_beforehand_only_where_keys_are_to_be_checked(keys: dict[str, int], imported: bool):
    check = (
        "import sys; from llumi.config import EngineConfig; from llumi.engine import check_engine; "
        f"check_engine(EngineConfig(kind='vllm', vllm={keys}), 'generate.engine'); print('vllm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(imported)
