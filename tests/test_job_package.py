import io
import re
import zipfile
from pathlib import Path

import pytest

from llumi import job_package
from llumi.errors import ConfigError
from llumi.job_package import pack

ROOT = Path(__file__).parents[1]


def names(package: job_package.Package) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        return set(archive.namelist())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of a team at work: code, settings, and much that is nobody else's business."""
    files = {
        "llumi/__init__.py": "",
        "llumi/__pycache__/x.pyc": "",
        "llumi/.scratch/notes.py": "",
        "jobs/train.py": "",
        "pyproject.toml": "",
        "constraints.txt": "",
        "ray_config.yaml": "safety: {resources: lines/house.yaml}\ncorpus: {uri: dumps/community.ndjson}",
        "lines/house.yaml": "",
        "lines/other.yaml": "",
        "small.yaml": "corpus:\n  exclude: left-out.txt\nevaluate: {ratings: [ratings.parquet]}",
        "left-out.txt": "post abc",
        "dumps/community.ndjson": "{}",
        "ratings.parquet": "",
        ".venv/lib/large.py": "",
        ".git/HEAD": "",
        "llumi-data/models/base/model.safetensors": "",
        "tests/test_all.py": "",
        "privacy.key": "secret",
        ".env": "secret",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


CODE = {"llumi/__init__.py", "jobs/train.py", "pyproject.toml", "constraints.txt", "ray_config.yaml", "lines/house.yaml"}


@pytest.mark.parametrize(
    ("arguments", "besides"),
    [
        ((), set()),
        (("gm", "sft", "--config", "/etc/llumi/ray_config.yaml"), set()),
        (("--config", "small.yaml"), {"small.yaml", "left-out.txt"}),
        (("--config=./small.yaml",), {"small.yaml", "left-out.txt"}),
        (("-csmall.yaml",), {"small.yaml", "left-out.txt"}),
        (("--set", "safety.resources=lines/other.yaml"), {"lines/other.yaml"}),
        (("--set", "corpus.uri=dumps/community.ndjson", "--set", "privacy.key_file=privacy.key"), set()),
    ],
)
def test_a_job_is_sent_code_and_the_settings_it_names(project: Path, arguments: tuple[str, ...], besides: set[str]) -> None:
    assert names(pack(project, arguments)) == CODE | besides


@pytest.mark.parametrize("config", ["other.yaml", "../ray_config.yaml", "lines"])
def test_a_config_that_the_job_would_not_find_is_refused(project: Path, config: str) -> None:
    with pytest.raises(ConfigError, match=f"--config {re.escape(config)}: no such file in this folder.*absolute path"):
        pack(project, ["--config", config])


def test_the_same_files_are_the_same_package(project: Path) -> None:
    package = pack(project, ())
    (project / "jobs" / "train.py").touch()
    assert pack(project, ()) == package
    (project / "jobs" / "train.py").write_text("# changed")
    assert pack(project, ()).content != package.content


def test_what_is_too_large_is_named(project: Path) -> None:
    with (project / "jobs" / "weights.bin").open("wb") as file:
        file.truncate(job_package.MAX_BYTES)
    with pytest.raises(ConfigError, match=r"32\.0 MiB, more than 32\.0 MiB; the largest of it is jobs/weights\.bin .32\.0 MiB"):
        pack(project, ())


def test_the_project_itself_is_small() -> None:
    package = pack(ROOT, ())
    assert len(package.content) < 8 * 2**20
    assert {"llumi/cli.py", "llumi/safety/rules.yaml", "jobs/pipeline.py"} <= names(package)
