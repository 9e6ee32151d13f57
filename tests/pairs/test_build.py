import random
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from llumi.config import Config, StorageConfig, load_config
from llumi.corpus.sample import write_sample
from llumi.errors import CorpusError, PairsError
from llumi.pairs.bucket import EXAMPLES
from llumi.pairs.build import build_pairs, pairs_fingerprint
from llumi.storage import Manifest, Storage, open_s3
from tests.dumps import comment, post, shared, write_corpus

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, 300)
    return folder


def of(folder: Path, corpus: Path, *overrides: str) -> Config:
    places = [f"storage.uri={folder}/store", f"privacy.key_file={folder}/privacy.key", f"corpus.uri={corpus}"]
    return load_config(None, [*places, "pairs.num_buckets=3", *overrides])


def assert_accounts_add_up(manifest: Manifest) -> None:
    counts = manifest.counts
    for account in (counts["posts"], counts["comments"], counts["replies"]):
        assert account["records"] == account["kept"] + sum(account["dropped"].values())
    assert counts["replies"]["records"] == counts["comments"]["kept"]
    pairs = counts["candidate_pairs"]
    assert pairs["candidates"] == pairs["kept"] + sum(pairs["dropped"].values())
    examples = counts["examples"]
    for name in ("gm-dpo", "im-dpo", "im-sft"):
        assert examples[f"{name}/train"] + examples[f"{name}/test"] == pairs["kept"]


@pytest.mark.parametrize("preset", ["margin", "paper"])
def test_the_sample_gives_pairs_under_both_presets(ray_cluster: None, sample: Path, tmp_path: Path, preset: str) -> None:
    config = of(tmp_path, sample, f"pairs.preset={preset}")
    seen: list[str] = []
    manifest = build_pairs(config, lambda what, done, total=None: seen.append(what))
    assert_accounts_add_up(manifest)
    assert manifest.counts["candidate_pairs"]["kept"] >= 20
    storage = Storage.open(config.storage)
    assert storage.manifest("pairs/default") == manifest
    for folder, schema in EXAMPLES.items():
        table = storage.read_table("pairs/default", folder)
        assert table.schema.equals(schema)
        assert table.num_rows == manifest.counts["examples"][folder]
    gaps = storage.read_table("pairs/default", "gm-dpo/train").to_pandas().eval("chosen_score - rejected_score")
    assert gaps.min() >= (2 if preset == "margin" else 15)
    assert {"read dumps", "pair replies"} <= set(seen)
    assert set(manifest.metrics) == ({"thresholds"} if preset == "paper" else set())
    assert not any((tmp_path / "store" / "scratch").iterdir())


def test_every_candidate_of_real_text_with_real_votes_is_accounted_for(ray_cluster: None, tmp_path: Path) -> None:
    manifest = build_pairs(of(tmp_path, shared("counselchat")))
    assert_accounts_add_up(manifest)
    assert manifest.counts["candidate_pairs"]["candidates"] == 2523
    assert (manifest.counts["posts"]["records"], manifest.counts["comments"]["records"]) == (815, 2129)


def test_neither_workers_nor_chunks_nor_the_attempt_change_a_file(ray_cluster: None, sample: Path, tmp_path: Path) -> None:
    once = build_pairs(of(tmp_path, sample))
    limits = ray.data.DataContext.get_current().execution_options
    everything = limits.resource_limits
    limits.resource_limits = ray.data.ExecutionResources(cpu=2)
    try:
        again = build_pairs(of(tmp_path, sample), chunk_bytes=20_000)
    finally:
        limits.resource_limits = everything
    assert again.files == once.files
    assert again.as_input() == once.as_input()
    assert again.counts == once.counts


def test_no_name_and_no_identifier_is_in_the_artifact(ray_cluster: None, tmp_path: Path) -> None:
    posts = [post(f"rawpost{n}", author=f"rawasker{n}", permalink="/r/rawlink", selftext="Quiet days.") for n in range(20)]
    comments = [
        comment(f"rawcomment{n}-{score}", f"rawpost{n}", score, author=f"rawhelper{n}", body=f"You are not alone, {score}.")
        for n in range(20)
        for score in (1, 8)
    ]
    config = of(tmp_path, write_corpus(tmp_path / "dumps", posts, comments))
    build_pairs(config)
    storage = Storage.open(config.storage)
    tables = [repr(storage.read_table("pairs/default", folder).to_pylist()) for folder in EXAMPLES]
    assert any("not alone" in text for text in tables)
    manifest = (tmp_path / "store" / "pairs" / "default" / "manifest.json").read_text()
    assert not any("raw" in text for text in [*tables, manifest])


def test_a_truncated_dump_is_refused_unless_it_is_to_be_kept(ray_cluster: None, tmp_path: Path) -> None:
    chance = random.Random(1)
    comments = [comment(f"c{n}", f"p{n % 40}", n // 40 * 3, body=f"{chance.getrandbits(900)}") for n in range(800)]
    folder = write_corpus(tmp_path / "dumps", [post(f"p{n}") for n in range(40)], comments)
    dump = folder / "porch_comments.zst"
    dump.write_bytes(dump.read_bytes()[:-9000])
    with pytest.raises(CorpusError, match=r"truncated: porch_comments\.zst \(\d+ whole records .*corpus\.truncated=keep"):
        build_pairs(of(tmp_path, folder))
    assert Storage.open(of(tmp_path, folder).storage).find("pairs/default") is None
    assert not any((tmp_path / "store" / "scratch").iterdir())
    manifest = build_pairs(of(tmp_path, folder, "corpus.truncated=keep"))
    (cut,) = manifest.counts["truncated_files"]
    assert cut == {"name": "porch_comments.zst", "num_records": manifest.counts["comments"]["records"]}
    assert 0 < cut["num_records"] < 800


def test_rules_that_leave_nothing_say_which_one_to_change(ray_cluster: None, sample: Path, tmp_path: Path) -> None:
    standing = build_pairs(of(tmp_path, sample))
    with pytest.raises(
        PairsError, match=r"none of \d+ candidate pairs is left \(gap_too_small \d+, .*lower pairs\.margin\.min_gap"
    ):
        build_pairs(of(tmp_path, sample, "pairs.margin.min_gap=5000"))
    with pytest.raises(PairsError, match=r"pairs\.sft_min_score 5000: no reply"):
        build_pairs(of(tmp_path, sample, "pairs.sft_min_score=5000"))
    storage = Storage.open(of(tmp_path, sample).storage)
    assert storage.find("pairs/default") == standing
    assert storage.read_table("pairs/default", "gm-dpo/train").num_rows == standing.counts["examples"]["gm-dpo/train"]


def test_posts_and_comments_that_do_not_meet(ray_cluster: None, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "dumps", [post("p1"), post("p2")], [comment(f"c{n}", "other", n) for n in range(3)])
    with pytest.raises(PairsError, match="2 posts and 3 comments, but no comment belongs to one of these posts"):
        build_pairs(of(tmp_path, folder))


def test_a_split_without_rows_has_a_part_without_rows(ray_cluster: None, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "dumps", [post("p1")], [comment("c1", "p1", 1), comment("c2", "p1", 9)])
    config = of(tmp_path, folder, "pairs.test_fraction=0.000001")
    manifest = build_pairs(config)
    assert manifest.counts["examples"]["gm-dpo/test"] == 0
    assert Storage.open(config.storage).read_table("pairs/default", "held-out").num_rows == 0


def test_the_fingerprint_follows_what_determines_the_pairs(sample: Path, tmp_path: Path) -> None:
    base = pairs_fingerprint(of(tmp_path, sample))
    same = [("pairs.num_buckets=5",), ("pairs.paper.min_gap=3",), ("train.seed=5",), ("pairs.name=other",)]
    other = [
        ("pairs.margin.min_gap=3",),
        ("pairs.test_fraction=0.2",),
        ("corpus.min_characters=9",),
        (f"privacy.key_file={tmp_path}/k2",),
    ]
    assert all(pairs_fingerprint(of(tmp_path, sample, *change)) == base for change in same)
    assert all(pairs_fingerprint(of(tmp_path, sample, *change)) != base for change in other)


def test_dumps_and_pairs_on_s3(ray_cluster: None, s3_storage: StorageConfig, tmp_path: Path) -> None:
    posts = [post(f"p{n}") for n in range(30)]
    folder = write_corpus(tmp_path / "dumps", posts, [comment(f"c{n}", f"p{n % 30}", n) for n in range(90)])
    root = s3_storage.uri.removeprefix("s3://")
    for file in folder.iterdir():
        with open_s3(s3_storage).open_output_stream(f"{root}/dumps/{file.name}", compression=None) as stream:
            stream.write(file.read_bytes())
    places = [
        f"storage.uri={s3_storage.uri}",
        f"storage.endpoint_url={s3_storage.endpoint_url}",
        f"corpus.uri={s3_storage.uri}/dumps",
    ]
    config = load_config(None, [*places, f"privacy.key_file={tmp_path}/k", "pairs.num_buckets=2"])
    manifest = build_pairs(config)
    assert_accounts_add_up(manifest)
    storage = Storage.open(config.storage)
    assert storage.read_table("pairs/default", "gm-dpo/train").num_rows > 0
    left = storage.filesystem.get_file_info(pa.fs.FileSelector(storage.path("scratch"), recursive=True, allow_not_found=True))
    assert not [info for info in left if info.is_file]
    local = build_pairs(of(tmp_path, folder, "pairs.num_buckets=2", f"privacy.key_file={tmp_path}/k"))
    assert local.files == manifest.files
