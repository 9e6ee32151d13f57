"""Small dumps for tests: records of posts and comments, and files of them."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"


def shared(name: str) -> Path:
    """A folder of the data that is kept beside the project, or a skip where it is absent."""
    folder = (SHARED / name).resolve()
    if not folder.is_dir():
        pytest.skip(f"no ../shared/data/{name} beside this checkout")
    return folder


def post(id: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": id,
        "subreddit": "porch",
        "author": "asker",
        "created_utc": 1_672_531_200,
        "score": 10,
        "title": "A quiet week",
        "selftext": f"The body of {id}",
        "is_self": True,
    } | changes


def comment(id: str, post_id: str, score: Any, **changes: Any) -> dict[str, Any]:
    return {
        "id": id,
        "subreddit": "porch",
        "author": "helper",
        "link_id": f"t3_{post_id}",
        "parent_id": f"t3_{post_id}",
        "created_utc": 1_672_531_200,
        "score": score,
        "body": f"The reply {id}",
    } | changes


def line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


def compressed(text: bytes) -> bytes:
    """A frame that declares the window of published dumps."""
    parameters = zstandard.ZstdCompressionParameters(window_log=31, hash_log=12, chain_log=12)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(text) + compressor.flush()


def parquet(records: list[dict[str, Any]], row_group_size: int | None = None) -> bytes:
    """A Parquet file with a column for every field of the first record."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), stream, row_group_size=row_group_size)
    return stream.getvalue()


def write_dump(path: Path, records: list[dict[str, Any]]) -> Path:
    """In the form that the name's suffix promises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = b"".join(line(record) + b"\n" for record in records)
    match path.suffix:
        case ".zst":
            path.write_bytes(compressed(text))
        case ".gz":
            path.write_bytes(gzip.compress(text))
        case ".parquet":
            path.write_bytes(parquet(records))
        case _:
            path.write_bytes(text)
    return path


def write_corpus(folder: Path, posts: list[dict[str, Any]], comments: list[dict[str, Any]]) -> Path:
    write_dump(folder / "porch_submissions.zst", posts)
    write_dump(folder / "porch_comments.zst", comments)
    return folder
