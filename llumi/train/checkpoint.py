"""Checkpoints of a run on storage: handed over by every rank, pruned by Ray Train, gone when the run is done.

They lie in `checkpoints/<role>-<stage>/<run>/`. The run's name comes from its fingerprint, so that a run that was
interrupted goes on where it was, and one with other settings never starts from what it did not write.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import pyarrow.fs as pafs
import ray
import ray.train

from llumi.errors import StoreError
from llumi.storage import COPY_CHUNK_BYTES, Storage, delete_tree, digest

UPLOAD_PATIENCE_SECONDS = 120
"""How long a store may be away before a checkpoint fails: longer than a restart of it takes."""

HELD_OUT_LOSS = "held_out_loss"
"""What a checkpoint is reported with where the held-out split was evaluated before it; by it the best are kept."""

_PAUSE_SECONDS = (1, 2, 5, 10)


def run_name(fingerprint: str) -> str:
    """The folder of one run; Ray's version counts, because another one refuses to read what this one noted."""
    return digest([fingerprint, ray.__version__])[:16]


def remove_other_runs(storage: Storage, folder: str, keep: str | None) -> None:
    """Delete what runs other than `keep` (None: all runs) left in `folder` (a path on the store's filesystem)."""
    selector = pafs.FileSelector(folder, allow_not_found=True)
    for info in storage.filesystem.get_file_info(selector):
        if info.type == pafs.FileType.Directory and info.base_name != keep:
            delete_tree(storage.filesystem, info.path)


class Upload:
    """Copies this rank's parts of checkpoints to the run's folder on storage, in the background while training goes on."""

    def __init__(self, filesystem: pafs.FileSystem, run: str, patience_seconds: float = UPLOAD_PATIENCE_SECONDS) -> None:
        self._filesystem, self._run, self._patience_seconds = filesystem, run, patience_seconds
        self._idle = threading.Condition()
        self._num_pending = 0

    def expect_one(self) -> None:
        """Say that a part is about to be handed over."""
        with self._idle:
            self._num_pending += 1

    def wait(self) -> None:
        """Until all parts that were handed over are on storage, or have failed: their files may go then."""
        with self._idle:
            self._idle.wait_for(lambda: self._num_pending == 0)

    def __call__(self, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Ray Train's `checkpoint_upload_fn`; raises StoreError where the store stays away."""
        folder = Path(checkpoint.path)
        try:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                self._patiently(file, f"{self._run}/{name}/{file.relative_to(folder).as_posix()}")
        finally:
            with self._idle:
                self._num_pending -= 1
                self._idle.notify_all()
        return ray.train.Checkpoint(f"{self._run}/{name}", self._filesystem)

    def _patiently(self, file: Path, target: str) -> None:
        deadline = time.monotonic() + self._patience_seconds
        for pause in chain(_PAUSE_SECONDS, repeat(_PAUSE_SECONDS[-1])):
            try:
                return self._copy(file, target)
            except OSError as error:
                if time.monotonic() + pause > deadline:
                    problem = (str(error).splitlines() or [""])[0][:200]
                    raise StoreError(
                        f"{target}: cannot be written ({problem}); the last complete checkpoint stays: make room, or bring the "
                        "store back, and run the same command again"
                    ) from None
            time.sleep(pause)

    def _copy(self, file: Path, target: str) -> None:
        self._filesystem.create_dir(target.rpartition("/")[0])
        with file.open("rb") as source, self._filesystem.open_output_stream(target) as sink:
            while chunk := source.read(COPY_CHUNK_BYTES):
                sink.write(chunk)


def hand_over(upload: Upload, folder: Path, step: int, held_out_loss: float | None) -> None:
    """Report what this rank wrote below `folder` as its part of the checkpoint of `step`, and go on without waiting.

    Every rank must call it: the checkpoint counts once all parts have arrived. `folder` is deleted afterwards.
    """
    upload.expect_one()
    ray.train.report(
        {"step": step} | ({HELD_OUT_LOSS: held_out_loss} if held_out_loss is not None else {}),
        checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
        checkpoint_dir_name=f"step-{step:08d}",
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=upload,
        delete_local_checkpoint_after_upload=True,
    )


@contextlib.contextmanager
def last_checkpoint() -> Iterator[Path | None]:
    """The newest complete checkpoint of this run as a local folder, or None where there is none yet."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Best:
    """The checkpoint of the lowest held-out loss."""

    checkpoint: ray.train.Checkpoint
    step: int
    held_out_loss: float


def best_checkpoint() -> Best | None:
    """Of those that this run keeps; waits until all are on storage. None where none was evaluated."""
    reported = [one for one in ray.train.get_all_reported_checkpoints() if HELD_OUT_LOSS in one.metrics]
    best = min(reported, key=lambda one: one.metrics[HELD_OUT_LOSS], default=None)
    return Best(best.checkpoint, best.metrics["step"], best.metrics[HELD_OUT_LOSS]) if best else None
