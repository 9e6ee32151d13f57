"""Reads the package's YAML files, or a team's own in their place, and says in one line what is wrong with one."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from llumi.errors import ConfigError


class Document(BaseModel):
    """A file, or a part of one: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Whole = TypeVar("Whole", bound=Document)


def read_document(model: type[Whole], path: Path) -> Whole:
    """The file in its typed form; raises ConfigError with the file, the place in it and the problem."""
    return parsed_document(model, path, read_text(path))


def read_text(path: Path) -> str:
    """What stands in the file; raises ConfigError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not valid YAML (not UTF-8)") from None


def parsed_document(model: type[Whole], path: Path, text: str) -> Whole:
    """`text`, which stands in the file, in its typed form; raises as `read_document`."""
    try:
        return model.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or 'unreadable characters'})") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise ConfigError(f"{path}: {_place(first['loc'])}{_problem(first)}") from None


def _place(location: tuple[int | str, ...]) -> str:
    """Where in the file, with entries of a list counted from 1: "replies 3, patterns: "."""
    spoken = ""
    for part in location:
        spoken += f" {part + 1}" if isinstance(part, int) else f", {part}"
    return f"{spoken.removeprefix(', ')}: " if spoken else ""


def _problem(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "no such key"
    if error["type"] == "missing":
        return "missing"
    if error["type"] == "string_type":
        return "not a text; put it in quotes"
    return str(error["ctx"]["error"] if error["type"] == "value_error" else error["msg"])
