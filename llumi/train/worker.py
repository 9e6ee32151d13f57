"""One rank of a training run: what Ray Train starts once per CPU or GPU share.

The heavy libraries are imported inside, because the driver imports this module too.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llumi.config import TrainConfig
from llumi.errors import LlumiError, PairsError, TrainError
from llumi.lean import lean_imports
from llumi.models import check_model_folder
from llumi.storage import Storage
from llumi.train.assignment import Assignment, Materials
from llumi.train.checkpoint import last_checkpoint, run_name
from llumi.train.columns import Counts, encode

_NO_ROOM = ("no space left on device", "pytorchstreamwriter failed writing", "disk quota exceeded")
_CHATTY = ("DeepSpeed", "accelerate", "datasets", "peft", "torch", "transformers", "trl")


def run_rank(loop: dict[str, Any]) -> None:
    """Train as one rank; rank 0 publishes the model.

    `loop` holds the `assignment`, and the `board` on which rank 0 writes how far it is. Errors of ours end the run;
    any other error, or a rank that dies, lets Ray Train start the ranks again from the last checkpoint.
    """
    work: Assignment = loop["assignment"]
    with _one_line_errors(work):
        _prepare_process(work.config.train)
        rank = int(os.environ["RANK"])
        with _scratch(f"llumi-{run_name(work.fingerprint)}-rank-{rank}") as scratch:
            _train(work, loop["board"], scratch)


def _train(work: Assignment, board: Any, scratch: Path) -> None:
    materials = _make_ready(work)
    # Seconds, spent once it is known that there is something to train on.
    from llumi.train import reference, resume
    from llumi.train.publish import publish
    from llumi.train.trainer import build_trainer

    shared = scratch.with_name(f"llumi-{run_name(work.fingerprint)}-universal")
    is_first = os.environ["LOCAL_RANK"] == "0"
    with last_checkpoint() as checkpoint:
        start = None
        if checkpoint is not None:
            start = resume.fit(checkpoint, shared, work.config.train.zero_stage, is_first)
        trainer = build_trainer(work, materials, board, scratch, start)
        if work.objective == "dpo":
            reference.give_reference(work, materials, trainer)
        trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
    if is_first:
        shutil.rmtree(shared, ignore_errors=True)
    if materials.test.ids and not _is_evaluated(trainer.state):
        trainer.evaluate()
    publish(work, materials, trainer, scratch)


def _is_evaluated(state: Any) -> bool:
    """Whether the last step was the turn of an evaluation anyway."""
    return any("eval_loss" in entry and entry["step"] == state.global_step for entry in state.log_history)


def _make_ready(work: Assignment) -> Materials:
    from transformers import AutoTokenizer

    parent = fetch_once_per_node(work.storage, work.parent)
    check_model_folder(parent)
    pairs = fetch_once_per_node(work.storage, work.pairs)
    tokenizer = AutoTokenizer.from_pretrained(parent)
    train = work.config.train
    splits = [
        encode([pairs / file for file in files], work.objective, tokenizer, train.max_length, train.too_long)
        for files in (work.train_files, work.test_files)
    ]
    _check_lengths(work, splits[0].counts)
    return Materials(parent=parent, tokenizer=tokenizer, train=splits[0], test=splits[1].first(train.max_eval_examples))


def _check_lengths(work: Assignment, counts: Counts) -> None:
    train, folder = work.config.train, f"{work.role}-{work.objective}/train"
    if counts.kept == 0:
        raise PairsError(
            f"{work.pairs}: all {counts.examples} examples of {folder} are longer than {train.max_length} tokens; raise "
            "train.max_length"
        )
    if counts.too_long and train.too_long == "refuse":
        raise PairsError(
            f"{work.pairs}: {counts.too_long} of {counts.examples} examples of {folder} are above {train.max_length} tokens, "
            "and train.too_long is refuse; raise train.max_length, or set train.too_long to drop or truncate"
        )


def fetch_once_per_node(storage: Storage, reference: str) -> Path:
    """The artifact as a local folder; where it must be copied, one rank of each node copies for all."""
    import torch.distributed as dist

    if os.environ["LOCAL_RANK"] == "0":
        storage.fetch(reference)
    dist.barrier()
    return storage.fetch(reference)


def _prepare_process(train: TrainConfig) -> None:
    """Threads, device and silence; then DeepSpeed's view of the process group that Ray Train has made.

    Without the last, ZeRO-3 takes itself for a world of one when it partitions the weights at loading.
    """
    if not train.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    warnings.filterwarnings("ignore")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with lean_imports():
        import datasets
        import deepspeed
        import torch
        import transformers.models.auto.modeling_auto  # with all that loading a model imports

    # DeepSpeed would compile the functions of an optimizer that is not offered here, and load torch's compiler for it.
    deepspeed.runtime.compiler.compile = lambda: deepspeed.runtime.compiler.dummy_decorator
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    torch.set_num_threads(train.cpus_per_worker)
    # DeepSpeed would compile a shared-memory kernel here, which a node without a compiler cannot; gloo serves.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if train.use_gpu else "gloo", verbose=False)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


@contextlib.contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """A folder of this rank's own; its name is fixed, so that a rank that was killed leaves nothing for good."""
    folder = Path(tempfile.gettempdir()) / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _one_line_errors(work: Assignment) -> Iterator[None]:
    """Say what would help where memory ran out: a restart would run out of it again."""
    try:
        yield
    except LlumiError:
        raise
    except Exception as error:
        text = str(error).lower()
        if any(sign in text for sign in _NO_ROOM):
            raise TrainError(
                f"{work.name}: rank {os.environ.get('RANK', '?')} has no room in {tempfile.gettempdir()}, where checkpoints "
                "are written before they go to the store; make room (or set TMPDIR) and run the same command again: it goes on "
                "from the last complete checkpoint"
            ) from None
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
            raise TrainError(
                f"{work.name}: rank {os.environ.get('RANK', '?')} ran out of memory; lower "
                f"train.{work.stage}.batch_size_per_worker or train.max_length, or raise train.zero_stage"
            ) from None
        raise
