import itertools
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import zstandard

from llumi.config import CorpusConfig, load_config
from llumi.corpus.clean import Kind, Rules, Tally, clean_lines
from llumi.corpus.dump import iter_chunks, open_corpus
from llumi.corpus.sample import COMMUNITIES, write_sample
from llumi.records import Comment, Post


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, 300)
    return folder


def cleaned(folder: Path, kind: Kind) -> tuple[list[Post | Comment], Tally]:
    corpus, tally = open_corpus(load_config(None, [f"corpus.uri={folder}"])), Tally()
    lines = itertools.chain.from_iterable(
        chunk.data.split(b"\n")
        for dump in corpus.dumps
        if dump.kind == kind
        for chunk in iter_chunks(pafs.LocalFileSystem(), dump)
    )
    records = clean_lines(lines, kind, Rules.of(CorpusConfig()), tally)
    return [record for record in records if isinstance(record, Post | Comment)], tally


def test_it_has_the_layout_of_a_dump(folder: Path) -> None:
    names = {f"{community}_{kind}.zst" for community in COMMUNITIES for kind in ("submissions", "comments")}
    assert {file.name for file in folder.iterdir()} == names
    for name in names:
        assert zstandard.get_frame_parameters((folder / name).read_bytes()).window_size == 2**31


def test_texts_are_short_and_scores_far_enough_apart(folder: Path) -> None:
    posts, tally = cleaned(folder, "posts")
    assert tally.records == 300
    assert all(15 <= len(f"{post.title} {post.body}".split()) <= 48 for post in posts if isinstance(post, Post))
    replies = [reply for reply in cleaned(folder, "comments")[0] if isinstance(reply, Comment)]
    assert all(10 <= len(reply.body.split()) <= 45 for reply in replies)
    assert len({reply.body for reply in replies}) > 300
    scores: dict[str, list[int]] = {}
    for reply in replies:
        scores.setdefault(reply.post_id, []).append(reply.score)
    assert sum(max(of_post) - min(of_post) >= 15 for of_post in scores.values()) > 100


def test_cleaning_has_something_to_do(folder: Path) -> None:
    _, tally = cleaned(folder, "comments")
    assert {"removed_text", "moderator", "own_reply"} <= set(tally.dropped)
    assert tally.malformed == 0


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", 300)
    write_sample(tmp_path / "other", 300, seed=18)
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
        assert (tmp_path / "other" / file.name).read_bytes() != file.read_bytes()
