"""What a generation keeps while it runs: whole files, answered rows only, and nothing of other settings."""

from pathlib import Path

import pyarrow as pa
import pytest

from llumi.config import StorageConfig
from llumi.generate.kept import KEEP_SECONDS, Kept, kept_rows
from llumi.records import GENERATION_SCHEMA
from llumi.storage import Storage


def rows(*post_ids: str, error: str | None = None) -> pa.Table:
    blank = dict.fromkeys(GENERATION_SCHEMA.names)
    return pa.Table.from_pylist(
        [blank | {"post_id": post_id, "error": error} for post_id in post_ids], schema=GENERATION_SCHEMA
    )


def ids(kept: Kept) -> list[str]:
    return kept.read()["post_id"].to_pylist()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(StorageConfig(uri=str(tmp_path / "store")))


def files(storage: Storage) -> list[str]:
    return sorted(path.name for path in Path(storage.root).rglob("*") if path.is_file())


def test_rows_are_kept_once_their_time_has_come(storage: Storage) -> None:
    clock = iter([0.0, 1.0, KEEP_SECONDS, KEEP_SECONDS])
    kept = Kept(storage, "scratch/generations-gm-base/mark", now=lambda: next(clock))
    assert ids(kept) == []
    kept.add(rows("one"))
    assert files(storage) == []
    kept.add(rows("two"))
    assert files(storage) == ["part-000000.parquet"]
    assert ids(Kept(storage, kept.folder)) == ["one", "two"]


def test_what_failed_is_asked_anew(storage: Storage) -> None:
    kept = Kept(storage, "scratch/generations-gm-base/mark")
    kept.add(pa.concat_tables([rows("one"), rows("two", error="no answer")]))
    kept.flush()
    assert ids(kept) == ["one"]


def test_an_attempt_that_fails_leaves_what_was_answered_and_the_next_adds_to_it(storage: Storage) -> None:
    def attempt(*post_ids: str) -> None:
        with kept_rows(storage, "gm-base", "mark") as kept:
            kept.read()
            kept.add(rows(*post_ids))
            raise InterruptedError

    for post_ids in (["one", "two"], ["three"]):
        with pytest.raises(InterruptedError):
            attempt(*post_ids)
    with kept_rows(storage, "gm-base", "mark") as kept:
        assert ids(kept) == ["one", "two", "three"]
    assert files(storage) == []


def test_a_file_that_was_being_written_is_not_read(storage: Storage) -> None:
    storage.write("scratch/generations-gm-base/mark/part-000000.parquet.partial", b"PAR1")
    with kept_rows(storage, "gm-base", "mark") as kept:
        assert ids(kept) == []
        kept.add(rows("one"))
        kept.flush()
        assert ids(kept) == ["one"]


def test_rows_of_other_settings_go_and_those_of_another_generation_stay(storage: Storage) -> None:
    for name, mark in (("gm-base", "before"), ("gm-sft", "before")):
        kept = Kept(storage, f"scratch/generations-{name}/{mark}")
        kept.add(rows("one"))
        kept.flush()
    with kept_rows(storage, "gm-base", "now") as kept:
        assert ids(kept) == []
    assert ids(Kept(storage, "scratch/generations-gm-base/before")) == []
    assert ids(Kept(storage, "scratch/generations-gm-sft/before")) == ["one"]
