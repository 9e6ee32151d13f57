import pytest

from llumi.contacts import AllowList
from llumi.safety import Resources
from llumi.safety.contacts import contacts

RESOURCES = Resources.load()
ALLOWED = AllowList.of(RESOURCES.numbers, RESOURCES.domains)


def unknown(text: str) -> list[str]:
    return [contact.written for contact in contacts(text) if not contact.allowed_by(ALLOWED)]


@pytest.mark.parametrize(
    "text",
    [
        "Call 988, or text HOME to 741741.",
        "Call +1 (800) 273-8255 or 1-800-273-8255.",
        "Ring 116 123, 13 11 14 or 0800 111 0 111.",
        "Dial nine eight eight.",
        "See findahelpline.com, or https://www.samaritans.org/how?x=1.",
        "It was 12/05/2019, in the years 2019 2020 2021.",
        "I hear you.It was hard, tell me.",
        "Breathe in for 4 seconds and out for 6, ten times.",
    ],
)
def test_known_lines_and_plain_figures_are_let_be(text: str):
    assert unknown(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Call 1-800-555-0199.",
        "Call \uff11-800-555-0199.",
        "Call 1-800\u200b-555-0199.",
        "Dial 119.",
        "Our number is 030 1234567.",
        "Call five five five zero one nine nine.",
        "See lines.example.com.",
        "See helpful-lines dot com.",
        "See hope.help now.",
        "Write to me@example.org.",
        "See 988lifeline.org.example.com.",
        "See example.com/@988lifeline.org.",
        "See https://988lifeline.org@example.com.",
        "See https://example.com/988lifeline.org.",
    ],
)
def test_others_are_found(text: str):
    assert len(unknown(text)) >= 1


def test_one_number_has_one_key_however_it_is_written():
    keys = {contact.key for text in ("Call 116 123.", "Call 116-123.", "ring 116123") for contact in contacts(text)}
    assert keys == {"116123"}
