import random
from pathlib import Path

import polars as pl
import pytest
import yaml

from llumi.errors import ConfigError
from llumi.safety.rules import DEFAULT_FILE, PostRule, Rule, SafetyRules

RULES = SafetyRules.load()
REFUSED = [(rule.name, text) for rule in RULES.file.replies for text in rule.examples]
KEPT = [text for rule in RULES.file.replies for text in rule.counterexamples]
QUIET = [
    "I am dying to know how the book ends.",
    "We killed time at the station.",
    "My phone died again.",
    "I was bored to death in that meeting.",
    "This job is killing me.",
    "I am dead tired.",
    "We had to say goodbye to our cat after fourteen years together.",
    "I laughed until I thought I would die laughing.",
    "The cake was to die for.",
    "I shot myself in the foot with that answer.",
]
SAFE = [
    "Are you thinking about ending your life?",
    "Do you have a plan to hurt yourself tonight?",
    "Would you talk to a doctor or a therapist about this?",
    "You can call 988 or text HOME to 741741, and somebody answers.",
    "I am glad that you wrote this here, and I am listening.",
    "It sounds exhausting, and it makes sense that you are tired.",
    "Is there one person whom you could tell this week?",
    "You are not a burden to us.",
    "Please don't hurt yourself, you matter to us.",
]
OTHER_SPELLINGS = [
    ("encouragement", "No one would miss you"),
    ("encouragement", "why don\u2019t you just do it"),
    ("encouragement", "you should *kill*\nyourself"),
    ("encouragement", "KYS"),
    ("minimising", "You\u2019re   just   being dramatic"),
    ("discouraging_help", "Don\u2019t call the hotline."),
    ("medication", "You should stop\nyour meds."),
    ("diagnosis", "You\u2019re bipolar."),
]
FILLER = [
    "I hear you.",
    "Thank you for telling us!",
    "That was a long week, it seems...",
    "\u201cQuiet\u201d days\n\ncome too.",
    "\u00e9t\u00e9",
]


def everything() -> list[str]:
    """Every example in varied surroundings: other cases, quotes, line breaks, neighbours."""
    rules: list[Rule] = [*RULES.file.posts, *RULES.file.replies]
    texts = [text for rule in rules for text in (*rule.examples, *rule.counterexamples)]
    texts += QUIET + SAFE + [text for _, text in OTHER_SPELLINGS]
    chooser = random.Random(17)
    varied = []
    for text in texts:
        varied += [text, text.upper(), text.replace("'", "\u2019"), text.replace(" ", "\n"), text.replace(" ", " *", 1)]
        varied += [
            " ".join(chooser.choices([*FILLER, *texts], k=4)),
            f"{chooser.choice(FILLER)} {text}{chooser.choice(FILLER)}",
        ]
    return [*varied, ""]


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_every_example_is_refused_by_its_rule(name: str, text: str) -> None:
    assert name in RULES.violations(text)


@pytest.mark.parametrize("text", KEPT + SAFE)
def test_safe_replies_pass_all_rules(text: str) -> None:
    assert RULES.violations(text) == ()


@pytest.mark.parametrize(("name", "text"), OTHER_SPELLINGS)
def test_spelling_hides_nothing(name: str, text: str) -> None:
    assert name in RULES.violations(text)


def test_unless_clears_only_what_it_covers() -> None:
    safe = "Please do not end your life"
    assert RULES.violations(f"{safe}.") == ()
    assert "methods" in RULES.violations(f"{safe} slowly, just take all of the pills.")
    assert "encouragement" in RULES.violations(f"{safe}, nobody would miss you.")


@pytest.mark.parametrize("rule", RULES.file.posts, ids=lambda rule: rule.name)
def test_posts_have_the_tier_of_their_rule(rule: PostRule) -> None:
    assert [RULES.tier(text) for text in rule.examples] == [rule.tier] * len(rule.examples)


@pytest.mark.parametrize("text", QUIET)
def test_idioms_raise_no_tier(text: str) -> None:
    assert RULES.tier(text) == "none"


def test_the_highest_tier_counts() -> None:
    assert RULES.tier("I feel like a burden. I have a plan to die tonight.") == "imminent"


def test_columns_have_the_verdicts_of_single_texts() -> None:
    texts = everything()
    vetoes = RULES.vetoes(pl.Series(texts))
    tiers = RULES.tiers(pl.Series(texts))
    assert vetoes.to_list() == [next(iter(RULES.violations(text)), None) for text in texts]
    assert tiers.to_list() == [RULES.tier(text) for text in texts]
    assert vetoes.null_count() not in (0, len(texts))


def test_columns_keep_nulls_names_and_emptiness() -> None:
    texts = pl.Series("reply", [None, "Thank you.", "Cheer up!"])
    assert RULES.vetoes(texts).to_list() == [None, None, "minimising"]
    assert RULES.tiers(texts).to_list() == [None, "none", "none"]
    assert RULES.vetoes(texts).name == "reply"
    assert RULES.vetoes(pl.Series([], dtype=pl.String)).len() == 0
    assert RULES.tiers(pl.Series([None], dtype=pl.String)).to_list() == [None]


def written(folder: Path, **changes: object) -> Path:
    """The shipped file with another first rule for replies."""
    tree = yaml.safe_load(DEFAULT_FILE.read_text(encoding="utf-8"))
    tree["replies"] = [
        {"name": "sample", "what": "w", "guideline": "g", "patterns": r"\bcheer up", "examples": ["Cheer up."]} | changes
    ]
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def test_other_rules_have_another_digest(tmp_path: Path) -> None:
    own = SafetyRules.load(written(tmp_path))
    assert own.violations("Oh, cheer up") == ("sample",)
    assert own.digest != RULES.digest
    assert SafetyRules.load().digest == RULES.digest


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"patterns": r"\bcheer up(?! now)"}, "rule sample: pattern .* outside of what Python and Rust share"),
        ({"patterns": r"\b(cheer) \1"}, "rule sample: pattern .* outside of what Python and Rust share"),
        ({"patterns": r"\bcheer (up"}, "rule sample: pattern .* outside of what Python and Rust share"),
        ({"patterns": r"\w+"}, "rule sample: pattern .* no word"),
        ({"patterns": r"<nothing> up"}, "rule sample: no term <nothing>; there are nt, not, "),
        ({"examples": ["Smile."]}, "rule sample: does not match its example 1"),
        ({"counterexamples": ["Do not cheer up."]}, "rule sample: matches its counterexample 1"),
        ({"unles": r"\bnot"}, "replies 1, unles: no such key"),
        ({"patterns": ""}, "replies 1, patterns: "),
    ],
)
def test_a_wrong_rule_is_one_line_with_its_place(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=problem) as caught:
        SafetyRules.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        SafetyRules.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("posts: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml:1: not valid YAML"):
        SafetyRules.load(tmp_path / "bad.yaml")
