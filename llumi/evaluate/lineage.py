"""The lineage of an evaluation as a picture: what was made of what, from left to right."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from llumi.lineage import Ancestor

WIDTH, HEIGHT, GAP, STEP = 150, 40, 14, 62
"""Of a box, between boxes of a column, and between columns, in units of the drawing."""

_SAID = {"replaced": "replaced since", "gone": "gone since", "outside": "", "stands": ""}


def lineage_figure(name: str, made_of: Sequence[str], ancestors: Mapping[str, Ancestor]) -> str:
    """A figure of the report: `name`, which was made of `made_of`, with all that those go back to (see `lineage.trace`)."""
    every = {**ancestors, name: Ancestor(name, "stands", tuple(made_of))}
    column: dict[str, int] = {}
    for each in every.values():
        column[each.name] = 1 + max((column[given] for given in each.inputs), default=-1)
    for each in reversed(every.values()):  # a source stands right before the first thing that was made of it
        uses = [column[other.name] for other in every.values() if each.name in other.inputs]
        if not each.inputs and uses:
            column[each.name] = min(uses) - 1
    place: dict[str, tuple[int, int]] = {}
    for number, names in groupby(sorted(every, key=column.__getitem__), key=column.__getitem__):
        for row, in_column in enumerate(names):
            place[in_column] = (number * (WIDTH + STEP), row * (HEIGHT + GAP))
    lines = [_line(place[given], place[each.name]) for each in every.values() for given in each.inputs]
    boxes = [_box(each, *place[each.name]) for each in every.values()]
    width = max(x for x, _ in place.values()) + WIDTH
    height = max(y for _, y in place.values()) + HEIGHT
    told = "; ".join(_sentence(each) for each in every.values())
    return (
        "<figure class='lineage'><figcaption>What was made of what</figcaption><div class='scroll' tabindex='0' role='region' "
        f"aria-label='Lineage'><svg viewBox='-1 -1 {width + 2} {height + 2}' style='min-width: {width * 0.7:.0f}px' role='img' "
        f"aria-labelledby='lineage-title lineage-desc'><title id='lineage-title'>Lineage of {escape(name)}</title>"
        f"<desc id='lineage-desc'>{escape(told)}.</desc>{''.join(lines)}{''.join(boxes)}</svg></div></figure>"
    )


def _sentence(each: Ancestor) -> str:
    said = f" ({_SAID[each.state]})" if _SAID[each.state] else ""
    return f"{each.name}{said} from {', '.join(each.inputs)}" if each.inputs else f"{each.name}{said}"


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    x, y, to_x, to_y = start[0] + WIDTH, start[1] + HEIGHT / 2, end[0], end[1] + HEIGHT / 2
    middle = (x + to_x) / 2
    return (
        f"<path d='M{x} {y:g} C{middle:g} {y:g} {middle:g} {to_y:g} {to_x} {to_y:g}' fill='none' stroke='var(--muted)' "
        "stroke-width='1' opacity='.55'/>"
    )


def _box(each: Ancestor, x: int, y: int) -> str:
    kind, _, name = each.name.rpartition("/") if each.state != "outside" else ("", "", each.name)
    said = _SAID[each.state] or kind or "from outside"
    dashes = "" if each.state == "stands" else " stroke-dasharray='4 3'"
    return (
        f"<g><title>{escape(each.name)}</title><rect x='{x}' y='{y}' width='{WIDTH}' height='{HEIGHT}' rx='7' "
        f"fill='var(--card)' stroke='var(--ink)' stroke-opacity='.5'{dashes}/>"
        f"<text x='{x + 10}' y='{y + 16}' font-size='10' fill='var(--muted)'>{escape(said)}</text>"
        f"<text x='{x + 10}' y='{y + 31}' font-size='12' font-weight='600' fill='var(--ink)'>{escape(_short(name))}</text></g>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"…{name[-19:]}"
