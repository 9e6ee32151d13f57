"""What an artifact was made of, and those in their turn, as their manifests tell it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from llumi.storage import Input, Kind, Storage

State = Literal["stands", "replaced", "gone", "outside"]
"""`replaced`: another artifact has this name by now; `outside`: no artifact (a corpus, a base model's folder, ratings)."""


@dataclass(frozen=True)
class Ancestor:
    """One thing that went into an artifact; `inputs` are the names of what it was itself made of, as far as that is known."""

    name: str
    state: State
    inputs: tuple[str, ...] = ()


def trace(storage: Storage, inputs: Sequence[Input]) -> dict[str, Ancestor]:
    """All that `inputs` go back to, by name, each behind what it was made of."""
    found: dict[str, Ancestor] = {}
    for each in inputs:
        _trace(storage, each, found)
    return found


def _trace(storage: Storage, given: Input, found: dict[str, Ancestor]) -> None:
    if given.name in found:
        return
    if given.name.partition("/")[0] not in get_args(Kind):
        found[given.name] = Ancestor(given.name, "outside")
        return
    manifest = storage.find(given.name)
    if manifest is None or manifest.as_input() != given:  # what stands there now was made of something else
        found[given.name] = Ancestor(given.name, "gone" if manifest is None else "replaced")
        return
    for each in manifest.inputs:
        _trace(storage, each, found)
    found[given.name] = Ancestor(given.name, "stands", tuple(each.name for each in manifest.inputs))
