"""A small store as the earlier jobs leave it: held-out posts, models with their lineage, and generations for both roles.

Every text is made up and gentle; each holds the word "lantern", so that a report which repeats a text can be told.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llumi.config import Config
from llumi.records import GENERATION_SCHEMA, HELD_OUT_SCHEMA
from llumi.storage import Input, Manifest, Storage, fingerprint

NUM_POSTS = 12
POSTS = [
    f"My lantern went out on evening {number}. I feel lonely in the new town, and I miss my friends." for number in range(12)
]
REPLIES = [
    f"That sounds heavy. A lantern can be lit again; could you call {number + 1} old friends tonight?" for number in range(12)
]
DRAFTS = [f"Buy a lantern. Go out more, {'really ' * (number % 4)}it helps." for number in range(12)]

GenerationRows = Sequence[Mapping[str, Any]]
WriteGeneration = Callable[..., Manifest]


def generation_rows(role: str, model: str, replies: Mapping[int, str | None], cut: Sequence[int] = ()) -> GenerationRows:
    """Rows of GENERATION_SCHEMA: reply by number of post; None is a generation that failed."""
    return [
        {
            "generation_id": f"{role}-{model}-{number}",
            "post_id": f"post-{number}",
            "community": "newtown",
            "role": role,
            "model": model,
            "reply": reply,
            "finish_reason": None if reply is None else "length" if number in cut else "stop",
            "error": "PromptTooLongError" if reply is None else None,
            "num_prompt_tokens": 20,
            "num_completion_tokens": 10,
            "seed": 17,
            "temperature": 0.7,
            "top_p": 0.95,
            "max_new_tokens": 200,
        }
        for number, reply in replies.items()
    ]


def write_pairs(storage: Storage, posts: Sequence[str] = POSTS) -> Manifest:
    """`pairs/default` with its held-out posts."""
    rows = [
        {
            "post_id": f"post-{number}",
            "community": "newtown",
            "post": post,
            "reply": REPLIES[number],
            "reply_score": 9,
            "draft": DRAFTS[number],
            "draft_score": 2,
        }
        for number, post in enumerate(posts)
    ]
    draft = storage.begin("pairs", "default")
    files = [draft.write_table("held-out/part-00000.parquet", pa.Table.from_pylist(rows, HELD_OUT_SCHEMA))]
    return draft.publish(files, fingerprint=fingerprint("pairs", {"posts": list(posts)}, []), config={}, inputs=[])


def write_model(storage: Storage, name: str, parents: Sequence[Manifest]) -> Manifest:
    """`models/<name>`; its weights play no part here."""
    inputs = [parent.as_input() for parent in parents]
    draft = storage.begin("models", name)
    return draft.publish([], fingerprint=fingerprint("train", {"name": name}, inputs), config={}, inputs=inputs)


def write_generation(storage: Storage, name: str, rows: GenerationRows, inputs: Sequence[Input]) -> Manifest:
    """`generations/<name>`, its rows in two files."""
    draft = storage.begin("generations", name)
    half = (len(rows) + 1) // 2
    files = [
        draft.write_table(f"rows/part-{part:05}.parquet", pa.Table.from_pylist(list(chunk), GENERATION_SCHEMA))
        for part, chunk in enumerate((rows[:half], rows[half:]))
    ]
    return draft.publish(files, fingerprint=fingerprint("generate", {"name": name}, inputs), config={}, inputs=inputs)


@pytest.fixture
def storage(config: Config) -> Storage:
    """The store of `config`, empty."""
    return Storage.open(config.storage)


def write_generated(storage: Storage) -> None:
    """What bulk generation leaves: gm-base, gm-sft, gm-dpo1 and im-sft; one reply failed, one is empty, two are cut."""
    pairs = write_pairs(storage)
    base = write_model(storage, "base", [])
    gm_sft = write_model(storage, "gm-sft", [base, pairs])
    gm_dpo1 = write_model(storage, "gm-dpo1", [gm_sft, pairs])
    im_sft = write_model(storage, "im-sft", [base, pairs])
    posts = range(NUM_POSTS)
    replies: dict[str, tuple[Manifest, dict[int, str | None]]] = {
        "gm-base": (base, {n: f"lantern lantern {'light ' * n}" for n in posts} | {0: None}),
        "gm-sft": (
            gm_sft,
            {n: f"I hear you. Keep your lantern near, {'and near, ' * (n % 3)}friend." for n in posts} | {1: " "},
        ),
        "gm-dpo1": (gm_dpo1, {n: f"Thank you for writing. {'A lantern helps. ' * (n % 5 + 1)}" for n in posts}),
        "im-sft": (im_sft, {n: f"Maybe buy a lantern? Going out {'a little ' * (n % 4)}more can help." for n in posts}),
    }
    for name, (model, texts) in replies.items():
        rows = generation_rows(name[:2], model.name, texts, cut=(3, 4) if name == "gm-base" else ())
        write_generation(storage, name, rows, [model.as_input(), pairs.as_input()])


@pytest.fixture
def generated(storage: Storage) -> Storage:
    """The store of `config` after bulk generation."""
    write_generated(storage)
    return storage


def write_classifier(folder: Path, tokenizer: Path, num_labels: int = 3, always: int = 2) -> Path:
    """A random two-layer BERT that tells `num_labels` levels apart, and is biased towards the level `always`."""
    torch = pytest.importorskip("torch")
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        num_labels=num_labels,
    )
    model = BertForSequenceClassification(config)
    model.classifier.bias.data[always] = 100
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
