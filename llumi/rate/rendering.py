"""The pages as HTML. A page is told what a rater may see and nothing else: no arm, no identifier, no name of a study."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llumi.config import RateConfig
from llumi.rate.answers import PLACES
from llumi.rate.dimensions import REPLY_DIMENSIONS, SCORES, pair_dimensions
from llumi.rate.turns import Page
from llumi.safety import Resources

FOLDER = Path(__file__).with_name("pages")


@dataclass(frozen=True)
class Pages:
    """The templates, with what every page shows."""

    config: RateConfig
    resources: Resources

    @cached_property
    def _environment(self) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.globals |= {
            "resources": self.resources.of(self.config.country),
            "contact": self.config.contact,
            "scores": SCORES,
        }
        return environment

    def render(self, name: str, *, csrf: str | None = None, **shown: Any) -> str:
        """A page; `csrf` is the form token of whoever is signed in."""
        return self._environment.get_template(f"{name}.html").render(csrf=csrf, **shown)

    def item(self, page: Page, csrf: str, note: str, given: Mapping[str, str], problems: Mapping[str, str]) -> str:
        """The page of a turn, with what was `given` before and the `problems` in it."""
        item, turn = page.item, page.turn
        texts = (item.text_b, item.text_a) if turn.swapped else (item.text_a, item.text_b)
        return self.render(
            "item",
            csrf=csrf,
            token=turn.token,
            post=item.post,
            replies=list(zip(PLACES, texts, strict=True)),
            reply_dimensions=REPLY_DIMENSIONS,
            pair_dimensions=pair_dimensions(page.study.role),
            number=page.num_closed + 1,
            most=page.study.pages_per_rater,
            note=note,
            given=given,
            problems=problems,
        )
