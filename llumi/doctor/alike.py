"""Whether all nodes have the same packages."""

from collections import Counter
from collections.abc import Collection, Mapping

from llumi.doctor.check import Check, Reports, verdict

PACKAGES = ("llumi", "ray", "torch", "transformers", "trl", "deepspeed", "peft", "accelerate", "datasets", "pyarrow", "polars")
"""What every node must have. Of all else that is installed, nodes that have it must have the same."""

SHOWN = ("python", *PACKAGES, "vllm")

Said = Mapping[str, Mapping[str, str | None]]
"""Node, thing, what it has of it."""


def unlike(said: Said, required: Collection[str] = ()) -> list[tuple[str, str, str | None, str | None]]:
    """Node, thing, what it has and what most have, for each node that differs from most; at a tie, from the first.

    A node that has none of a thing differs only where the thing is `required`.
    """
    found = []
    for thing in dict.fromkeys(thing for answers in said.values() for thing in answers):
        has = {name: answers.get(thing) for name, answers in said.items() if thing in required or answers.get(thing)}
        if has:
            (most, _), *_ = Counter(has.values()).most_common(1)
            found += [(name, thing, version, most) for name, version in has.items() if version != most]
    return found


def judge_versions(reports: Reports) -> Check:
    """Every package is the same everywhere; a local part (+cpu, +cu130) may differ, since nodes without GPUs need none."""
    said = {name: {package: _public(version) for package, version in report["versions"].items()} for name, report in
            reports.items()}  # fmt: skip
    problems = [
        f"{name} has {f'{package} {version}' if version else f'no {package}'}, and most nodes {most or 'none'}"
        for name, package, version, most in sorted(unlike(said, PACKAGES), key=lambda found: found[1] not in SHOWN)
    ]
    digests = {name: {"constraints.txt": report["constraints"]} for name, report in reports.items()}
    problems += [f"{name} has another constraints.txt than most nodes" for name, *_ in unlike(digests)]
    rows = tuple(
        {"node": name, **{package: report["versions"].get(package) for package in SHOWN}, "constraints": report["constraints"]}
        for name, report in reports.items()
    )
    known = ", ".join(f"{package} {rows[0][package]}" for package in SHOWN if rows[0][package])
    found = f"{known}; {len(said)} node(s) alike in these and all else that is installed"
    return verdict("versions", problems, found, rows, right="; install LLUMI from the constraints file of the others there")


def _public(version: str | None) -> str | None:
    return version.partition("+")[0] if version else None
