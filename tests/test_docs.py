"""The README and its pages tell the truth: commands, keys and links that they name are there."""

import re
from pathlib import Path

import pytest
import typer

from llumi.cli import app
from llumi.config import load_config
from llumi.train.grid import grid

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:^|`)llumi ((?:[a-z]+ ?)+)", re.MULTILINE)
SECTIONS = "corpus|evaluate|generate|pairs|rate|ray|safety|serve|storage|train"
SETTING = re.compile(rf"\b((?:{SECTIONS})\.[a-z_0-9.]+=(?:\[[^\]]*\]|[^\s`,]+))")
SWEEP = re.compile(r"(?:llumi sweep|jobs/sweep\.py) (gm|im) (sft|dpo1|dpo2) (.*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for words in COMMAND.findall(page.read_text(encoding="utf-8")):
        command = typer.main.get_command(app)
        for word in words.split():
            if not hasattr(command, "commands"):
                break
            assert word in command.commands, f"llumi {words}"
            command = command.commands[word]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_are_accepted(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for role, stage, arguments in SWEEP.findall(text):
        assert len(grid(ROOT / "ray_config.yaml", SETTING.findall(arguments), role, stage)) > 1
    for line in SWEEP.sub("", text).splitlines():  # each command by itself: some settings exclude each other
        if settings := SETTING.findall(line):
            load_config(ROOT / "ray_config.yaml", settings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
