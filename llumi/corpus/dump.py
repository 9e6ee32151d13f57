"""The files of a corpus: which they are, whether they are what they claim, and their lines in chunks of bounded size."""

import contextlib
import hashlib
import io
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import zstandard
from polars import selectors

from llumi.config import Config
from llumi.corpus.reddit import COLUMNS, Kind
from llumi.errors import CorpusError, StoreError
from llumi.storage import digest, open_s3, retried

MAX_WINDOW_BYTES = 2**31
"""Published dumps are compressed with zstd's longest window; readers must allow it by name."""

CHUNK_BYTES = 16 * 2**20
MAX_LINE_BYTES = 64 * 2**20
_READ_BYTES = 32 * 2**10  # compressed; small, since it may unfold to thousands of times its size
_BUFFER_BYTES = 4 * 2**20
_END_BYTES = 64
_PARQUET_ROWS = 2**15
_EXPECTED = "expected NAME_submissions and NAME_comments (or RS_* and RC_*), plain, .zst, .gz or .parquet"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f
_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_DUMP_NAME = re.compile(
    r"(?:(?P<name>.+)_(?P<side>submissions|comments)|(?P<monthly>RS|RC)_.+?)"
    r"(?:\.(?:ndjson|jsonl|json))?(?:\.(?:zst|gz|parquet))?"
)
_NAMED: dict[Kind, tuple[str, ...]] = {
    "posts": ("id", "subreddit", "author", "created_utc", "score", "title", "selftext"),
    "comments": ("id", "link_id", "parent_id", "subreddit", "author", "created_utc", "score", "body"),
}
Form = Literal["plain", "zstd", "gzip", "parquet"]
_FORM_OF_SUFFIX: dict[str, Form] = {".zst": "zstd", ".gz": "gzip", ".parquet": "parquet"}
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Dump:
    """One file of a corpus. `uri` is its name for people, `path` that for the filesystem."""

    uri: str
    path: str
    kind: Kind
    num_bytes: int
    modified_ns: int
    form: Form

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of a dump, and on the last one how the file ended.

    `num_source_bytes` is how far the file was read for it, compressed; `sha256` (of the file as it lies there) is
    empty before the last chunk.
    """

    index: int
    data: bytes
    num_source_bytes: int
    is_last: bool = False
    is_truncated: bool = False
    sha256: str = ""


@dataclass(frozen=True)
class Corpus:
    """The dumps below one URI, in the order of their names."""

    uri: str
    filesystem: pafs.FileSystem
    dumps: tuple[Dump, ...]

    @property
    def num_bytes(self) -> int:
        """As the files lie there, compressed."""
        return sum(dump.num_bytes for dump in self.dumps)

    @property
    def state(self) -> str:
        """What tells before the reading whether the corpus has changed: a hash of its files' names, sizes and times."""
        return digest([(dump.name, dump.num_bytes, dump.modified_ns) for dump in self.dumps])

    def require_both_kinds(self) -> None:
        """Raise CorpusError where there are posts without comments, or comments without posts."""
        kinds = {dump.kind for dump in self.dumps}
        if kinds != {"posts", "comments"}:
            there, missing = ("posts", "comments") if "posts" in kinds else ("comments", "posts")
            wanted = "NAME_comments or RC_*" if missing == "comments" else "NAME_submissions or RS_*"
            raise CorpusError(f"{self.uri}: holds {there} ({self.dumps[0].name}) but no {missing}; add {wanted} beside them")


def open_corpus(config: Config) -> Corpus:
    """Find the dumps that `corpus.uri` names: a folder, a glob, one file (with its counterpart), or a prefix on S3.

    Raises CorpusError where there are none, or where a file is not what its name says.
    """
    uri = config.corpus.uri
    filesystem, root = _filesystem(config)
    try:
        infos = _listing(filesystem, root)
    except (FileNotFoundError, NotADirectoryError):
        raise CorpusError(f"{uri}: no such folder or file; {_EXPECTED}") from None
    except OSError as error:
        raise StoreError(f"{uri}: cannot be listed ({str(error).splitlines()[0][:200]})") from None
    scheme = "s3://" if uri.startswith("s3://") else ""
    dumps = [_inspect(filesystem, info, scheme) for info in infos if info.is_file and _DUMP_NAME.fullmatch(info.base_name)]
    if not dumps:
        there = f"{len(infos)} entries of other names" if infos else "nothing at all"
        raise CorpusError(f"{uri}: holds no dump but {there}; {_EXPECTED}")
    return Corpus(uri, filesystem, tuple(sorted(dumps, key=lambda dump: dump.path)))


def iter_chunks(filesystem: pafs.FileSystem, dump: Dump, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The dump's lines in chunks of about `chunk_bytes`; the last chunk says how the file ended, and may be empty.

    A file that is cut off or damaged gives every whole line before that place. Raises CorpusError for a file that
    cannot be read at all, or has no lines.
    """
    with _readable(dump.uri), contextlib.closing(_Source(partial(_open_at, filesystem, dump.path))) as source:
        text = _text(source, dump, filesystem)
        index, start, size = 0, 0, 0
        pending: list[bytes] = []
        for block in text:
            pending.append(block)
            size += len(block)
            if size < chunk_bytes:
                continue
            lines, rest = _whole_lines(pending)
            if lines is not None:
                yield Chunk(index, lines, source.num_bytes - start)
                index, start = index + 1, source.num_bytes
            elif size > MAX_LINE_BYTES:
                raise CorpusError(f"{dump.uri}: no line break within {size >> 20} MiB; expected one JSON record per line")
            pending, size = [rest], len(rest)
        data = b"".join(pending)
        if source.is_cut:
            data = data.rpartition(b"\n")[0]
        yield Chunk(index, data, source.num_bytes - start, is_last=True, is_truncated=source.is_cut, sha256=source.sha256)


def read_lines(content: bytes, form: Form) -> tuple[bytes, bool]:
    """The text of a small file of lines (which Parquet is not), and whether it was cut off or damaged before its end."""
    source = _Source(lambda place: io.BytesIO(content[place:]))
    read = {"plain": _plain, "zstd": _unzstd, "gzip": _gunzip}[form]
    return b"".join(read(source)), source.is_cut


def _whole_lines(blocks: list[bytes]) -> tuple[bytes | None, bytes]:
    """The lines that end within the blocks (None where none does), and what follows them; the text is copied once."""
    for place in reversed(range(len(blocks))):
        head, newline, tail = blocks[place].rpartition(b"\n")
        if newline:
            return b"".join([*blocks[:place], head]), b"".join([tail, *blocks[place + 1 :]])
    return None, b"".join(blocks)


class _Source:
    """The bytes of a file as they lie there, counted and hashed on the way; `is_cut` is known once all are read.

    Where a store fails in the middle, the file is opened again at the place that was reached.
    """

    def __init__(self, open_at: Callable[[int], BinaryIO]) -> None:
        self._open_at = open_at
        self._stream: BinaryIO | None = None
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0
        self.is_cut = False

    def blocks(self, size: int) -> Iterator[bytes]:
        """What is left of the file, in blocks of `size`."""
        while block := retried(partial(self._read, size)):
            self._sha256.update(block)
            self.num_bytes += len(block)
            yield block

    def _read(self, size: int) -> bytes:
        if self._stream is None:
            self._stream = self._open_at(self.num_bytes)
        try:
            return self._stream.read(size)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Until more is asked for."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    @property
    def sha256(self) -> str:
        """Of what was read so far."""
        return self._sha256.hexdigest()


def _open_at(filesystem: pafs.FileSystem, path: str, place: int) -> BinaryIO:
    file = filesystem.open_input_file(path)
    file.seek(place)
    return cast(BinaryIO, pa.BufferedInputStream(file, _BUFFER_BYTES))


def _unzstd(source: _Source) -> Iterator[bytes]:
    """The text of all frames."""
    return _decompressed(
        source, zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj, zstandard.ZstdError
    )


def _decompressed(source: _Source, begin: Callable[[], Any], error: type[Exception]) -> Iterator[bytes]:
    """The text of all frames (zstd) or members (gzip), of which `begin` opens each.

    One by one, because a stream reader takes the end of a cut file for the end of the text.
    """
    frame, blocks = None, source.blocks(_READ_BYTES)
    for block in blocks:
        rest = block
        while rest:
            frame = frame or begin()
            try:
                text = frame.decompress(rest)
            except error:
                deque(blocks, maxlen=0)  # what follows the damage is read for its hash alone
                break
            if text:
                yield text
            rest = frame.unused_data
            if frame.eof:
                frame = None
    source.is_cut = frame is not None


def _text(source: _Source, dump: Dump, filesystem: pafs.FileSystem) -> Iterator[bytes]:
    match dump.form:
        case "zstd":
            return _unzstd(source)
        case "gzip":
            return _gunzip(source)
        case "parquet":
            return _rows_as_lines(source, dump, filesystem)
        case "plain":
            return _plain(source)


def _gunzip(source: _Source) -> Iterator[bytes]:
    """The text of all members of a gzip file."""
    return _decompressed(source, lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), zlib.error)


def _rows_as_lines(source: _Source, dump: Dump, filesystem: pafs.FileSystem) -> Iterator[bytes]:
    """The rows of a Parquet file as the lines that they stand for, so that there is one way to read a record."""
    try:
        with filesystem.open_input_file(dump.path) as file:
            parquet = pq.ParquetFile(file)
            known = [name for name in parquet.schema_arrow.names if name in COLUMNS[dump.kind]]
            if "id" not in known:
                expected = ", ".join(_NAMED[dump.kind])
                raise CorpusError(f"{dump.uri}: has no column id; expected the columns of a dump ({expected})")
            for batch in parquet.iter_batches(_PARQUET_ROWS, columns=known):
                lines = io.BytesIO()
                _as_json_types(pl.DataFrame(pl.from_arrow(batch))).write_ndjson(lines)
                yield lines.getvalue()
    except (pa.ArrowException, UnicodeDecodeError):
        raise CorpusError(f"{dump.uri}: not a whole Parquet file; fetch it again") from None
    deque(source.blocks(_BUFFER_BYTES), maxlen=0)  # for the hash and the size


def _as_json_types(frame: pl.DataFrame) -> pl.DataFrame:
    """Text that was stored as bytes as text, and times as seconds since 1970: JSON has neither bytes nor times."""
    return frame.with_columns(selectors.binary().cast(pl.String, strict=False), selectors.datetime().dt.epoch("s"))


def _plain(source: _Source) -> Iterator[bytes]:
    """The text as it lies there; an open last record is all that tells of a plain file that it was cut."""
    end = b""
    for block in source.blocks(_BUFFER_BYTES):
        yield block
        end = block[-_END_BYTES:]
    source.is_cut = bool(end.strip()) and not end.endswith(b"\n") and not end.rstrip().endswith(b"}")


def _filesystem(config: Config) -> tuple[pafs.FileSystem, str]:
    uri = config.corpus.uri
    if uri.startswith("s3://"):
        return open_s3(config.storage.model_copy(update={"uri": uri}), "corpus.uri"), uri.removeprefix("s3://").strip("/")
    return pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute())


def _listing(filesystem: pafs.FileSystem, root: str) -> list[pafs.FileInfo]:
    """The entries that a folder, a glob or a file stands for, hidden ones left out."""
    if _WILDCARD.search(root):
        parts = PurePosixPath(root).parts
        fixed = next(number for number, part in enumerate(parts) if _WILDCARD.search(part))
        infos = _entries(filesystem, str(PurePosixPath(*parts[:fixed])))
        return [info for info in infos if PurePosixPath(info.path).match(root)]
    info = filesystem.get_file_info(root)
    if not info.is_file:
        return _entries(filesystem, root)
    wanted = _both_names(info.base_name)
    return [entry for entry in _entries(filesystem, str(PurePosixPath(root).parent)) if _both_names(entry.base_name) == wanted]


def _entries(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    infos = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    below = len(PurePosixPath(folder).parts)
    return [info for info in infos if not any(part.startswith(".") for part in PurePosixPath(info.path).parts[below:])]


def _both_names(name: str) -> str:
    """What a submissions file and its comments file have in common."""
    return re.sub(r"_(submissions|comments)|^(RS|RC)(?=_)|\.(zst|gz|parquet)$", "", name)


def _inspect(filesystem: pafs.FileSystem, info: pafs.FileInfo, scheme: str) -> Dump:
    """The entry as a dump, once its first bytes agree with its name."""
    uri = f"{scheme}{info.path}"
    with _readable(uri):
        form = form_of(retried(partial(_beginning, filesystem, info.path)))
    promised = _FORM_OF_SUFFIX.get(PurePosixPath(info.base_name).suffix)
    if promised and form != promised:
        problem = f"begins with other bytes than {promised} does" if info.size else "is empty, 0 bytes long"
        raise CorpusError(
            f"{uri}: not a {promised} file ({problem}); fetch it again, or name it after what it is (no suffix for plain text)"
        )
    match = _DUMP_NAME.fullmatch(info.base_name)
    is_posts = match is not None and (match["side"] == "submissions" or match["monthly"] == "RS")
    return Dump(uri, info.path, "posts" if is_posts else "comments", info.size, info.mtime_ns or 0, form)


def _beginning(filesystem: pafs.FileSystem, path: str) -> bytes:
    with filesystem.open_input_stream(path, compression=None) as stream:
        magic: bytes = stream.read(4)
        return magic


def form_of(magic: bytes) -> Form:
    """What a file is, by its first four bytes."""
    if magic == _ZSTD_MAGIC or (magic[1:] == _ZSTD_SKIPPABLE and magic[0] >> 4 == 5):
        return "zstd"
    if magic.startswith(_GZIP_MAGIC):
        return "gzip"
    return "parquet" if magic == _PARQUET_MAGIC else "plain"


@contextlib.contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else str(error).splitlines()[0][:200]
        raise CorpusError(f"{uri}: cannot be read ({problem}); check that it is there and that this user may read it") from None
