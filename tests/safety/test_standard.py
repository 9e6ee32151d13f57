import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from llumi.config import SafetyConfig
from llumi.errors import ConfigError
from llumi.safety import rules as rules_module
from llumi.safety.answers import DEFAULT_FILE as ANSWERS_FILE
from llumi.safety.answers import NO_EMERGENCY_NUMBER
from llumi.safety.revisions import DEFAULT_FILE, RevisionRules
from llumi.safety.standard import Standard

STANDARD = Standard.load()
OWN_LINES = """
resources:
  - {name: The Evening Line, locales: [IE], numbers: ["01 555 0100"], text: HELLO to 55501, domains: [evening.example]}
"""


def test_it_can_be_sent_to_a_worker():
    sent = pickle.loads(pickle.dumps(STANDARD))
    assert sent.refusals("Cheer up!") == ("minimising",)


def test_rules_that_refuse_the_services_own_words_are_said_at_once(tmp_path: Path):
    tree = yaml.safe_load(rules_module.DEFAULT_FILE.read_text(encoding="utf-8"))
    own = {"name": "sample", "what": "w", "guideline": "g", "patterns": r"\bglad\b", "examples": ["I am glad."]}
    tree["replies"].append(own)
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"safety\.rules: rule sample refuses the service's own words"):
        Standard.load(SafetyConfig(rules=path))


def own_answers(tmp_path: Path, change: Callable[[dict], None]) -> SafetyConfig:
    tree = yaml.safe_load(ANSWERS_FILE.read_text(encoding="utf-8"))
    change(tree)
    path = tmp_path / "answers.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return SafetyConfig(answers=path)


def test_a_team_has_words_and_lines_of_its_own(tmp_path: Path):
    def change(tree: dict) -> None:
        tree["banners"]["possible"] = "Sie sind nicht allein: {lines}. In Gefahr? {emergency}."
        tree["closing"] = "Call The Evening Line, 01 555 0100."

    lines = tmp_path / "resources.yaml"
    lines.write_text(OWN_LINES, encoding="utf-8")
    safety = own_answers(tmp_path, change).model_copy(update={"resources": lines})
    standard = Standard.load(safety)
    banner = standard.answers.banner("possible", standard.resources.of("IE"))
    assert banner == (
        "Sie sind nicht allein: The Evening Line, 01 555 0100; Find A Helpline, findahelpline.com; "
        "Befrienders Worldwide, befrienders.org. In Gefahr? 999."
    )
    assert standard.refusals("You could call 01 555 0100, or see evening.example.") == ()
    assert STANDARD.refusals("You could call 01 555 0100.") == ("contact",)
    with pytest.raises(ConfigError, match=r"answers\.yaml: closing: a number or address that is on no list"):
        Standard.load(own_answers(tmp_path, change))


@pytest.mark.parametrize(
    ("place", "text", "problem"),
    [
        ("possible", "You are not alone: {lines}.", r"banners, possible: does not say \{emergency\}"),
        ("imminent", "Call {emergency}, {lines}, {number}.", "banners, imminent: a brace that is not of"),
        ("imminent", "Call 030 1234567, {emergency}, {lines}.", "banners.imminent: a number or address that is on no list"),
        ("possible", 5, "banners, possible: not a text; put it in quotes"),
    ],
)
def test_words_that_would_fail_in_front_of_people_are_said_at_once(place: str, text: object, problem: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=problem) as said:
        Standard.load(own_answers(tmp_path, lambda tree: tree["banners"].update({place: text})))
    assert "\n" not in str(said.value)


def test_a_rule_for_revisions_is_checked_by_its_examples(tmp_path: Path):
    tree = yaml.safe_load(DEFAULT_FILE.read_text(encoding="utf-8"))
    tree["added"][0]["counterexamples"] = ["Lithium."]
    path = tmp_path / "revisions.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError, match="rule medication_added: matches its counterexample 1"):
        RevisionRules.load(path)


@pytest.mark.parametrize(
    ("tier", "country", "said"),
    [("possible", "US", "911"), ("imminent", "AU", "000"), ("possible", "*", NO_EMERGENCY_NUMBER), (None, "GB", "Samaritans")],
)
def test_banners_name_the_lines_of_the_country(tier: str | None, country: str, said: str):
    banner = STANDARD.answers.banner(tier, STANDARD.resources.of(country))
    assert said in banner
    assert "{" not in banner


def test_no_tier_has_no_banner():
    assert STANDARD.answers.banner("none", STANDARD.resources.of("US")) is None


def test_extra_numbers_and_domains_are_allowed():
    own = replace(STANDARD, extra=("030 1234567", "House.example.org"))
    text = "Call 030 1234567, or see https://house.example.org/evening."
    assert STANDARD.refusals(text) == ("contact",)
    assert own.refusals(text) == ()
