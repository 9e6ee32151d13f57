"""A checkpoint as the ranks of this attempt can load it, whatever the number of ranks that wrote it.

ZeRO shards a model's state by rank. For another number of ranks the shards are joined and cut anew, by way of DeepSpeed's
universal checkpoint (arXiv 2406.18820): a file for each parameter, which any number of ranks can load.
"""

import contextlib
import io
import shutil
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from llumi.errors import TrainError

_UNIVERSAL = "universal"


@dataclass(frozen=True)
class Resume:
    """The folder to load, and whether it is a universal checkpoint, which DeepSpeed must be told."""

    folder: Path
    is_universal: bool = False


def fit(checkpoint: Path, scratch: Path, zero_stage: int, is_first_of_node: bool) -> Resume:
    """The checkpoint, made anew in `scratch` (one folder for all ranks of a node) where its ranks were more or fewer.

    Every rank must call it. Raises TrainError where DeepSpeed cannot convert the shards.
    """
    written_by, num_ranks = _num_ranks(checkpoint), dist.get_world_size()
    if written_by == num_ranks or zero_stage == 0:
        return Resume(checkpoint)
    failure: list[str | None] = [None]
    if is_first_of_node:
        try:
            _convert(checkpoint, scratch)
        except (OSError, RuntimeError, ValueError, AssertionError, KeyError, NotImplementedError) as error:
            failure = [f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"]
    failures: list[list[str | None]] = [[None]] * num_ranks
    dist.all_gather_object(failures, failure)
    if problems := [problem for (problem,) in failures if problem]:
        raise TrainError(
            f"{checkpoint.name}: was written by {written_by} ranks and cannot be cut anew for {num_ranks} ({problems[0]}); set "
            f"train.num_workers={written_by} to go on from it"
        )
    return Resume(scratch, is_universal=True)


def _num_ranks(checkpoint: Path) -> int:
    """How many ranks wrote it: each leaves the state of its random numbers."""
    return max(1, len(list(checkpoint.glob("rng_state_*.pth"))))


def _convert(checkpoint: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (shards,) = checkpoint.glob("global_step*")
    for file in checkpoint.iterdir():
        if file.is_file():
            shutil.copy2(file, target)
    options = Namespace(
        input_folder=str(shards),
        output_folder=str(target / f"{shards.name}_{_UNIVERSAL}"),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)
