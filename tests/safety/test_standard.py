import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from llumi.errors import ConfigError
from llumi.safety import rules as rules_module
from llumi.safety.answers import NO_EMERGENCY_NUMBER
from llumi.safety.revisions import DEFAULT_FILE, RevisionRules
from llumi.safety.standard import Standard

STANDARD = Standard.load()


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
        Standard.load(path)


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
