"""The studies of human ratings that an evaluation tells of beside its measures: `evaluate.ratings`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llumi.config import EvaluateConfig
from llumi.errors import ConfigError
from llumi.evaluate.outcome import RECORDS, Outcome, outcome, read_ratings
from llumi.evaluate.ratings import Resampling
from llumi.storage import FileEntry, Input, digest


@dataclass(frozen=True)
class RatedStudy:
    """A study by the name of its folder, and what it came to."""

    name: str
    outcome: Outcome


def read_studies(config: EvaluateConfig) -> list[RatedStudy]:
    """The studies of `config.ratings` in their order.

    Raises ConfigError for two of one name, RatingsError for a folder that holds none or whose records contradict each other.
    """
    resampling = Resampling(config.num_bootstrap, config.confidence, config.seed)
    return [RatedStudy(folder.name, outcome(read_ratings(folder), resampling)) for folder in _folders(config)]


def study_inputs(config: EvaluateConfig) -> list[Input]:
    """Their names and hashes, for the fingerprint; the errors of `read_studies`."""
    inputs = []
    for folder in _folders(config):
        read_ratings(folder)  # a hash of what is no study would stand for nothing
        files = [FileEntry.of(name, (folder / name).read_bytes()) for name in RECORDS]
        inputs.append(Input(f"ratings/{folder.name}", digest({file.path: file.sha256 for file in files})))
    return inputs


def _folders(config: EvaluateConfig) -> Iterator[Path]:
    seen = set[str]()
    for folder in config.ratings:
        place = folder.expanduser().resolve()
        if place.name in seen:
            raise ConfigError(f"evaluate.ratings: two folders are called {place.name}; the report needs a name for each study")
        seen.add(place.name)
        yield place
