"""The data card of a pair set: one HTML file on what it holds, where it comes from, what was left out and why.

It needs no network and no script. It holds figures alone, unless random pairs are asked for with their text.
"""

import hashlib
import heapq
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llumi.errors import ConfigError
from llumi.pairs.charts import column_chart, share_bar, step_chart
from llumi.storage import Manifest, Storage, store_errors

NUM_SAMPLES = 20
SAMPLED_FOLDER = "gm-dpo/train"
MAX_SCORE_CHARTS = 6
"""Communities with a chart of their own, the largest first; the table has them all."""

_FOLDERS = {
    "gm-sft": "GM, post to endorsed reply",
    "gm-dpo": "GM, chosen over rejected reply",
    "im-sft": "IM, draft to revision",
    "im-dpo": "IM, revision over draft",
    "held-out": "posts that no model learns from",
    "drafts": "drafts for a teacher to revise",
    "people": "who wrote a draft or preferred a text",
}
_RECORDS = {
    "posts": "Posts",
    "comments": "Comments",
    "replies": "Replies",
    "candidate_pairs": "Candidate pairs",
    "drafts": "Drafts",
    "rows": "Rows of the file",
}

Tree = Mapping[str, Any]


def write_card(storage: Storage, name: str, out: Path, show_text: bool = False) -> None:
    """Write the card of `pairs/<name>` to a file; with `show_text` twenty pairs stand in it, and it is for this user alone.

    Raises ArtifactError where the pairs do not stand, ConfigError where the file cannot be written.
    """
    manifest = storage.manifest(f"pairs/{name}")
    html = card_html(manifest, random_pairs(storage, manifest) if show_text else None)
    try:
        if show_text:
            out.unlink(missing_ok=True)
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if show_text else 0o666)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(html)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: cannot be written ({error.strerror}); name a file in a folder of this user's"
        ) from None


def random_pairs(storage: Storage, manifest: Manifest, num_pairs: int = NUM_SAMPLES, seed: int = 17) -> pa.Table:
    """Rows of DPO_SCHEMA from GM's training pairs: those whose ids have the smallest hashes, the same in every call."""

    def read(path: str, columns: list[str] | None = None) -> pa.Table:
        with store_errors(storage.uri):
            return pq.read_table(storage.path(manifest.reference, path), filesystem=storage.filesystem, columns=columns)

    def rank(pair_id: str) -> str:
        return hashlib.sha256(f"{seed}:{pair_id}".encode()).hexdigest()

    paths = manifest.files_under(SAMPLED_FOLDER)
    ids = {path: read(path, ["pair_id"])["pair_id"].to_pylist() for path in paths}
    chosen = set(heapq.nsmallest(num_pairs, (pair_id for found in ids.values() for pair_id in found), key=rank))
    value_set = pa.array(sorted(chosen), pa.string())
    parts = [
        table.filter(pc.is_in(table["pair_id"], value_set)) for table in map(read, (p for p in paths if chosen & set(ids[p])))
    ]
    if not parts:
        return pa.table({})
    rows = pa.concat_tables(parts)
    return rows.take(pc.sort_indices(pa.array([rank(pair_id) for pair_id in rows["pair_id"].to_pylist()])))


def card_html(manifest: Manifest, samples: pa.Table | None = None) -> str:
    """The whole page from a manifest of pairs; what its counts and metrics do not tell has no section.

    `samples` are rows of DPO_SCHEMA that are shown with their text. The same arguments give the same bytes.
    """
    template = Template(files("llumi.pairs").joinpath("card.html").read_text(encoding="utf-8"))
    counts, metrics = manifest.counts, manifest.metrics
    sections = [
        _contents(counts),
        _communities(counts.get("communities", {})),
        _months(counts.get("months", {})),
        _scores(metrics.get("scores", {})),
        _yields(counts.get("communities", {})),
        _lengths(metrics.get("lengths", {})),
        _dropped(counts),
        _plain_counts("scrubbed", "What was scrubbed", "Found in the text and replaced by a placeholder.", counts, "Kind"),
        _plain_counts(
            "vetoed",
            "What safety refused",
            "Replies that may not be chosen, by the first rule that refuses each.",
            counts,
            "Rule",
        ),
        _splits(counts.get("splits", {})),
        _samples(samples),
    ]
    return template.substitute(
        name=escape(manifest.name),
        facts=_facts(manifest),
        warning=_TEXT_WARNING if samples is not None else "",
        sections="\n".join(section for section in sections if section),
        footer=_footer(manifest, with_text=samples is not None),
    )


_TEXT_WARNING = (
    "<p class='warning'><strong>This copy shows text of people in distress.</strong> Treat it as you treat the dump, do not "
    "mail it, and take your time when you read it. Posts stay folded until you open them.</p>"
)


def _facts(manifest: Manifest) -> str:
    examples = manifest.counts.get("examples", {})
    months = sorted(manifest.counts.get("months", {}))
    facts = {
        "Preference pairs": _sum_under(examples, "gm-dpo"),
        "Examples": _sum_under(examples, "gm-sft"),
        "Held-out posts": _sum_under(examples, "held-out"),
        "Communities": _number(len(manifest.counts["communities"])) if "communities" in manifest.counts else "",
        "Months": f"{months[0]} to {months[-1]}" if months else "",
        "Preset": "" if "rows" in manifest.counts else str(manifest.config.get("pairs", {}).get("preset", "")),
        "Built": manifest.created_at[:10],
    }
    return "".join(f"<div><dt>{label}</dt><dd>{escape(fact)}</dd></div>" for label, fact in facts.items() if fact)


def _sum_under(examples: Mapping[str, int], name: str) -> str:
    found = [num for folder, num in examples.items() if folder.split("/")[0] == name]
    return _number(sum(found)) if found else ""


def _contents(counts: Tree) -> str:
    examples = counts.get("examples", {})
    if not examples:
        return ""
    rows = [(folder, _FOLDERS.get(folder.split("/")[0], ""), _number(num)) for folder, num in examples.items()]
    body = _table("Rows in each folder of the artifact.", ("Folder", "What it holds", "Rows"), rows)
    forgotten = counts.get("forgotten")
    if forgotten:
        num_rows, day = _number(sum(forgotten["rows"].values())), escape(str(forgotten["at"])[:10])
        body += (
            f"<p class='note'><strong>{num_rows} rows were taken out</strong> at the wish of a person, last on {day}. The "
            "table counts what is left; the other figures on this page are those of the build.</p>"
        )
    return _section("contents", "What it holds", "", body)


def _communities(communities: Tree) -> str:
    if not communities:
        return ""
    by_pairs = sorted(communities.items(), key=lambda entry: (-entry[1].get("pairs", 0), entry[0]))
    most = max(entry.get("pairs", 0) for entry in communities.values())
    columns = [key for key in ("posts", "comments", "replies", "candidates", "pairs") if any(key in c for _, c in by_pairs)]
    rows = [
        (escape(name), *(_number(entry.get(key, 0)) for key in columns), share_bar(_share(entry.get("pairs", 0), most)))
        for name, entry in by_pairs
    ]
    heads = ("Community", *(key.capitalize() for key in columns), "Pairs as a bar")
    caption = "Records that were kept, candidates, and pairs that came of them; the most pairs first."
    lead = "A model learns the manners of the communities that give the most pairs."
    return _section("communities", "Communities", lead, _table(caption, heads, rows, is_html=True))


def _months(months: Tree) -> str:
    if not months:
        return ""
    ordered = dict(sorted(months.items()))
    early = [month for month, entry in ordered.items() if entry.get("early")]
    totals = [entry["comments"] for entry in ordered.values()]
    busiest = max(ordered, key=lambda month: ordered[month]["comments"])
    description = (
        f"{len(ordered)} months, {_number(sum(totals))} comments; the most in {busiest} ({_number(max(totals))}). "
        f"Early months: {', '.join(early) or 'none'}. The table below holds the same figures."
    )
    chart = column_chart(
        "months",
        "Comments by month",
        description,
        list(ordered),
        totals,
        parts=[entry.get("score_one", 0) for entry in ordered.values()],
        hollow=[bool(entry.get("early")) for entry in ordered.values()],
    )
    key = "Hatched: comments with a score of exactly 1. Only outlined: an early month, captured before people had voted."
    rows = [
        (
            month,
            _number(entry["comments"]),
            _percent(entry.get("score_one", 0), entry["comments"]),
            "early" if entry.get("early") else "",
        )
        for month, entry in ordered.items()
    ]
    table = _table("Comments by month.", ("Month", "Comments", "Score 1", "Note"), rows)
    body = _chart(chart, key) + _folded(f"The {len(rows)} months as a table", table)
    return _section("months", "Months", "Votes need time: a month in which nearly every score is 1 says little.", body)


def _scores(scores: Tree) -> str:
    if not scores:
        return ""
    buckets = sorted({bucket for counted in scores.values() for bucket in counted}, key=_lowest_score)
    pooled = Counter[str]()
    for counted in scores.values():
        pooled.update(counted)
    largest = sorted(scores, key=lambda name: (-sum(scores[name].values()), name))
    shown: list[tuple[str, Tree]] = [("all communities", pooled)] if len(scores) > 1 else []
    shown += [(name, scores[name]) for name in largest[:MAX_SCORE_CHARTS]]
    charts = "".join(_score_chart(index, name, buckets, counted) for index, (name, counted) in enumerate(shown))
    rows = [(name, *(_number(scores[name].get(bucket, 0)) for bucket in buckets)) for name in largest]
    table = _folded(f"All {len(rows)} communities as a table", _table("Replies by score.", ("Community", *buckets), rows))
    lead = "How the votes on replies are spread. Communities differ, and so does what a score of ten means."
    return _section("scores", "Scores", lead, f"<div class='charts'>{charts}</div>{table}")


def _lowest_score(bucket: str) -> int:
    """Where a bucket begins: "below 0" before "0", "5-9" and "100+" at their first number."""
    return -1 if bucket.startswith("below") else int(re.split(r"\D", bucket, maxsplit=1)[0])


def _score_chart(index: int, name: str, buckets: Sequence[str], counted: Tree) -> str:
    values = [counted.get(bucket, 0) for bucket in buckets]
    said = "; ".join(f"score {bucket}: {_number(value)}" for bucket, value in zip(buckets, values, strict=True))
    return _chart(column_chart(f"scores-{index}", f"Replies by score, {name}", said, buckets, values), "", caption=name)


def _yields(communities: Tree) -> str:
    by_name = {name: entry["yields"] for name, entry in communities.items() if entry.get("yields")}
    if not by_name:
        return ""
    rules = _in_one_order(by_name.values())
    by_name = {name: _at_every_rule(left, rules, communities[name]["candidates"]) for name, left in by_name.items()}
    pooled = {rule: sum(left[rule] for left in by_name.values()) for rule in rules}
    start = sum(communities[name]["candidates"] for name in by_name)
    steps = [("candidates", start), *pooled.items()]
    rows = [(_spoken(rule), _number(left), _percent(left, start), share_bar(_share(left, start))) for rule, left in steps]
    funnel = _table(
        "Candidate pairs left after each rule, in the order of the rules, all communities together.",
        ("After the rule", "Left", "Of candidates", "As a bar"),
        rows,
        is_html=True,
    )
    each = [
        (name, _number(communities[name]["candidates"]), *(_number(left[rule]) for rule in rules))
        for name, left in sorted(by_name.items())
    ]
    table = _table("Candidate pairs left after each rule.", ("Community", "Candidates", *map(_plain, rules)), each)
    lead = "A candidate is a pair of replies to one post that differ in score. Each rule takes some away."
    return _section("yields", "What each rule leaves", lead, funnel + _folded("The same for each community", table))


def _in_one_order(yields: Iterable[Mapping[str, int]]) -> list[str]:
    """All rules; one that only some communities name comes after the rule that they name before it."""
    rules: list[str] = []
    for left in yields:
        place = 0
        for rule in left:
            if rule not in rules:
                rules.insert(place, rule)
            place = rules.index(rule) + 1
    return rules


def _at_every_rule(left: Mapping[str, int], rules: Sequence[str], candidates: int) -> dict[str, int]:
    """A rule that a community does not name has taken nothing from it."""
    filled = {}
    for rule in rules:
        candidates = left.get(rule, candidates)
        filled[rule] = candidates
    return filled


def _lengths(lengths: Tree) -> str:
    if not lengths:
        return ""
    edges, chosen, rejected = lengths["edges"], lengths["chosen"], lengths["rejected"]
    shares = {
        "of the pairs have the longer reply as the chosen one": lengths.get("share_longer_chosen"),
        "by the weight of the pairs": lengths.get("weighted_share_longer_chosen"),
    }
    said = "; ".join(f"{_percent(share, 1)} {what}" for what, share in shares.items() if share is not None)
    classes = [*(f"{low:,} to {high - 1:,}" for low, high in pairwise(edges)), f"{edges[-1]:,} and more"]
    chart = step_chart(
        "lengths",
        "Characters of chosen and rejected replies",
        f"{said}. The table holds the figures.",
        [f"{edge:,}" for edge in edges],
        first=chosen,
        second=rejected,
    )
    rows = [(name, _number(one), _number(other)) for name, one, other in zip(classes, chosen, rejected, strict=True)]
    body = (
        (f"<p><strong>{said}.</strong></p>" if said else "")
        + _chart(
            chart,
            "Full line over the shaded area: chosen. Dashed line: rejected. Characters from the left; the last class is open.",
        )
        + _table("Replies by their number of characters.", ("Characters", "Chosen", "Rejected"), rows)
    )
    lead = "Far from one half, a model can win by length alone: see <code>pairs.length_balance</code>."
    return _section("lengths", "Lengths, chosen against rejected", lead, body)


def _dropped(counts: Tree) -> str:
    tables = []
    for key, label in _RECORDS.items():
        entry = counts.get(key)
        if not entry or "dropped" not in entry:
            continue
        total = entry["kept"] + sum(entry["dropped"].values())
        steps = [("kept", entry["kept"]), *sorted(entry["dropped"].items(), key=lambda item: (-item[1], item[0]))]
        rows = [(_spoken(reason), _number(num), _percent(num, total), share_bar(_share(num, total))) for reason, num in steps]
        heads = (label, "Number", f"Of {_number(total)}", "As a bar")
        tables.append(_table(f"{label}: kept, and dropped by the first reason that holds.", heads, rows, is_html=True))
    if not tables:
        return ""
    return _section(
        "dropped", "What was dropped, and why", "Every record is kept, or counted under one reason.", "".join(tables)
    )


def _plain_counts(key: str, title: str, lead: str, counts: Tree, head: str) -> str:
    """A section for a mapping of names to numbers; an empty one says so, a missing one says nothing."""
    if key not in counts:
        return ""
    counted = sorted(counts[key].items(), key=lambda entry: (-entry[1], entry[0]))
    if not counted:
        return _section(key, title, lead, "<p>Nothing was found.</p>")
    rows = [(_spoken(name), _number(num), share_bar(_share(num, counted[0][1]))) for name, num in counted]
    return _section(key, title, lead, _table("The most frequent first.", (head, "Number", "As a bar"), rows, is_html=True))


def _splits(splits: Tree) -> str:
    if not splits:
        return ""
    sides = {name: splits[name] for name in ("train", "test") if name in splits}
    columns = list(dict.fromkeys(key for side in sides.values() for key in side))
    rows = [(name, *(_number(side.get(key, 0)) for key in columns)) for name, side in sides.items()]
    body = _table("What is on which side.", ("Split", *(_plain(key).capitalize() for key in columns)), rows)
    if "by" in splits:
        body += f"<p>Split by {escape(str(splits['by']))}.</p>"
    if splits.get("leaks_removed"):
        removed = ", ".join(f"{_plain(name)} {_number(num)}" for name, num in splits["leaks_removed"].items())
        body += f"<p>Candidates that went, since their text or their author is on the other side, too: {escape(removed)}.</p>"
    if "leaks" in splits:
        leaks = {name: num for name, num in splits["leaks"].items() if num}
        body += _leaks_found(leaks) if leaks else _no_leak(splits["leaks"])
    return _section("splits", "Splits", "What a model is tested on may not be what it learned from.", body)


def _leaks_found(leaks: Mapping[str, int]) -> str:
    found = ", ".join(f"{_plain(name)} {_number(num)}" for name, num in leaks.items())
    return (
        f"<p class='warning'><strong>On both sides:</strong> {escape(found)}. Figures on the test posts are not to be trusted; "
        "build the pairs again.</p>"
    )


def _no_leak(checked: Iterable[str]) -> str:
    names = escape(", ".join(map(_plain, checked)))
    return f"<p class='note'><strong>No leak found.</strong> On both sides at once: no {names}.</p>"


def _samples(samples: pa.Table | None) -> str:
    if samples is None:
        return ""
    articles = "".join(_sample(number, row) for number, row in enumerate(samples.to_pylist(), start=1))
    lead = f"Drawn at random from {SAMPLED_FOLDER}; the same ones each time."
    return _section("samples", "Some pairs, as they are", lead, articles or f"<p>{SAMPLED_FOLDER} holds none.</p>")


def _sample(number: int, row: Mapping[str, Any]) -> str:
    prompt = row["prompt"][-1]["content"]
    post = prompt.partition("\n\nPost:\n")[2] or prompt
    community = row["community"] or "no community named"
    facts = f"{community}, risk of the post: {row['risk'] or 'not known'}, weight {row['weight'] or 0:.2f}"
    replies = "".join(_reply(side, row[f"{side}_score"], row[side][-1]["content"]) for side in ("chosen", "rejected"))
    return (
        f"<article class='sample'><h3>Pair {number}</h3><p class='quiet'>{escape(facts)}</p>"
        f"<details><summary>The post</summary><p>{escape(post)}</p></details><div class='replies'>{replies}</div></article>"
    )


def _reply(side: str, score: int | None, text: str) -> str:
    by_votes = "" if score is None else f", score {score}"
    return f"<div class='{side}'><h4>{side.capitalize()}{by_votes}</h4><p>{escape(text)}</p></div>"


def _footer(manifest: Manifest, with_text: bool) -> str:
    held = "It holds the text of the pairs above." if with_text else "It holds figures alone, and no text of a post or a reply."
    made = f"pairs/{manifest.name}, made by LLUMI {manifest.llumi_version}, hash {manifest.as_input().sha256[:16]}"
    return f"{escape(made)}. This page loads nothing from anywhere. {held}"


def _section(ident: str, title: str, lead: str, body: str) -> str:
    intro = f"<p class='lead'>{lead}</p>" if lead else ""
    return (
        f"<section id='{ident}' aria-labelledby='{ident}-heading'><h2 id='{ident}-heading'>{title}</h2>{intro}{body}</section>"
    )


def _chart(svg: str, key: str, caption: str = "") -> str:
    head = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    foot = f"<p class='key'>{key}</p>" if key else ""
    return f"<figure>{head}{svg}{foot}</figure>"


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], is_html: bool = False) -> str:
    """A table in a frame that scrolls sideways, by keyboard too; cells are text unless `is_html`."""
    head = "".join(f"<th scope='col'>{escape(label)}</th>" for label in heads)
    body = "".join(_row(row if is_html else [escape(cell) for cell in row]) for row in rows)
    said = escape(caption)
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{said}'><table><caption>{said}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[str]) -> str:
    return f"<tr><th scope='row'>{cells[0]}</th>{''.join(f'<td>{cell}</td>' for cell in cells[1:])}</tr>"


def _plain(name: str) -> str:
    """A rule or a reason as a reader says it."""
    return name.replace("_", " ")


def _spoken(name: str) -> str:
    return escape(_plain(name))


def _number(value: float) -> str:
    return f"{value:,}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _percent(part: float, whole: float) -> str:
    return f"{100 * _share(part, whole):.1f}\N{NO-BREAK SPACE}%"
