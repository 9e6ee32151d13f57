"""What a job of the cluster is sent: the code, and the settings that it names. Never data, models or an environment."""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from llumi.config import DEFAULT_FILE
from llumi.errors import ConfigError

MAX_BYTES = 32 * 2**20
"""Of all files before they are packed: four times the code. Ray keeps each package in the memory of the head."""

_FOLDERS = ("llumi", "jobs")
_FILES = ("pyproject.toml", "constraints.txt", str(DEFAULT_FILE))
_SETTINGS = (".yaml", ".yml", ".json", ".txt")
"""What a file of settings ends with. Anything else that is named is data, and the cluster reads it where it lies."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CONFIG_OPTION = re.compile(r"(?:--config=|-c)(?P<path>.+)")


@dataclass(frozen=True)
class Package:
    """A zip file's bytes. The same files give the same bytes, so that a cluster that has them is not sent them again."""

    content: bytes
    num_files: int


def pack(folder: Path, arguments: Sequence[str]) -> Package:
    """The code in `folder`, and those of its files that `arguments`, or a config that they name, speak of.

    Raises ConfigError for a config that would not be there on the cluster, and for what is too large to be sent.
    """
    files = {path.relative_to(folder).as_posix(): path for path in _code(folder)}
    for name in _settings(folder, arguments):
        files[name] = folder / name
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = max(sizes, key=sizes.__getitem__)
        raise ConfigError(
            f"{folder}: what a job is sent has {_mib(total)}, more than {_mib(MAX_BYTES)}; the largest of it is {largest} "
            f"({_mib(sizes[largest])}): keep data in the store, or on the nodes' disks, and give its path there"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name].read_bytes())
    return Package(packed.getvalue(), len(files))


def named_configs(arguments: Sequence[str]) -> Iterator[str]:
    """The files that `--config` or `-c` name in a job's arguments."""
    for argument, following in zip_longest(arguments, arguments[1:]):
        if argument in ("--config", "-c"):
            if following is not None:
                yield following
        elif match := _CONFIG_OPTION.fullmatch(argument):
            yield match["path"]


def _code(folder: Path) -> Iterator[Path]:
    for name in _FILES:
        if (folder / name).is_file():
            yield folder / name
    for name in _FOLDERS:
        for path in (folder / name).rglob("*"):
            inside = path.relative_to(folder).parts
            if path.is_file() and "__pycache__" not in inside and not any(part.startswith(".") for part in inside):
                yield path


def _settings(folder: Path, arguments: Sequence[str]) -> Iterator[str]:
    """The files of settings in `folder` that are spoken of: configs, and what configs and `--set` give as paths."""
    spoken_of = [value for argument in arguments for value in (argument, argument.partition("=")[2])]
    for config in [*named_configs(arguments), *([str(DEFAULT_FILE)] if (folder / DEFAULT_FILE).is_file() else [])]:
        if Path(config).is_absolute():
            continue  # a path of the cluster's nodes
        if _inside(folder, config) is None:
            raise ConfigError(
                f"--config {config}: no such file in this folder, so the job would find none; "
                "copy it here, or give its absolute path on the cluster's nodes"
            )
        spoken_of.append(config)
        spoken_of.extend(_leaves(_read(folder / config)))
    for value in spoken_of:
        name = _inside(folder, value) if value.endswith(_SETTINGS) or value in named_configs(arguments) else None
        if name is not None:
            yield name


def _inside(folder: Path, value: str) -> str | None:
    """The file below `folder` that a relative path means, by its name there; None where there is none."""
    path = Path(value)
    if path.is_absolute() or ".." in path.parts or not (folder / path).is_file():
        return None
    return path.as_posix()


def _read(config: Path) -> Any:
    """A config's tree; one that cannot be read gives nothing here, and its one line where the job reads it."""
    try:
        return yaml.safe_load(config.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        return None


def _leaves(tree: Any) -> Iterator[str]:
    values: Iterable[Any] = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for value in values:
        if isinstance(value, str):
            yield value
        else:
            yield from _leaves(value)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
