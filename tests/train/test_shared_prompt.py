"""DPO's joined rows say of every token of a reply what rows of its own would say, in every family that is listed."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from llumi.train.shared_prompt import MODEL_TYPES, Pairs, SharedPrompt, can_share_prompt

PAD = 0
EXAMPLES = [
    {"prompt_ids": [5, 6, 7, 8, 9, 10], "chosen_ids": [11, 12], "rejected_ids": [13, 14, 15, 16]},
    {"prompt_ids": [20], "chosen_ids": [21, 22, 23, 24, 25, 26], "rejected_ids": [27]},
    {"prompt_ids": [30, 31, 32], "chosen_ids": [33], "rejected_ids": [33, 34]},
]
FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def small(model_type: str, **more: Any) -> Any:
    """A random model of two layers."""
    torch.manual_seed(17)
    config = AutoConfig.for_model(
        model_type, vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128, pad_token_id=PAD, bos_token_id=1, eos_token_id=2,
        **more,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    # Weights of some families start so small that every token would look like every other.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    add_fused_lm_head(model, outputs=FIELDS)
    return model


def batch() -> dict[str, torch.Tensor]:
    inputs = DataCollatorForPreference(pad_token_id=PAD)([dict(example) for example in EXAMPLES])
    labels = inputs["input_ids"].masked_fill(inputs.pop("completion_mask") == 0, -100)
    return {**inputs, "labels": labels, "fused_lm_head": True}


@pytest.mark.parametrize("model_type", sorted(MODEL_TYPES))
def test_the_figures_of_every_token_are_those_of_two_rows(model_type: str) -> None:
    model = small(model_type)
    assert can_share_prompt(model, max_length=20)
    with torch.no_grad():
        apart, joined = model(**batch()), SharedPrompt(model)(**batch())
    assert apart.log_probs.abs().sum(dim=1).min() > 1
    for name in (*FIELDS, "label_mask"):
        torch.testing.assert_close(getattr(joined, name), getattr(apart, name), atol=2e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("checkpoints_activations", [False, True])
def test_so_are_the_gradients(checkpoints_activations: bool) -> None:
    model = small("llama").train()
    if checkpoints_activations:
        model.gradient_checkpointing_enable()
    chosen_against_rejected = torch.tensor([[1.0], [1], [1], [-1], [-2], [-1]])
    gradients = []
    for callee in (model, SharedPrompt(model)):
        model.zero_grad()
        (callee(**batch()).log_probs * chosen_against_rejected).sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_a_rejected_reply_does_not_see_the_chosen_one() -> None:
    model = small("llama")
    other = [dict(example) | {"chosen_ids": [token + 1 for token in example["chosen_ids"]]} for example in EXAMPLES]
    inputs = batch()
    replaced = DataCollatorForPreference(pad_token_id=PAD)(other)["input_ids"]
    labels = torch.where(inputs["labels"] == -100, -100, replaced)
    with torch.no_grad():
        before = SharedPrompt(model)(**inputs).log_probs
        after = SharedPrompt(model)(**inputs | {"input_ids": replaced, "labels": labels}).log_probs
    assert not torch.equal(before[:3], after[:3])
    torch.testing.assert_close(before[3:], after[3:])


@pytest.mark.parametrize(
    ("model_type", "more", "attention"),
    [
        ("mistral", {"sliding_window": 16}, "sdpa"),
        ("llama", {}, "eager"),
        ("gemma2", {}, "sdpa"),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1}, "eager"),
    ],
)
def test_a_family_that_is_not_listed_or_looks_through_a_window_keeps_two_rows(
    model_type: str, more: dict[str, Any], attention: str
) -> None:
    model = small(model_type, **more)
    model.set_attn_implementation(attention)
    assert not can_share_prompt(model, max_length=20)


def test_a_window_that_holds_every_row_is_none() -> None:
    assert can_share_prompt(small("mistral", sliding_window=20), max_length=20)


def test_rows_are_laid_out_and_counted_as_documented() -> None:
    inputs = batch()
    pairs = Pairs.of(inputs["attention_mask"], inputs["labels"] != -100)
    rows = pairs.joined(inputs["input_ids"])
    assert [row[:length].tolist() for row, length in zip(rows, pairs.tokens.flatten(), strict=True)] == [
        example["prompt_ids"] + example["chosen_ids"] + example["prompt_ids"][-1:] + example["rejected_ids"]
        for example in EXAMPLES
    ]
    assert pairs.positions()[0, :13].tolist() == [*range(8), *range(5, 10)]
    labels = pairs.joined(inputs["labels"], of_padding=-100)
    assert labels[1].tolist() == [-100, 21, 22, 23, 24, 25, 26, -100, 27, -100, -100, -100, -100]
    visible = pairs.visible()
    assert visible.shape == (3, 1, 13, 13)
    # The repeated token of the first pair sees the five before the one that it repeats, and itself.
    assert visible[0, 0, 8].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 8]
    # Seen twice, less those that see themselves: 1 + 3 + 5 ... of a row of its own is its length squared.
    seen = [2 * int(visible[pair, 0, :length].sum()) - length for pair, length in enumerate(pairs.tokens.flatten().tolist())]
    assert pairs.squares.flatten().tolist() == seen
