"""The charts of a data card as inline SVG, drawn in the page's colours and font, so that light and dark both fit.

Nothing is told by colour alone: what stands out is hatched or dashed as well, and each chart carries a title and a
description for those who hear it.
"""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 12, 24
_CHARACTER = 7.4  # the width of one at 12 px, at most


def column_chart(
    ident: str,
    title: str,
    description: str,
    labels: Sequence[str],
    values: Sequence[float],
    *,
    parts: Sequence[float] = (),
    hollow: Sequence[bool] = (),
) -> str:
    """One column for each label, in order; `parts` of the columns are hatched, columns that are `hollow` have an outline only.

    `parts` and `hollow` are empty, or as long as `values`.
    """
    top = _round_up(max(values, default=0))
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    width = max(0.8, step * 0.78)
    marks = []
    for index, value in enumerate(values):
        left = _LEFT + index * step + (step - width) / 2
        is_hollow = bool(hollow) and hollow[index]
        marks.append(_column(left, width, value / top, f"class='{'hollow' if is_hollow else 'filled'}'"))
        if parts and not is_hollow:
            marks.append(_column(left, width, parts[index] / top, f"fill='url(#{ident}-hatch)'"))
    hatch = (
        f"<defs><pattern id='{ident}-hatch' width='5' height='5' patternUnits='userSpaceOnUse' patternTransform='rotate(45)'>"
        "<rect class='hatch' width='2.6' height='5'/></pattern></defs>"
    )
    places = [_LEFT + (index + 0.5) * step for index in range(len(labels))]
    body = (hatch if parts else "") + _frame(top) + "".join(marks) + _names(labels, places)
    return _figure(ident, title, description, body)


def step_chart(
    ident: str, title: str, description: str, labels: Sequence[str], *, first: Sequence[float], second: Sequence[float]
) -> str:
    """Two histograms over the same classes: `first` as a full line over an area, `second` dashed.

    A label names the edge at which its class begins.
    """
    top = _round_up(max([*first, *second], default=0))
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(first))
    places = [_LEFT + index * step for index in range(len(first) + 1)]
    lines = [_steps(places, [value / top for value in values]) for values in (first, second)]
    area = f"<path class='first-area' d='{lines[0]}'/>"
    body = area + _frame(top) + f"<path class='first' d='{lines[0]}'/><path class='second' d='{lines[1]}'/>"
    return _figure(ident, title, description, body + _names(labels, places))


def share_bar(share: float) -> str:
    """A bar for a cell of a table, beside its number; a share is at least 0 and at most 1."""
    width = max(0.0, min(1.0, share)) * 100
    return (
        "<svg class='bar' viewBox='0 0 100 10' preserveAspectRatio='none' aria-hidden='true'>"
        f"<rect class='track' width='100' height='10'/><rect class='filled' width='{width:.1f}' height='10'/></svg>"
    )


def _figure(ident: str, title: str, description: str, body: str) -> str:
    words = f"<title id='{ident}-title'>{escape(title)}</title><desc id='{ident}-desc'>{escape(description)}</desc>"
    opening = f"<svg class='chart' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-labelledby='{ident}-title {ident}-desc'>"
    return f"{opening}{words}{body}</svg>"


def _frame(top: float) -> str:
    """Lines at none, half and all of `top`, with their numbers."""
    lines = []
    for share in (0, 0.5, 1):
        y = _height_of(share)
        lines.append(
            f"<line class='{'rule' if share else 'axis'}' x1='{_LEFT}' x2='{WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>"
        )
        lines.append(f"<text class='tick' x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{_short(top * share)}</text>")
    return "".join(lines)


def _names(labels: Sequence[str], places: Sequence[float]) -> str:
    """As many names below the axis as fit side by side, from the first one on."""
    room = max((len(label) for label in labels), default=0) * _CHARACTER + 10
    fitting = max(1, int((WIDTH - _LEFT - _RIGHT) / room))
    names = []
    for index in range(0, len(labels), max(1, math.ceil(len(labels) / fitting))):
        half = len(labels[index]) * _CHARACTER / 2
        x = min(places[index], WIDTH - half)
        names.append(f"<text class='tick' x='{x:.1f}' y='{HEIGHT - 7}' text-anchor='middle'>{escape(labels[index])}</text>")
    return "".join(names)


def _column(left: float, width: float, share: float, look: str) -> str:
    y = _height_of(share)
    return f"<rect {look} x='{left:.1f}' y='{y:.1f}' width='{width:.1f}' height='{_height_of(0) - y:.1f}'/>"


def _steps(places: Sequence[float], shares: Sequence[float]) -> str:
    points = [f"M{places[0]:.1f} {_height_of(0):.1f}"]
    for left, right, share in zip(places, places[1:], shares, strict=False):
        y = _height_of(share)
        points.append(f"L{left:.1f} {y:.1f}L{right:.1f} {y:.1f}")
    return "".join([*points, f"L{places[-1]:.1f} {_height_of(0):.1f}"])


def _height_of(share: float) -> float:
    return _TOP + (1 - share) * (HEIGHT - _TOP - _BOTTOM)


def _round_up(value: float) -> float:
    """The next of 2, 4, 6, 8, 10, 20, ... so that its half is a round number, too."""
    if value <= 0:
        return 2
    unit = 10.0 ** max(0, math.floor(math.log10(value)))
    return next(step * unit for step in (2, 4, 6, 8, 10, 20) if step * unit >= value)


def _short(value: float) -> str:
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}\N{NO-BREAK SPACE}{suffix}"
    return f"{value:g}"
