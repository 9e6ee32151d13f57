import pytest

from llumi.config import Config
from llumi.errors import ArtifactError
from llumi.evaluate.arms import find_generations, read_replies
from llumi.storage import Storage
from tests.evaluate.conftest import NUM_POSTS, POSTS, generation_rows, write_generation, write_pairs


def test_an_empty_list_means_all_that_were_made_from_these_pairs(config: Config, generated: Storage) -> None:
    write_generation(generated, "gm-elsewhere", generation_rows("gm", "x", {0: "Rest well."}), [])
    names = [found.name for found in find_generations(config, generated, [])]
    assert names == ["gm-base", "gm-sft", "im-sft", "gm-dpo1"]


def test_ancestors_come_first_whatever_the_order_asked_for(config: Config, generated: Storage) -> None:
    replies = read_replies(config, generated, find_generations(config, generated, ["gm-dpo1", "gm-base", "gm-dpo1"]))
    (section,) = replies.sections
    assert [arm.name for arm in section.arms] == ["human-reply", "gm-base", "gm-dpo1"]
    assert section.arms[-1].lineage == ("gm-dpo1", "gm-sft", "base")


def test_every_reply_is_accounted_for(config: Config, generated: Storage) -> None:
    replies = read_replies(config, generated, find_generations(config, generated, []))
    gm, im = replies.sections
    base = next(arm for arm in gm.arms if arm.name == "gm-base")
    assert (base.num_rows, base.num_failed, base.num_empty, base.num_cut) == (NUM_POSTS, 1, 0, 2)
    assert (gm.num_posts, im.num_posts) == (NUM_POSTS - 1, NUM_POSTS)
    # Only what is compared is measured: not the three other replies to the post that gm-base failed to answer.
    assert replies.table.height == 4 * (NUM_POSTS - 1) + 3 * NUM_POSTS
    assert replies.table.filter(role="gm", post_id="post-0").is_empty()
    assert replies.table.filter(role="gm")["draft"].null_count() == 4 * (NUM_POSTS - 1)
    assert replies.table["reply"].null_count() == 0
    revision = replies.table.filter(arm="im-sft", post_id="post-3").to_dicts()[0]
    assert revision["post"] == POSTS[3]
    assert revision["draft"] == "Buy a lantern. Go out more, really really really it helps."


def test_nothing_generated_yet(config: Config, storage: Storage) -> None:
    with pytest.raises(ArtifactError, match=r"pairs/default: no such artifact"):
        find_generations(config, storage, [])
    write_pairs(storage)
    with pytest.raises(ArtifactError, match=r"run `llumi generate gm base` first$"):
        find_generations(config, storage, [])
    with pytest.raises(ArtifactError, match=r"generations/gm-sft: no such artifact"):
        find_generations(config, storage, ["gm-sft"])


def test_a_generation_from_other_pairs_is_refused(config: Config, generated: Storage) -> None:
    write_pairs(generated, POSTS[:6])
    with pytest.raises(ArtifactError, match=r"generations/gm-sft: not made from pairs/default as it stands"):
        find_generations(config, generated, ["gm-sft"])


@pytest.mark.parametrize("replies", [{}, {0: None, 1: None}, {0: " \n", 1: ""}, {0: None, 1: " "}])
def test_a_generation_without_text_is_refused(config: Config, storage: Storage, replies: dict[int, str | None]) -> None:
    pairs = write_pairs(storage)
    write_generation(storage, "gm-base", generation_rows("gm", "base", replies), [pairs.as_input()])
    with pytest.raises(
        ArtifactError, match=f"gm-base: no reply with text in any of its {len(replies)} rows; generate it again"
    ):
        read_replies(config, storage, find_generations(config, storage, []))


def test_a_post_that_an_arm_does_not_answer_is_compared_in_none(config: Config, storage: Storage) -> None:
    pairs = write_pairs(storage)
    for name, numbers in (("gm-base", range(NUM_POSTS)), ("gm-sft", range(4, NUM_POSTS))):
        rows = generation_rows("gm", name, dict.fromkeys(numbers, "Rest well."))
        write_generation(storage, name, rows, [pairs.as_input()])
    replies = read_replies(config, storage, find_generations(config, storage, []))
    (section,) = replies.sections
    assert (section.num_posts, [arm.num_rows for arm in section.arms]) == (NUM_POSTS - 4, [NUM_POSTS, NUM_POSTS, NUM_POSTS - 4])
    assert set(replies.table["post_id"]) == {f"post-{number}" for number in range(4, NUM_POSTS)}


def test_generations_without_a_common_post_are_refused(config: Config, storage: Storage) -> None:
    pairs = write_pairs(storage)
    write_generation(storage, "gm-base", generation_rows("gm", "base", {0: "Rest.", 1: None}), [pairs.as_input()])
    write_generation(storage, "gm-sft", generation_rows("gm", "gm-sft", {0: None, 1: "Rest."}), [pairs.as_input()])
    with pytest.raises(ArtifactError, match=r"those of gm have no post in common.*generate\.max_posts"):
        read_replies(config, storage, find_generations(config, storage, []))
