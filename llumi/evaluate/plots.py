"""The plots of a report as inline SVG: drawn by matplotlib, coloured by the page, so that light and dark both fit.

matplotlib knows no CSS variables: it draws with stand-in colours, which are exchanged for `var(--...)` in its output.
Text stays text, in the font of the page, and each plot carries a title and a description for those who hear it.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from llumi.evaluate.statistics import FloatArray

NUM_HUMAN_COLOURS, NUM_MODEL_COLOURS = 2, 6
"""Colours of arms that the page defines; further arms start again with the first, and are told apart by their names."""

_NAMES = [
    *("ink", "muted", "line"),
    *(f"human-{index}" for index in range(NUM_HUMAN_COLOURS)),
    *(f"model-{index}" for index in range(NUM_MODEL_COLOURS)),
]
_STAND_INS = {name: f"#0102{index:02x}" for index, name in enumerate(_NAMES)}
_INK, _MUTED, _LINE = (_STAND_INS[name] for name in ("ink", "muted", "line"))
_WIDTH_INCHES = 4.2
_MAX_DOTS = 80
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "llumi", "font.size": 9.5, "font.family": "DejaVu Sans"}


@dataclass(frozen=True, slots=True)
class ForestLine:
    """One line of a forest plot: a figure of `arm` and its interval, in any unit; NaN where it is unknown."""

    arm: str
    value: float
    low: float
    high: float


def arm_colours(human: Sequence[str], models: Sequence[str]) -> dict[str, str]:
    """The CSS variable that colours each arm: greys for people, hues for models."""
    of_people = {arm: f"human-{index % NUM_HUMAN_COLOURS}" for index, arm in enumerate(human)}
    return of_people | {arm: f"model-{index % NUM_MODEL_COLOURS}" for index, arm in enumerate(models)}


def distribution_plot(
    values: Mapping[str, FloatArray], colours: Mapping[str, str], ident: str, title: str, description: str
) -> str:
    """One row per arm: up to 80 replies as dots (evenly spread quantiles), the middle half as a bar, the mean as a mark."""

    def draw(axes: Any) -> None:
        for row, (arm, numbers) in enumerate(values.items()):
            _draw_distribution(axes, row, np.sort(numbers[np.isfinite(numbers)]), _STAND_INS[colours[arm]])
        _name_rows(axes, list(values))
        _leave_air(axes)

    return _render(draw, len(values) * 0.42 + 0.5, ident, title, description)


def forest_plot(
    groups: Mapping[str, Sequence[ForestLine]],
    colours: Mapping[str, str],
    ident: str,
    title: str,
    description: str,
    *,
    origin: float | None = 0,
) -> str:
    """Figures with their intervals, grouped under headings, around a line at `origin`, where nothing sets arms apart."""
    num_rows = sum(len(group) + 1 for group in groups.values())

    def draw(axes: Any) -> None:
        if origin is not None:
            axes.axvline(origin, color=_MUTED, linewidth=1, zorder=1)
        labels: list[str] = []
        headings: list[int] = []
        for heading, group in groups.items():
            headings.append(len(labels))
            labels.append(heading)
            for line in group:
                colour = _STAND_INS[colours[line.arm]]
                axes.plot([line.low, line.high], [len(labels)] * 2, color=colour, linewidth=2.2, solid_capstyle="round")
                axes.plot(line.value, len(labels), "o", color=colour, markersize=6)
                labels.append(line.arm)
        _name_rows(axes, labels)
        for row in headings:
            axes.get_yticklabels()[row].set_color(_INK)
            axes.get_yticklabels()[row].set_fontweight("bold")
        _leave_air(axes)

    return _render(draw, num_rows * 0.24 + 0.5, ident, title, description)


def _draw_distribution(axes: Any, row: int, numbers: FloatArray, colour: str) -> None:
    if not len(numbers):
        return
    shown = min(len(numbers), _MAX_DOTS)
    dots = numbers[np.linspace(0, len(numbers) - 1, shown).round().astype(int)]
    # Steps of the golden ratio spread neighbours apart without a random draw.
    offsets = (np.arange(shown) * 0.618034 % 1 - 0.5) * 0.5
    axes.scatter(dots, row + offsets, s=9, color=colour, alpha=0.32, linewidths=0, zorder=2)
    low, high = np.quantile(numbers, [0.25, 0.75])
    axes.plot([low, high], [row, row], color=colour, linewidth=3.4, alpha=0.85, solid_capstyle="round", zorder=3)
    axes.plot(numbers.mean(), row, marker="|", color=_INK, markersize=13, markeredgewidth=2.2, zorder=4)


def _name_rows(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def _leave_air(axes: Any) -> None:
    axes.margins(x=0.06)
    axes.autoscale(axis="x")
    low, high = axes.get_xlim()
    if high - low < 1e-9:
        axes.set_xlim(low - 1, high + 1)


def _render(draw: Callable[[Any], None], height_inches: float, ident: str, title: str, description: str) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        axes.tick_params(axis="x", color=_LINE, labelcolor=_MUTED)
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.grid(axis="x", color=_LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.locator_params(axis="x", nbins=6)
        draw(axes)
        sink = io.StringIO()
        FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    view_box = f"0 0 {72 * _WIDTH_INCHES:g} {72 * height_inches:g}"
    return _inline(sink.getvalue(), view_box, ident, title, description)


def _inline(svg: str, view_box: str, ident: str, title: str, description: str) -> str:
    """The drawing as a part of a page: its colours, its font, ids of its own, and words for those who cannot see it."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", " ", body)
    body = re.sub(r'\b([xy])="(-?\d+\.\d)\d+"', r'\1="\2"', body)
    body = re.sub(r'\bid="', f'id="{ident}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{ident}-', body)
    body = re.sub(r"url\(#", f"url(#{ident}-", body)
    body = re.sub(r"font(-family)?: ([^;\"]*?)(?:'DejaVu Sans'|DejaVu Sans)[^;\"]*", r"font\1: \2var(--sans)", body)
    for name, colour in _STAND_INS.items():
        body = body.replace(colour, f"var(--{name})")
    opening = f'<svg viewBox="{view_box}" role="img" aria-labelledby="{ident}-title {ident}-desc">'
    words = f'<title id="{ident}-title">{escape(title)}</title><desc id="{ident}-desc">{escape(description)}</desc>'
    return f"{opening}{words}{body.strip()}"
