"""The model card: from values, from a store with a lineage, and through the command."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from llumi.cli import app
from llumi.config import StorageConfig, load_config
from llumi.errors import ArtifactError, ConfigError
from llumi.evaluate.summary import SUMMARY_SCHEMA
from llumi.forget import SAW_FORGOTTEN
from llumi.storage import Input, Manifest, Storage
from llumi.train.card import (
    Ancestor,
    Base,
    Card,
    Measured,
    gather_card,
    render_card,
    stage_settings,
    standing_card,
    write_standing_card,
)
from llumi.train.curves import curves_svg

TREE = load_config(None, ["train.dpo1.beta=0.2", "train.lora.target_modules=q_proj|v_proj"]).model_dump(mode="json")
HISTORY = [
    {"step": 1, "loss": 0.6931, "rewards/margins": 0.0, "rewards/accuracies": 0.5},
    {"step": 2, "loss": 0.61, "rewards/margins": 0.2, "rewards/accuracies": 0.75},
    {"step": 2, "eval_loss": 0.65, "eval_rewards/margins": 0.1, "eval_rewards/accuracies": 0.7},
    {"step": 2, "train_loss": 0.65, "checkpoint_seconds": 1.5},
]
MODEL = Manifest(
    kind="models",
    name="gm-dpo1",
    fingerprint="f" * 64,
    config=TREE,
    inputs=(Input("models/gm-sft", "a" * 64), Input("pairs/default", "b" * 64)),
    files=(),
    counts={
        "train": {"examples": 4390, "too_long": 12, "kept": 4378},
        "test": {"examples": 480, "too_long": 2, "kept": 478, "evaluated": 256},
    },
    metrics={
        "steps": 2,
        "num_tokens": 1234567,
        "wall_seconds": 93.4,
        "tokens_per_second": 15012.3,
        "samples_per_second": 31.4,
        "mfu": 0.3821,
        "memory_gib": 41.25,
        "checkpoint_seconds": 1.5,
        "train": {"loss": 0.61},
        "eval": {"loss": 0.65, "rewards/margins": 0.1, "rewards/accuracies": 0.7, "runtime": 3.1, "samples_per_second": 80.0},
    },
    created_at="2026-11-02T10:00:00+00:00",
    llumi_version="0.1.0",
)
PAIRS = replace(MODEL, kind="pairs", name="default", created_at="2026-11-01T09:00:00+00:00")
CARD = Card(
    model=MODEL,
    history=HISTORY,
    ancestors=(
        Ancestor("models/gm-sft", "a" * 64, "2026-11-01T12:00:00+00:00"),
        Ancestor("models/base", "c" * 64, "2026-11-01T11:00:00+00:00"),
    ),
    base=Base("Mistral-7B-Instruct-v0.2", "apache-2.0"),
    pairs=PAIRS,
)


def section(card: str, title: str) -> str:
    found = re.search(rf"^## {title}\n\n(.*?)(?=\n\n## |\Z)", card, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1].strip()


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_says_what_a_model_is_and_what_it_came_from() -> None:
    card = render_card(CARD, "curves.svg")
    assert front(card) == {
        "license": "apache-2.0",
        "base_model": "Mistral-7B-Instruct-v0.2",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["llumi", "peer-support", "gm", "dpo1"],
    }
    assert section(card, "What it is") == (
        "GM, the generation model: it drafts a supportive reply to a post.\n"
        "Stage `dpo1`: direct preference optimisation (arXiv 2305.18290) on pairs from votes, its parent as reference.\n"
        "Made 2026-11-02 by LLUMI 0.1.0; fingerprint `ffffffffffffffff`."
    )
    assert section(card, "Base and lineage") == (
        "| Trained from | Hash | Made |\n|---|---|---|\n"
        "| models/gm-sft | `aaaaaaaaaaaaaaaa` | 2026-11-01 |\n"
        "| models/base | `cccccccccccccccc` | 2026-11-01 |\n\n"
        "The base is `Mistral-7B-Instruct-v0.2`, licence: apache-2.0."
    )
    assert section(card, "Pairs") == (
        "`pairs/default`, hash `bbbbbbbbbbbbbbbb`, built 2026-11-01, preset `margin`.\n\n"
        "| Split | Examples | Too long | Kept | Evaluated |\n|---|---|---|---|---|\n"
        "| train | 4,390 | 12 | 4,378 |  |\n"
        "| test | 480 | 2 | 478 | 256 |"
    )


def test_a_card_says_how_it_was_trained_and_how_it_did() -> None:
    card = render_card(CARD, "curves.svg")
    assert section(card, "Training") == (
        "| Figure | Value |\n|---|---|\n"
        "| Steps | 2 |\n"
        "| Tokens | 1,234,567 |\n"
        "| Wall time, start and publishing included | 93 s |\n"
        "| Tokens a second | 15,012 |\n"
        "| Examples a second | 31.4 |\n"
        "| Model FLOPs utilisation | 38.2% |\n"
        "| Peak memory of a worker | 41.25 GiB |\n"
        "| Time lost to checkpoints | 1.5 s |"
    )
    assert section(card, "Held-out figures") == (
        "| Figure | Value |\n|---|---|\n| Loss | 0.65 |\n| Pairs where the chosen reply wins | 0.7 |\n| Reward margin | 0.1 |"
    )
    settings = section(card, "Configuration")
    assert "| `dpo1.beta` | `0.2` |" in settings
    assert "| `sft.packing` |" not in settings
    # A bar inside a value would end the cell.
    assert r"| `lora.target_modules` | `q_proj\|v_proj` |" in settings
    assert section(card, "Curves") == "![Loss, and for preference stages rewards, by step](curves.svg)"
    assert section(card, "Evaluation") == "None yet."
    assert "no crisis service" in section(card, "Intended use and limits")


def test_every_row_of_a_table_has_the_cells_of_its_head() -> None:
    measured = Measured("default", "gm-dpo1", "coleman_liau", 12, 6.5, "human-reply", -0.25, None, None)
    tables = re.findall(r"(?:^\|.*\|$\n?)+", render_card(replace(CARD, measured=(measured,)), "curves.svg"), re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_an_evaluation_is_laid_beside_people() -> None:
    measured = Measured("default", "gm-dpo1", "coleman_liau", 1200, 6.512, "human-reply", -0.25, -0.5, 0.125)
    text = section(render_card(replace(CARD, measured=(measured,))), "Evaluation")
    assert "| default | gm-dpo1 | Coleman liau | 1,200 | 6.512 | human-reply | -0.25 [-0.5, 0.125] |" in text


def test_what_is_not_known_is_not_made_up() -> None:
    lost = Card(MODEL, (), (Ancestor("models/gm-sft", "a" * 64),))
    card = render_card(lost)
    assert front(card)["license"] == "other"
    assert "base_model" not in front(card)
    assert "it no longer stands as it was" in section(card, "Base and lineage")
    assert "they no longer stand as they were" in section(card, "Pairs")
    assert "## Curves" not in card
    bare = render_card(
        Card(replace(MODEL, name="teacher", counts={}, metrics={}, config={}, inputs=()), base=Base("Teacher-7B"))
    )
    assert "brought in from `Teacher-7B`" in bare
    assert not {"## Pairs", "## Training", "## Configuration", "## Held-out figures"} & set(bare.splitlines())


def test_a_model_that_learned_from_forgotten_text_says_so() -> None:
    counts = MODEL.counts | {SAW_FORGOTTEN: {"at": "2026-11-20T08:00:00+00:00"}}
    text = section(render_card(replace(CARD, model=replace(MODEL, counts=counts))), "What it is")
    assert "taken out of the pairs on 2026-11-20" in text
    assert "train it again" in text


def test_the_settings_of_a_stage_are_its_own_and_no_path_or_address() -> None:
    tree = load_config(
        None,
        ["train.base=/models/some-7b", "train.mlflow_uri=http://user:secret@mlflow:5000", "train.trl.warmup_steps=3"],
    ).model_dump(mode="json")["train"]
    settings = stage_settings(tree, "sft")
    assert settings["sft.learning_rate"] == 2e-4
    assert settings["trl.warmup_steps"] == 3
    assert settings["lora.rank"] == 16
    assert not {"base", "mlflow_uri", "dpo1.beta", "peak_tflops"} & settings.keys()
    assert not any(name.startswith("lora.") for name in stage_settings(tree | {"method": "full"}, "sft"))


# From a store.


def publish(
    storage: Storage, name: str, inputs: list[Input], files: dict[str, bytes] | None = None, **more: object
) -> Manifest:
    kind, _, name = name.partition("/")
    draft = storage.begin(kind, name)
    entries = [draft.write(path, content) for path, content in (files or {}).items()]
    return draft.publish(entries, fingerprint=f"{kind} {name}", config=TREE, inputs=inputs, **more)


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    """pairs, base, gm-sft and gm-dpo1, the last without a card, as earlier versions made it."""
    storage = Storage.open(StorageConfig(uri=str(tmp_path / "store")))
    readme = b"---\nlicense: mit\nlanguage:\n- en\n---\n# A base\n"
    base = publish(storage, "models/base", [Input("/models/Small-1B-Instruct", "")], {"README.md": readme})
    pairs = publish(storage, "pairs/default", [])
    sft = publish(storage, "models/gm-sft", [base.as_input(), pairs.as_input()])
    log = {"training_log.json": json.dumps(HISTORY).encode()}
    inputs = [sft.as_input(), pairs.as_input()]
    publish(storage, "models/gm-dpo1", inputs, log, counts=MODEL.counts, metrics=MODEL.metrics)
    return storage


def evaluate(storage: Storage, name: str, generations: list[Manifest]) -> None:
    rows = [
        {"role": "gm", "measure": "words", "arm": arm, "reference": "human-reply", "n": 12, "mean": mean, "difference": 4.0}
        for arm, mean in [("human-reply", 30.0), *((generation.name, 34.0) for generation in generations)]
    ]
    draft = storage.begin("evaluations", name)
    file = draft.write_table("summary.parquet", pl.DataFrame(rows, schema=SUMMARY_SCHEMA).to_arrow())
    draft.publish([file], fingerprint=name, config={}, inputs=[generation.as_input() for generation in generations])


def test_the_lineage_is_followed_by_hash_down_to_the_base(store: Storage) -> None:
    model = store.manifest("models/gm-dpo1")
    card = gather_card(store, model, HISTORY)
    assert [(one.reference, one.sha256) for one in card.ancestors] == [
        (name, store.manifest(name).as_input().sha256) for name in ("models/gm-sft", "models/base")
    ]
    assert card.base == Base("Small-1B-Instruct", "mit")
    assert card.pairs == store.manifest("pairs/default")
    publish(store, "models/gm-sft", [], {"other": b"weights"})
    publish(store, "pairs/default", [Input("corpus", "")], {"other": b"rows"})
    card = gather_card(store, model, HISTORY)
    assert card.ancestors == [Ancestor("models/gm-sft", model.inputs[0].sha256)]
    assert (card.base, card.pairs) == (Base(), None)


def test_only_evaluations_of_the_model_as_it_stands_are_in_its_card(store: Storage) -> None:
    model, sft = store.manifest("models/gm-dpo1"), store.manifest("models/gm-sft")
    own = publish(store, "generations/gm-dpo1", [model.as_input()])
    other = publish(store, "generations/gm-sft", [sft.as_input()])
    evaluate(store, "both", [own, other])
    evaluate(store, "other", [other])
    assert standing_card(store, "gm-dpo1").measured == [
        Measured("both", "gm-dpo1", "words", 12, 34.0, "human-reply", 4.0, None, None)
    ]
    publish(store, "models/gm-dpo1", [sft.as_input()], {"new": b"weights"})
    assert standing_card(store, "gm-dpo1").measured == []


def test_the_command_writes_the_card_of_an_old_model_and_leaves_the_artifact_alone(
    store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = store.manifest("models/gm-dpo1")
    done = CliRunner().invoke(app, ["model", "card", "gm-dpo1", "--set", f"storage.uri={store.uri}", "--out", "dpo1.md"])
    assert done.exit_code == 0, done.output
    card = (tmp_path / "dpo1.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert "](dpo1-curves.svg)" in card
    assert ET.fromstring((tmp_path / "dpo1-curves.svg").read_text()).tag == "{http://www.w3.org/2000/svg}svg"
    assert store.manifest("models/gm-dpo1") == before


def test_a_card_that_cannot_be_written_is_one_line(store: Storage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--out .*/nowhere/card\.md: cannot be written \(No such file or directory\)"):
        write_standing_card(store, "gm-dpo1", tmp_path / "nowhere" / "card.md")
    with pytest.raises(ArtifactError, match=r"models/im-sft: no such artifact .* there are: base, gm-dpo1, gm-sft$"):
        write_standing_card(store, "im-sft", tmp_path / "card.md")


# The curves.


def test_the_curves_are_an_image_with_words_for_light_and_dark_pages() -> None:
    svg = curves_svg(HISTORY, "gm-dpo1")
    assert svg is not None
    assert svg == curves_svg(HISTORY, "gm-dpo1")
    root = ET.fromstring(svg)
    space = {"svg": "http://www.w3.org/2000/svg"}
    texts = [element.text for element in root.findall(".//svg:text", space)]
    assert {"Loss", "Reward margin", "Pairs where the chosen reply wins", "training", "held out", "Step"} <= set(texts)
    assert root.find("svg:desc", space).text.startswith("Loss at the end: training 0.61, held out 0.65; Reward margin")
    dark = re.search(r"@media \(prefers-color-scheme: dark\) \{(.*)\}</style>", svg)[1]
    drawn = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg.replace(dark, "")))
    assert all(colour in dark for colour in drawn), drawn
    assert not re.search(r"https?://(?!www\.w3\.org/)", svg)


def test_curves_hold_the_figures_that_a_run_logs_and_only_those() -> None:
    sft = [{"step": 1, "loss": 2.5}, {"step": 2, "eval_loss": 2.4}]
    svg = curves_svg(sft, "gm-sft")
    assert "Reward margin" not in svg
    assert "Loss at the end: training 2.5, held out 2.4." in svg
    assert curves_svg([{"step": 1, "train_runtime": 2.5}], "gm-sft") is None
