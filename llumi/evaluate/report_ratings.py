"""The report's part on what people said: a study's scores, choices and agreement, and the paper's figures beside them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from llumi.evaluate.bradley_terry import BradleyTerry
from llumi.evaluate.markup import number, p_value, spoken, swatch, table
from llumi.evaluate.outcome import Outcome
from llumi.evaluate.paper import PAPER_JUDGED, PAPER_PREFERRED, PAPER_RATED_PAIRS, PAPER_RATERS, PAPER_SCORES
from llumi.evaluate.plots import ForestLine, arm_colours, forest_plot
from llumi.evaluate.preference import PositionBias, WinRate
from llumi.evaluate.proportion import wilson
from llumi.evaluate.ratings import REVISION_DIMENSIONS, Estimate, Unknown
from llumi.evaluate.studies import RatedStudy
from llumi.records import HUMAN_DRAFT, HUMAN_REPLY

PAPER_COLOUR = "muted"
PAPER_MODELS = ("DPO2 of the paper", "GPT-5-nano in the paper")
PAPER_REVISION = "IM of the paper"

_INTRO = f"""<p class="lead">Scores and choices of people who read posts and replies without knowing who wrote them.</p>
<p>Beside them stand the figures of arXiv 2605.30273, from {PAPER_RATERS} raters and {PAPER_RATED_PAIRS:,} rated pairs: other
raters, other posts and other models, so that they show an order of magnitude and test nothing. Of the paper, only these human
ratings are laid beside ours, none of its measures of language. For its mean scores it gives no interval, and how it averaged
over raters is not known here; ours weigh every post alike. The interval of its {PAPER_PREFERRED} of {PAPER_JUDGED} is computed
here, by Wilson’s formula; the paper speaks of no ties, ours leave them out of the share and count them beside it.</p>
<p>Arms are named as the study named them. A generation that was made again since has other replies than those that were
rated.</p>"""


def ratings_part(studies: Sequence[RatedStudy], colours: Sequence[Mapping[str, str]], confidence: float) -> str:
    """The section on `studies`; nothing without one. `colours` are those of the page's arms, by role."""
    if not studies:
        return ""
    parts = "".join(_Study(place, study, colours, confidence).part() for place, study in enumerate(studies))
    return f"""<section id="ratings" aria-labelledby="ratings-heading">
<p class="eyebrow">PEOPLE</p>
<h2 id="ratings-heading">What people said</h2>
{_INTRO}
{parts}
</section>"""


class _Study:
    """One study's part of the page."""

    def __init__(self, place: int, study: RatedStudy, colours: Sequence[Mapping[str, str]], confidence: float) -> None:
        self._ident = f"study-{place}"
        self._name = escape(study.name)
        self._outcome: Outcome = study.outcome
        self._confidence = confidence
        self._revisions = study.outcome.ratings.revisions
        self._colours = _colours_of(study.outcome.ratings.arms, colours)

    def part(self) -> str:
        """All of it, the plots first."""
        return f"""<h3>Study {self._name}: how replies were scored</h3>
<p>{self._size()}</p>
{self._score_plot()}
{self._scores()}
<h3>Study {self._name}: which reply was preferred</h3>
{self._choice_plot()}
{self._choices()}
{self._strengths()}
<h3>Study {self._name}: how far to trust it</h3>
{self._agreement()}
<p>{" ".join(self._steadiness())}</p>"""

    def _size(self) -> str:
        ratings = self._outcome.ratings
        raters = "1 rater" if ratings.num_raters == 1 else f"{ratings.num_raters:,} raters"
        items = "1 post" if ratings.num_items == 1 else f"{ratings.num_items:,} posts"
        return f"<strong>{raters} judged {items}</strong> on {len(ratings.choices):,} pages, repeats included."

    def _score_plot(self) -> str:
        groups, colours = {}, {spoken(arm): colour for arm, colour in self._colours.items()}
        for dimension, means in self._outcome.scores.items():
            lines = [_line(spoken(arm), means[arm]) for arm in self._colours if arm in means]
            lines += [ForestLine(model, score, math.nan, math.nan) for model, score in self._paper_scores(dimension)]
            groups[_named(dimension)] = lines
        return self._plot(groups, colours, "scores", "mean scores from 1 to 5", None)

    def _choice_plot(self) -> str:
        groups: dict[str, list[ForestLine]] = {}
        for (arm, other), rate in self._met():
            groups.setdefault(f"Rather than {spoken(other)}", []).append(_line(spoken(arm), rate.share))
        if self._revisions:
            paper = wilson(PAPER_PREFERRED, PAPER_JUDGED, self._confidence)
            groups.setdefault(f"Rather than {spoken(HUMAN_DRAFT)}", []).append(_line(PAPER_REVISION, paper))
        colours = {spoken(arm): colour for arm, colour in self._colours.items()}
        return self._plot(groups, colours, "choices", "share of decided choices", 0.5)

    def _plot(
        self, groups: Mapping[str, Sequence[ForestLine]], colours: Mapping[str, str], kind: str, what: str, origin: float | None
    ) -> str:
        paper = dict.fromkeys((*PAPER_MODELS, PAPER_REVISION), PAPER_COLOUR)
        title = f"Study {self._name}: {what}"
        described = f"Figures with {self._percent} intervals; the table below holds the same."
        plot = forest_plot(groups, {**colours, **paper}, f"{self._ident}-{kind}", title, described, origin=origin)
        return f"<figure class='forest'><figcaption>{what.capitalize()}</figcaption>{plot}</figure>"

    def _scores(self) -> str:
        bodies = []
        for dimension, means in self._outcome.scores.items():
            rows = [self._score_row(arm, means[arm]) for arm in self._colours if arm in means]
            rows += [
                _row(f"{swatch(PAPER_COLOUR)}{model}", f"{score:.2f} <span class='quiet'>no interval given</span>", "–")
                for model, score in self._paper_scores(dimension)
            ]
            heading = f"<th colspan='3' scope='colgroup'>{_named(dimension)}</th>"
            bodies.append(f"<tbody><tr class='group'>{heading}</tr>{''.join(rows)}</tbody>")
        caption = f"Mean scores from 1 to 5 and their {self._percent} intervals, drawn over posts."
        return table("results", caption, ("Scale and arm", "Mean", "Posts"), "".join(bodies))

    def _score_row(self, arm: str, mean: Estimate | Unknown) -> str:
        return _row(self._head(arm), _interval(mean, 2), _count(mean))

    def _choices(self) -> str:
        rows = [
            _row(
                f"{self._head(arm)} over {escape(spoken(other))}",
                f"{rate.wins:,}", f"{rate.ties:,}", f"{rate.losses:,}", _share(rate.share),
            )
            for (arm, other), rate in self._met()
        ]  # fmt: skip
        if self._revisions:
            paper = wilson(PAPER_PREFERRED, PAPER_JUDGED, self._confidence)
            said = f"{PAPER_PREFERRED} of {PAPER_JUDGED}: {_share(paper)}"
            rows.append(_row(f"{swatch(PAPER_COLOUR)}{PAPER_REVISION} over the original", str(PAPER_PREFERRED), "–", "–", said))
        caption = (
            f"Share of the decided choices with Wilson’s {self._percent} interval, which takes choices as independent: where "
            "several raters judge a post it is too narrow."
        )
        return table("results", caption, ("Preferred", "Wins", "Ties", "Losses", "Share"), f"<tbody>{''.join(rows)}</tbody>")

    def _strengths(self) -> str:
        fitted = self._outcome.bradley_terry
        if not isinstance(fitted, BradleyTerry):
            return f"<p>Over all pairs (Bradley-Terry) no strength can be given: {escape(fitted.reason)}.</p>"
        rows = [
            _row(self._head(arm), _interval(fitted.log_odds[arm], 2, signed=True), _count(fitted.log_odds[arm]))
            for arm in self._colours
            if arm in fitted.log_odds
        ]
        caption = (
            f"Bradley-Terry with ties: log-odds of being preferred to the {escape(spoken(fitted.reference))} over all choices, "
            f"with {self._percent} intervals over whole posts (Davidson 1970)."
        )
        return table("results", caption, ("Arm", "Log-odds", "Choices"), f"<tbody>{''.join(rows)}</tbody>")

    def _agreement(self) -> str:
        rows, reasons = [], dict[str, None]()
        for dimension, alpha in self._outcome.alpha.items():
            icc = self._outcome.icc[dimension]
            of_one, of_mean = (icc, icc) if isinstance(icc, Unknown) else (icc.one_rater, icc.mean_of_raters)
            rows.append(_row(_named(dimension), *(_interval(figure, 2) for figure in (alpha, of_one, of_mean))))
            reasons |= dict.fromkeys(
                f"{what} that is not given: {escape(figure.reason)}."
                for what, figure in (("An alpha", alpha), ("An ICC", icc))
                if isinstance(figure, Unknown)
            )
        if self._outcome.ratings.num_raters == 1:
            return "<p><strong>One rater judged alone: whether raters agree cannot be told.</strong></p>"
        caption = (
            "Agreement: Krippendorff’s ordinal alpha (1 is perfect, 0 is chance), and the intraclass correlations of one "
            f"rater’s score and of the mean of all raters, with {self._percent} intervals. {' '.join(reasons)}"
        )
        return table("results", caption, ("Scale", "Alpha", "ICC(2,1)", "ICC(2,k)"), f"<tbody>{''.join(rows)}</tbody>")

    def _steadiness(self) -> Iterator[str]:
        again = self._outcome.choice_consistency
        if isinstance(again, Unknown):
            yield f"Whether raters choose again as before is not known: {escape(again.reason)}."
        else:
            yield f"Asked once more, raters chose as before in {_share(again)} of {again.n:,} repeats."
        side = self._outcome.position_bias
        if isinstance(side, PositionBias):
            yield (
                f"The reply that came first was preferred in {_share(side.share)} of {side.share.n:,} decided choices; half "
                f"would be expected (p {p_value(side.p_value)})."
            )
        else:
            yield f"Whether the first reply is preferred for being first is not known: {escape(side.reason)}."

    def _met(self) -> list[tuple[tuple[str, str], WinRate]]:
        """Each pair that met once: the later arm of the page over the earlier one, people's own replies being first."""
        order = list(self._colours)
        pairs = [(arm, other) for other in order for arm in order if order.index(arm) > order.index(other)]
        rates = self._outcome.win_rates
        return [(pair, rates[pair]) for pair in pairs if pair in rates]

    def _paper_scores(self, dimension: str) -> list[tuple[str, float]]:
        """The paper's scores are of drafted replies: a study of revisions has nothing to stand beside them."""
        if self._revisions or dimension not in PAPER_SCORES:
            return []
        return list(zip(PAPER_MODELS, PAPER_SCORES[dimension], strict=True))

    def _head(self, arm: str) -> str:
        return f"{swatch(self._colours[arm])}{escape(spoken(arm))}"

    @property
    def _percent(self) -> str:
        return f"{100 * self._confidence:g}\N{NO-BREAK SPACE}%"


def _colours_of(arms: Sequence[str], known: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Each arm of a study and its colour, people's first: as on the rest of the page where that shows the arm."""
    page = max(known, key=lambda colours: len(colours.keys() & set(arms)), default={})
    people = (HUMAN_REPLY, HUMAN_DRAFT)
    models = [arm for arm in page if arm not in people] + [arm for arm in arms if arm not in page and arm not in people]
    colours = arm_colours(people, models) | dict(page)
    return {arm: colour for arm, colour in colours.items() if arm in arms}


def _line(arm: str, figure: Estimate | Unknown) -> ForestLine:
    if isinstance(figure, Unknown):
        return ForestLine(arm, math.nan, math.nan, math.nan)
    return ForestLine(arm, figure.value, figure.low, figure.high)


def _row(head: str, *cells: str) -> str:
    return f"<tr><th scope='row'>{head}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _interval(figure: Estimate | Unknown, digits: int, *, signed: bool = False) -> str:
    if isinstance(figure, Unknown):
        return "–"
    value, low, high = (number(bound, digits, signed=signed) for bound in (figure.value, figure.low, figure.high))
    return f"{value} <span class='quiet'>[{low}, {high}]</span>"


def _share(figure: Estimate | Unknown) -> str:
    if isinstance(figure, Unknown):
        return "–"
    bounds = f"[{100 * figure.low:.1f}, {100 * figure.high:.1f}]"
    return f"{100 * figure.value:.1f} % <span class='quiet'>{bounds}</span>"


def _count(figure: Estimate | Unknown) -> str:
    return "–" if isinstance(figure, Unknown) else f"{figure.n:,}"


def _named(dimension: str) -> str:
    labels = dict(zip(REVISION_DIMENSIONS, ("Same content", "Same voice"), strict=True))
    return escape(labels.get(dimension, dimension.capitalize()))
