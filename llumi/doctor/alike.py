"""Whether all nodes have the same packages."""

from collections import Counter
from collections.abc import Mapping

from llumi.doctor.check import Check, Reports, verdict

PACKAGES = (
    "llumi", "ray", "torch", "transformers", "trl", "deepspeed", "peft", "accelerate", "datasets", "pyarrow", "polars", "vllm",
)  # fmt: skip
OPTIONAL = frozenset({"vllm"})
"""Packages that a node may do without."""


def unlike(said: Mapping[str, Mapping[str, str | None]]) -> list[tuple[str, str, str | None, str | None]]:
    """Node, thing, what it has and what most have, for each node that differs from most; at a tie, from the first."""
    found = []
    for thing in next(iter(said.values()), {}):
        values = [answers.get(thing) for answers in said.values()]
        (most, _), *_ = Counter(values).most_common(1)
        found += [(name, thing, answers.get(thing), most) for name, answers in said.items() if answers.get(thing) != most]
    return found


def judge_versions(reports: Reports) -> Check:
    """Every package is the same everywhere; a local part (+cpu, +cu130) may differ, since nodes without GPUs need none."""
    said = {name: {package: _public(version) for package, version in report["versions"].items()} for name, report in
            reports.items()}  # fmt: skip
    differing = [found for found in unlike(said) if found[1] not in OPTIONAL or (found[2] is not None and found[3] is not None)]
    problems = [
        f"{name} has {package} {version}, and most nodes {most}"
        if version
        else f"{name} has no {package}, and most nodes {most}"
        for name, package, version, most in differing
    ]
    digests = {name: {"constraints.txt": report["constraints"]} for name, report in reports.items() if report["constraints"]}
    problems += [f"{name} has another constraints.txt than most nodes" for name, *_ in unlike(digests)]
    first: Mapping[str, str | None] = next(iter(reports.values()))["versions"]
    found = ", ".join(f"{package} {version}" for package, version in first.items() if version)
    if digests:
        found += f", constraints.txt {next(iter(digests.values()))['constraints.txt'][:8]}"
    rows = tuple({"node": name, **report["versions"], "constraints": report["constraints"]} for name, report in reports.items())
    return verdict("versions", problems, found, rows, right="; install LLUMI from the constraints file of the others there")


def _public(version: str | None) -> str | None:
    return version.partition("+")[0] if version else None
