from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from llumi.config import StorageConfig
from llumi.pairs.scratch import Exchange
from llumi.storage import Storage

SCHEMA = pa.schema([("name", pa.large_string()), ("number", pa.int64()), ("key", pa.uint64())])


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    return Exchange(Storage.open(StorageConfig(uri=str(tmp_path))), "scratch/rows", 5, SCHEMA)


def rows(start: int, end: int) -> pl.DataFrame:
    numbers = range(start, end)
    schema = {"extra": pl.Int64, "name": pl.String, "number": pl.Int64, "key": pl.UInt64}
    columns = {"extra": numbers, "name": [f"row {n}" if n % 3 else None for n in numbers], "number": numbers}
    return pl.DataFrame(columns | {"key": [2**64 - 1 - n for n in numbers]}, schema=schema)


def write(exchange: Exchange, name: str, frame: pl.DataFrame) -> None:
    exchange.add(exchange.write(name, frame, frame["number"] % 4))


def test_every_row_lies_in_its_bucket_whatever_task_wrote_it(exchange: Exchange) -> None:
    for task in range(3):
        write(exchange, f"task-{task}", rows(task * 40, task * 40 + 40))
    everything = rows(0, 120).select(SCHEMA.names)
    for bucket in range(4):
        found = exchange.read(bucket).sort("number")
        assert found.equals(everything.filter(pl.col("number") % 4 == bucket))
    assert exchange.read(4).shape == (0, 3)


def test_columns_come_alone_and_in_the_order_asked_for(exchange: Exchange) -> None:
    write(exchange, "task", rows(0, 40))
    found = exchange.read(1, ["number", "name"]).sort("number")
    assert found.equals(rows(0, 40).select("number", "name").filter(pl.col("number") % 4 == 1))
    assert exchange.read(4, ["key"]).schema == {"key": pl.UInt64}


def test_a_task_without_rows_writes_nothing(exchange: Exchange) -> None:
    write(exchange, "task", rows(0, 0))
    assert exchange.paths == []
    assert exchange.read(0).equals(rows(0, 0).select(SCHEMA.names))
    assert exchange.read(0, ["name"]).columns == ["name"]


def test_an_attempt_that_is_repeated_replaces_its_file(exchange: Exchange) -> None:
    first, again = (exchange.write("task", rows(0, 40), rows(0, 40)["number"] % 4) for _ in range(2))
    assert first == again
    exchange.add(again)
    assert sum(exchange.read(bucket).height for bucket in range(5)) == 40
