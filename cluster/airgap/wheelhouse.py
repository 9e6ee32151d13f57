"""A folder that installs LLUMI on machines without a network: make it where there is one, carry it over, install from it.

make wheelhouse EXTRAS=postgresql,vllm              # here: wheelhouse/, of Python and platform as they are here
make install WHEELHOUSE=/media/wheelhouse           # there: checked against its list of hashes first, then into .venv

Python's own library alone, since nothing is installed yet.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
HASHES = "SHA256SUMS"
DESCRIPTION = "wheelhouse.json"
NOT_INSTALLED = "wheels-to-carry"
"""The embedded base model's wheel: its file is read, and never installed, since it would compile llama.cpp."""


class WheelhouseError(Exception):
    """One line: what is wrong, where, what would be right."""


def here() -> dict[str, str]:
    """What wheels are made for."""
    return {"python": ".".join(platform.python_version_tuple()[:2]), "platform": sysconfig.get_platform()}


def build(project: Path, folder: Path, extras: Sequence[str], base: str) -> None:
    """Fill `folder` with LLUMI's own wheel, those of all that it needs in the versions of constraints.txt, and the base model.

    `extras` are those of pyproject.toml; any other name is a package, such as vllm, and has to agree with constraints.txt.
    """
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = [extra for extra in extras if extra in metadata.get("optional-dependencies", {})]
    besides = [extra for extra in extras if extra not in own]
    bracket = f"[{','.join(own)}]" if own else ""
    description = here() | {"llumi": metadata["version"], "install": [f"llumi{bracket}=={metadata['version']}", *besides]}
    _clear(folder)
    # First, so that what an attempt left that did not come to its end is known for a wheelhouse; the hashes are last.
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="llumi-wheelhouse-") as scratch:
        source = Path(scratch, "source")
        # Of a copy, since setuptools leaves what it builds beside the source.
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            source.mkdir(exist_ok=True)
            shutil.copy(project / name, source)
        shutil.copytree(project / "llumi", source / "llumi", ignore=shutil.ignore_patterns("__pycache__"))
        pip = [str(_environment(Path(scratch, "venv"))), "-m", "pip"]
        pins = ["--constraint", str(project / "constraints.txt")]
        _run([*pip, "wheel", "--quiet", *pins, "--wheel-dir", str(folder), f"{source}{bracket}", *besides], "wheels")
        _run([*pip, "download", "--quiet", "--no-deps", "--dest", str(folder / NOT_INSTALLED), base], base)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder)]
    (folder / HASHES).write_text("".join(lines), encoding="utf-8")
    size = sum(path.stat().st_size for path in _files(folder)) / 2**20
    print(f"{folder}: {len(lines)} files, {size:,.0f} MiB; there: make install WHEELHOUSE={folder}")


def install(folder: Path, target: Path) -> None:
    """Make the environment `target` of a wheelhouse that is whole and of this kind of machine; nothing else is asked."""
    description = check(folder)
    python = _environment(target)
    wheels = ["--no-index", "--find-links", str(folder)]
    # No file or variable of pip's may send it elsewhere, and nothing that lies elsewhere may count as installed.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))}
    clean["PIP_CONFIG_FILE"] = os.devnull
    _run([str(python), "-m", "pip", "install", "--quiet", *wheels, *description["install"]], f"{folder}", clean)
    carried = target / "share" / "llumi"
    carried.mkdir(parents=True, exist_ok=True)
    for wheel in sorted((folder / NOT_INSTALLED).glob("*.whl")):
        shutil.copy(wheel, carried)


def check(folder: Path) -> dict[str, Any]:
    """The description of a wheelhouse; raises WheelhouseError for one that is altered, or of another kind of machine."""
    if not (folder / HASHES).is_file() or not (folder / DESCRIPTION).is_file():
        raise WheelhouseError(f"{folder}: no wheelhouse; make one with `make wheelhouse` where there is a network, and copy it")
    listed = dict(_listed(folder))
    present = {path.relative_to(folder).as_posix() for path in _files(folder)} - {HASHES}
    again = "copy the wheelhouse again"
    for name in sorted(present - listed.keys()):
        raise WheelhouseError(f"{folder / name}: not in {HASHES}; remove it, or {again}")
    for name, expected in listed.items():
        if name not in present:
            raise WheelhouseError(f"{folder / name}: missing; {again}")
        if _sha256(folder / name) != expected:
            raise WheelhouseError(f"{folder / name}: altered, its SHA-256 is not that of {HASHES}; {again}")
    description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    for kind, value in here().items():
        if description[kind] != value:
            raise WheelhouseError(
                f"{folder}: made for {kind} {description[kind]}, and this is {value}; "
                "make one on a machine like this, or choose another interpreter: make install PYTHON=..."
            )
    return description


def _clear(folder: Path) -> None:
    """An empty folder: a new one, or one that held a wheelhouse."""
    if folder.exists() and any(folder.iterdir()) and not (folder / DESCRIPTION).is_file():
        raise WheelhouseError(f"{folder}: holds other files; give a new folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _environment(folder: Path) -> Path:
    """A virtual environment's interpreter."""
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    return folder / "bin" / "python"


def _run(command: Sequence[str], what: str, environment: dict[str, str] | None = None) -> None:
    """Run pip; its first error in one line where it fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["pip failed"]
        first = next((line for line in said if line.startswith("ERROR: ")), said[-1])
        raise WheelhouseError(f"{what}: {first.removeprefix('ERROR: ')}")


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and hash of each file of the list, which is `sha256sum`'s."""
    for number, line in enumerate((folder / HASHES).read_text(encoding="utf-8").splitlines(), 1):
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if match is None:
            raise WheelhouseError(f"{folder / HASHES}:{number}: not a hash and a name; copy the wheelhouse again")
        yield match[2], match[1]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """The command line; what is wrong ends in one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build")
    building.add_argument("folder", type=Path)
    building.add_argument("--extras", default="", help="separated by commas")
    building.add_argument("--base", required=True, help="the wheel of the embedded base model")
    building.add_argument("--project", type=Path, default=PROJECT)
    installing = commands.add_parser("install")
    installing.add_argument("folder", type=Path)
    installing.add_argument("target", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            extras = [extra for extra in re.split(r"[,\s]+", arguments.extras) if extra]
            build(arguments.project, arguments.folder, extras, arguments.base)
        else:
            install(arguments.folder, arguments.target)
    except WheelhouseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
