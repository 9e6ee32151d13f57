from pathlib import Path

import pytest

from llumi.errors import ConfigError
from llumi.safety import Resources


def test_each_country_has_its_lines_and_everywhere_has_some() -> None:
    resources = Resources.load()
    for locale, number in [
        ("US", "988"),
        ("CA", "988"),
        ("IE", "116 123"),
        ("GB", "116 123"),
        ("FR", "3114"),
        ("AU", "13 11 14"),
    ]:
        assert number in [n for resource in resources.of(locale) for n in resource.numbers], locale
    assert resources.of("de")[0].numbers[:2] == ("0800 111 0 111", "0800 111 0 222")
    assert next(resource.name for resource in resources.of("XX")) == "Find A Helpline"
    assert "741741" in resources.numbers
    assert {"findahelpline.com", "988lifeline.org", "samaritans.org", "iasp.info"} <= set(resources.domains)


def test_a_team_s_own_lines_stand_for_the_countries_that_they_name(tmp_path: Path) -> None:
    path = tmp_path / "resources.yaml"
    path.write_text("""
resources:
  - {name: The Evening Line, locales: [IE, SE], numbers: ["01 555 0100"]}
  - {name: The Night Desk, locales: [US], numbers: ["911"], emergency: true}
""")
    resources, shipped = Resources.load(path), Resources.load()

    def names(country: str) -> list[str]:
        return [resource.name for resource in resources.of(country) if "*" not in resource.locales]

    assert names("IE") == ["The Evening Line", "Emergency services", "Emergency services"]
    assert names("SE") == ["The Evening Line"]
    assert names("US")[0] == "The Night Desk"
    assert "Emergency services" not in names("US")
    assert "988 Suicide & Crisis Lifeline" in names("US")
    assert resources.of("GB") == tuple(
        resource.model_copy(update={"locales": tuple(code for code in resource.locales if code != "IE" or resource.emergency)})
        for resource in shipped.of("GB")
    )
    assert "1800 247 247" in shipped.numbers
    assert "1800 247 247" not in resources.numbers, "a line that was taken away is allowed no more"
    assert set(shipped.countries) | {"SE"} == set(resources.countries)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{name: A line, locales: [IE], phone: '1'}", "resources 1, phone: no such key"),
        ("{name: A line, locales: [IE]}", "resources 1: A line: no way to reach it"),
        ("{name: A line, locales: [Ireland], numbers: ['116 123']}", "resources 1, locales 1: "),
        ("{name: A line, locales: [], numbers: ['116 123']}", "resources 1, locales: "),
        ("{name: A line, locales: [IE], numbers: [116123]}", "resources 1, numbers 1: not a text; put it in quotes"),
        ("{name: A line, locales: [IE], numbers: ['call us']}", "resources 1, numbers 1: "),
        ("{name: A line, locales: [IE], text: HELLO}", "resources 1, text: "),
        ("{name: A line, locales: [IE], domains: ['https://evening.example']}", "resources 1, domains 1: "),
        ("", "resources: "),
    ],
)
def test_a_wrong_list_is_one_line(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "resources.yaml"
    path.write_text(f"resources: [{line}]")
    with pytest.raises(ConfigError, match=problem) as said:
        Resources.load(path)
    assert "\n" not in str(said.value)
    assert str(said.value).startswith(f"{path}: ")
