"""The adapter that a stage publishes beside its merged weights: it leads from `models/base` to this very model.

A stage on a parent with an adapter of its own has trained the step from there on. The factors of both are put side by side,
of rank r1 + r2: B1 A1 + B2 A2 is the product of (B1 B2) and of A1 above A2. So it is exact, and base, engine and memory are
shared by every model that comes from one base. Imported by the worker only.
"""

from pathlib import Path
from typing import Any

from peft import PeftConfig

from llumi.adapters import ADAPTER_FOLDER
from llumi.storage import Input

BASE = "models/base"
_STAGE, _PARENT = "default", "parent"
"""The names of both within PEFT; the first is the one that it gives itself."""


def save_adapter(adapted: Any, parent: Input, parent_folder: Path, folder: Path) -> None:
    """Write `folder`/adapter in PEFT's layout for `adapted`, a PEFT model that holds the stage's adapter on its parent.

    Its `revision` is the hash of the base that it leads from. Nothing is written where the parent has no adapter, because
    it, or a model before it, was trained in full.
    """
    stage = adapted.peft_config[_STAGE]
    if isinstance(stage.target_modules, str):  # a pattern and a list of names could not be joined
        stage.target_modules = set(adapted.base_model.targeted_module_names)
    steps, base = [_STAGE], parent.sha256
    if parent.name != BASE:
        before = parent_folder / ADAPTER_FOLDER
        if not before.is_dir():
            return
        adapted.load_adapter(before, _PARENT)
        steps, base = [_PARENT, _STAGE], PeftConfig.from_pretrained(before).revision
    adapted.add_weighted_adapter(steps, [1.0] * len(steps), ADAPTER_FOLDER, combination_type="cat")
    adapted.peft_config[ADAPTER_FOLDER].base_model_name_or_path = BASE
    adapted.peft_config[ADAPTER_FOLDER].revision = base
    # PEFT puts an adapter into a folder of its name; asked about embeddings, it would look for the base on a hub.
    adapted.save_pretrained(folder, selected_adapters=[ADAPTER_FOLDER], save_embedding_layers=False)
