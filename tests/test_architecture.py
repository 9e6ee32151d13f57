"""The promises of the structure: who may import whom, and that light parts stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "llumi": 0,
    "llumi.environment": 0,
    "llumi.errors": 0,
    "llumi.records": 0,
    "llumi.contacts": 0,
    "llumi.prompts": 0,
    "llumi.progress": 0,
    "llumi.config": 0,
    "llumi.storage": 0,
    "llumi.lean": 0,
    "llumi.interfaces": 0,
    "llumi.models": 0,
    "llumi.lineage": 0,
    "llumi.adapters": 0,
    "llumi.embedding": 0,
    "llumi.embedding_graph": 0,
    "llumi.embedding_light": 0,
    "llumi.ray_session": 2,
    "llumi.terminal": 3,
    "llumi.job": 3,
    "llumi.pipeline": 3,
    "llumi.job_package": 3,
    "llumi.jobs_api": 3,
    "llumi.submit": 3,
    "llumi.doctor.guests": 2,
    "llumi.doctor.judge": 2,
    "llumi.doctor.links": 2,
    "llumi.doctor.node": 2,
    "llumi.doctor.run": 2,
    "llumi.demo": 3,
    "llumi.forget": 3,
    "llumi.forget_flags": 3,
    "llumi.cli": 3,
    "llumi.cli_access": 3,
    "llumi.cli_doctor": 3,
    "llumi.cli_plan": 3,
    "llumi.cli_jobs": 3,
    "llumi.cli_serve": 3,
    "llumi.cli_top": 3,
    "llumi.watch": 3,
    "llumi.capacity.figures": 2,
    "llumi.capacity.gpus": 2,
    "llumi.capacity.shapes": 2,
    "llumi.capacity.failures": 2,
    "llumi.capacity.inputs": 2,
    "llumi.capacity.pairs": 2,
    "llumi.capacity.training": 2,
    "llumi.capacity.generation": 2,
    "llumi.capacity.plan": 2,
    "llumi.capacity_tables": 3,
    "llumi.corpus.read": 2,
    "llumi.pairs.partition": 2,
    "llumi.pairs.bucket": 2,
    "llumi.pairs.text": 2,
    "llumi.pairs.split": 2,
    "llumi.pairs.select": 2,
    "llumi.pairs.passes": 2,
    "llumi.pairs.finish": 2,
    "llumi.pairs.near": 2,
    "llumi.pairs.im": 2,
    "llumi.pairs.totals": 2,
    "llumi.pairs.build": 2,
    "llumi.pairs.teach": 2,
    "llumi.pairs.preferred": 2,
    "llumi.pairs.human": 2,
    "llumi.train.backend": 2,
    "llumi.train.run": 2,
    "llumi.train.sweep": 2,
    "llumi.generate.answer": 2,
    "llumi.generate.run": 2,
    "llumi.evaluate.arms": 2,
    "llumi.evaluate.report": 2,
    "llumi.evaluate.report_safety": 2,
    "llumi.evaluate.run": 2,
    "llumi.evaluate.safety": 2,
    "llumi.evaluate.summary": 2,
    "llumi.rate.draw": 2,
    "llumi.rate.study": 2,
    "llumi.rate.export": 2,
    "llumi.rate.rendering": 2,
    "llumi.rate.app": 2,
    "llumi.rate.server": 2,
    "llumi.serve.api": 2,
    "llumi.serve.guarded": 2,
    "llumi.serve.guard": 2,
    "llumi.serve.gate": 2,
    "llumi.serve.cases": 2,
    "llumi.serve.call": 2,
    "llumi.serve.clocked": 2,
    "llumi.serve.metrics": 2,
    "llumi.serve.door": 2,
    "llumi.serve.holding": 2,
    "llumi.serve.replica": 2,
    "llumi.serve.writing": 2,
    "llumi.serve.router": 2,
    "llumi.serve.versions": 2,
    "llumi.serve.running": 2,
    "llumi.serve.rollout": 2,
    "llumi.serve.app": 2,
}
"""Files of the packages that are not listed stand on floor 1."""
ONLY_IN = {"vllm": ("llumi.engine.vllm",), "trl": ("llumi.train.",), "deepspeed": ("llumi.train.",)}
RAY_ON_FLOOR_1 = ("llumi.train.worker", "llumi.train.checkpoint")


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "llumi").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)


def floor(module: str) -> int:
    return FLOORS.get(module, 1)


def folder(module: str) -> Path:
    return MODULES[module].parent


@pytest.mark.parametrize("module", MODULES)
def test_a_file_imports_from_lower_floors_or_from_its_own_folder(module: str) -> None:
    for target in imports(MODULES[module]):
        if target not in MODULES:
            continue
        lower = floor(target) < floor(module)
        own_folder = folder(target) == folder(module) and floor(target) <= floor(module)
        assert lower or own_folder, f"{module} (floor {floor(module)}) imports {target} (floor {floor(target)})"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_imported_where_they_belong(module: str) -> None:
    roots = {target.split(".")[0] for target in imports(MODULES[module])}
    for library, places in ONLY_IN.items():
        assert library not in roots or module.startswith(places), f"{module} imports {library}"
    if "ray" in roots:
        assert floor(module) >= 2 or module in RAY_ON_FLOOR_1, f"{module} (floor {floor(module)}) imports ray"


def test_every_listed_file_stands() -> None:
    assert set(FLOORS) <= set(MODULES)


@pytest.mark.parametrize("package", ["corpus", "pairs", "evaluate", "rate", "safety"])
def test_light_packages_load_no_torch_and_their_first_floor_no_ray(package: str) -> None:
    names = [name for name in MODULES if name.startswith(f"llumi.{package}") and floor(name) == 1]
    heavy = ["torch", "transformers", "ray", "trl", "deepspeed"]
    code = f"import sys, {', '.join(names)}\nprint([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_command_line_answers_help_without_the_heavy_libraries() -> None:
    code = "import sys, llumi.cli\nprint([m for m in ['torch', 'ray', 'polars'] if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
