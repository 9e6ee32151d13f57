"""The heavy libraries without what they would load for uses that are none of LLUMI's.

Transformers, TRL and DeepSpeed import optional packages wherever these are installed, which costs every process seconds.
"""

import contextlib
import functools
import importlib.metadata
import sys
from collections.abc import Iterator

_UNUSED = ("mlflow", "scipy", "sklearn")
"""DeepSpeed's tuner, and the losses and assisted generation of models that nobody trains here, would import them."""

_packages_distributions = functools.cache(importlib.metadata.packages_distributions)


@contextlib.contextmanager
def lean_imports() -> Iterator[None]:
    """Import transformers, TRL or DeepSpeed within: they take the packages of `_UNUSED` for not installed.

    What has been imported before stays, and afterwards every package is found again. Transformers remembers what it has
    found, so where it is loaded already, nothing is hidden from the rest of it.
    """
    # Transformers and TRL each ask which package brings which module, and every answer reads the lists of all files.
    importlib.metadata.packages_distributions = _packages_distributions
    hidden = [] if "transformers" in sys.modules else [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None stands for a module that is not there
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
