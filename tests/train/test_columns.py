from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llumi.errors import ModelError
from llumi.records import DPO_SCHEMA, SFT_SCHEMA
from llumi.train.columns import IGNORED, MIN_PROMPT_TOKENS, Counts, encode
from tests.train.conftest import COLD, POSTS, WARM, dpo_rows, sft_rows


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def written(folder: Path, rows: list[dict], schema: pa.Schema) -> list[Path]:
    """Two files: an empty one, and one with the rows."""
    files = [folder / "part-00000.parquet", folder / "part-00001.parquet"]
    pq.write_table(pa.Table.from_pylist([], schema=schema), files[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), files[1])
    return files


def test_sft_labels_cover_the_completion_and_its_end_alone(tokenizer: Any, tmp_path: Path) -> None:
    examples = encode(written(tmp_path, sft_rows(3), SFT_SCHEMA), "sft", tokenizer, 1024)
    assert examples.counts == Counts(examples=3, too_long=0, kept=3)
    assert examples.ids == ["e0", "e1", "e2"]
    for i, row in enumerate(examples.rows.to_pylist()):
        assert row["row"] == i
        learned = [token for token in row["labels"] if token != IGNORED]
        assert tokenizer.decode(learned) == f"{WARM[i % 2]} ({i})<|end|>"
        masked = row["input_ids"][: row["labels"].count(IGNORED)]
        assert tokenizer.decode(masked).endswith(f"{POSTS[i]}<|end|><|assistant|>")
        assert masked + learned == row["input_ids"]


def test_dpo_columns_share_the_prompt_and_end_their_replies(tokenizer: Any, tmp_path: Path) -> None:
    rows = dpo_rows(2)
    rows[1]["weight"] = 0.25
    examples = encode(written(tmp_path, rows, DPO_SCHEMA), "dpo", tokenizer, 1024)
    assert examples.counts.kept == 2
    assert examples.rows["weight"].to_pylist() == [1.0, 0.25]
    for i, row in enumerate(examples.rows.to_pylist()):
        assert tokenizer.decode(row["prompt_ids"]).endswith("<|end|><|assistant|>")
        assert tokenizer.decode(row["chosen_ids"]) == f"{WARM[i]} ({i})<|end|>"
        assert tokenizer.decode(row["rejected_ids"]) == f"{COLD[i]}<|end|>"


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_an_example_at_the_limit_stays_and_one_above_it_is_counted_out(tokenizer: Any, tmp_path: Path, objective: Any) -> None:
    rows, schema = (sft_rows(4), SFT_SCHEMA) if objective == "sft" else (dpo_rows(4), DPO_SCHEMA)
    files = written(tmp_path, rows, schema)
    examples = encode(files, objective, tokenizer, 1024)
    lengths = sorted(
        len(row["input_ids"])
        if objective == "sft"
        else len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in examples.rows.to_pylist()
    )
    assert sorted(examples.lengths()) == lengths
    assert lengths[-2] < lengths[-1]
    assert encode(files, objective, tokenizer, lengths[-1]).counts == Counts(4, 0, 4)
    assert encode(files, objective, tokenizer, lengths[-1] - 1).counts == Counts(4, 1, 3)
    assert encode(files, objective, tokenizer, 16).counts == Counts(4, 4, 0)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_cut_takes_the_middle_of_the_prompt_and_nothing_of_a_reply(tokenizer: Any, tmp_path: Path, objective: Any) -> None:
    rows, schema = (sft_rows(4), SFT_SCHEMA) if objective == "sft" else (dpo_rows(4), DPO_SCHEMA)
    files = written(tmp_path, rows, schema)
    whole = encode(files, objective, tokenizer, 1024)
    limit = sorted(whole.lengths())[0] - 5
    cut = encode(files, objective, tokenizer, limit, "truncate")
    assert cut.counts == Counts(4, 0, 4, truncated=4)
    assert cut.lengths() == [limit] * 4
    for before, after in zip(whole.rows.to_pylist(), cut.rows.to_pylist(), strict=True):
        if objective == "sft":
            num = before["labels"].count(IGNORED)
            prompt, kept = before["input_ids"][:num], after["input_ids"][: after["labels"].count(IGNORED)]
            assert [token for token in before["labels"] if token != IGNORED] == [t for t in after["labels"] if t != IGNORED]
        else:
            prompt, kept = before["prompt_ids"], after["prompt_ids"]
            assert (before["chosen_ids"], before["rejected_ids"]) == (after["chosen_ids"], after["rejected_ids"])
        tail = len(kept) // 2
        assert kept == prompt[: len(kept) - tail] + prompt[-tail:]


def test_a_reply_that_leaves_no_room_for_its_prompt_is_counted_out(tokenizer: Any, tmp_path: Path) -> None:
    files = written(tmp_path, sft_rows(4), SFT_SCHEMA)
    whole = encode(files, "sft", tokenizer, 1024)
    longest_reply = max(len(labels) - labels.count(IGNORED) for labels in whole.rows["labels"].to_pylist())
    short = encode(files, "sft", tokenizer, longest_reply + MIN_PROMPT_TOKENS - 1, "truncate")
    assert short.counts.too_long > 0
    assert short.counts.too_long + short.counts.kept == 4
    # Whoever refuses long examples gets them counted, as if they were dropped.
    assert encode(files, "sft", tokenizer, 16, "refuse").counts == Counts(4, 4, 0)


def test_a_template_that_renders_a_bare_prompt_differently_still_gives_the_whole_reply(tokenizer: Any, tmp_path: Path) -> None:
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace("<|assistant|>{% endif %}", "<|assistant|><|pad|>{% endif %}")
    (row,) = encode(written(tmp_path, sft_rows(1), SFT_SCHEMA), "sft", other, 1024).rows.to_pylist()
    assert other.decode([token for token in row["labels"] if token != IGNORED]) == f"{WARM[0]} (0)<|end|>"


def test_an_error_of_the_template_quotes_nobody(tokenizer: Any, tmp_path: Path) -> None:
    import copy

    broken = copy.deepcopy(tokenizer)
    broken.chat_template = "{{ raise_exception(messages[0]['content']) }}"
    with pytest.raises(ModelError, match=r"chat template cannot render these pairs \(TemplateError\)") as caught:
        encode(written(tmp_path, sft_rows(1), SFT_SCHEMA), "sft", broken, 1024)
    assert POSTS[0] not in str(caught.value)
    assert caught.value.__suppress_context__
