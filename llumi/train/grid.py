"""The points of a sweep: every combination of the `--set` lists whose fields take one value, each a whole configuration."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llumi.config import Config, Stage, load_config, read_override
from llumi.errors import ConfigError
from llumi.models import model_name
from llumi.prompts import Role
from llumi.storage import digest

MAX_POINTS = 64

_OTHER_INPUTS = ("train.base", "train.dpo1.pairs", "train.dpo2.pairs")
"""Fields of `train` by which points would start from, or learn from, different things."""


@dataclass(frozen=True)
class Point:
    """One combination: `values` are the swept ones by dotted key, as the configuration holds them.

    `name` is that of its model; it follows from the values alone, so that a sweep finds again what it has trained.
    """

    name: str
    values: dict[str, Any]
    overrides: tuple[str, ...]
    config: Config

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.values.items())


def grid(
    config_file: Path | None, overrides: Sequence[str], role: Role, stage: Stage, max_points: int = MAX_POINTS
) -> list[Point]:
    """The points that `overrides` span, in their order, the last list running fastest.

    Raises ConfigError for a list that may not be swept, for more than `max_points`, and for the first point that is not
    right, before anything else is looked at.
    """
    choices = [_choices(override) for override in overrides]
    keys = [_key(override) for override, choice in zip(overrides, choices, strict=True) if choice != [override]]
    if not keys:
        load_config(config_file, overrides)
        raise ConfigError(
            "nothing to sweep: give a list for a field that takes one value, "
            f"such as --set train.{stage}.learning_rate=[1e-5,5e-5]"
        )
    num_points = math.prod(map(len, choices))
    if num_points > max_points:
        raise ConfigError(
            f"the lists span {num_points} points, above the {max_points} of --max-points; shorten them, or raise it"
        )
    return [_point(config_file, given, keys, model_name(role, stage)) for given in itertools.product(*choices)]


def _choices(override: str) -> list[str]:
    """What stands for `override` in the points: an override for each element of a list that is swept, else itself."""
    keys, value = read_override(override)
    if not isinstance(value, list) or _takes(keys, value):
        return [override]
    key = _key(override)
    if keys[0] != "train":
        raise ConfigError(
            f"{key}: not to be swept, only fields below train. are: what comes earlier or later needs other artifacts; "
            "give it one value"
        )
    if key in _OTHER_INPUTS:
        raise ConfigError(f"{key}: not to be swept: all points start from the same parent and learn from the same pairs")
    if not value:
        raise ConfigError(f"{key}: the list is empty; give the values to try")
    return [f"{key}={json.dumps(element, default=str)}" for element in value]


def _takes(keys: Sequence[str], value: list[Any]) -> bool:
    """Whether the field takes a list as its value; one that is not there, or takes other elements, is for `load_config`."""
    tree: Any = value
    for key in reversed(keys):
        tree = {key: tree}
    try:
        Config.model_validate(tree)
    except ValidationError as error:
        return not any(_is_of_the_list(tuple(keys), problem["loc"], problem["type"]) for problem in error.errors())
    return True


def _is_of_the_list(keys: tuple[str, ...], location: tuple[int | str, ...], kind: str) -> bool:
    """Whether a problem is that of the list as a whole, in no or in one form of the field, and not of one of its elements."""
    deeper = location[len(keys) :]
    return location[: len(keys)] == keys and kind != "extra_forbidden" and not any(isinstance(part, int) for part in deeper)


def _point(config_file: Path | None, given: tuple[str, ...], keys: Sequence[str], model: str) -> Point:
    try:
        config = load_config(config_file, given)
    except ConfigError as error:
        swept = " ".join(override for override in given if _key(override) in keys)
        raise ConfigError(f"point {swept}: {error}") from None
    values = {key: _value(config, key) for key in keys}
    return Point(f"{model}-{digest(values)[:8]}", values, given, config)


def _value(config: Config, key: str) -> Any:
    tree: Any = config.model_dump(mode="json")
    for part in key.split("."):
        tree = tree[part]
    return tree


def _key(override: str) -> str:
    return ".".join(read_override(override)[0])
