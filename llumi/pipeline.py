"""The whole line as a list of steps, each skipped where its artifact with the same config and inputs stands."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from llumi.config import Config, Stage
from llumi.evaluate.equivalence import check_margins
from llumi.evaluate.run import evaluate, evaluate_fingerprint
from llumi.evaluate.studies import study_inputs
from llumi.generate.names import generation_name
from llumi.generate.run import generate, generate_fingerprint
from llumi.models import ensure_base, model_name
from llumi.pairs.build import build_pairs, pairs_fingerprint
from llumi.progress import Progress, silent
from llumi.prompts import ROLES, Role
from llumi.storage import Manifest, Storage
from llumi.train.run import train, train_fingerprint


@dataclass(frozen=True)
class Step:
    """One artifact to be made. `fingerprint` is asked once every step before it stands: it hashes their results."""

    reference: str
    run: Callable[[], Manifest]
    fingerprint: Callable[[], str]


@dataclass(frozen=True)
class Done:
    """A step of this run: what it published, or `skipped` because the same stood already."""

    manifest: Manifest
    skipped: bool


def pipeline(config: Config, progress: Progress = silent) -> Iterator[Done]:
    """Run the line step by step, yielding each as it is done; an attempt that died goes on at the step it died in."""
    check_margins(config.evaluate)  # hours before the evaluation would, as the next one
    study_inputs(config.evaluate)
    storage = Storage.open(config.storage)
    progress("base model", 0, 1)
    ensure_base(config, storage)
    for step in steps(config, storage, progress):
        standing = storage.find(step.reference)
        if standing is not None and standing.fingerprint == step.fingerprint():
            yield Done(standing, skipped=True)
        else:
            yield Done(step.run(), skipped=False)


def steps(config: Config, storage: Storage, progress: Progress) -> list[Step]:
    """Corpus to report, in order."""
    line = [
        Step(
            f"pairs/{config.pairs.name}",
            run=partial(build_pairs, config, progress),
            fingerprint=partial(pairs_fingerprint, config),
        )
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
            run=partial(evaluate, config, generations, progress),
            fingerprint=partial(evaluate_fingerprint, config, storage, generations),
        )
    )
    return line


def _train_step(config: Config, storage: Storage, progress: Progress, role: Role, stage: Stage) -> Step:
    return Step(
        f"models/{model_name(role, stage)}",
        run=partial(train, config, role, stage, progress),
        fingerprint=partial(train_fingerprint, config, storage, role, stage),
    )


def _generate_step(config: Config, storage: Storage, progress: Progress, role: Role, model: str) -> Step:
    return Step(
        f"generations/{generation_name(role, model)}",
        run=partial(generate, config, role, model, progress),
        fingerprint=partial(generate_fingerprint, config, storage, role, model),
    )
