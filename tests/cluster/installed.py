"""Wheels of what is installed here, so that a test asks no package index: a file with their packages' own files, unpacked."""

import csv
import importlib.metadata
import io
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_OF_THE_INSTALLATION = ("INSTALLER", "REQUESTED", "direct_url.json")


def with_dependencies(names: Iterable[str]) -> list[Distribution]:
    """The installed packages of these names, and all that they require."""
    found: dict[str, Distribution] = {}
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        requirements = map(Requirement, found[name].requires or ())
        left += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return list(found.values())


def repack(distribution: Distribution, folder: Path) -> None:
    """Write an installed package's wheel, without compression."""
    tags = [
        line.partition(": ")[2].split("-") for line in distribution.read_text("WHEEL").splitlines() if line.startswith("Tag: ")
    ]
    parts = [".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True)]
    name = canonicalize_name(distribution.metadata["Name"]).replace("-", "_")
    record = io.StringIO()
    with zipfile.ZipFile(folder / f"{'-'.join([name, distribution.version, *parts])}.whl", "w") as wheel:
        rows = csv.writer(record, lineterminator="\n")
        for file in distribution.files:
            # What lies outside, such as bin/, is made anew from the entry points.
            if file.parts[0] == ".." or file.suffix == ".pyc" or file.name in _OF_THE_INSTALLATION:
                continue
            if len(file.parts) == 2 and file.match("*.dist-info/RECORD"):  # setuptools holds others, of what it brings along
                where = file
                continue
            wheel.write(file.locate(), file.as_posix())
            rows.writerow([file.as_posix(), f"{file.hash.mode}={file.hash.value}" if file.hash else "", file.size or ""])
        rows.writerow([where.as_posix(), "", ""])
        wheel.writestr(where.as_posix(), record.getvalue())
