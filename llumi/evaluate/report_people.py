"""The report's part on people: what the raters of a study said, and the figures of the paper beside theirs."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from llumi.evaluate.markup import number, spoken, table
from llumi.evaluate.paper import PAPER_OTHER

Tree = Mapping[str, Any]
"""Of `outcome`: figures are mappings with value, low, high and n; one that is unknown is a sentence that says why."""


def people_part(outcome: Tree, *, confidence: float) -> str:
    """A section of the page."""
    percent = f"{100 * confidence:g}\N{NO-BREAK SPACE}%"
    parts = (_scores(outcome, percent), _preferences(outcome, percent), _beside(outcome), _trust(outcome, percent))
    return f"""<section id="people" aria-labelledby="people-heading">
<p class="eyebrow">PEOPLE</p>
<h2 id="people-heading">What raters said</h2>
<p class="lead">{outcome["raters"]:,} raters compared the replies to {outcome["items"]:,} posts, blind and side by side.
Intervals are drawn over posts: they speak of other posts before the same raters, and say nothing of other raters.</p>
{"".join(parts)}
</section>"""


def _scores(outcome: Tree, percent: str) -> str:
    arms = sorted({arm for of_dimension in outcome["scores"].values() for arm in of_dimension})
    rows = "".join(
        f"<tr><th scope='row'>{dimension.replace('_', ' ').capitalize()}</th>"
        + "".join(f"<td>{_figure(of_dimension.get(arm), 2)}</td>" for arm in arms)
        + f"<td>{_figure(outcome['agreement']['alpha'][dimension], 2)}</td></tr>"
        for dimension, of_dimension in outcome["scores"].items()
    )
    caption = (
        f"Mean scores from 1 to 5 with {percent} intervals. Alpha is Krippendorff’s, for ordinal scores: 1 is full agreement "
        "of the raters, 0 what chance would give."
    )
    heads = ("Scale", *(escape(spoken(arm)) for arm in arms), "Alpha")
    return f"<h3>Scores</h3>{table('results', caption, heads, f'<tbody>{rows}</tbody>')}"


def _preferences(outcome: Tree, percent: str) -> str:
    odds = outcome["bradley_terry"]
    log_odds = odds["log_odds"] if isinstance(odds, Mapping) else {}
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{rate['wins']:,}</td><td>{rate['ties']:,}</td><td>{rate['losses']:,}</td>"
        f"<td>{_figure(rate['share'], 2)}</td></tr>"
        for name, rate in outcome["win_rates"].items()
    )
    caption = (
        f"Choices of one arm over another. The share leaves ties out; its {percent} interval (Wilson) takes choices as "
        "independent, and is too narrow where several raters judge a post."
    )
    told = "".join(f"<li>{escape(spoken(arm))}: {_figure(figure, 2, signed=True)}</li>" for arm, figure in log_odds.items())
    over = escape(spoken(_reference(outcome, log_odds))) if log_odds else ""
    against = f"<p>Log-odds of being preferred to {over} (Bradley-Terry with ties), drawn over posts:</p>"
    model = f"{against}<ul class='notes'>{told}</ul>" if told else f"<p>Bradley-Terry: {escape(str(odds))}.</p>"
    heads = ("Arm over arm", "Preferred", "Tie", "Other preferred", "Share")
    return f"<h3>Which reply they would rather receive</h3>{table('results', caption, heads, f'<tbody>{rows}</tbody>')}{model}"


def _reference(outcome: Tree, log_odds: Tree) -> str:
    """The arm that log-odds are set against: the one that has none."""
    arms: set[str] = {name.partition(" over ")[0] for name in outcome["win_rates"]}
    return min(arms - log_odds.keys())


def _beside(outcome: Tree) -> str:
    rows = "".join(_beside_rows(outcome["beside_the_paper"]))
    if not rows:
        return ""
    caption = (
        "Figures of arXiv 2605.30273 (DPO2 beside GPT-5-nano; IM beside the original) and of this study. Other raters, other "
        "posts: they show whether figures are of one order, and test nothing."
    )
    heads = ("", "The paper", "This study")
    return f"<h3>Beside the paper</h3>{table('results', caption, heads, f'<tbody>{rows}</tbody>')}"


def _beside_rows(beside: Tree) -> Iterator[str]:
    for name, figures in beside.items():
        if "dimension" not in figures:
            ours = f"<td>{_figure(figures['paper'], 2)}</td><td>{_figure(figures['ours'], 2)}</td>"
            yield f"<tr><th scope='row'>{escape(name)} preferred to the draft</th>{ours}</tr>"
            continue
        for whose, paper in (("model", "DPO2"), ("other", PAPER_OTHER)):
            given = f"{paper} {number(figures[f'paper_{whose}'], 2)}"
            yield f"<tr><th scope='row'>{name.capitalize()}</th><td>{given}</td><td>{_figure(figures[whose], 2)}</td></tr>"


def _trust(outcome: Tree, percent: str) -> str:
    bias = outcome["position_bias"]
    side = bias["share"] if isinstance(bias, Mapping) else bias
    return f"""<h3>How far to trust them</h3>
<ul class="notes">
<li>The first reply was preferred in a share of {_figure(side, 2)} of decided choices; half is what an even eye would give.</li>
<li>The same choice on a second look: {_figure(outcome["consistency"]["choices"], 2)}.</li>
<li>Intervals hold {percent}.</li>
</ul>"""


def _figure(figure: Any, digits: int, signed: bool = False) -> str:
    """A figure and its bounds, or in small letters why there is none."""
    if figure is None:
        return "–"
    if not isinstance(figure, Mapping):
        return f"<span class='quiet'>{escape(str(figure))}</span>"
    value, low, high = (number(figure[key], digits, signed=signed) for key in ("value", "low", "high"))
    return f"{value} <span class='quiet'>[{low}, {high}]</span>"
