"""What IM learns from: a person's draft, and the reply that the community endorsed over it.

The rejected answer is the draft itself, unrevised, so that the model learns to revise and not to copy.
"""

from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from llumi.pairs.examples import dpo_table, sft_table
from llumi.prompts import Message, im_prompt


def im_dpo(pairs: pl.DataFrame) -> pa.Table:
    """Preference rows (DPO_SCHEMA): the post and its less endorsed reply as the draft -> the endorsed one over it."""
    return dpo_table(pairs, _prompts(pairs))


def im_sft(pairs: pl.DataFrame) -> pa.Table:
    """The same as examples (SFT_SCHEMA): post and draft -> the endorsed reply."""
    return sft_table(pairs, _prompts(pairs))


def _prompts(pairs: pl.DataFrame) -> Iterator[list[Message]]:
    return (im_prompt(post, draft) for post, draft in pairs.select("text", "body_rejected").iter_rows())
