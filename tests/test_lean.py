"""What is hidden from the heavy libraries while they are imported, and that all is there again afterwards."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")

LEAN = """
import importlib.util, sys
from llumi.lean import lean_imports
with lean_imports():
    import transformers.models.auto.modeling_auto
    hidden = [importlib.util.find_spec(name) for name in ("mlflow", "scipy", "sklearn")]
print(hidden, sorted({"mlflow", "scipy", "sklearn"} & set(sys.modules)))
import scipy, sklearn.metrics
from transformers import AutoModelForCausalLM
print(bool(AutoModelForCausalLM), all(importlib.util.find_spec(name) for name in ("mlflow", "scipy", "sklearn")))
with lean_imports():
    import sklearn.metrics
print(sklearn.metrics.roc_curve.__name__)
"""


def test_unused_packages_are_hidden_while_transformers_is_imported_and_found_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[None, None, None] []", "True True", "roc_curve"]
