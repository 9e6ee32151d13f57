import json
from pathlib import Path

import numpy as np
import pytest

from llumi.config import EmpathyConfig
from llumi.errors import ModelError
from llumi.evaluate.empathy import EmpathyJudge, empathy_inputs
from tests.evaluate.conftest import write_classifier

POST = "I moved to a new town and I feel lonely in the evenings."
REPLY = "Thank you for telling us; could you call a friend tonight?"


def test_each_configured_mechanism_has_its_own_classifier(tmp_path: Path, tiny_model: Path) -> None:
    config = EmpathyConfig(
        emotional_reactions=write_classifier(tmp_path / "warm", tiny_model, always=2),
        explorations=write_classifier(tmp_path / "asking", tiny_model, always=1),
    )
    levels = EmpathyJudge(config).levels([REPLY, " ", REPLY], [POST, POST, ""])
    assert levels.keys() == {"emotional_reactions", "explorations"}
    np.testing.assert_array_equal(levels["emotional_reactions"], [2, np.nan, np.nan])
    np.testing.assert_array_equal(levels["explorations"], [1, np.nan, np.nan])


def test_the_post_and_the_reply_are_read_in_this_order_and_cut_at_what_the_model_takes(
    tmp_path: Path, tiny_model: Path
) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = write_classifier(tmp_path / "warm", tiny_model, always=0)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model.classifier.bias.data.zero_()
    model.save_pretrained(folder)
    replies = [REPLY, f"{REPLY} {POST}", "Rest.", "word " * 900, POST[::-1], "A walk helps me."]
    encoded = AutoTokenizer.from_pretrained(folder)([POST] * 6, replies, truncation=True, max_length=512)["input_ids"]
    with torch.inference_mode():
        logits = torch.stack([model(input_ids=torch.tensor([ids])).logits[0] for ids in encoded])
    # Centred on the six, so that the levels differ.
    model.classifier.bias.data -= logits.mean(dim=0)
    model.save_pretrained(folder)
    expected = (logits - logits.mean(dim=0)).argmax(dim=1)
    assert len(set(expected.tolist())) > 1
    judged = EmpathyJudge(EmpathyConfig(interpretations=folder)).levels(replies, [POST] * 6)
    assert judged["interpretations"].tolist() == expected.tolist()


def test_without_a_classifier_nothing_is_judged_and_nothing_loaded() -> None:
    assert EmpathyJudge(EmpathyConfig()).levels([REPLY], [POST]) == {}
    assert empathy_inputs(EmpathyConfig()) == []


def test_inputs_follow_the_files_and_not_the_folder(tmp_path: Path) -> None:
    def classifier(name: str, weights: bytes) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"num_labels": 3}))
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "tokenizer.json").write_text("{}")
        return folder

    (one,) = empathy_inputs(EmpathyConfig(explorations=classifier("one", b"1")))
    (same,) = empathy_inputs(EmpathyConfig(explorations=classifier("same", b"1")))
    (other,) = empathy_inputs(EmpathyConfig(explorations=classifier("other", b"2")))
    assert one.name == "evaluate.empathy.explorations"
    assert one == same != other


def test_a_folder_that_holds_no_classifier_is_named(tmp_path: Path) -> None:
    config = EmpathyConfig(interpretations=tmp_path / "nowhere")
    for attempt in (empathy_inputs, EmpathyJudge):
        with pytest.raises(ModelError, match=r"evaluate\.empathy\.interpretations: .*nowhere: no such folder"):
            attempt(config)


def test_weights_that_cannot_be_read_are_one_line(tmp_path: Path, tiny_model: Path) -> None:
    (write_classifier(tmp_path, tiny_model) / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match=r"evaluate\.empathy\.explorations: .* cannot be loaded as a classifier") as caught:
        EmpathyJudge(EmpathyConfig(explorations=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_classifier_of_other_levels_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    folder = write_classifier(tmp_path / "two", tiny_model, num_labels=2, always=0)
    with pytest.raises(ModelError, match=r"tells 2 labels apart; give a classifier of the 3 levels"):
        EmpathyJudge(EmpathyConfig(explorations=folder))
