"""The ratings that an evaluation takes: what they came to, and their part in its fingerprint."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llumi.config import Config, EvaluateConfig
from llumi.errors import ConfigError, RatingsError
from llumi.evaluate.run import evaluate, evaluate_fingerprint
from llumi.evaluate.studies import read_studies, study_inputs
from llumi.pipeline import pipeline
from llumi.storage import Storage
from tests.evaluate.studies import write_study


def with_ratings(config: Config, *folders: Path) -> Config:
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"ratings": folders})})


def test_studies_are_read_in_their_order_and_by_their_names(tmp_path: Path) -> None:
    folders = (
        write_study(tmp_path / "second", ("gm-a", "gm-b"), raters=2),
        write_study(tmp_path / "first", ("x", "y"), raters=3),
    )
    second, first = read_studies(EvaluateConfig(ratings=folders))
    assert (second.name, second.outcome.ratings.num_raters) == ("second", 2)
    assert (first.name, first.outcome.ratings.arms) == ("first", ["x", "y"])
    assert [entry.name for entry in study_inputs(EvaluateConfig(ratings=folders))] == ["ratings/second", "ratings/first"]


def test_the_fingerprint_follows_every_record(config: Config, generated: Storage, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "first", ("gm-base", "gm-sft"), raters=2)
    asked = with_ratings(config, folder)
    marks = [evaluate_fingerprint(config, generated), evaluate_fingerprint(asked, generated)]
    for file in ("scales.parquet", "choices.parquet"):
        table = pq.read_table(folder / file)
        pq.write_table(table.slice(0, table.num_rows - 1), folder / file)
        marks.append(evaluate_fingerprint(asked, generated))
    assert len(set(marks)) == 4


def test_a_folder_that_holds_no_ratings_is_said_before_anything_runs(config: Config, tmp_path: Path) -> None:
    """No cluster, no artifact: neither the job nor the whole line gets as far as asking for them."""
    wrong = with_ratings(config, tmp_path / "nowhere")
    for run in (lambda: evaluate(wrong), lambda: next(pipeline(wrong))):
        with pytest.raises(RatingsError, match=r"nowhere/scales\.parquet: no such file; give a folder of `llumi rate export`"):
            run()


def test_two_studies_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = []
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        folders.append(write_study(tmp_path / parent / "first", ("gm-base", "gm-sft"), raters=1))
    with pytest.raises(ConfigError, match=r"evaluate\.ratings: two folders are called first"):
        read_studies(EvaluateConfig(ratings=tuple(folders)))
