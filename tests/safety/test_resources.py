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


def test_a_wrong_list_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "resources.yaml"
    path.write_text("resources: [{name: A line, locales: [IE], phone: '1'}]")
    with pytest.raises(ConfigError, match="resources 1, phone: no such key"):
        Resources.load(path)
