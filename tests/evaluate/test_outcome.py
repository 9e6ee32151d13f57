"""A study's figures from the records that `llumi rate export` writes: all of them, or the reason why not."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llumi.errors import RatingsError
from llumi.evaluate.outcome import outcome, read_ratings
from llumi.evaluate.ratings import Resampling
from tests.evaluate.studies import write_study

FEW = Resampling(num_bootstrap=200)


def test_two_models_beside_the_paper(tmp_path: Path) -> None:
    ratings = read_ratings(write_study(tmp_path / "out", ("gm-base", "gm-dpo2"), raters=3))
    tree = outcome(ratings, FEW, reference="gm-dpo2", other="gm-base").figures()
    assert json.loads(json.dumps(tree)) == tree
    assert (tree["raters"], tree["items"]) == (3, 12)
    scores = tree["scores"]["empathy"]
    assert scores["gm-dpo2"]["value"] == pytest.approx(scores["gm-base"]["value"] + 1)
    assert tree["win_rates"]["gm-dpo2 over gm-base"] | {"share": None} == {"wins": 27, "ties": 0, "losses": 9, "share": None}
    assert tree["bradley_terry"]["log_odds"]["gm-base"]["value"] == pytest.approx(-1.0986, abs=1e-3)
    assert tree["agreement"]["alpha"]["empathy"]["low"] <= tree["agreement"]["alpha"]["empathy"]["value"] < 1
    assert tree["position_bias"]["share"]["n"] == 36
    assert tree["consistency"]["choices"].startswith("unknown: ")
    assert tree["beside_the_paper"]["empathy"]["paper_model"] == 4.41
    assert tree["beside_the_paper"]["empathy"]["model"]["value"] == scores["gm-dpo2"]["value"]


def test_revisions_stand_beside_the_paper_s_without_being_asked(tmp_path: Path) -> None:
    ratings = read_ratings(write_study(tmp_path / "out", ("human-draft", "im-dpo1"), raters=2))
    beside = outcome(ratings, FEW).figures()["beside_the_paper"]["im-dpo1"]
    assert beside["paper"]["value"] == pytest.approx(173 / 211)
    assert beside["ours"]["value"] == 0.75


def test_a_single_rater_agrees_with_nobody_and_is_told_so(tmp_path: Path) -> None:
    tree = outcome(read_ratings(write_study(tmp_path / "out", ("gm-base", "gm-sft"), raters=1)), FEW).figures()
    for figure in (*tree["agreement"]["alpha"].values(), *tree["agreement"]["icc"].values()):
        assert figure.startswith("unknown: ")
        assert "one rater" in figure


def test_an_arm_that_was_not_shown_is_named(tmp_path: Path) -> None:
    ratings = read_ratings(write_study(tmp_path / "out", ("gm-base", "gm-sft"), raters=2))
    with pytest.raises(RatingsError, match="no arm gm-dpo9 in these ratings; there are gm-base, gm-sft"):
        outcome(ratings, FEW, reference="gm-dpo9")


def test_a_folder_without_ratings_is_named(tmp_path: Path) -> None:
    with pytest.raises(RatingsError, match=r"scales\.parquet: no such file; give a folder of `llumi rate export`"):
        read_ratings(tmp_path)
    folder = write_study(tmp_path / "out", ("gm-base", "gm-sft"), raters=1)
    (folder / "choices.parquet").write_bytes(b"PAR1")
    with pytest.raises(RatingsError, match=r"choices\.parquet: not a table of ratings"):
        read_ratings(folder)
    pq.write_table(pa.table({"rater": ["r"]}), folder / "choices.parquet")
    with pytest.raises(RatingsError, match="no column 'item'"):
        read_ratings(folder)
    empty = pa.table(
        {name: pa.array([], pa.string()) for name in ("rater", "item", "left_arm", "right_arm", "verdict", "is_repeat")}
    )
    pq.write_table(empty, folder / "choices.parquet")
    with pytest.raises(RatingsError, match="no page was sent yet"):
        read_ratings(folder)
