from pathlib import Path

import polars as pl
import pyarrow.fs as pafs
import pytest
import zstandard

from llumi.config import CorpusConfig, load_config
from llumi.corpus.clean import Rules, Tally, clean_lines
from llumi.corpus.dump import iter_chunks, open_corpus
from llumi.corpus.months import Months, count_months
from llumi.corpus.reddit import Kind
from llumi.corpus.sample import COMMUNITIES, write_sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, 300)
    return folder


def cleaned(folder: Path, kind: Kind) -> tuple[pl.DataFrame, Tally]:
    """The records that cleaning keeps, and what became of all."""
    frames, whole = [], Tally()
    for dump in open_corpus(load_config(None, [f"corpus.uri={folder}"])).dumps:
        if dump.kind == kind:
            for chunk in iter_chunks(pafs.LocalFileSystem(), dump):
                records, tally = clean_lines(chunk.data, kind, Rules.of(CorpusConfig()))
                frames.append(records.filter(pl.col("reason").is_null()))
                whole.add(tally)
    return pl.concat(frames), whole


def duplicates(texts: pl.Series) -> float:
    """The share of texts that another one has said before, word for word."""
    return 1 - texts.n_unique() / len(texts)


def test_it_has_the_layout_of_a_dump(folder: Path) -> None:
    names = {f"{community}_{kind}.zst" for community in COMMUNITIES for kind in ("submissions", "comments")}
    assert {file.name for file in folder.iterdir()} == names
    for name in names:
        assert zstandard.get_frame_parameters((folder / name).read_bytes()).window_size == 2**31


def test_texts_are_short_and_scores_far_enough_apart(folder: Path) -> None:
    posts, tally = cleaned(folder, "posts")
    assert tally.records == 300
    num_words = (posts["title"] + " " + posts["body"]).str.count_matches(r"\S+")
    assert num_words.is_between(15, 75).all()
    replies, _ = cleaned(folder, "comments")
    assert replies["body"].str.count_matches(r"\S+").is_between(6, 75).all()
    spans = replies.group_by("post_id").agg(span=pl.col("score").max() - pl.col("score").min())["span"]
    assert (spans >= 15).sum() > 100


@pytest.mark.parametrize("seed", [17, 18])
def test_few_texts_are_said_twice(tmp_path: Path, seed: int) -> None:
    write_sample(tmp_path, 320, seed)  # as many as the command writes when it is not told otherwise
    posts, replies = cleaned(tmp_path, "posts")[0], cleaned(tmp_path, "comments")[0]
    assert replies.height > 1000
    newest = replies.unique("id", keep="last")  # a record captured twice is one reply
    assert duplicates(newest["body"]) < 0.10
    assert duplicates(posts["title"] + "\n" + posts["body"]) < 0.05
    assert duplicates(posts["body"]) < 0.05


def test_cleaning_has_something_to_do(folder: Path) -> None:
    comments, tally = cleaned(folder, "comments")
    assert {"removed_text", "moderator", "own_reply"} <= set(tally.dropped)
    assert tally.malformed == 0
    assert comments["id"].is_duplicated().any()  # captured twice
    assert not comments["is_top_level"].all()
    assert cleaned(folder, "posts")[1].dropped["removed_text"] > 0


def test_its_scores_were_voted_on(folder: Path) -> None:
    months = Months()
    months.add(count_months(cleaned(folder, "comments")[0].with_columns(reason=pl.lit(None, pl.String))))
    assert months.num_comments
    assert months.early(0.5) == []


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", 300)
    write_sample(tmp_path / "other", 300, seed=18)
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
        assert (tmp_path / "other" / file.name).read_bytes() != file.read_bytes()
