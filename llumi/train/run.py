"""One stage of one role, from published pairs and a parent model to a published model, on Ray Train.

`models/base` -> sft -> dpo1 -> dpo2: each stage starts from the one before, and DPO refers to it.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import pyarrow.parquet as pq
import ray
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer

from llumi.config import Config, Stage, TrainConfig
from llumi.errors import ConfigError, LlumiError, PairsError, TrainError
from llumi.models import model_name
from llumi.progress import Progress, silent
from llumi.prompts import Role
from llumi.storage import Manifest, Storage, delete_tree, fingerprint
from llumi.train.assignment import Assignment
from llumi.train.backend import ClusterTorchConfig
from llumi.train.board import Board
from llumi.train.checkpoint import HELD_OUT_LOSS, remove_other_runs, run_name
from llumi.train.lineage import check_context, find_pairs, find_parent, model_settings
from llumi.train.settings import check_method, check_passthrough, global_batch
from llumi.train.tracking import check_mlflow
from llumi.train.worker import run_rank

POLL_SECONDS = 0.5
WITHOUT_EFFECT = {
    "base", "sft", "dpo1", "dpo2", "num_workers", "cpus_per_worker", "logging_steps", "checkpoint_steps", "checkpoints_kept",
    "max_failures", "peak_tflops", "tensorboard", "mlflow_uri",
}  # fmt: skip
"""Fields of `train` that do not determine a stage's model: the parent stands for the base, its own section is added, and
the number of ranks counts as far as it makes the global batch."""


def train(config: Config, role: Role, stage: Stage, progress: Progress = silent, *, resume: bool = True) -> Manifest:
    """Train one stage and publish it as `models/<role>-<stage>`.

    Raises ConfigError, ArtifactError, ModelError or PairsError for what can be known beforehand, and TrainError, one
    line, for what happened on the workers. A run that was interrupted goes on from its last checkpoint when called
    again with the same settings and inputs, unless `resume` is false.
    """
    return run_assignment(assign(config, Storage.open(config.storage), role, stage), progress, resume=resume)


def run_assignment(work: Assignment, progress: Progress = silent, *, resume: bool = True) -> Manifest:
    """Train what `assign` has checked and publish it as `models/<work.name>`; raises TrainError, or what a rank found wrong."""
    label, storage = f"{work.role} {work.stage}", work.storage
    folder = storage.path("checkpoints", work.name)
    # A store that cannot be written to shows before hours of training, not after.
    storage.write(f"checkpoints/{work.name}/{run_name(work.fingerprint)}/started", b"")
    remove_other_runs(storage, folder, keep=run_name(work.fingerprint) if resume else None)
    progress(label, 0)
    board = ray.remote(num_cpus=0)(Board).remote()
    try:
        _follow(_trainer(work, board, folder).fit, board, label, progress)
    except TrainingFailedError as error:
        raise _as_our_error(error, work) from None
    finally:
        ray.kill(board)
    manifest = storage.find(f"models/{work.name}")
    if manifest is None or manifest.fingerprint != work.fingerprint:
        raise TrainError(f"{work.name}: stopped before it was done; run it again, and it goes on from its last checkpoint")
    delete_tree(storage.filesystem, folder)
    return manifest


def train_fingerprint(config: Config, storage: Storage, role: Role, stage: Stage) -> str:
    """What determines the model of this stage: its own settings, its parent and its pairs."""
    inputs = [find_parent(config, storage, role, stage).as_input(), find_pairs(config, storage, stage).as_input()]
    settings = config.train.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    section = config.train.stage(stage).model_dump(
        mode="json", exclude={"batch_size_per_worker", "gradient_accumulation_steps", "pairs"}
    )
    section["global_batch"] = global_batch(config.train, stage)
    return fingerprint(f"train {role} {stage}", settings | {"stage": section}, inputs)


def assign(config: Config, storage: Storage, role: Role, stage: Stage, name: str | None = None) -> Assignment:
    """Check all that can be checked without a worker; `name` is the artifact to make, if it is not <role>-<stage>."""
    check_method(config.train)
    check_passthrough(config.train)
    check_mlflow(config.train)
    pairs = find_pairs(config, storage, stage)
    folder = f"{role}-{'sft' if stage == 'sft' else 'dpo'}"
    train_files = _files_with_rows(storage, pairs, f"{folder}/train")
    if not train_files:
        advice = {
            "sft": "no examples; widen the corpus, or lower pairs.sft_min_score",
            "dpo1": f"no pairs; widen the corpus, or lower pairs.{config.pairs.preset}.min_gap",
            "dpo2": f"no pairs; bring in some for {role} with `llumi pairs add`",
        }
        raise PairsError(f"{pairs.reference}: {folder}/train holds {advice[stage]}")
    parent = find_parent(config, storage, role, stage)
    check_context(model_settings(storage, parent), parent.reference, config.train.max_length)
    _check_resources(config)
    return Assignment(
        config=config,
        storage=storage,
        role=role,
        stage=stage,
        name=name or model_name(role, stage),
        parent=parent.reference,
        pairs=pairs.reference,
        train_files=train_files,
        test_files=_files_with_rows(storage, pairs, f"{folder}/test"),
        fingerprint=train_fingerprint(config, storage, role, stage),
        inputs=(parent.as_input(), pairs.as_input()),
        started_at=time.time(),
    )


def _files_with_rows(storage: Storage, pairs: Manifest, folder: str) -> tuple[str, ...]:
    def num_rows(file: str) -> int:
        with storage.filesystem.open_input_file(storage.path(pairs.reference, file)) as stream:
            return int(pq.read_metadata(stream).num_rows)

    return tuple(file for file in pairs.files_under(folder) if num_rows(file))


def worker_resources(train: TrainConfig) -> dict[str, float]:
    """What each rank holds."""
    return {"CPU": float(train.cpus_per_worker)} | ({"GPU": 1.0} if train.use_gpu else {})


def _check_resources(config: Config) -> None:
    """A cluster of our own never grows: what it lacks would be waited for in vain."""
    if config.ray.address or os.environ.get("RAY_ADDRESS"):
        return
    there = ray.cluster_resources()
    for name, each in worker_resources(config.train).items():
        needed = each * config.train.num_workers
        if needed > there.get(name, 0):
            raise ConfigError(
                f"train.num_workers: {config.train.num_workers} workers need {needed:g} {name}, and this machine's cluster "
                f"has {there.get(name, 0):g}; lower it, or set ray.address to a larger cluster"
            )


def _trainer(work: Assignment, board: Any, folder: str) -> TorchTrainer:
    train = work.config.train
    return TorchTrainer(
        run_rank,
        train_loop_config={"assignment": work, "board": board},
        torch_config=ClusterTorchConfig(),
        scaling_config=ScalingConfig(
            num_workers=train.num_workers,
            use_gpu=train.use_gpu,
            resources_per_worker=worker_resources(train),
        ),
        run_config=RunConfig(
            name=run_name(work.fingerprint),
            storage_path=folder,
            storage_filesystem=work.storage.filesystem,
            checkpoint_config=_kept(train),
            failure_config=FailureConfig(max_failures=train.max_failures),
            callbacks=[_NoRetryOfOurErrors()],
        ),
    )


def _kept(train: TrainConfig) -> CheckpointConfig:
    """The last so many checkpoints, or where the held-out split is evaluated in between, the best so many and the last."""
    best = {"checkpoint_score_attribute": HELD_OUT_LOSS, "checkpoint_score_order": "min"} if train.eval_steps else {}
    return CheckpointConfig(num_to_keep=train.checkpoints_kept, **best)


class _NoRetryOfOurErrors(UserCallback):  # type: ignore[misc]  # ray is untyped
    """Ends the run at once on an error that another attempt would meet again; raising in Ray's controller does that."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            cause = _cause(error)
            if isinstance(cause, LlumiError):
                raise cause


def _follow(fit: Callable[[], Any], board: Any, label: str, progress: Progress) -> None:
    """Run `fit`, telling `progress` of each step that is logged; what `fit` raises is raised here.

    It runs in a thread beside: Ray Train in the main thread would replace the handler of Ctrl-C for good.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            fit()
        except BaseException as error:  # handed over, not swallowed
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, name="llumi-train", daemon=True).start()
    told = None
    while not outcome.done():
        wait([outcome], timeout=POLL_SECONDS)
        step = ray.get(board.read.remote())
        if step is not None and step != told:
            progress(label, *step)
            told = step
    outcome.result()


def _cause(error: BaseException) -> BaseException:
    """What a worker's code raised, out of Ray Train's wrapping, or Ray's own."""
    return getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error


def _as_our_error(error: TrainingFailedError, work: Assignment) -> LlumiError:
    if isinstance(error, ControllerError):
        failure = _cause(error.controller_failure)
        return failure if isinstance(failure, LlumiError) else _train_error(work, "Ray Train's controller", failure)
    if not isinstance(error, WorkerGroupError):
        return _train_error(work, "the run", error)
    causes = {rank: _cause(failure) for rank, failure in error.worker_failures.items()}
    dead = sorted(rank for rank, cause in causes.items() if hasattr(cause, "health_check_failure"))
    if dead:
        return TrainError(
            f"{work.name}: rank {dead[0]} died, and {work.config.train.max_failures} restarts (train.max_failures) did not "
            "help; a worker that dies without a word mostly ran out of memory: lower "
            f"train.{work.stage}.batch_size_per_worker or train.max_length"
        )
    rank, cause = min(causes.items())
    return _train_error(work, f"rank {rank}", cause)


def _train_error(work: Assignment, where: str, cause: BaseException) -> TrainError:
    """One line; from tokenization on a worker holds no text, so its errors cannot quote any."""
    message = (str(cause).strip().splitlines() or [""])[0][:300]
    return TrainError(f"{work.name}: {where} failed with {type(cause).__name__}: {message}")
