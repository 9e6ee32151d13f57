import hashlib
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import zstandard

from llumi.config import Config, StorageConfig, load_config
from llumi.corpus.dump import Chunk, Dump, iter_chunks, open_corpus
from llumi.errors import CorpusError
from llumi.storage import open_s3
from tests.dumps import comment, compressed, line, post, write_corpus, write_dump

LOCAL = pafs.LocalFileSystem()
LINES = [b'{"id":"%d","body":"%s"}' % (number, b"x" * (number % 90)) for number in range(2000)]


def of(uri: object) -> Config:
    return load_config(None, [f"corpus.uri={uri}"])


def chunks(path: Path, chunk_bytes: int = 1000) -> list[Chunk]:
    (dump,) = (dump for dump in open_corpus(of(path.parent)).dumps if dump.name == path.name)
    return list(iter_chunks(LOCAL, dump, chunk_bytes))


def lines_of(read: list[Chunk]) -> list[bytes]:
    return [text for chunk in read for text in chunk.data.split(b"\n") if text]


@pytest.mark.parametrize("name", ["a_comments.zst", "a_comments"])
def test_chunks_hold_whole_lines_in_order(tmp_path: Path, name: str) -> None:
    text = b"\n".join(LINES)  # the last line without its break
    content = compressed(text) if name.endswith(".zst") else text
    (tmp_path / name).write_bytes(content)
    read = chunks(tmp_path / name)
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


@pytest.mark.parametrize("cut", [20_000, 40_000])
def test_a_cut_file_gives_every_whole_line_before_the_cut(tmp_path: Path, cut: int) -> None:
    import random

    noise = random.Random(1)
    lines = [b'{"id":"%d","n":"%d"}' % (number, noise.getrandbits(400)) for number in range(2000)]
    content = compressed(b"\n".join(lines))
    assert cut < len(content)
    (tmp_path / "a_comments.zst").write_bytes(content[:cut])
    whole = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj().decompress(content[:cut]).count(b"\n")
    read = chunks(tmp_path / "a_comments.zst")
    assert read[-1].is_truncated
    assert lines_of(read) == lines[:whole]


def test_a_damaged_file_counts_as_cut_and_is_hashed_to_its_end(tmp_path: Path) -> None:
    content = compressed(b"\n".join(LINES)) + b"no frame"
    (tmp_path / "a_comments.zst").write_bytes(content)
    read = chunks(tmp_path / "a_comments.zst")
    assert read[-1].is_truncated
    assert lines_of(read) == LINES[:-1]  # no line break proves that the last one is whole
    assert read[-1].sha256 == hashlib.sha256(content).hexdigest()


def test_a_plain_file_that_ends_inside_a_record_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a_comments").write_bytes(b"\n".join(LINES)[:-5])
    read = chunks(tmp_path / "a_comments")
    assert read[-1].is_truncated
    assert lines_of(read) == LINES[:-1]


def test_an_empty_frame_is_an_empty_dump(tmp_path: Path) -> None:
    (tmp_path / "a_comments.zst").write_bytes(compressed(b""))
    (only,) = chunks(tmp_path / "a_comments.zst")
    assert (only.data, only.is_last, only.is_truncated) == (b"", True, False)


def test_text_without_line_breaks_is_no_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llumi.corpus.dump.MAX_LINE_BYTES", 10_000)
    (tmp_path / "a_comments.zst").write_bytes(compressed(b"x" * 300_000))
    with pytest.raises(CorpusError, match=r"a_comments\.zst: no line break"):
        chunks(tmp_path / "a_comments.zst")


def test_dumps_are_known_by_their_names(tmp_path: Path) -> None:
    for name in ("a_submissions.zst", "a_comments.zst", "RS_2023-01.zst", "deep/RC_2023-01", "b_comments.ndjson"):
        write_dump(tmp_path / name, [comment("c", "p", 1)])
    for other in ("README.md", "a_votes.zst", ".a_comments.zst.partial", "notes_comments.txt"):
        (tmp_path / other).write_bytes(b"{}")
    found = {dump.name: (dump.kind, dump.is_compressed) for dump in open_corpus(of(tmp_path)).dumps}
    assert found == {
        "a_submissions.zst": ("posts", True),
        "a_comments.zst": ("comments", True),
        "RS_2023-01.zst": ("posts", True),
        "RC_2023-01": ("comments", False),
        "b_comments.ndjson": ("comments", False),
    }


def test_a_glob_and_a_single_file(tmp_path: Path) -> None:
    for name in ("RS_2023-01.zst", "RC_2023-01.zst", "RS_2023-02.zst", "RC_2023-02.zst"):
        write_dump(tmp_path / name, [comment("c", "p", 1)])

    def names(uri: Path) -> list[str]:
        return [dump.name for dump in open_corpus(of(uri)).dumps]

    assert names(tmp_path / "R?_2023-02*") == ["RC_2023-02.zst", "RS_2023-02.zst"]
    assert names(tmp_path / "RC_2023-01.zst") == ["RC_2023-01.zst", "RS_2023-01.zst"]


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
