"""The whole line as a graph of steps, each skipped where its artifact with the same config and inputs stands."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from llumi.config import Config, Stage
from llumi.errors import ArtifactError, ConfigError
from llumi.evaluate.equivalence import check_margins
from llumi.evaluate.run import evaluate, evaluate_fingerprint
from llumi.evaluate.studies import study_inputs
from llumi.generate.names import generation_name
from llumi.generate.run import generate, generate_fingerprint
from llumi.models import base_fingerprint, ensure_base, model_name
from llumi.pairs.build import build_pairs, pairs_fingerprint
from llumi.progress import Progress, silent
from llumi.prompts import ROLES, Role
from llumi.storage import Manifest, Storage
from llumi.train.run import train, train_fingerprint

BASE = "models/base"

Outlook = Literal["stands", "missing", "config or inputs differ", "a step before it runs", "not asked for"]
"""What a run would find of a step; the two in the middle and the one after them are what it would do."""


@dataclass(frozen=True)
class Step:
    """One artifact to be made from those that it `needs`.

    `fingerprint` is asked once every step before it stands: it hashes their results.
    """

    reference: str
    needs: tuple[str, ...]
    run: Callable[[], Manifest]
    fingerprint: Callable[[], str]


@dataclass(frozen=True)
class Done:
    """A step of this run: what it published, or `skipped` because the same stood already."""

    manifest: Manifest
    skipped: bool


def pipeline(
    config: Config, progress: Progress = silent, *, start: str | None = None, until: str | None = None
) -> Iterator[Done]:
    """Run the line step by step, yielding each as it is done; an attempt that died goes on at the step it died in.

    From `start`, what it is made of is taken as it stands, whatever its config; `until` a step, what that one does not need
    is left out. Raises ConfigError for a step that there is not, and ArtifactError where something taken as it stands does not.
    """
    check_margins(config.evaluate)  # hours before the evaluation would, as the next one
    study_inputs(config.evaluate)
    storage = Storage.open(config.storage)
    line = steps(config, storage, progress)
    chosen = choose(line, start, until)
    _require_standing(line, chosen, storage)
    for step in line:
        if step.reference not in chosen:
            continue
        standing = storage.find(step.reference)
        if standing is not None and standing.fingerprint == step.fingerprint():
            yield Done(standing, skipped=True)
        else:
            yield Done(step.run(), skipped=False)


def look_ahead(config: Config, start: str | None = None, until: str | None = None) -> dict[str, Outlook]:
    """What a run would find of each step, in order; nothing is made. Raises as `pipeline`."""
    storage = Storage.open(config.storage)
    line = steps(config, storage, silent)
    chosen = choose(line, start, until)
    _require_standing(line, chosen, storage)
    found: dict[str, Outlook] = {}
    for step in line:
        found[step.reference] = _outlook(step, chosen, found, storage)
    return found


def choose(line: list[Step], start: str | None, until: str | None) -> set[str]:
    """The steps of a run; raises ConfigError where that is none."""
    chosen = {step.reference for step in line}
    if until is not None:
        last = _named(line, until, "--until")
        chosen = {last.reference}
        for step in reversed(line):
            if step.reference in chosen:
                chosen |= set(step.needs)
    if start is not None:
        after = {_named(line, start, "--from").reference}
        for step in line:
            if after & set(step.needs):
                after.add(step.reference)
        if not chosen & after:
            raise ConfigError(f"--from {start}: {until} does not need it; name a step that it is made of")
        chosen &= after
    return chosen


def steps(config: Config, storage: Storage, progress: Progress) -> list[Step]:
    """Corpus to report, each behind what it needs."""
    pairs = f"pairs/{config.pairs.name}"
    line = [
        Step(BASE, (), partial(_base, config, storage, progress), partial(base_fingerprint, config)),
        Step(pairs, (), partial(build_pairs, config, progress), partial(pairs_fingerprint, config)),
    ]
    for role in ROLES:
        line += [_train_step(config, storage, progress, role, "sft"), _train_step(config, storage, progress, role, "dpo1")]
    generations = []
    for role in ROLES:
        for model in ("base", f"{role}-sft", f"{role}-dpo1"):
            line.append(_generate_step(config, storage, progress, role, model))
            generations.append(generation_name(role, model))
    line.append(
        Step(
            f"evaluations/{config.evaluate.name}",
            (pairs, *(f"generations/{name}" for name in generations)),
            run=partial(evaluate, config, generations, progress),
            fingerprint=partial(evaluate_fingerprint, config, storage, generations),
        )
    )
    return line


def _base(config: Config, storage: Storage, progress: Progress) -> Manifest:
    progress("base model", 0, 1)
    return ensure_base(config, storage)


def _train_step(config: Config, storage: Storage, progress: Progress, role: Role, stage: Stage) -> Step:
    parent = BASE if stage == "sft" else f"models/{model_name(role, 'sft')}"
    return Step(
        f"models/{model_name(role, stage)}",
        (parent, f"pairs/{config.pairs.name}"),
        run=partial(train, config, role, stage, progress),
        fingerprint=partial(train_fingerprint, config, storage, role, stage),
    )


def _generate_step(config: Config, storage: Storage, progress: Progress, role: Role, model: str) -> Step:
    return Step(
        f"generations/{generation_name(role, model)}",
        (f"models/{model}", f"pairs/{config.pairs.name}"),
        run=partial(generate, config, role, model, progress),
        fingerprint=partial(generate_fingerprint, config, storage, role, model),
    )


def _named(line: list[Step], given: str, option: str) -> Step:
    """The step of that reference ("generations/gm-sft"), the first of that name ("gm-sft", a model), or the kind's only one."""
    names = {step.reference: step for step in line}
    for step in reversed(line):
        names[step.reference.partition("/")[2]] = step
    kinds = [step.reference.partition("/")[0] for step in line]
    names |= {kind: step for kind, step in zip(kinds, line, strict=True) if kinds.count(kind) == 1}
    if given not in names:
        raise ConfigError(f"{option} {given}: no such step; there are {', '.join(step.reference for step in line)}")
    return names[given]


def _require_standing(line: list[Step], chosen: Collection[str], storage: Storage) -> None:
    """Raise ArtifactError where a step needs what neither this run makes nor the store holds."""
    for step in line:
        for need in step.needs if step.reference in chosen else ():
            if need not in chosen and storage.find(need) is None:
                raise ArtifactError(f"{need}: {step.reference} is made of it, and it does not stand; leave --from out")


def _outlook(step: Step, chosen: Collection[str], found: dict[str, Outlook], storage: Storage) -> Outlook:
    if step.reference not in chosen:
        return "not asked for"
    standing = storage.find(step.reference)
    if standing is None:
        return "missing"
    if any(found[need] not in ("stands", "not asked for") for need in step.needs):
        return "a step before it runs"
    return "stands" if standing.fingerprint == step.fingerprint() else "config or inputs differ"
