"""A grid of points through Ray Tune: each is a training run of its own, driven by a trial, and ends as a model of its own.

Tune starts, limits and follows the trials. What a point came to is read from its artifact, so a sweep that was stopped
goes on where it was: a model that stands is not trained again, and a run that died goes on from its last checkpoint.
"""

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Literal

import ray
from ray import tune

from llumi.config import Stage
from llumi.errors import ConfigError, LlumiError
from llumi.models import model_name
from llumi.progress import Progress, silent
from llumi.prompts import Role
from llumi.storage import Manifest, Storage
from llumi.train.assignment import Assignment
from llumi.train.grid import Point
from llumi.train.run import assign, run_assignment, worker_resources

Measure = Literal["held-out reward accuracy", "held-out loss", "training loss"]

_DRIVER = tune.PlacementGroupFactory([{"memory": 2**20}])
"""A trial must hold something, but no CPU that its ranks would wait for: a crumb of the memory that every node has."""

_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer output greets even where it is told to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would end quietly, and the sweep with it as if it were done
}
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
"""What Tune would copy into the runtime environment of each trial, which Ray logs; a trial has its store opened already."""

_FAILED, _SHARE = "failed", "share"


@dataclass(frozen=True)
class Outcome:
    """What became of a point: its model, which may have `stood` before, or the line that says why there is none."""

    point: Point
    manifest: Manifest | None
    stood: bool = False
    failure: str | None = None

    def figures(self) -> dict[str, Any]:
        """One row of the table; a figure that was not measured is None."""
        metrics = self.manifest.metrics if self.manifest else {}
        held_out = metrics.get("eval", {})
        return {
            "model": self.point.name,
            "values": self.point.values,
            "held_out_loss": held_out.get("loss"),
            "reward_accuracy": held_out.get("rewards/accuracies"),
            "reward_margin": held_out.get("rewards/margins"),
            "training_loss": metrics.get("train", {}).get("loss"),
            "steps": metrics.get("steps"),
            "wall_seconds": metrics.get("wall_seconds"),
            "stood": self.stood,
            "failure": self.failure,
        }


@dataclass(frozen=True)
class SweepReport:
    """All points in the order of the grid, the best by `measure`, and where it was `kept` as the stage's own model."""

    outcomes: tuple[Outcome, ...]
    measure: Measure
    best: Outcome | None
    kept: Manifest | None = None

    @property
    def failed(self) -> list[Outcome]:
        """The points without a model."""
        return [outcome for outcome in self.outcomes if outcome.manifest is None]

    def figures(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "points": [outcome.figures() for outcome in self.outcomes],
            "best": self.best.point.name if self.best else None,
            "measure": self.measure,
            "kept": self.kept.reference if self.kept else None,
        }


def sweep(
    points: Sequence[Point], role: Role, stage: Stage, progress: Progress = silent, *, keep_best: bool = False
) -> SweepReport:
    """Train each point to `models/<role>-<stage>-<point>`; with `keep_best` the best is `models/<role>-<stage>`, too.

    Raises ConfigError, ArtifactError, ModelError or PairsError for what can be known before anything starts. A point that
    fails later is in the report with its line, and the others go on.
    """
    storage = Storage.open(points[0].config.storage)
    works = _assign_all(points, storage, role, stage)
    missing = {work.name: work for work in works if _standing(work) is None}
    failures = _train_all(missing, f"sweep {role} {stage}", progress) if missing else {}
    outcomes = [
        _outcome(point, work, work.name not in missing, failures.get(work.name))
        for point, work in zip(points, works, strict=True)
    ]
    measure = _measure(outcomes, works[0])
    best = _best(outcomes, measure)
    report = SweepReport(tuple(outcomes), measure, best)
    if not keep_best or best is None or best.manifest is None:
        return report
    progress("keep the best", 0, 1)
    return replace(report, kept=_keep(storage, best.manifest, model_name(role, stage)))


def _assign_all(points: Sequence[Point], storage: Storage, role: Role, stage: Stage) -> list[Assignment]:
    works = []
    named: dict[str, Point] = {}
    for point in points:
        try:
            work = assign(point.config, storage, role, stage, point.name)
        except ConfigError as error:
            raise ConfigError(f"point {point}: {error}") from None
        if work.fingerprint in named:
            raise ConfigError(
                f"points {named[work.fingerprint]} and {point}: the same model of {role} {stage}; sweep fields that it "
                "depends on, each value once"
            )
        named[work.fingerprint] = point
        works.append(work)
    return works


def _standing(work: Assignment) -> Manifest | None:
    found = work.storage.find(f"models/{work.name}")
    return found if found is not None and found.fingerprint == work.fingerprint else None


def _outcome(point: Point, work: Assignment, stood: bool, failure: str | None) -> Outcome:
    """The model decides: a driver may have died after it was published."""
    manifest = _standing(work)
    return Outcome(point, manifest, stood, failure if manifest is None else None)


def _train_all(works: Mapping[str, Assignment], label: str, progress: Progress) -> dict[str, str]:
    """Train the points as trials of Tune; returns a line for each that failed, by name."""
    progress(label, 0, len(works))

    def trial(given: dict[str, Any]) -> None:
        _run_trial(works[given["name"]])

    with _quiet_tune(), tempfile.TemporaryDirectory(prefix="llumi-sweep-") as scratch:
        results = tune.Tuner(
            tune.with_resources(trial, _DRIVER),
            param_space={"name": tune.grid_search(list(works))},
            tune_config=tune.TuneConfig(max_concurrent_trials=_num_at_once(list(works.values()))),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                # Errors of ours are results; what is tried again is a trial whose node died.
                failure_config=tune.FailureConfig(max_failures=next(iter(works.values())).config.train.max_failures),
                callbacks=[_Follow(label, len(works), progress)],
            ),
        ).fit()
        return dict(filter(None, map(_failure, works, results)))


def _run_trial(work: Assignment) -> None:
    """Drive the training of one point, within a trial's process."""

    def tell(what: str, done: float, total: float | None = None) -> None:
        tune.report({_SHARE: done / total if total else 0.0})

    try:
        # The clock starts here: a point may have waited for others.
        run_assignment(replace(work, started_at=time.time()), tell)
    except LlumiError as error:
        tune.report({_FAILED: str(error)})


def _failure(name: str, result: Any) -> tuple[str, str] | None:
    if result.error is not None:
        kind = type(result.error).__name__
        return name, f"{name}: its driver died with {kind}; sweep again, and it goes on from its last checkpoint"
    line = result.metrics.get(_FAILED)
    return (name, line) if line else None


def _num_at_once(works: Sequence[Assignment]) -> int:
    """How many points the cluster holds side by side, by the one that needs most; at least one, since a cluster may grow."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def held(work: Assignment) -> int:
        each = worker_resources(work.config.train)
        ranks = sum(int(min(node.get(name, 0) // amount for name, amount in each.items())) for node in nodes)
        return ranks // work.config.train.num_workers

    return max(1, min(map(held, works)))


class _Follow(tune.Callback):  # type: ignore[misc]  # ray is untyped
    """Tells how far the points are, all together. Tune pickles its callbacks, and a terminal cannot be."""

    def __init__(self, label: str, num_points: int, progress: Progress) -> None:
        self.tell: Callable[[float], None] = lambda done: progress(label, done, num_points)
        self.shares: dict[str, float] = {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A step of one point."""
        self._set(trial, result.get(_SHARE, 1.0))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A point is done, or failed with an error of ours."""
        self._set(trial, 1.0)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A point is given up."""
        self._set(trial, 1.0)

    def _set(self, trial: Any, share: float) -> None:
        self.shares[trial.trial_id] = share
        self.tell(sum(self.shares.values()))

    def __getstate__(self) -> dict[str, Any]:
        return {}


@contextlib.contextmanager
def _quiet_tune() -> Iterator[None]:
    """Tune without output, loggers and a handler for Ctrl-C, and without the store's key in what it hands to trials."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    before = {name: os.environ.pop(name, None) for name in (*_TUNE, *_SECRETS)}
    os.environ.update(_TUNE)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _measure(outcomes: Sequence[Outcome], work: Assignment) -> Measure:
    """What points are compared by: the held-out split where all were measured on it."""
    standing = [outcome.figures() for outcome in outcomes if outcome.manifest is not None]
    if any(figures["held_out_loss"] is None for figures in standing):
        return "training loss"
    return "held-out reward accuracy" if work.objective == "dpo" else "held-out loss"


def _best(outcomes: Sequence[Outcome], measure: Measure) -> Outcome | None:
    """The best of the points that have a model and finite figures; None where there is none."""
    ranks = [(_rank(outcome, measure), outcome) for outcome in outcomes if outcome.manifest is not None]
    finite = [(rank, outcome) for rank, outcome in ranks if all(map(math.isfinite, rank))]
    return min(finite, key=itemgetter(0))[1] if finite else None


def _rank(outcome: Outcome, measure: Measure) -> tuple[float, ...]:
    """The lower, the better; a figure that is missing is NaN."""
    figures = {name: math.nan if value is None else value for name, value in outcome.figures().items()}
    if measure == "training loss":
        return (figures["training_loss"],)
    if measure == "held-out loss":
        return (figures["held_out_loss"],)
    return -figures["reward_accuracy"], figures["held_out_loss"]


def _keep(storage: Storage, best: Manifest, name: str) -> Manifest:
    standing = storage.find(f"models/{name}")
    if standing is not None and standing.as_input().sha256 == best.as_input().sha256:
        return standing
    return storage.copy(best, name)
