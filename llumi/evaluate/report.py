"""The report: one HTML file with its styles and plots inside, readable without a network, a script or a large screen.

It holds figures, names of artifacts and definitions; no text of a post, a draft or a reply, unless refused replies are
asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import polars as pl

from llumi.config import EvaluateConfig
from llumi.evaluate.arms import Arm, Replies, Section
from llumi.evaluate.lineage import lineage_figure
from llumi.evaluate.markup import number, p_value, spoken, swatch, table
from llumi.evaluate.measures import Measure, measures_of
from llumi.evaluate.plots import ForestLine, arm_colours, distribution_plot, forest_plot
from llumi.evaluate.report_ratings import ratings_part
from llumi.evaluate.report_safety import safety_part
from llumi.evaluate.studies import RatedStudy
from llumi.evaluate.summary import values_by_arm
from llumi.lineage import Ancestor
from llumi.prompts import Role

FEW_POSTS = 30
"""Below it the report warns that its intervals are too narrow."""

_TITLES: dict[Role, str] = {"gm": "Drafting a reply", "im": "Revising a person’s draft"}
_INTROS: dict[Role, str] = {
    "gm": "GM writes a reply to a held-out post. It is laid beside the reply that the community endorsed most.",
    "im": "IM revises what a person drafted. Its revision is laid beside that draft, the least endorsed reply to the post; "
    "the most endorsed one, by another person, is shown for scale.",
}


_HOLDS_NO_TEXT = "Neither they nor this page hold text of a post, a draft or a reply."
_SHOWS_TEXT = (
    "They hold no text; this page shows replies that the safety rules refuse, as asked: keep it where the corpus is kept."
)
_PEOPLE_WERE_ASKED = (
    "The raters read as people who were asked to, from outside. Nobody who was in distress has said what a reply was to them."
)
_NOBODY_WAS_ASKED = (
    "Nobody was asked, as far as this page knows. <code>evaluate.ratings</code> adds what raters of a study said, and the "
    "figures of arXiv 2605.30273 beside it."
)


@dataclass(frozen=True)
class Evaluation:
    """All that a report tells."""

    pairs: str
    config: EvaluateConfig
    replies: Replies
    measures: pl.DataFrame
    summary: pl.DataFrame
    judged: pl.DataFrame
    refused: pl.DataFrame
    made_of: Sequence[str]
    ancestors: Mapping[str, Ancestor]
    studies: Sequence[RatedStudy] = ()


def render_report(evaluation: Evaluation) -> str:
    """The whole page; the same evaluation gives the same bytes."""
    template = Template(files("llumi.evaluate").joinpath("report.html").read_text(encoding="utf-8"))
    sections = evaluation.replies.sections
    measures = list(dict.fromkeys(measure for section in sections for measure in _measures(evaluation, section)))
    return template.substitute(
        name=escape(evaluation.config.name),
        facts=_facts(evaluation),
        sections="\n".join(_section(evaluation, section) for section in sections),
        ratings=ratings_part(evaluation.studies, [_colours(section) for section in sections], evaluation.config.confidence),
        lineage=lineage_figure(f"evaluations/{evaluation.config.name}", evaluation.made_of, evaluation.ancestors),
        measures="\n".join(_definition(measure) for measure in measures),
        confidence=_percent(evaluation.config),
        num_bootstrap=f"{evaluation.config.num_bootstrap:,}",
        seed=evaluation.config.seed,
        asked=_PEOPLE_WERE_ASKED if evaluation.studies else _NOBODY_WAS_ASKED,
        text=_SHOWS_TEXT if evaluation.config.show_refused else _HOLDS_NO_TEXT,
    )


def _facts(evaluation: Evaluation) -> str:
    num_models = sum(len(section.model_arms) for section in evaluation.replies.sections)
    facts = {
        "Pairs": evaluation.pairs,
        "Held-out posts": f"{evaluation.replies.num_held_out:,}",
        "Generations": str(num_models),
        "Replies measured": f"{evaluation.measures.height:,}",
    }
    return "".join(f"<div><dt>{label}</dt><dd>{escape(fact)}</dd></div>" for label, fact in facts.items())


def _section(evaluation: Evaluation, section: Section) -> str:
    role = section.role
    return f"""<section id="{role}" aria-labelledby="{role}-heading">
<p class="eyebrow">{role.upper()}</p>
<h2 id="{role}-heading">{_TITLES[role]}</h2>
<p class="lead">{_INTROS[role]}</p>
{_note(section.num_posts, _percent(evaluation.config))}
<h3>What was compared</h3>
{_compared(section)}
{_overview(evaluation, section)}
<h3>Every reply</h3>
<p>A dot is a reply (evenly spread ones where there are many), the bar holds the middle half, the upright mark is the mean.</p>
<div class="plots">{"".join(_distributions(evaluation, section))}</div>
<h3>The figures</h3>
{_results(evaluation, section)}
{_equivalence(evaluation, section)}
{_safety(evaluation, section)}
</section>"""


def _note(num_posts: int, percent: str) -> str:
    posts = "1 post has" if num_posts == 1 else f"{num_posts:,} posts have"
    note = f"<p><strong>{posts} a reply in every arm</strong>, and only these are compared."
    if num_posts < 2:
        note += " An interval needs two posts at least, so none is given."
    elif num_posts < FEW_POSTS:
        note += f" That is few: below {FEW_POSTS} posts a {percent} interval of this kind is somewhat too narrow."
    return note + "</p>"


def _compared(section: Section) -> str:
    colours = _colours(section)
    rows = "".join(
        f"<tr><th scope='row'>{swatch(colours[arm.name])}{escape(spoken(arm.name))}</th><td>{_lineage(arm)}</td>"
        f"<td>{arm.num_rows:,}</td><td>{arm.num_failed:,}</td><td>{arm.num_empty:,}</td><td>{arm.num_cut:,}</td></tr>"
        for arm in section.arms
    )
    caption = "Replies asked for, not given, without text, and cut at the token limit."
    return table("compared", caption, ("Arm", "From", "Asked", "Failed", "Empty", "Cut"), f"<tbody>{rows}</tbody>")


def _lineage(arm: Arm) -> str:
    return "people" if arm.is_human else " ← ".join(escape(model) for model in arm.lineage)


def _overview(evaluation: Evaluation, section: Section) -> str:
    """The forest plot: all measures on one axis, in standard deviations of the reference."""
    groups = {}
    for measure in _measures(evaluation, section):
        rows = _rows(evaluation, section, measure)
        sd = rows[0]["sd"]
        if sd:
            groups[measure.label] = [
                ForestLine(spoken(row["arm"]), *(_scaled(row[key], sd) for key in ("difference", "low", "high")))
                for row in rows[1:]
                if row["difference"] is not None
            ]
    if not groups:
        return ""
    reference = spoken(section.arms[0].name)
    title = f"{section.role.upper()}: differences to the {reference}"
    described = f"Mean differences with {_percent(evaluation.config)} intervals; the table below holds the same figures."
    colours = {spoken(arm): colour for arm, colour in _colours(section).items()}
    plot = forest_plot(groups, colours, f"{section.role}-forest", title, described)
    return f"""<h3>At a glance</h3>
<p>How far each arm lies from the {reference}, on average over posts, in standard deviations of the {reference}. Where the line
crosses zero, the data do not tell the two apart.{_draft_scale(section)}</p>
<figure class="forest">{plot}</figure>"""


def _draft_scale(section: Section) -> str:
    if section.role == "gm":
        return ""
    return " Nearness to the draft is set against the human reply instead, since a draft is its own nearest text."


def _distributions(evaluation: Evaluation, section: Section) -> Iterable[str]:
    colours = {spoken(arm): colour for arm, colour in _colours(section).items()}
    for measure in _measures(evaluation, section):
        values = {spoken(arm): numbers for arm, numbers in values_by_arm(evaluation.measures, section, measure).items()}
        rows = _rows(evaluation, section, measure)
        means = "; ".join(f"{spoken(row['arm'])} {number(row['mean'], measure.digits)}" for row in rows)
        title = f"{section.role.upper()}: {measure.label.lower()} by arm"
        plot = distribution_plot(values, colours, f"{section.role}-{measure.column}", title, f"Means: {means}.")
        yield f"<figure><figcaption>{measure.label}</figcaption>{plot}</figure>"


def _results(evaluation: Evaluation, section: Section) -> str:
    interval = f"[{_percent(evaluation.config)} interval]"
    heads = ("Measure and arm", "Mean (SD)", f"Difference {interval}", "d", "p", f"At like length {interval}")
    groups = [
        _result_group(section, measure, _rows(evaluation, section, measure)) for measure in _measures(evaluation, section)
    ]
    caption = (
        "d is Cohen’s d for paired data; p is corrected for all the comparisons of this table (Holm). At like length is the "
        f"difference over the n posts whose longer reply has at most {evaluation.config.length_ratio:g} times the words of "
        "the shorter; its row of words is what difference in length is left."
    )
    return table("results", caption, heads, "".join(groups))


def _result_group(section: Section, measure: Measure, rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        mean = f"{number(row['mean'], measure.digits)} <span class='quiet'>({number(row['sd'], measure.digits)})</span>"
        head = f"{_arm_head(section, row['arm'])}<td>{mean}</td>"
        if row["arm"] == row["reference"]:
            lines.append(f"<tr>{head}<td colspan='4' class='quiet'>reference</td></tr>")
            continue
        lines.append(
            f"<tr>{head}<td>{_interval(row, measure)}</td>"
            f"<td>{number(row['effect_size'], 2, signed=True)}</td><td>{p_value(row['p_holm'])}</td>"
            f"<td>{_interval(row, measure, 'matched_')} <span class='quiet'>n = {row['matched_n']:,}</span></td></tr>"
        )
    return _group(measure, rows, 6, lines)


def _equivalence(evaluation: Evaluation, section: Section) -> str:
    """The table of declared margins; nothing where none was declared for a measure of this section."""
    groups = []
    for measure in _measures(evaluation, section):
        rows = _rows(evaluation, section, measure)
        lines = [
            f"<tr>{_arm_head(section, row['arm'])}<td>±{row['margin']:g}</td>"
            f"<td>{number(row['difference'], measure.digits, signed=True)}</td><td>{p_value(row['p_equivalence_holm'])}</td>"
            f"<td>{_within(row['p_equivalence_holm'], evaluation.config)}</td></tr>"
            for row in rows[1:]
            if row["margin"] is not None
        ]
        if lines:
            groups.append(_group(measure, rows, 5, lines))
    if not groups:
        return ""
    caption = "p of two one-sided paired t tests, corrected for all the rows of this table (Holm)."
    margins = table("results", caption, ("Measure and arm", "Margin", "Difference", "p", "Within the margin"), "".join(groups))
    return f"""<h3>Equal for practical purposes</h3>
<p>For these measures a margin was declared within which a mean difference does not matter. “Not shown” is not “different”:
the posts may be too few.</p>
{margins}"""


def _within(p: float | None, config: EvaluateConfig) -> str:
    return "–" if p is None else "shown" if p < 1 - config.confidence else "not shown"


def _group(measure: Measure, rows: Sequence[dict[str, Any]], num_columns: int, lines: Sequence[str]) -> str:
    """The rows of one measure under its heading."""
    marked = "" if measure.fidelity == "replication" else f"{measure.fidelity}, "
    heading = f"{measure.label} <span class='quiet'>{marked}n = {rows[0]['n']:,}</span>"
    return f"<tbody><tr class='group'><th colspan='{num_columns}' scope='colgroup'>{heading}</th></tr>{''.join(lines)}</tbody>"


def _arm_head(section: Section, arm: str) -> str:
    return f"<th scope='row'>{swatch(_colours(section)[arm])}{escape(spoken(arm))}</th>"


def _interval(row: dict[str, Any], measure: Measure, prefix: str = "") -> str:
    """A difference and its interval, of the columns that begin with `prefix`."""
    difference, low, high = (number(row[prefix + key], measure.digits, signed=True) for key in ("difference", "low", "high"))
    return f"{difference} <span class='quiet'>[{low}, {high}]</span>"


def _safety(evaluation: Evaluation, section: Section) -> str:
    of_role = pl.col("role") == section.role
    return safety_part(
        evaluation.refused.filter(of_role),
        evaluation.judged.filter(of_role),
        _colours(section),
        confidence=evaluation.config.confidence,
        num_shown=evaluation.config.show_refused,
    )


def _definition(measure: Measure) -> str:
    return (
        f"<div><dt>{measure.label} <code>{measure.column}</code></dt><dd>{escape(measure.definition)}</dd>"
        f"<dd>{escape(measure.reading)}</dd>"
        f"<dd class='quiet'>{measure.fidelity.capitalize()}: {escape(measure.source)}</dd></div>"
    )


def _measures(evaluation: Evaluation, section: Section) -> list[Measure]:
    return measures_of(section.role, evaluation.measures.columns)


def _rows(evaluation: Evaluation, section: Section, measure: Measure) -> list[dict[str, Any]]:
    """The summary of one measure, the reference first."""
    return evaluation.summary.filter((pl.col("role") == section.role) & (pl.col("measure") == measure.column)).to_dicts()


def _colours(section: Section) -> dict[str, str]:
    return arm_colours([arm.name for arm in section.arms if arm.is_human], section.model_arms)


def _scaled(value: float | None, unit: float) -> float:
    return float("nan") if value is None else value / unit


def _percent(config: EvaluateConfig) -> str:
    return f"{100 * config.confidence:g}\N{NO-BREAK SPACE}%"
