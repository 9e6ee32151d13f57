import random

import polars as pl
import pytest

from llumi.contacts import AllowList
from llumi.corpus.scrub import HELD_OUT, KINDS, Scrubber, read_annotated, recall
from llumi.safety import Resources

RESOURCES = Resources.load()
SCRUBBER = Scrubber(AllowList.of(RESOURCES.numbers, RESOURCES.domains))


def test_the_held_out_texts_are_found_and_little_else() -> None:
    detections = recall(SCRUBBER)
    assert detections["all"].num_spans >= 120
    assert detections["all"].recall >= 0.95
    assert detections["all"].precision >= 0.95
    assert all(detections[kind].num_spans >= 15 for kind in KINDS)


def test_the_held_out_texts_have_enough_distractors() -> None:
    assert sum(not spans for _, spans in read_annotated(HELD_OUT)) >= 60


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Ask u/quiet_maple or @sunny.", "Ask [user] or [user]."),
        ("Mail a.b@example.org, please.", "Mail [email], please."),
        ("Call (202) 555-0143 or 988.", "Call [phone] or 988."),
        ("See https://example.org/a?b=c. It helps.", "See [link]. It helps."),
        ("Be well,\nAnna Harper, LMFT", "Be well,\n[name]"),
        ("Be well.Anna B. Harper, DBH, LPCC, NCC", "Be well.[name]"),
        ("It was so.At last I slept.", "It was so.At last I slept."),
        ("Nothing to see.", "Nothing to see."),
    ],
)
def test_a_finding_becomes_its_kind(text: str, clean: str) -> None:
    assert SCRUBBER.scrub(text)[0] == clean


@pytest.mark.parametrize(
    "text",
    [
        "Lifeline: 1-800-273-8255, 1 (800) 273 8255 or 800.273.8255.",
        "0800 111 0 111, 08001110111 or +49 800 111 0 111",
        "Call 116 123, 116123, 13 11 14 or 988.",
        "https://www.samaritans.org/how-we-can-help and chat.988lifeline.org/x",
    ],
)
def test_crisis_lines_stay_in_any_spacing(text: str) -> None:
    assert SCRUBBER.scrub(text) == (text, {})


def test_only_allowed_lines_stay() -> None:
    assert Scrubber(AllowList()).scrub("1-800-273-8255, samaritans.org")[0] == "[phone], [link]"
    assert SCRUBBER.scrub("https://samaritans.org.example.com")[0] == "[link]"


def test_counts_are_by_kind() -> None:
    assert SCRUBBER.scrub("u/one_one, u/two_two and a@example.org")[1] == {"user": 2, "email": 1}


def test_a_column_is_scrubbed_as_its_texts_are() -> None:
    chooser = random.Random(17)
    texts = [text for text, _ in read_annotated(HELD_OUT)]
    texts += [" ".join(chooser.choices(texts, k=3)) for _ in range(200)]
    column = pl.Series("reply", [*texts, None])
    before = column.to_list()
    clean, counts = SCRUBBER.scrub_column(column)
    single = [SCRUBBER.scrub(text) for text in texts]
    assert clean.to_list() == [text for text, _ in single] + [None]
    assert counts == {kind: sum(found[kind] for _, found in single) for kind in KINDS}
    assert clean.name == "reply"
    assert column.to_list() == before


def test_a_column_without_findings_is_left_alone() -> None:
    clean, counts = SCRUBBER.scrub_column(pl.Series(["Rest well.", None]))
    assert clean.to_list() == ["Rest well.", None]
    assert not counts
