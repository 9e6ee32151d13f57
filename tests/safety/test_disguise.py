import pytest

from llumi.config import SafetyConfig
from llumi.safety.disguise import undisguised
from llumi.safety.standard import Standard

STANDARD = Standard.load(SafetyConfig(likeness=False))


@pytest.mark.parametrize(
    "written",
    [
        "k1ll yourself",
        "kill your\u200bself",
        "\uff4b\uff49\uff4c\uff4c yourself",
        "\u043aill y\u043eurself",
        "kiiiill yourself",
        "k.i.l.l yourself",
        "\U0001d4f4\U0001d4f2\U0001d4f5\U0001d4f5 yourself",
        "k\u00edll yourself",
    ],
)
def test_a_reader_sees_through_it_and_so_do_the_rules(written: str):
    assert undisguised(written) == "kill yourself"
    assert "encouragement" in STANDARD.refusals(f"You should {written}.")


def test_a_post_is_read_as_it_looks_too():
    assert STANDARD.tier("i want to d1e") == "possible"
    assert STANDARD.tier("s u i c i d e is all i think of") == "possible"


@pytest.mark.parametrize(
    "plain",
    ["Call 988, or text HOME to 741741.", "It's \u201cfine\u201d \u2014 really\u2026", "a.b@example.com, $5 \U0001f600"],
)
def test_what_is_not_disguised_stays_as_it_is(plain: str):
    assert undisguised(plain) == plain
