"""Pairs that people preferred: what is right becomes an artifact, every other file or row is one line and leaves no trace."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner

from llumi.cli import app
from llumi.config import Config, load_config
from llumi.corpus.privacy import KEY_VARIABLE, Pseudonymizer
from llumi.errors import ArtifactError, PairsError
from llumi.forget import forget
from llumi.pairs.card import write_card
from llumi.pairs.examples import EXAMPLES
from llumi.pairs.human import add_pairs
from llumi.pairs.split import split_of
from llumi.prompts import answer, gm_prompt, im_prompt
from llumi.records import HELD_OUT_SCHEMA, PEOPLE_SCHEMA
from llumi.safety import SafetyRules
from llumi.storage import Manifest, Storage

SECRET = "a long key for the tests"
KEY = Pseudonymizer.from_secret(SECRET)
REFUSED = next(rule.examples[0] for rule in SafetyRules.load().file.replies if rule.name == "minimising")

Row = dict[str, Any]
Write = Callable[[Path, list[Row]], None]


def gm_row(number: int = 0, **fields: Any) -> Row:
    return {
        "role": "gm",
        "post": f"The evenings are long since I moved, {number} weeks ago.",
        "chosen": f"Thank you for telling us about these {number} weeks. Could you call a friend tonight?",
        "rejected": f"Take a walk, number {number}.",
    } | fields


def im_row(number: int = 0, **fields: Any) -> Row:
    draft = {"draft": f"Call your sister, she will be glad, {number} times."}
    return gm_row(number, role="im", chosen=f"Could you call your sister? She will be glad, {number} times.") | draft | fields


def ndjson(rows: list[Row]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def write_parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=None), path)


WRITERS: dict[str, Write] = {
    "pairs.ndjson": lambda path, rows: path.write_bytes(ndjson(rows)),
    "pairs.JSONL": lambda path, rows: path.write_bytes(b"\xef\xbb\xbf\n" + ndjson(rows).replace(b"\n", b"\r\n\n").rstrip()),
    "pairs.json.gz": lambda path, rows: path.write_bytes(gzip.compress(ndjson(rows))),
    "pairs.ndjson.zst": lambda path, rows: path.write_bytes(zstandard.compress(ndjson(rows))),
    "pairs.parquet": write_parquet,
}


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    return load_config(None, [f"storage.uri={tmp_path / 'store'}"])


def with_pairs(config: Config, **fields: Any) -> Config:
    return config.model_copy(update={"pairs": config.pairs.model_copy(update=fields)})


def add(config: Config, rows: list[Row], name: str = "human") -> Manifest:
    """From a file beside the store."""
    file = Path(config.storage.uri).with_name("pairs.ndjson")
    file.write_bytes(ndjson(rows))
    return add_pairs(config, name, file)


def rows_of(config: Config, folder: str, name: str = "human") -> list[Row]:
    return Storage.open(config.storage).read_table(f"pairs/{name}", folder).to_pylist()


def all_rows(config: Config) -> list[Row]:
    return [row for role in ("gm", "im") for split in ("train", "test") for row in rows_of(config, f"{role}-dpo/{split}")]


def everything_written(config: Config) -> str:
    """Every table as text, and every manifest."""
    found = []
    for path in sorted(Path(config.storage.uri).rglob("*")):
        if path.suffix == ".parquet":
            found.append(json.dumps(pq.read_table(path).to_pylist()))
        elif path.is_file():
            found.append(path.read_text())
    return "\n".join(found)


def post_on(split: str, fraction: float = 0.1) -> str:
    """The identifier of a post on that side."""
    names = (f"post{number}" for number in range(1000))
    return next(name for name in names if split_of(KEY.pseudonym("post", name), fraction) == split)


TRAIN, TEST = post_on("train"), post_on("test")
PEOPLE = {
    "post_id": f"t3_{TRAIN}",
    "community": "porch",
    "post_author": "u/rawWren",
    "chosen_author": "rawheron",
    "rejected_author": "/u/rawfinch",
    "rater": "rawrater7",
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_of_the_file_gives_the_same_pairs(name: str, deployment: Config, tmp_path: Path) -> None:
    people = dict.fromkeys(PEOPLE) | {"draft_author": None, "draft": None, "weight": None}
    rows = [
        people | gm_row(1, **PEOPLE, weight=2),
        people | im_row(2, post_id=TRAIN, draft_author="rawrobin", rater="RawRater8"),
        people | gm_row(3, post_id=TEST),
    ]
    WRITERS[name](tmp_path / name, rows)
    manifest = add_pairs(deployment, "human", tmp_path / name)
    storage = Storage.open(deployment.storage)
    for folder, schema in (EXAMPLES | {"people": PEOPLE_SCHEMA}).items():
        table = storage.read_table("pairs/human", folder)
        assert table.schema.equals(schema)
        assert table.num_rows == manifest.counts["examples"][folder]
    (gm,), (im,), (test,) = (rows_of(deployment, folder) for folder in ("gm-dpo/train", "im-dpo/train", "gm-dpo/test"))
    assert gm == {
        "pair_id": gm["pair_id"],
        "post_id": KEY.pseudonym("post", TRAIN),
        "post_author": KEY.pseudonym("author", "rawwren"),
        "chosen_author": KEY.pseudonym("author", "rawheron"),
        "rejected_author": KEY.pseudonym("author", "rawfinch"),
        "community": "porch",
        "risk": "none",
        "prompt": gm_prompt(rows[0]["post"]),
        "chosen": answer(rows[0]["chosen"]),
        "rejected": answer(rows[0]["rejected"]),
        "chosen_score": None,
        "rejected_score": None,
        "weight": 2.0,
        "similarity": None,
    }
    assert im["prompt"] == im_prompt(rows[1]["post"], rows[1]["draft"])
    assert (im["chosen"], im["rejected"]) == (answer(rows[1]["chosen"]), answer(rows[1]["rejected"]))
    assert (im["post_author"], im["chosen_author"], im["rejected_author"], im["weight"]) == (None, None, None, 1.0)
    assert test["post_id"] == KEY.pseudonym("post", TEST)
    assert {(row["pair_id"], row["part"], row["author"]) for row in rows_of(deployment, "people")} == {
        (gm["pair_id"], "rater", KEY.pseudonym("author", "rawrater7")),
        (im["pair_id"], "rater", KEY.pseudonym("author", "rawrater8")),
        (im["pair_id"], "draft", KEY.pseudonym("author", "rawrobin")),
    }
    assert manifest.counts["raters"] == 2
    written = everything_written(deployment).lower()
    assert [raw for raw in ("rawwren", "rawheron", "rawfinch", "rawrobin", "rawrater", TRAIN, TEST) if raw in written] == []


def test_what_is_published_is_what_training_reads(deployment: Config, tiny_model: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    from llumi.train.columns import encode

    rows = [im_row(number, post_id=TRAIN) for number in range(3)] + [gm_row(post_id=TRAIN)]
    manifest = add(deployment, rows)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    for folder, num_rows in (("im-dpo/train", 3), ("gm-dpo/train", 1), ("im-dpo/test", 0)):
        (path,) = manifest.files_under(folder)
        file = Path(Storage.open(deployment.storage).path(manifest.reference, path))
        examples = encode([file], "dpo", tokenizer, 512)
        assert (examples.counts.examples, examples.counts.kept) == (num_rows, num_rows)
        assert all(examples.rows["chosen_ids"].to_pylist())


BAD_ROWS: dict[str, tuple[Row, str]] = {
    "unknown role": (gm_row(role="tutor"), "role: should be 'gm' or 'im'"),
    "no role": (gm_row(role=None), "role: missing; every row needs role, post, chosen, rejected"),
    "no post": (gm_row(post=None), "post: missing; every row needs role, post, chosen, rejected"),
    "blank post": (gm_row(post=" \n"), "post: is empty; give a text"),
    "blank chosen": (gm_row(chosen="\0"), "chosen: is empty; give a text"),
    "blank rejected": (gm_row(rejected=""), "rejected: is empty; give a text"),
    "a number as text": (gm_row(rejected=7), "rejected: should be a valid string"),
    "the same text": (gm_row(rejected=gm_row()["chosen"] + " "), "rejected: the same text as chosen"),
    "im without draft": (im_row(draft=None), "draft: missing; a row for im needs the draft"),
    "gm with draft": (im_row(role="gm"), "draft: there is none for gm; leave it out"),
    "gm with the author of a draft": (gm_row(draft_author="wren"), "draft: there is none for gm"),
    "weight of nothing": (gm_row(weight=0), "weight: should be greater than 0"),
    "weight below nothing": (gm_row(weight=-1.5), "weight: should be greater than 0"),
    "weight as text": (gm_row(weight="2"), "weight: should be a valid number"),
    "weight as flag": (gm_row(weight=True), "weight: should be a valid number"),
    "a rater of two words": (gm_row(rater="gentle rater"), "rater: is empty, of several words, or holds a #; give one word"),
    "a post of no name": (gm_row(post_id="t3_"), "post_id: is empty, of several words"),
    "a misspelled field": (gm_row(weigth=2), "a field of another name (is it weight?); there are role, post, draft"),
    "a field of no meaning": (gm_row(kindness=5), "a field of another name; there are role, post, draft"),
}


def assert_refused(config: Config, file: Path, *parts: str) -> None:
    """In one line that names the file and quotes no text, and nothing is written."""
    with pytest.raises(PairsError) as raised:
        add_pairs(config, "human", file)
    line = str(raised.value)
    assert line.startswith(f"{file}: ")
    assert "\n" not in line
    assert [text for text in ("evenings", "Thank you", "walk", "sister", "gentle") if text in line] == []
    for part in parts:
        assert part in line
    assert not Path(config.storage.uri).exists()


@pytest.mark.parametrize("form", ["pairs.ndjson", "pairs.parquet"])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_by_its_number_and_field(case: str, form: str, deployment: Config, tmp_path: Path) -> None:
    row, expected = BAD_ROWS[case]
    file = tmp_path / form
    if form == "pairs.parquet":
        # A column has one type, so the good row leaves out what the bad one has of another.
        good = {name: value for name, value in gm_row(9).items() if type(row.get(name)) in (str, type(None))}
        names = list(dict.fromkeys([*gm_row(), *row]))
        if set(gm_row()) - set(good):
            write_parquet(file, [dict.fromkeys(names) | row])
            assert_refused(deployment, file, f"row 1: {expected}")
            return
        write_parquet(file, [dict.fromkeys(names) | good, dict.fromkeys(names) | row])
        assert_refused(deployment, file, f"row 2: {expected}")
    else:
        file.write_bytes(b"\n" + ndjson([gm_row(9), row, gm_row(8)]))
        assert_refused(deployment, file, f"line 3: {expected}")


GOOD = ndjson([gm_row(number) for number in range(200)])
BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "no bytes": ("pairs.ndjson", b"", "is empty, 0 bytes long; expected NDJSON"),
    "no bytes of zstd": ("pairs.ndjson.zst", b"", "is empty, 0 bytes long"),
    "blank lines": ("pairs.ndjson", b"\n \n", "holds no pair; give one a row, with role, post, chosen, rejected"),
    "nothing compressed": ("pairs.ndjson.gz", gzip.compress(b""), "holds no pair"),
    "unknown suffix": ("pairs.csv", GOOD, "not a known suffix; expected NDJSON (.ndjson, .jsonl or .json"),
    "no suffix": ("pairs", GOOD, "not a known suffix"),
    "plain named as zstd": ("pairs.ndjson.zst", GOOD, "named as zstd, but begins as plain does; name it after what it is"),
    "zstd named as plain": ("pairs.ndjson", zstandard.compress(GOOD), "named as plain, but begins as zstd does"),
    "plain named as parquet": ("pairs.parquet", GOOD, "named as parquet, but begins as plain does"),
    "no JSON": ("pairs.ndjson", b"role,post\n" + GOOD, "line 1: not a whole JSON object; give one pair a line"),
    "an array": ("pairs.json", b"[" + GOOD.replace(b"\n", b","), "line 1: not a whole JSON object"),
    "a number a line": ("pairs.ndjson", GOOD + b"7\n", "line 201: not a whole JSON object"),
    "not UTF-8": ("pairs.ndjson", GOOD + b'{"role": "gm", "post": "\xff"}', "line 201: not a whole JSON object"),
    "half a line": ("pairs.ndjson", GOOD[:-9], "line 200: not a whole JSON object"),
    "half of zstd": ("pairs.ndjson.zst", zstandard.compress(GOOD)[:-9], "cut off or damaged after"),
    "half of gzip": ("pairs.ndjson.gz", gzip.compress(GOOD)[:-20], "cut off or damaged after"),
    "half of Parquet": ("pairs.parquet", b"PAR1 and no more", "not a whole Parquet file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_not_what_it_should_be(case: str, deployment: Config, tmp_path: Path) -> None:
    name, content, expected = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    assert_refused(deployment, tmp_path / name, expected)


def test_a_file_that_is_not_there_or_is_a_folder(deployment: Config, tmp_path: Path) -> None:
    assert_refused(deployment, tmp_path / "nowhere.ndjson", "cannot be read (No such file or directory)")
    assert_refused(deployment, tmp_path, "cannot be read (Is a directory)")


def test_a_parquet_file_without_a_column_or_without_rows(deployment: Config, tmp_path: Path) -> None:
    file = tmp_path / "pairs.parquet"
    write_parquet(file, [{name: value for name, value in gm_row().items() if name not in ("chosen", "post")}])
    assert_refused(deployment, file, "no column post and no chosen; expected role, post, draft, chosen, rejected, weight")
    pq.write_table(pa.schema([(name, pa.string()) for name in gm_row()]).empty_table(), file)
    assert_refused(deployment, file, "holds no pair")


def test_every_row_is_kept_or_dropped_for_one_reason(deployment: Config, tmp_path: Path) -> None:
    (tmp_path / "exclude.txt").write_text("post left1\nauthor leftrater\n")
    config = deployment.model_copy(
        update={"corpus": deployment.corpus.model_copy(update={"exclude": tmp_path / "exclude.txt"})}
    )
    kept = [gm_row(1, post_id=TRAIN), im_row(1, post_id=TRAIN), im_row(1, post_id=TRAIN, draft="Call your brother.")]
    rows = [
        gm_row(2, post_id="t3_Left1"),
        gm_row(2, post_id=KEY.pseudonym("post", "left1")),
        gm_row(1, post_id=TRAIN, rater="u/LeftRater"),  # drops before the same row of another rater does
        *kept,
        gm_row(1, post_id=TRAIN, weight=3, rater="wren"),
        im_row(1, post_id=TRAIN, rater="wren", community="porch"),
        gm_row(4, post_id=TRAIN, chosen=f"I hear you. {REFUSED}"),
        gm_row(4, post_id=TRAIN, chosen="You can write to u/wren.", rejected="you can write  to u/heron."),
        im_row(4, post_id=TRAIN, chosen=im_row(4)["draft"].upper()),
        gm_row(5, post_id=TRAIN, rejected=REFUSED),
    ]
    manifest = add(config, rows)
    assert manifest.counts["rows"] == {
        "read": 12,
        "kept": 4,
        "dropped": {
            "excluded_post": 2,
            "duplicate": 2,
            "excluded_author": 1,
            "chosen_vetoed": 1,
            "same_words": 1,
            "unchanged": 1,
        },
    }
    assert manifest.counts["vetoed"] == {"minimising": 1}
    assert manifest.counts["scrubbed"] == {"user": 2}
    assert [row["rejected"] for row in rows_of(config, "gm-dpo/train")] == [answer(gm_row(1)["rejected"]), answer(REFUSED)]
    assert len(rows_of(config, "im-dpo/train")) == 2
    assert len({row["pair_id"] for row in all_rows(config)}) == 4


def test_people_are_scrubbed_from_all_texts_and_crisis_lines_stay(deployment: Config) -> None:
    note = "Write to kind.person@example.org, or call 988."
    texts = {name: f"{text} {note}" for name, text in im_row().items() if name != "role"}
    manifest = add(deployment, [im_row(post_id=TRAIN, **texts)])
    (row,) = rows_of(deployment, "im-dpo/train")
    clean = {name: text.replace("kind.person@example.org", "[email]") for name, text in texts.items()}
    assert row["prompt"] == im_prompt(clean["post"], clean["draft"])
    assert (row["chosen"], row["rejected"]) == (answer(clean["chosen"]), answer(clean["rejected"]))
    assert manifest.counts["scrubbed"] == {"email": 4}


def test_the_risk_of_a_post_is_in_its_row(deployment: Config) -> None:
    risky = next(rule.examples[0] for rule in SafetyRules.load().file.posts if rule.name == "hopelessness")
    add(deployment, [gm_row(post=risky, post_id=TRAIN)])
    assert [row["risk"] for row in rows_of(deployment, "gm-dpo/train")] == ["possible"]


def test_the_same_file_gives_the_same_bytes_wherever_it_lies(deployment: Config, tmp_path: Path) -> None:
    rows = [row(number, post_id=f"p{number % 7}", rater=f"r{number}") for number in range(40) for row in (gm_row, im_row)]
    one = add(deployment, rows)
    (tmp_path / "other").mkdir()
    elsewhere = load_config(None, [f"storage.uri={tmp_path / 'other' / 'store'}"])
    two = add(elsewhere, rows, name="asked-again")
    assert (one.files, one.fingerprint) == (two.files, two.fingerprint)
    assert add(deployment, rows).as_input() == one.as_input()
    assert add(with_pairs(deployment, test_fraction=0.3), rows).fingerprint != one.fingerprint
    assert add(deployment, rows[1:]).fingerprint != one.fingerprint


def test_all_pairs_of_a_post_are_on_one_side(deployment: Config) -> None:
    rows = [gm_row(number, post_id=f"p{number % 100}") for number in range(300)]
    unnamed = [gm_row(number, chosen=f"Reply {reply} to {number}.") for number in range(300, 400) for reply in range(3)]
    manifest = add(with_pairs(deployment, test_fraction=0.3), rows + unnamed)
    sides = {split: {row["post_id"] for row in rows_of(deployment, f"gm-dpo/{split}")} for split in ("train", "test")}
    assert not sides["train"] & sides["test"]
    assert len(sides["train"] | sides["test"]) == 200
    assert {split_of(post_id, 0.3) for post_id in sides["test"]} == {"test"}
    assert {KEY.pseudonym("post", f"p{number}") for number in range(100)} <= sides["train"] | sides["test"]
    splits = manifest.counts["splits"]
    assert splits == {split: {"posts": len(posts), "also_held_out": 0} for split, posts in sides.items()} | {"by": "post"}
    assert 0.2 < splits["test"]["posts"] / 200 < 0.4


def test_posts_that_evaluations_look_at_are_counted(deployment: Config) -> None:
    storage = Storage.open(deployment.storage)
    begun = storage.begin("pairs", "default")
    held_out = [{"post_id": KEY.pseudonym("post", name)} for name in (TRAIN, "another")]
    files = [begun.write_table("held-out/part-00000.parquet", pa.Table.from_pylist(held_out, schema=HELD_OUT_SCHEMA))]
    begun.publish(files, fingerprint="pairs", config={}, inputs=[])
    manifest = add(deployment, [gm_row(1, post_id=TRAIN), gm_row(2, post_id=TEST)])
    assert manifest.counts["splits"]["train"] == {"posts": 1, "also_held_out": 1}
    assert manifest.counts["splits"]["test"] == {"posts": 1, "also_held_out": 0}


def test_a_pseudonym_stays_as_it_is(deployment: Config) -> None:
    """Whoever rates replies that bulk generation wrote knows no more of a post."""
    post_id, author = KEY.pseudonym("post", TRAIN), KEY.pseudonym("author", "wren")
    add(deployment, [gm_row(post_id=post_id, chosen_author=author, rater=author)])
    (row,) = rows_of(deployment, "gm-dpo/train")
    assert (row["post_id"], row["chosen_author"]) == (post_id, author)
    assert [row["author"] for row in rows_of(deployment, "people")] == [author]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (
            [gm_row(1, post_id=TRAIN, chosen=REFUSED), gm_row(2, post_id=TRAIN, chosen=f"{REFUSED} Really.")],
            r"none of 2 rows is left to train on \(chosen_vetoed 2\); the safety rules refuse what was chosen \(minimising 2\)",
        ),
        (
            [gm_row(1, post_id=TEST), gm_row(1, post_id=TEST), im_row(2, post_id=TEST)],
            r"none of 3 rows .* \(held_out 2, duplicate 1\); give more posts, or lower pairs\.test_fraction \(now 0\.1\)",
        ),
        (
            [
                gm_row(chosen="Ask u/wren.", rejected="Ask u/heron."),
                gm_row(3, post_id=TEST),
                gm_row(4, chosen="a  b", rejected="A b"),
            ],
            r"\(same_words 2, held_out 1\); chosen and rejected must differ in more than spacing, case",
        ),
        ([im_row(post_id=TRAIN, chosen=im_row()["draft"])], r"\(unchanged 1\); chosen must differ from the draft"),
    ],
)
def test_nothing_left_names_the_rule_and_leaves_what_stands(rows: list[Row], line: str, deployment: Config) -> None:
    standing = add(deployment, [gm_row(post_id=TRAIN)])
    with pytest.raises(PairsError, match=line) as raised:
        add(deployment, rows)
    assert "\n" not in str(raised.value)
    assert Storage.open(deployment.storage).find("pairs/human") == standing


def test_no_test_split_is_no_error(deployment: Config) -> None:
    manifest = add(deployment, [gm_row(post_id=TRAIN)])
    assert manifest.counts["examples"] == {folder: int(folder == "gm-dpo/train") for folder in (*EXAMPLES, "people")}


@pytest.mark.parametrize("name", ["default", "human-taught", "votes", "../human", "Human", "a/b", ".human", "human\n", ""])
def test_a_name_that_the_line_itself_gives_is_refused(name: str, deployment: Config) -> None:
    with pytest.raises(PairsError, match=r"^pairs add .*: not a name .* and not default or votes") as raised:
        add(with_pairs(deployment, name="votes"), [gm_row(post_id=TRAIN)], name)
    assert "\n" not in str(raised.value)
    assert not Path(deployment.storage.uri).exists()


def test_pairs_of_a_corpus_are_never_replaced_and_those_of_a_file_are(deployment: Config) -> None:
    storage = Storage.open(deployment.storage)
    begun = storage.begin("pairs", "human")
    built = begun.publish([begun.write("gm-dpo/train/part-0.parquet", b"")], fingerprint="", config={}, inputs=[])
    with pytest.raises(ArtifactError, match=r"pairs/human: stands, and did not come from a file .*; take another name"):
        add(deployment, [gm_row(post_id=TRAIN)])
    assert storage.find("pairs/human") == built
    add(deployment, [gm_row(1, post_id=TRAIN), gm_row(2, post_id=TRAIN)], "second")
    assert add(deployment, [gm_row(3, post_id=TRAIN)], "second").counts["rows"]["kept"] == 1
    assert [row["prompt"] for row in rows_of(deployment, "gm-dpo/train", "second")] == [gm_prompt(gm_row(3)["post"])]


def test_a_forgotten_post_leaves_the_pairs(deployment: Config) -> None:
    rows = [
        gm_row(1, post_id=TRAIN),
        im_row(2, post_id=TRAIN, rater="wren"),
        gm_row(3, post_id="other"),
        im_row(4, post_id="other"),
    ]
    before = add(with_pairs(deployment, test_fraction=1e-9), rows)
    report = forget(deployment, [f"t3_{TRAIN}"], [])
    assert report.rows == {"pairs/human": {"gm-dpo/train": 1, "im-dpo/train": 1, "people": 1}}
    after = Storage.open(deployment.storage).manifest("pairs/human")
    assert after.as_input() != before.as_input()
    assert after.counts["examples"]["im-dpo/train"] == 1
    assert after.counts["examples"]["people"] == 0
    assert {row["post_id"] for row in all_rows(deployment)} == {KEY.pseudonym("post", "other")}
    assert "2 weeks" not in everything_written(deployment)
    again = add(with_pairs(deployment, test_fraction=1e-9), rows[2:])
    assert again.counts["rows"]["kept"] == 2


@pytest.mark.parametrize(
    ("person", "gone"),
    [("u/wren", {"1", "2"}), ("Robin", {"2"}), ("rater", {"3"}), ("finch", {"1", "4"}), ("nobody", set())],
)
def test_a_forgotten_person_takes_what_they_wrote_and_preferred(person: str, gone: set[str], deployment: Config) -> None:
    rows = [
        gm_row(1, post_id="p1", post_author="wren", rejected_author="finch"),
        im_row(2, post_id="p2", post_author="wren", draft_author="u/robin"),
        im_row(3, post_id="p3", rater="Rater"),
        gm_row(4, post_id="p4", chosen_author="finch"),
    ]
    add(with_pairs(deployment, test_fraction=1e-9), rows)
    report = forget(deployment, [], [person])
    left = {re.findall(r", (\d) weeks ago", row["prompt"][0]["content"])[0] for row in all_rows(deployment)}
    assert left == {"1", "2", "3", "4"} - gone
    assert report.without_authors == ()


def test_pairs_whose_file_names_nobody_are_told_by_forget(deployment: Config) -> None:
    add(deployment, [gm_row(post_id=TRAIN)])
    assert forget(deployment, [], ["wren"]).without_authors == ("pairs/human",)


def test_the_data_card_tells_of_a_file_and_not_of_a_preset(deployment: Config, tmp_path: Path) -> None:
    add(deployment, [gm_row(1, post_id=TRAIN), gm_row(1, post_id=TRAIN)])
    write_card(Storage.open(deployment.storage), "human", tmp_path / "card.html", show_text=True)
    page = (tmp_path / "card.html").read_text()
    assert "Rows of the file" in page
    assert "duplicate" in page
    assert "no community named" in page
    assert "Preset" not in page
    assert "None" not in page


def test_the_command_prints_its_figures(deployment: Config, tmp_path: Path) -> None:
    file = tmp_path / "preferred.ndjson"
    file.write_bytes(ndjson([gm_row(post_id=TRAIN), im_row(post_id=TRAIN)]))
    command = ["pairs", "add", "human", str(file), "--set", f"storage.uri={deployment.storage.uri}"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "published" in shown.output
    figures = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert figures["counts"]["rows"] == {"read": 2, "kept": 2, "dropped": {}}
    assert figures["artifact"].endswith("pairs/human")
