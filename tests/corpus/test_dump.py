import gzip
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import zstandard

from llumi.config import Config, StorageConfig, load_config
from llumi.corpus.dump import Chunk, Dump, iter_chunks, open_corpus
from llumi.corpus.reddit import Kind, read_records
from llumi.errors import CorpusError
from llumi.storage import open_s3
from tests.dumps import comment, compressed, line, parquet, post, shared, write_corpus, write_dump

LOCAL = pafs.LocalFileSystem()
LINES = [b'{"id":"%d","body":"%s"}' % (number, b"x" * (number % 90)) for number in range(2000)]


def of(uri: object) -> Config:
    return load_config(None, [f"corpus.uri={uri}"])


def chunks(path: Path, chunk_bytes: int = 1000) -> list[Chunk]:
    (dump,) = (dump for dump in open_corpus(of(path.parent)).dumps if dump.name == path.name)
    return list(iter_chunks(LOCAL, dump, chunk_bytes))


def lines_of(read: list[Chunk]) -> list[bytes]:
    return [text for chunk in read for text in chunk.data.split(b"\n") if text]


PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".zst": compressed, ".gz": gzip.compress}


@pytest.mark.parametrize("suffix", PACKED)
def test_chunks_hold_whole_lines_in_order(tmp_path: Path, suffix: str) -> None:
    content = PACKED[suffix](b"\n".join(LINES))  # the last line without its break
    path = tmp_path / f"a_comments{suffix}"
    path.write_bytes(content)
    read = chunks(path)
    assert lines_of(read) == LINES
    assert [chunk.index for chunk in read] == list(range(len(read)))
    assert [chunk.is_last for chunk in read] == [False] * (len(read) - 1) + [True]
    assert not read[-1].is_truncated
    assert sum(chunk.num_source_bytes for chunk in read) == len(content)
    assert read[-1].sha256 == hashlib.sha256(content).hexdigest()


def test_frames_may_end_inside_a_line_and_be_skippable(tmp_path: Path) -> None:
    text = b"\n".join(LINES)
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    (tmp_path / "a_comments.zst").write_bytes(skippable + compressed(text[:777]) + skippable + compressed(text[777:]))
    read = chunks(tmp_path / "a_comments.zst")
    assert lines_of(read) == LINES
    assert not read[-1].is_truncated


def test_a_gzip_file_may_have_several_members(tmp_path: Path) -> None:
    text = b"\n".join(LINES)
    content = gzip.compress(text[:777]) + gzip.compress(b"") + gzip.compress(text[777:50_000]) + gzip.compress(text[50_000:])
    (tmp_path / "a_comments.gz").write_bytes(content)
    read = chunks(tmp_path / "a_comments.gz")
    assert lines_of(read) == LINES
    assert not read[-1].is_truncated


_NOISE = random.Random(1)
NOISY = [b'{"id":"%d","n":"%d"}' % (number, _NOISE.getrandbits(400)) for number in range(2000)]
"""Lines that hardly compress, so that a cut file still has many."""


@pytest.mark.parametrize("cut", [20_000, 40_000])
def test_a_cut_file_gives_every_whole_line_before_the_cut(tmp_path: Path, cut: int) -> None:
    content = compressed(b"\n".join(NOISY))
    assert cut < len(content)
    (tmp_path / "a_comments.zst").write_bytes(content[:cut])
    whole = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj().decompress(content[:cut]).count(b"\n")
    read = chunks(tmp_path / "a_comments.zst")
    assert read[-1].is_truncated
    assert lines_of(read) == NOISY[:whole]


@pytest.mark.parametrize("num_members", [1, 2])
@pytest.mark.parametrize("missing", [1, 8, 20_000])
def test_a_cut_gzip_file_gives_every_whole_line_before_the_cut(tmp_path: Path, missing: int, num_members: int) -> None:
    halves = [NOISY] if num_members == 1 else [NOISY[:900], NOISY[900:]]
    content = b"".join(gzip.compress(b"".join(raw + b"\n" for raw in half)) for half in halves)[:-missing]
    (tmp_path / "a_comments.gz").write_bytes(content)
    read = chunks(tmp_path / "a_comments.gz")
    assert read[-1].is_truncated
    assert read[-1].sha256 == hashlib.sha256(content).hexdigest()
    found = lines_of(read)
    assert found == NOISY[: len(found)]
    assert len(found) == 2000 if missing < 20_000 else 900 < len(found) < 2000


@pytest.mark.parametrize("suffix", [".zst", ".gz"])
def test_a_damaged_file_counts_as_cut_and_is_hashed_to_its_end(tmp_path: Path, suffix: str) -> None:
    content = PACKED[suffix](b"\n".join(LINES)) + b"neither a frame nor a member"
    path = tmp_path / f"a_comments{suffix}"
    path.write_bytes(content)
    read = chunks(path)
    assert read[-1].is_truncated
    assert lines_of(read) == LINES[:-1]  # no line break proves that the last one is whole
    assert read[-1].sha256 == hashlib.sha256(content).hexdigest()


def test_bytes_that_changed_inside_a_gzip_file_count_as_a_cut(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(b"\n".join(NOISY)))
    content[-6] ^= 1  # of the checksum
    (tmp_path / "a_comments.gz").write_bytes(content)
    assert chunks(tmp_path / "a_comments.gz")[-1].is_truncated


def test_a_plain_file_that_ends_inside_a_record_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a_comments").write_bytes(b"\n".join(LINES)[:-5])
    read = chunks(tmp_path / "a_comments")
    assert read[-1].is_truncated
    assert lines_of(read) == LINES[:-1]


@pytest.mark.parametrize("suffix", PACKED)
def test_a_file_without_text_is_an_empty_dump(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a_comments{suffix}"
    path.write_bytes(PACKED[suffix](b""))
    (only,) = chunks(path)
    assert (only.data, only.is_last, only.is_truncated) == (b"", True, False)


def test_text_without_line_breaks_is_no_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llumi.corpus.dump.MAX_LINE_BYTES", 10_000)
    (tmp_path / "a_comments.zst").write_bytes(compressed(b"x" * 300_000))
    with pytest.raises(CorpusError, match=r"a_comments\.zst: no line break"):
        chunks(tmp_path / "a_comments.zst")


def test_dumps_are_known_by_their_names(tmp_path: Path) -> None:
    names = ("a_submissions.zst", "a_comments.zst", "RS_2023-01.zst", "deep/RC_2023-01", "b_comments.ndjson", "RC_2023-02.gz")
    for name in (*names, "c_submissions.parquet", "c_comments.jsonl.gz"):
        write_dump(tmp_path / name, [comment("c", "p", 1)])
    for other in ("README.md", "a_votes.zst", ".a_comments.zst.partial", "notes_comments.txt"):
        (tmp_path / other).write_bytes(b"{}")
    found = {dump.name: (dump.kind, dump.form) for dump in open_corpus(of(tmp_path)).dumps}
    assert found == {
        "a_submissions.zst": ("posts", "zstd"),
        "a_comments.zst": ("comments", "zstd"),
        "RS_2023-01.zst": ("posts", "zstd"),
        "RC_2023-01": ("comments", "plain"),
        "b_comments.ndjson": ("comments", "plain"),
        "RC_2023-02.gz": ("comments", "gzip"),
        "c_submissions.parquet": ("posts", "parquet"),
        "c_comments.jsonl.gz": ("comments", "gzip"),
    }


def test_a_glob_and_a_single_file(tmp_path: Path) -> None:
    for name in ("RS_2023-01.zst", "RC_2023-01.zst", "RS_2023-02.zst", "RC_2023-02.zst"):
        write_dump(tmp_path / name, [comment("c", "p", 1)])

    def names(uri: Path) -> list[str]:
        return [dump.name for dump in open_corpus(of(uri)).dumps]

    assert names(tmp_path / "R?_2023-02*") == ["RC_2023-02.zst", "RS_2023-02.zst"]
    assert names(tmp_path / "RC_2023-01.zst") == ["RC_2023-01.zst", "RS_2023-01.zst"]
    write_dump(tmp_path / "steps_comments.parquet", [comment("c", "p", 1)])
    write_dump(tmp_path / "steps_submissions.gz", [post("p")])
    assert names(tmp_path / "steps_comments.parquet") == ["steps_comments.parquet", "steps_submissions.gz"]


RECORDS_OF: dict[Kind, list[dict[str, Any]]] = {
    "posts": [
        post(f"p{number}", title="Q &amp; A", score=number, stickied=number % 7 == 0, distinguished=None, retrieved_on=None)
        | {"_meta": {"was_deleted_later": number % 5 == 0}, "selftext": "quiet \u2028 week\n\U0001f499 " + "x" * (number % 50)}
        for number in range(500)
    ],
    "comments": [
        comment(f"c{number}", f"p{number % 9}", number - 250, is_submitter=number % 3 == 0, _meta=None)
        | {"parent_id": f"t1_c{number - 1}" if number % 2 else None, "extra": [number]}
        for number in range(500)
    ],
}


@pytest.mark.parametrize("kind", RECORDS_OF)
def test_every_form_holds_the_same_records(tmp_path: Path, kind: Kind) -> None:
    side = "submissions" if kind == "posts" else "comments"
    found = {}
    for suffix in ("", ".jsonl", ".zst", ".gz", ".jsonl.gz", ".parquet"):
        read = chunks(write_dump(tmp_path / f"form{suffix}" / f"a_{side}{suffix}", RECORDS_OF[kind]))
        frames = [read_records(chunk.data, kind) for chunk in read]
        assert sum(num_malformed for _, num_malformed in frames) == 0
        found[suffix] = pl.concat([frame for frame, _ in frames])
    assert found[".zst"]["id"].to_list() == [record["id"] for record in RECORDS_OF[kind]]
    assert all(frame.equals(found[".zst"]) for frame in found.values())


class TestParquet:
    @pytest.fixture(autouse=True)
    def _small_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llumi.corpus.dump._PARQUET_ROWS", 64)

    def test_it_is_read_in_batches_and_hashed_whole(self, tmp_path: Path) -> None:
        content = parquet(RECORDS_OF["comments"], row_group_size=100)
        (tmp_path / "a_comments.parquet").write_bytes(content)
        read = chunks(tmp_path / "a_comments.parquet")
        assert len(read) > 5
        assert len(lines_of(read)) == 500
        assert sum(chunk.num_source_bytes for chunk in read) == len(content)
        assert (read[-1].is_last, read[-1].is_truncated) == (True, False)
        assert read[-1].sha256 == hashlib.sha256(content).hexdigest()

    def test_columns_that_are_not_read_stay_in_the_file(self, tmp_path: Path) -> None:
        path = write_dump(tmp_path / "a_comments.parquet", [comment("c1", "p1", 1, permalink="elsewhere")])
        assert b"elsewhere" in path.read_bytes()
        assert not any(b"elsewhere" in raw for raw in lines_of(chunks(path)))

    def test_numbers_may_be_text_and_the_deletion_too(self, tmp_path: Path) -> None:
        record = comment("c1", "p1", "7", created_utc="1672531200", _meta='{"was_deleted_later":true}', stickied="true")
        (chunk,) = chunks(write_dump(tmp_path / "a_comments.parquet", [record]))
        (found,) = read_records(chunk.data, "comments")[0].to_dicts()
        expected = {"score": 7, "created_utc": 1_672_531_200, "was_deleted_later": True, "is_stickied": True}
        assert {name: found[name] for name in expected} == expected

    def test_a_file_without_rows_is_an_empty_dump(self, tmp_path: Path) -> None:
        pq.write_table(pa.schema([("id", pa.string()), ("body", pa.string())]).empty_table(), tmp_path / "a_comments.parquet")
        read = chunks(tmp_path / "a_comments.parquet")
        assert lines_of(read) == []
        assert (read[-1].is_last, read[-1].is_truncated) == (True, False)

    def test_a_file_without_ids_is_no_dump(self, tmp_path: Path) -> None:
        path = write_dump(tmp_path / "a_submissions.parquet", [{"name": "p1", "title": "A quiet week"}])
        with pytest.raises(
            CorpusError, match=r"a_submissions\.parquet: has no column id; expected the columns .*id, subreddit"
        ):
            chunks(path)

    def test_a_cut_file_cannot_be_read_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "a_comments.parquet").write_bytes(parquet(RECORDS_OF["comments"])[:-100])
        with pytest.raises(CorpusError, match=r"a_comments\.parquet: not a whole Parquet file; fetch it again$"):
            chunks(tmp_path / "a_comments.parquet")

    def test_a_file_damaged_anywhere_is_read_or_said_in_one_line(self, tmp_path: Path) -> None:
        chooser = random.Random(17)
        sound = parquet(RECORDS_OF["comments"], row_group_size=100)
        said = []
        for _ in range(80):
            start = chooser.randrange(4, len(sound) - 8 - 20)
            content = sound[:start] + chooser.randbytes(20) + sound[start + 20 :]
            (tmp_path / "a_comments.parquet").write_bytes(content)
            try:
                chunks(tmp_path / "a_comments.parquet")
            except CorpusError as error:
                said.append(str(error))
        assert len(said) > 40
        assert all("a_comments.parquet: " in problem and "\n" not in problem for problem in said)

    def test_text_as_bytes_and_times_as_times(self, tmp_path: Path) -> None:
        record = comment("c1", "p1", 1)
        binary = pa.table(
            {name: pa.array([value.encode() if isinstance(value, str) else value]) for name, value in record.items()}
        )
        for unit in ("s", "ms", "us", "ns"):
            times = pa.array([record["created_utc"]]).cast(pa.timestamp("s")).cast(pa.timestamp(unit, "UTC"))
            place = binary.schema.get_field_index("created_utc")
            pq.write_table(binary.set_column(place, "created_utc", times), tmp_path / "a_comments.parquet")
            (chunk,) = chunks(tmp_path / "a_comments.parquet")
            assert read_records(chunk.data, "comments")[0].equals(read_records(line(record), "comments")[0])

    def test_text_as_a_dictionary(self, tmp_path: Path) -> None:
        records = [comment(f"c{number}", f"p{number}", 1) for number in range(9)]
        table = pa.Table.from_pylist(records)
        place = table.schema.get_field_index("subreddit")
        table = table.set_column(place, "subreddit", table["subreddit"].dictionary_encode())
        pq.write_table(table, tmp_path / "a_comments.parquet")
        (*_, chunk) = [chunk for chunk in chunks(tmp_path / "a_comments.parquet") if chunk.data]
        assert set(read_records(chunk.data, "comments")[0]["community"]) == {"porch"}


@pytest.mark.parametrize("suffix", [".zst", ".gz", ".parquet", ".jsonl", ""])
@pytest.mark.parametrize("packed", ["zstd", "gzip", "parquet", "plain"])
def test_a_suffix_that_lies_is_refused_and_none_promises_nothing(tmp_path: Path, suffix: str, packed: str) -> None:
    record = comment("c1", "p1", 1)
    text = line(record)
    content = {"zstd": compressed(text), "gzip": gzip.compress(text), "parquet": parquet([record]), "plain": text}[packed]
    (tmp_path / f"a_comments{suffix}").write_bytes(content)
    promised = {".zst": "zstd", ".gz": "gzip", ".parquet": "parquet"}.get(suffix)
    if promised not in (None, packed):
        with pytest.raises(CorpusError, match=rf"a_comments\{suffix}: not a {promised} file \(begins with other bytes"):
            open_corpus(of(tmp_path))
    else:
        (dump,) = open_corpus(of(tmp_path)).dumps
        assert dump.form == packed
        (chunk,) = iter_chunks(LOCAL, dump)
        assert read_records(chunk.data, "comments")[0]["id"].to_list() == ["c1"]


class TestQuirks:
    def test_a_file_that_was_cut_gives_its_whole_records(self) -> None:
        (dump,) = open_corpus(of(shared("quirks") / "truncated_comments.zst")).dumps
        read = list(iter_chunks(LOCAL, dump))
        assert read[-1].is_truncated
        found = [read_records(chunk.data, "comments") for chunk in read]
        assert sum(frame.height for frame, _ in found) >= 1158
        assert sum(num_malformed for _, num_malformed in found) == 0

    def test_an_empty_one_has_no_lines(self) -> None:
        (dump,) = open_corpus(of(shared("quirks") / "empty_comments.zst")).dumps
        (chunk,) = iter_chunks(LOCAL, dump)
        assert (chunk.data, chunk.is_truncated) == (b"", False)

    def test_one_that_is_no_zstd_is_named(self) -> None:
        with pytest.raises(CorpusError, match=r"not_zstd_comments\.zst: not a zstd file"):
            open_corpus(of(shared("quirks") / "not_zstd_comments.zst"))


def test_what_is_no_corpus_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder or file; expected NAME_submissions and NAME_comments"):
        open_corpus(of(tmp_path / "nowhere"))
    with pytest.raises(CorpusError, match="holds no dump but nothing at all; expected"):
        open_corpus(of(tmp_path))
    (tmp_path / "a_comments.zst").write_bytes(b"plain text")
    with pytest.raises(CorpusError, match=r"a_comments\.zst: not a zstd file"):
        open_corpus(of(tmp_path))
    (tmp_path / "a_comments.zst").write_bytes(b"")
    with pytest.raises(CorpusError, match="is empty, 0 bytes"):
        open_corpus(of(tmp_path))
    write_dump(tmp_path / "a_comments.zst", [comment("c", "p", 1)])
    with pytest.raises(CorpusError, match=r"holds comments \(a_comments.zst\) but no posts; add NAME_submissions"):
        open_corpus(of(tmp_path)).require_both_kinds()


def test_the_state_follows_the_files(tmp_path: Path) -> None:
    write_corpus(tmp_path, [post("p1")], [comment("c1", "p1", 1)])
    before = open_corpus(of(tmp_path)).state
    assert open_corpus(of(tmp_path)).state == before
    write_corpus(tmp_path, [post("p1")], [comment("c1", "p1", 2), comment("c2", "p1", 2)])
    assert open_corpus(of(tmp_path)).state != before


def test_a_corpus_on_s3(s3_storage: StorageConfig) -> None:
    filesystem = open_s3(s3_storage)
    root = s3_storage.uri.removeprefix("s3://")
    for name, record in (("a_submissions.zst", post("p1")), ("a_comments.zst", comment("c1", "p1", 1))):
        with filesystem.open_output_stream(f"{root}/dumps/{name}", compression=None) as stream:
            stream.write(compressed(line(record)))
    config = load_config(None, [f"corpus.uri={s3_storage.uri}/dumps", f"storage.endpoint_url={s3_storage.endpoint_url}"])
    corpus = open_corpus(config)
    corpus.require_both_kinds()
    assert corpus.dumps[0].uri == f"{s3_storage.uri}/dumps/a_comments.zst"
    (chunk,) = iter_chunks(corpus.filesystem, corpus.dumps[0])
    assert chunk.data.strip() == line(comment("c1", "p1", 1))
    glob = config.model_copy(update={"corpus": config.corpus.model_copy(update={"uri": f"{s3_storage.uri}/dumps/*_comments*"})})
    assert [dump.name for dump in open_corpus(glob).dumps] == ["a_comments.zst"]
    assert isinstance(corpus.dumps[0], Dump)
