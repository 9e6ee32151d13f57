import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from llumi.config import Config, EmpathyConfig
from llumi.evaluate.across import measure_arms
from llumi.evaluate.arms import find_generations, read_replies
from llumi.evaluate.report import Evaluation, render_report
from llumi.evaluate.run import ReplyMeasurer, _inputs, _judge
from llumi.evaluate.safety import count_refused
from llumi.evaluate.studies import read_studies
from llumi.evaluate.summary import summarise
from llumi.lineage import trace
from llumi.storage import Storage
from tests.evaluate.conftest import NUM_POSTS, generation_rows, write_generation
from tests.evaluate.studies import write_study

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements in balance, their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
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

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def evaluate_here(config: Config, storage: Storage, names: list[str]) -> Evaluation:
    """The evaluation without a cluster: one measurer, in this process."""
    generations = find_generations(config, storage, names)
    replies = read_replies(config, storage, generations)
    measures = measure_arms(pl.DataFrame(ReplyMeasurer(EmpathyConfig())(replies.table.to_arrow())))
    summary = summarise(measures, replies.sections, config.evaluate)
    judged = _judge(config, storage, replies.table, generations)
    refused, inputs = count_refused(judged), _inputs(config, storage, generations)
    made_of, ancestors = [given.name for given in inputs], trace(storage, inputs)
    return Evaluation(config.pairs.name, config.evaluate, replies, measures, summary, judged, refused, made_of, ancestors)


@pytest.fixture
def evaluation(config: Config, generated: Storage) -> Evaluation:
    return evaluate_here(config, generated, [])


def test_a_page_that_needs_nothing_else(evaluation: Evaluation) -> None:
    html = render_report(evaluation)
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe"})
    assert "prefers-color-scheme: dark" in html
    assert all(
        value.startswith("#") for _, attributes in page.elements for key, value in attributes.items() if key == "href" and value
    )


def test_a_plot_per_measure_and_an_overview_per_role_each_with_words(evaluation: Evaluation) -> None:
    page = Page(render_report(evaluation))
    plots = [attributes for attributes in page.all("svg") if attributes["role"] == "img"]  # one of them is the lineage
    assert len(plots) == 30
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for plot in plots:
        assert set((plot["aria-labelledby"] or "").split()) <= set(identifiers)
    assert "GM: words by arm" in page.text
    assert any(text.startswith("Means: human reply 16.0; gm-base ") for text in page.text)


def test_colours_and_font_are_the_page_s(evaluation: Evaluation) -> None:
    html = render_report(evaluation)
    plots = html[html.index("<svg") : html.rindex("</svg>")]
    assert set(re.findall(r"#[0-9a-f]{6}\b", plots)) == set()
    assert "DejaVu" not in html
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", html))
    assert {"ink", "human-0", "human-1", "model-0", "model-2"} <= used
    assert used <= set(re.findall(r"--([a-z0-9-]+):", html))


def test_no_text_of_a_person(evaluation: Evaluation) -> None:
    html = render_report(evaluation)
    assert "lantern" not in html
    for text in evaluation.replies.table.select("post", "reply").unpivot()["value"]:
        assert not text.strip() or text not in html


def test_what_was_compared_is_said(evaluation: Evaluation) -> None:
    said = " ".join(" ".join(Page(render_report(evaluation)).text).split())
    assert "gm-dpo1 ← gm-sft ← base" in said
    assert "11 posts have a reply in every arm" in said
    assert "below 30 posts a 95 % interval" in said
    assert "Words n = 11" in said
    assert "Politeness approximation, n = 10" in said
    assert "Replication: Coleman and Liau 1975" in said
    assert "Approximation: Hutto and Gilbert 2014" in said
    assert "Empathy" not in said
    assert "No clinician has evaluated these replies" in said
    row = evaluation.summary.filter(role="gm", measure="words", arm="gm-base").to_dicts()[0]
    assert f"{row['difference']:+.1f}".replace("-", "−") in said


def test_one_post_gives_a_report_without_intervals(config: Config, generated: Storage) -> None:
    evaluation = evaluate_here(config, generated, ["gm-sft"])
    (section,) = evaluation.replies.sections
    of_one_post = evaluation.measures.filter(post_id="post-2")
    alone = replace(
        evaluation,
        replies=replace(evaluation.replies, sections=(replace(section, num_posts=1),)),
        measures=of_one_post,
        summary=summarise(of_one_post, [section], config.evaluate),
    )
    page = Page(render_report(alone))
    said = " ".join(" ".join(page.text).split())
    assert "1 post has a reply in every arm" in said
    assert "An interval needs two posts at least, so none is given." in said
    assert "[–, –]" in said
    # Of one post, accommodation and diversity are drawn as they stand; there is no overview without intervals.
    assert len(page.all("svg")) == 14


def test_what_people_said_has_a_section_where_a_study_was_rated(evaluation: Evaluation, tmp_path: Path) -> None:
    html = render_report(evaluation)
    assert 'id="ratings"' not in html
    assert "Nobody was asked, as far as this page knows" in html
    config = evaluation.config.model_copy(update={"ratings": (write_study(tmp_path / "first", ("gm-base", "gm-sft"), 3),)})
    html = render_report(replace(evaluation, config=config, studies=read_studies(config)))
    said = " ".join(" ".join(Page(html).text).split())
    assert "Nobody was asked" not in said
    assert said.index("Drafting a reply") < said.index("What people said") < said.index("How to read the measures")
    assert "GPT-5-nano in the paper" in said
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", html)) <= set(re.findall(r"--([a-z0-9-]+):", html))
    assert str(tmp_path) not in html


def test_the_same_evaluation_gives_the_same_bytes(evaluation: Evaluation) -> None:
    assert render_report(evaluation) == render_report(evaluation)


def test_declared_margins_have_a_table_of_their_own(evaluation: Evaluation) -> None:
    assert "Equal for practical purposes" not in render_report(evaluation)
    declared = evaluation.config.model_copy(update={"equivalence": {"words": 500.0, "mattr": 1e-9}})
    summary = summarise(evaluation.measures, evaluation.replies.sections, declared)
    said = " ".join(" ".join(Page(render_report(replace(evaluation, config=declared, summary=summary))).text).split())
    assert "±500" in said
    assert "±1e-09" in said
    assert " shown " in said
    assert " not shown " in said
    tested = summary.filter(pl.col("p_equivalence").is_not_null())
    assert set(tested["measure"]) == {"words", "mattr"}
    assert (tested["p_equivalence_holm"] >= tested["p_equivalence"]).all()
    assert summary.filter(measure="sentences")["margin"].null_count() == summary.filter(measure="sentences").height


def test_differences_at_like_length_stand_beside_the_raw_ones(evaluation: Evaluation) -> None:
    html = render_report(evaluation)
    assert "at most 1.25 times the words of the shorter" in html
    row = evaluation.summary.filter(role="gm", measure="words", arm="gm-dpo1").to_dicts()[0]
    words = evaluation.measures.filter(role="gm").pivot("arm", index="post_id", values="words")
    of_like_length = words.filter(
        pl.max_horizontal("human-reply", "gm-dpo1") <= 1.25 * pl.min_horizontal("human-reply", "gm-dpo1")
    )
    assert 0 < row["matched_n"] == of_like_length.height < row["n"]
    assert row["matched_difference"] == (of_like_length["gm-dpo1"] - of_like_length["human-reply"]).mean()
    assert f"n = {row['matched_n']}</span></td>" in html
    assert evaluation.summary.filter(arm="human-reply", role="gm")["matched_n"].is_null().all()


def test_refused_replies_are_counted_and_shown_only_where_asked_for(config: Config, generated: Storage) -> None:
    model, pairs = (generated.manifest(name) for name in ("models/base", "pairs/default"))
    said_harm = "You have depression. A lantern will not help."
    rows = generation_rows("gm", "odd", dict.fromkeys(range(NUM_POSTS), said_harm))
    write_generation(generated, "gm-odd", rows, [model.as_input(), pairs.as_input()])
    evaluation = evaluate_here(config, generated, ["gm-odd", "gm-dpo1"])
    html = render_report(evaluation)
    said = " ".join(" ".join(Page(html).text).split())
    assert "12 of 12 100.0 % [75.8, 100.0]" in said
    assert "0 of 12 0.0 % [0.0, 24.2]" in said
    assert "hold text of a post" in said
    assert said_harm not in html
    shown = replace(evaluation, config=evaluation.config.model_copy(update={"show_refused": 2}))
    html = render_report(shown)
    assert html.count(said_harm) == 2
    assert "<details>" in html
    assert "open" not in {name for attributes in Page(html).all("details") for name in attributes}
    assert "this page shows replies that the safety rules refuse" in html
