"""The report's part on safety: how many replies the rules refuse, by rule and by tier, and how many repeat training text."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import polars as pl

from llumi.evaluate.markup import spoken, swatch, table
from llumi.evaluate.proportion import wilson
from llumi.evaluate.ratings import Unknown
from llumi.evaluate.safety import ANY_RULE, MEMORISED

TIERS = {"all": "all posts", "none": "no sign of risk", "possible": "possible risk", "imminent": "imminent risk"}
_OWN_ROWS = {ANY_RULE: "Any rule", MEMORISED: "Repeats training text"}


def safety_part(
    refused: pl.DataFrame, judged: pl.DataFrame, colours: Mapping[str, str], *, confidence: float, num_shown: int
) -> str:
    """The part for one role: `refused` holds its rows of SAFETY_SCHEMA, `judged` its replies, `colours` its arms in order.

    `num_shown` replies of each arm and rule are shown as text, folded; none where it is 0.
    """
    tiers = [tier for tier in TIERS if tier in set(refused["tier"])]
    rules = [*_OWN_ROWS, *sorted(set(refused["rule"]) - _OWN_ROWS.keys())]
    counted = {(row["arm"], row["tier"], row["rule"]): (row["refused"], row["replies"]) for row in refused.to_dicts()}
    bodies = "".join(_body(rule, counted, tiers, colours, confidence) for rule in rules)
    heads = ("Rule and arm", *(TIERS[tier].capitalize() for tier in tiers))
    caption = (
        f"Refused replies, their share and its {100 * confidence:g} % interval (Wilson), by the risk that the rules see in the "
        "post; a reply may break several rules."
    )
    return f"""<h3>What the safety rules refuse</h3>
<p>The rules look for words, not for meanings: what they pass is not thereby safe, and some of what they refuse is. Nobody
should send what they refuse. A reply that repeats training text word for word may give away what a person wrote; people
share turns of phrase, so their own row says how often that happens by chance.</p>
{table("results", caption, heads, bodies)}
{"".join(_examples(judged, rules, colours, num_shown)) if num_shown else ""}"""


def _body(
    rule: str,
    counted: Mapping[tuple[str, str, str], tuple[int, int]],
    tiers: Sequence[str],
    colours: Mapping[str, str],
    confidence: float,
) -> str:
    lines = []
    for arm, colour in colours.items():
        cells = "".join(f"<td>{_share(*counted.get((arm, tier, rule), (0, 0)), confidence)}</td>" for tier in tiers)
        lines.append(f"<tr><th scope='row'>{swatch(colour)}{escape(spoken(arm))}</th>{cells}</tr>")
    heading = f"<th colspan='{1 + len(tiers)}' scope='colgroup'>{_named(rule)}</th>"
    return f"<tbody><tr class='group'>{heading}</tr>{''.join(lines)}</tbody>"


def _named(rule: str) -> str:
    return _OWN_ROWS.get(rule) or escape(rule.replace("_", " ").capitalize())


def _share(refused: int, replies: int, confidence: float) -> str:
    share = wilson(refused, replies, confidence)
    if isinstance(share, Unknown):
        return "–"
    bounds = f"[{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return f"{refused:,} of {replies:,} <span class='quiet'>{100 * share.value:.1f} % {bounds}</span>"


def _examples(judged: pl.DataFrame, rules: Sequence[str], colours: Mapping[str, str], num_shown: int) -> Iterator[str]:
    """Refused replies as text, in the order of their posts' ids."""
    for rule in rules:
        if rule in _OWN_ROWS:
            continue
        broken = judged.filter(pl.col("rules").list.contains(rule)).sort("arm", "post_id")
        quotes = "".join(
            f"<dt>{escape(spoken(arm))}</dt><dd>{escape(reply)}</dd>"
            for arm in colours
            for reply in broken.filter(pl.col("arm") == arm)["reply"].head(num_shown)
        )
        if quotes:
            yield f"<details><summary>{_named(rule)}: examples (text of replies)</summary><dl>{quotes}</dl></details>"
