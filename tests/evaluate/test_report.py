import re
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from llumi.config import Config, EmpathyConfig
from llumi.evaluate.across import measure_arms
from llumi.evaluate.arms import find_generations, read_replies
from llumi.evaluate.report import Evaluation, render_report
from llumi.evaluate.run import ReplyMeasurer
from llumi.evaluate.summary import summarise
from llumi.storage import Storage

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
    replies = read_replies(config, storage, find_generations(config, storage, names))
    measures = measure_arms(pl.DataFrame(ReplyMeasurer(EmpathyConfig())(replies.table.to_arrow())))
    summary = summarise(measures, replies.sections, config.evaluate)
    return Evaluation(config.pairs.name, config.evaluate, replies, measures, summary)


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
    plots = [attributes for attributes in page.all("svg") if attributes["role"] == "img"]
    assert len(plots) == 29
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
    assert len(page.all("svg")) == 13


def test_the_same_evaluation_gives_the_same_bytes(evaluation: Evaluation) -> None:
    assert render_report(evaluation) == render_report(evaluation)
