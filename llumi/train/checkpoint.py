"""Checkpoints of a run on storage: handed over by every rank, pruned by Ray Train, gone when the run is done.

They lie in `checkpoints/<role>-<stage>/<run>/`. The run's name comes from its fingerprint, so that a run that was
interrupted goes on where it was, and one with other settings never starts from what it did not write.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pyarrow.fs as pafs
import ray
import ray.train

from llumi.storage import Storage, delete_tree, digest


class KeyByKeyS3(pafs.S3FileSystem):  # type: ignore[misc]  # pyarrow is untyped
    """S3 that deletes a folder key by key: MinIO refuses the batch deletion with which Ray Train would prune."""

    def delete_dir(self, path: str) -> None:
        """Delete every key below `path`."""
        delete_tree(self, path)

    @classmethod
    def over(cls, filesystem: pafs.S3FileSystem) -> Self:
        """The same store, with the same credentials."""
        _, (options,) = filesystem.__reduce__()
        return cls(**options)

    def __reduce__(self) -> tuple[Any, ...]:
        return KeyByKeyS3.over, (pafs.S3FileSystem(**super().__reduce__()[1][0]),)


def checkpoint_filesystem(storage: Storage) -> pafs.FileSystem:
    """The filesystem of `storage` in the form on which Ray Train can prune checkpoints."""
    return storage.filesystem if storage.is_local else KeyByKeyS3.over(storage.filesystem)


def run_name(fingerprint: str) -> str:
    """The folder of one run; Ray's version counts, because another one refuses to read what this one noted."""
    return digest([fingerprint, ray.__version__])[:16]


def remove_other_runs(storage: Storage, folder: str, keep: str) -> None:
    """Delete what runs other than `keep` left in `folder` (a path on the store's filesystem)."""
    selector = pafs.FileSelector(folder, allow_not_found=True)
    for info in storage.filesystem.get_file_info(selector):
        if info.type == pafs.FileType.Directory and info.base_name != keep:
            delete_tree(storage.filesystem, info.path)


def hand_over(folder: Path, step: int) -> None:
    """Report what this rank wrote below `folder` as its part of the checkpoint of `step`.

    Every rank must call it: the checkpoint counts once all parts have arrived. `folder` is deleted afterwards.
    """
    # DeepSpeed's files hold the weights already; these copies of them are for people.
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    ray.train.report(
        {"step": step},
        checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
        checkpoint_dir_name=f"step-{step:08d}",
        delete_local_checkpoint_after_upload=True,
    )


@contextlib.contextmanager
def last_checkpoint() -> Iterator[str | None]:
    """The newest complete checkpoint of this run as a local folder, or None where there is none yet."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield folder
