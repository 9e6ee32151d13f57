import polars as pl
import pytest

from llumi.config import RevisionConfig
from llumi.pairs.revise import im_dpo, im_sft, in_sample, judge, within_window
from llumi.records import DPO_SCHEMA, SFT_SCHEMA

WINDOW = RevisionConfig(min_similarity=0.5, max_similarity=0.9)
DRAFT = "You should call your sister this evening."
LINES = [r"\b988\b", r"(?i)\bsamaritans\b|\b116[ -]?123\b", r"\b741[ -]?741\b"]
REVISION = "Could you call your sister this evening?"


def harsh(replies: pl.Series) -> pl.Series:
    """A rule for the tests: it refuses replies that tell somebody to get over it."""
    names = pl.when(pl.col("reply").str.contains("get over it")).then(pl.lit("harsh"))
    return replies.to_frame("reply").select(names).to_series()


def reason(**row: str | None) -> str | None:
    """The verdict on one revision that is right but for `row`."""
    whole = {"draft": DRAFT, "revision": REVISION, "finish_reason": "stop", "error": None, "generation_id": "g1"}
    return judge(pl.DataFrame(whole | row, schema_overrides={"revision": pl.String, "error": pl.String}), harsh, LINES).item()


def test_the_window_keeps_its_ends_and_counts_what_lies_outside() -> None:
    similarities = pl.DataFrame({"pair_id": list("abcdef"), "similarity": [0.5, 0.9, 0.499999, 0.900001, None, -1.0]})
    kept, dropped = within_window(similarities, WINDOW)
    assert kept["pair_id"].to_list() == ["a", "b"]
    assert dropped == {"too_far": 3, "too_near": 1}


def test_a_whole_safe_revision_has_nothing_against_it() -> None:
    assert reason() is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"generation_id": None, "revision": None, "finish_reason": None}, "not_generated"),
        ({"error": "the prompt has 5000 tokens", "revision": None, "finish_reason": None}, "failed"),
        ({"revision": " \n"}, "empty"),
        ({"finish_reason": "length"}, "unfinished"),
        ({"finish_reason": None}, "unfinished"),
        ({"revision": f"  {DRAFT.upper()}\n"}, "unchanged"),
        ({"revision": "You could get over it."}, "unsafe_harsh"),
        ({"revision": "You could get over it.", "finish_reason": "length"}, "unfinished"),
    ],
)
def test_the_first_reason_is_given(row: dict[str, str | None], expected: str) -> None:
    assert reason(**row) == expected


@pytest.mark.parametrize(
    ("named", "kept", "lost"),
    [
        ("You can call 988 at any hour.", "At any hour, 988 answers.", "Someone answers at any hour."),
        ("Samaritans listen: 116 123.", "You could ring 116123.", "They listen to you."),
        ("Text 741741 tonight.", "Could you text 741-741?", "Could you text 988?"),
        ("Call the crisis line.", "Would a helpline be something?", "Would a friend be something?"),
    ],
)
def test_a_crisis_line_that_the_draft_names_stays(named: str, kept: str, lost: str) -> None:
    assert reason(draft=named, revision=kept) is None
    assert reason(draft=named, revision=lost) == "removed_resource"
    assert reason(draft=lost.replace("988", "a friend"), revision=kept) is None


def test_the_sample_depends_on_ids_alone() -> None:
    ids = pl.Series([f"pair-{number}" for number in range(2000)])
    sample = set(ids.filter(in_sample(ids, 2**64 // 4)))
    assert 400 < len(sample) < 600
    assert {pair for pair in ids.reverse() if in_sample(pl.Series([pair]), 2**64 // 4).item()} == sample
    assert set(ids.filter(in_sample(ids, 2**64 // 8))) < sample < set(ids.filter(in_sample(ids, 2**64 * 3 // 4)))
    assert in_sample(ids, None).all()
    assert in_sample(ids.clear(), 5).to_list() == []


def test_im_learns_the_revision_over_the_draft() -> None:
    pairs = pl.DataFrame(
        {
            "example_id": ["e1"],
            "post_id": ["p1"],
            "post_author": ["someone"],
            "author": [None],
            "author_rejected": ["other"],
            "community": ["evenings"],
            "risk": ["none"],
            "text": ["I feel lonely."],
            "body": [REVISION],
            "body_rejected": [DRAFT],
            "score": [None],
            "score_rejected": [1],
            "weight": [1.0],
            "similarity": [0.8],
        },
        schema_overrides={"author": pl.String, "score": pl.Int64},
    )
    [row] = im_dpo(pairs).cast(DPO_SCHEMA).to_pylist()
    assert DRAFT in row["prompt"][0]["content"]
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == (REVISION, DRAFT)
    assert (row["chosen_author"], row["rejected_author"], row["chosen_score"], row["similarity"]) == (None, "other", None, 0.8)
    [example] = im_sft(pairs).cast(SFT_SCHEMA).to_pylist()
    assert example["prompt"] == row["prompt"]
    assert example["completion"] == row["chosen"]
    assert example["author"] is None
