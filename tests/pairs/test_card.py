"""The data card: every figure of the manifest that it promises, words for every chart, and text only where it is asked for."""

import re
import stat
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from llumi.cli import app
from llumi.config import StorageConfig
from llumi.errors import ConfigError
from llumi.pairs.card import NUM_SAMPLES, card_html, random_pairs, write_card
from llumi.prompts import answer, gm_prompt
from llumi.records import DPO_SCHEMA
from llumi.storage import FileEntry, Input, Manifest, Storage

COUNTS: dict[str, Any] = {
    "posts": {"records": 1000, "malformed": 2, "kept": 900, "dropped": {"too_short": 60, "bot": 40}},
    "comments": {"records": 9000, "malformed": 0, "kept": 8000, "dropped": {"deleted": 1000}},
    "replies": {"records": 8000, "kept": 7000, "dropped": {"not_top_level": 1000}},
    "candidate_pairs": {"candidates": 12345, "kept": 450, "dropped": {"gap_too_small": 11000, "over_cap_per_post": 895}},
    "communities": {
        "porch": {
            "posts": 600,
            "comments": 5000,
            "replies": 4000,
            "candidates": 9000,
            "pairs": 300,
            "yields": {"clean": 6000, "gap": 700, "cap": 300},
        },
        "garden <&>": {
            "posts": 300,
            "comments": 3000,
            "replies": 3000,
            "candidates": 3345,
            "pairs": 150,
            "yields": {"clean": 2000, "gap": 300, "length": 200, "cap": 150},
        },
    },
    "months": {
        "2023-01": {"comments": 4000, "score_one": 800, "early": False},
        "2023-03": {"comments": 1000, "score_one": 980, "early": True},
        "2023-02": {"comments": 3000, "score_one": 900, "early": False},
    },
    "scrubbed": {"email": 12, "phone_number": 30},
    "vetoed": {"blames_the_person": 7, "tells_a_method": 3},
    "examples": {"gm-sft/train": 800, "gm-sft/test": 90, "gm-dpo/train": 400, "gm-dpo/test": 50, "held-out": 45},
    "splits": {
        "by": "author",
        "leaks_removed": {"post_in_training": 7},
        "train": {"posts": 800, "authors": 500},
        "test": {"posts": 100, "authors": 80},
        "leaks": {"post": 0, "reply_text": 0},
    },
}
METRICS: dict[str, Any] = {
    "scores": {
        "porch": {"below 1": 50, "1": 900, "2-4": 400, "5+": 120},
        "garden <&>": {"5+": 20, "1": 300, "2-4": 90},
    },
    "lengths": {
        "edges": [0, 20, 40, 1600],
        "chosen": [40, 120, 200, 90],
        "rejected": [110, 160, 140, 40],
        "share_longer_chosen": 0.642,
        "weighted_share_longer_chosen": 0.507,
    },
}


def a_manifest(counts: Mapping[str, Any] = COUNTS, metrics: Mapping[str, Any] = METRICS) -> Manifest:
    return Manifest(
        kind="pairs",
        name="default",
        fingerprint="f",
        config={"pairs": {"preset": "margin"}},
        inputs=(Input("corpus", "c"),),
        files=(FileEntry("held-out/part-00000.parquet", 1, "0" * 64),),
        counts=dict(counts),
        metrics=dict(metrics),
        created_at="2024-05-06T07:08:09+00:00",
    )


def a_pair(number: int) -> dict[str, Any]:
    return {
        "pair_id": f"pair-{number}",
        "post_id": f"post-{number}",
        "community": "porch",
        "risk": "none",
        "prompt": gm_prompt(f"I planted <b>beans</b> & waited, day {number}"),
        "chosen": answer(f"That sounds patient, friend {number}"),
        "rejected": answer(f"Beans, number {number}"),
        "chosen_score": 9,
        "rejected_score": 1,
        "weight": 0.5,
    }


VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements in balance, and their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def said(html: str) -> str:
    """The words of the page, its styles left out."""
    without_style = re.sub(r"<style>.*?</style>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", without_style)).split())


def sections(html: str) -> list[str]:
    return [str(attributes["id"]) for attributes in Page(html).all("section")]


def test_it_needs_nothing_else_and_its_elements_are_in_balance() -> None:
    html = card_html(a_manifest())
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe"})
    assert "prefers-color-scheme: dark" in html
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_every_chart_has_a_title_a_description_and_the_page_s_colours() -> None:
    html = card_html(a_manifest())
    page = Page(html)
    charts = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(charts) == 1 + 3 + 1  # months, scores of all and of two communities, lengths
    identifiers = {attributes.get("id") for _, attributes in page.elements}
    for chart in charts:
        assert set((chart["aria-labelledby"] or "").split()) <= identifiers
    assert all(bar.get("aria-hidden") == "true" for bar in page.all("svg") if bar not in charts)
    assert not re.search(r"#[0-9a-f]{6}\b", html[html.index("<body") :])


def test_the_figures_are_there() -> None:
    words = said(card_html(a_manifest()))
    for figures in (
        "Preference pairs 450",
        "Held-out posts 45",
        "Months 2023-01 to 2023-03",
        "porch 600 5,000 4,000 9,000 300",
        "garden <&> 300 3,000",
        "3 months, 8,000 comments; the most in 2023-01 (4,000). Early months: 2023-03.",
        "2023-03 1,000 98.0 % early",
        "score 1: 1,200",
        "porch 50 900 400 120 garden <&> 0 300 90 20",
        "candidates 12,345 100.0 % clean 8,000 64.8 % gap 1,000 8.1 % length 900 7.3 % cap 450 3.6 %",
        "porch 9,000 6,000 700 700 300",
        "64.2 % of the pairs have the longer reply as the chosen one; 50.7 % by the weight of the pairs.",
        "20 to 39 120 160",
        "1,600 and more 90 40",
        "Split by author.",
        "on the other side, too: post in training 7.",
        "kept 450 3.6 % gap too small 11,000 89.1 %",
        "phone number 30 email 12",
        "blames the person 7 tells a method 3",
        "train 800 500 test 100 80",
        "No leak found.",
    ):
        assert figures in words, figures


@pytest.mark.parametrize("key", ["communities", "months", "scrubbed", "vetoed", "splits"])
def test_what_the_manifest_does_not_count_has_no_section(key: str) -> None:
    assert key in sections(card_html(a_manifest()))
    assert key not in sections(card_html(a_manifest({name: value for name, value in COUNTS.items() if name != key})))


def test_a_manifest_without_any_figures_still_gives_a_page() -> None:
    html = card_html(a_manifest({}, {}))
    assert sections(html) == ["limits"]
    assert "What votes cannot say" in said(html)


def test_no_figure_divides_by_nothing() -> None:
    empty = {
        "revisions": {},
        "posts": {"records": 0, "kept": 0, "dropped": {}},
        "communities": {"porch": {"candidates": 0, "pairs": 0, "yields": {"gap": 0}}},
    }
    months = {"2023-01": {"comments": 0, "score_one": 0, "early": False}}
    lengths = {"edges": [0], "chosen": [0], "rejected": [0], "share_longer_chosen": None}
    Page(card_html(a_manifest(empty | {"months": months, "scrubbed": {}}, {"lengths": lengths, "scores": {"porch": {}}})))


def test_a_leak_is_a_warning() -> None:
    splits = COUNTS["splits"] | {"leaks": {"post": 0, "author": 3}}
    words = said(card_html(a_manifest(COUNTS | {"splits": splits})))
    assert "On both sides: author 3." in words
    assert "No leak found" not in words


def test_rows_that_were_forgotten_are_told() -> None:
    forgotten = {"at": "2024-06-01T10:00:00+00:00", "rows": {"gm-sft/train": 2, "held-out": 1}, "was": ["0" * 64]}
    assert "3 rows were taken out at the wish of a person, last on 2024-06-01" in said(
        card_html(a_manifest(COUNTS | {"forgotten": forgotten}))
    )


def test_text_is_shown_only_where_it_is_asked_for_and_never_as_markup() -> None:
    samples = pa.Table.from_pylist([a_pair(1)], schema=DPO_SCHEMA)
    without, with_text = card_html(a_manifest()), card_html(a_manifest(), samples)
    assert "samples" not in sections(without)
    assert "It holds figures alone" in said(without)
    assert "I planted <b>beans</b> & waited, day 1" in said(with_text)
    assert "<b>" not in with_text
    assert "Write a short, warm reply" not in with_text
    assert "This copy shows text of people in distress." in said(with_text)


def test_the_same_manifest_gives_the_same_bytes() -> None:
    assert card_html(a_manifest()) == card_html(a_manifest())


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage.open(StorageConfig(uri=str(tmp_path / "store")))
    draft = storage.begin("pairs", "default")
    files = [
        draft.write_table(
            f"gm-dpo/train/part-{part:05}.parquet",
            pa.Table.from_pylist([a_pair(number) for number in range(part * 30, part * 30 + 30)], schema=DPO_SCHEMA),
        )
        for part in range(2)
    ]
    draft.publish(files, fingerprint="f", config={}, inputs=[], counts=COUNTS, metrics=METRICS)
    return storage


def test_the_random_pairs_are_the_same_however_they_lie_in_files(storage: Storage) -> None:
    drawn = random_pairs(storage, storage.manifest("pairs/default"))
    assert drawn.num_rows == NUM_SAMPLES == len(set(drawn["pair_id"].to_pylist()))
    draft = storage.begin("pairs", "other")
    everything = pa.Table.from_pylist([a_pair(number) for number in reversed(range(60))], schema=DPO_SCHEMA)
    entry = draft.write_table("gm-dpo/train/part-00000.parquet", everything)
    other = draft.publish([entry], fingerprint="f", config={}, inputs=[])
    assert random_pairs(storage, other).equals(drawn)
    assert random_pairs(storage, other, seed=18)["pair_id"].to_pylist() != drawn["pair_id"].to_pylist()


def test_pairs_without_rows_give_no_samples(storage: Storage) -> None:
    draft = storage.begin("pairs", "none")
    manifest = draft.publish([], fingerprint="f", config={}, inputs=[])
    assert "gm-dpo/train holds none." in said(card_html(manifest, random_pairs(storage, manifest)))


def test_a_card_with_text_is_for_this_user_alone(storage: Storage, tmp_path: Path) -> None:
    out = tmp_path / "card.html"
    write_card(storage, "default", out)
    assert "beans" not in out.read_text()
    write_card(storage, "default", out, show_text=True)
    assert out.read_text().count("<article") == NUM_SAMPLES
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match=r"--out .*: cannot be written"):
        write_card(storage, "default", tmp_path / "nowhere" / "card.html")


def test_the_command_writes_it(storage: Storage, tmp_path: Path) -> None:
    out = tmp_path / "card.html"
    done = CliRunner().invoke(app, ["pairs", "card", "--set", f"storage.uri={storage.root}", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert sections(out.read_text())[0] == "contents"
