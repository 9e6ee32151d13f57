import random
from pathlib import Path
from typing import Any

import pytest
import ray

from llumi.config import Config, load_config
from llumi.corpus.chunks import map_chunks
from llumi.corpus.dump import Chunk, Dump, open_corpus
from llumi.corpus.read import inspect_corpus
from llumi.errors import CorpusError
from tests.dumps import comment, compressed, line, post, shared, write_corpus, write_dump

pytestmark = pytest.mark.ray


def of(uri: object) -> Config:
    return load_config(None, [f"corpus.uri={uri}"])


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    posts = [post(f"p{number}") for number in range(30)] + [post("gone", selftext="[removed]")]
    comments = [comment(f"c{number}", f"p{number % 30}", number, created_utc=1_685_577_600) for number in range(300)]
    write_corpus(tmp_path / "dumps", posts, comments)
    return tmp_path / "dumps"


def test_inspect_counts_everything_and_stops_at_nothing(ray_cluster: None, corpus_folder: Path) -> None:
    text = b"\n".join(line(comment(f"d{number}", "p1", 1, body=f"{number**9}")) for number in range(3000))
    (corpus_folder / "cut_comments.zst").write_bytes(compressed(text)[:-20_000])
    (corpus_folder / "odd_comments").write_bytes(
        b'{"id":"x"\n[1]\n' + line(comment("e1", "p1", None, subreddit="other")) + b"\n"
    )
    seen: list[tuple[float, float | None]] = []
    report = inspect_corpus(of(corpus_folder), lambda what, done, total=None: seen.append((done, total)))
    assert report.posts.as_counts() == {"records": 31, "kept": 30, "dropped": {"removed_text": 1}, "malformed": 0}
    with pytest.raises(CorpusError, match=r"truncated: cut_comments.zst \(\d+ whole records .* corpus\.truncated=keep"):
        report.raise_if_truncated()
    (cut,) = report.truncated
    assert cut.name == "cut_comments.zst"
    assert 0 < cut.num_records < 3000
    assert report.comments.as_counts() == {
        "records": 301 + cut.num_records,
        "kept": 300 + cut.num_records,
        "dropped": {"no_score": 1},
        "malformed": 2,
    }
    assert report.months.num_comments == {"2023-01": cut.num_records, "2023-06": 300}
    assert report.months.num_ones == {"2023-01": cut.num_records, "2023-06": 1}
    assert report.communities == {"porch": {"posts": 30, "comments": 300 + cut.num_records}}
    num_bytes = open_corpus(of(corpus_folder)).num_bytes
    assert seen[0] == (0, num_bytes)
    assert seen[-1] == (num_bytes, num_bytes)
    figures = report.figures()
    assert figures["comments"]["malformed"] == 2
    assert figures["early_months"] == ["2023-01"]
    assert figures["months"] == {
        "2023-01": {"comments": cut.num_records, "score_one": cut.num_records, "early": True},
        "2023-06": {"comments": 300, "score_one": 1, "early": False},
    }


def test_inspect_reads_every_form_and_leaves_other_communities_out(ray_cluster: None, tmp_path: Path) -> None:
    records = [comment(f"c{number}", "p1", number, subreddit=("porch", "other")[number % 2]) for number in range(100)]
    for name in ("a_comments.zst", "b_comments.gz", "c_comments.parquet", "d_comments"):
        write_dump(tmp_path / name, records)
    config = load_config(None, [f"corpus.uri={tmp_path}", 'corpus.communities=["PORCH"]'])
    report = inspect_corpus(config)
    assert report.comments.as_counts() == {"records": 400, "kept": 200, "dropped": {"other_community": 200}, "malformed": 0}
    assert [file.num_records for file in report.files] == [100] * 4
    assert report.communities == {"porch": {"posts": 0, "comments": 200}}
    assert report.months.early(0.95) == []


def test_inspect_reads_the_truncated_file_of_the_quirks_to_its_cut(ray_cluster: None) -> None:
    report = inspect_corpus(of(shared("quirks") / "truncated_comments.zst"))
    assert [(file.name, file.num_records >= 1158) for file in report.truncated] == [("truncated_comments.zst", True)]
    assert report.comments.malformed == 0


def test_one_file_is_worked_on_in_many_chunks(ray_cluster: None, corpus_folder: Path) -> None:
    def num_lines(dump: Dump, chunk: Chunk) -> dict[str, Any]:
        return {"num": sum(1 for text in chunk.data.split(b"\n") if text)}

    noise = random.Random(1)
    records = [comment(f"n{number}", "p1", 1, body=f"{noise.getrandbits(2000)}") for number in range(1000)]
    write_dump(corpus_folder / "noise_comments.zst", records)
    found = [
        (f.dump.kind, f.chunk.index, f.result["num"])
        for f in map_chunks(ray.data.from_items, open_corpus(of(corpus_folder)), num_lines, chunk_bytes=4096)
    ]
    assert sum(num for kind, _, num in found if kind == "comments") == 1300
    assert sum(1 for kind, *_ in found if kind == "comments") > 5


def test_what_a_task_raises_on_purpose_arrives_as_itself(ray_cluster: None, corpus_folder: Path) -> None:
    (corpus_folder / "late_comments.zst").write_bytes(compressed(b""))
    corpus = open_corpus(of(corpus_folder))

    def refuse(dump: Dump, chunk: Chunk) -> dict[str, Any]:
        raise CorpusError(f"{dump.name}: refused")

    with pytest.raises(CorpusError, match=r"^\w+\.zst: refused$") as error:
        list(map_chunks(ray.data.from_items, corpus, refuse))
    assert type(error.value) is CorpusError


def test_a_file_that_goes_away_while_it_is_read_is_one_line(ray_cluster: None, tmp_path: Path) -> None:
    path = write_dump(tmp_path / "a_comments.zst", [comment("c", "p", 1)])
    corpus = open_corpus(of(tmp_path))
    path.unlink()
    with pytest.raises(CorpusError, match=r"a_comments\.zst: cannot be read"):
        list(map_chunks(ray.data.from_items, corpus, lambda dump, chunk: {}))
