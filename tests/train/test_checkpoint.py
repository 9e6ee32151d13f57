"""Parts of a checkpoint on their way to the store: late, full, and waited for."""

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray.train
from pyarrow.fs import LocalFileSystem

from llumi.errors import StoreError
from llumi.storage import Storage
from llumi.train.checkpoint import Upload, remove_other_runs

PART = b"shard" * 200_000


@pytest.fixture
def part(tmp_path: Path) -> ray.train.Checkpoint:
    folder = tmp_path / "rank-0" / "global_step5"
    folder.mkdir(parents=True)
    (folder / "zero_pp_rank_0.pt").write_bytes(PART)
    return ray.train.Checkpoint.from_directory(str(tmp_path / "rank-0"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for half a part."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small file system needs rights that this user does not have")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_store_that_is_away_for_a_moment_is_waited_for(part: ray.train.Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"in the way")
    upload = Upload(LocalFileSystem(), str(tmp_path / "store" / "run"), patience_seconds=60)
    upload.expect_one()
    handed = threading.Thread(target=upload, args=(part, "step-00000005"))
    handed.start()
    time.sleep(0.5)
    (tmp_path / "store").unlink()
    upload.wait()
    assert (tmp_path / "store/run/step-00000005/global_step5/zero_pp_rank_0.pt").read_bytes() == PART
    handed.join()


def test_a_full_disk_is_one_line_and_whoever_waits_goes_on(part: ray.train.Checkpoint, small_disk: Path) -> None:
    upload = Upload(LocalFileSystem(), str(small_disk / "run"), patience_seconds=0)
    upload.expect_one()
    with pytest.raises(
        StoreError, match=r"cannot be written \(.*No space left.*\); the last complete checkpoint stays: make room"
    ):
        upload(part, "step-00000005")
    upload.wait()


def test_other_runs_go_and_with_none_to_keep_all(tmp_path: Path) -> None:
    storage = Storage(LocalFileSystem(), str(tmp_path), str(tmp_path))
    for run in ("one", "other"):
        storage.write(f"checkpoints/gm-sft/{run}/file", b"x")
    folder = storage.path("checkpoints/gm-sft")
    remove_other_runs(storage, folder, keep="one")
    assert [path.name for path in Path(folder).iterdir()] == ["one"]
    remove_other_runs(storage, folder, keep=None)
    assert list(Path(folder).iterdir()) == []
