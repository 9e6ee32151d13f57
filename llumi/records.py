"""The Arrow schemas in which records lie on storage; identifiers and authors are keyed hashes (`llumi.corpus.privacy`)."""

from typing import Literal

import pyarrow as pa

Split = Literal["train", "test"]

HUMAN_REPLY = "human-reply"
"""The arm of the best endorsed human reply to each post."""

HUMAN_DRAFT = "human-draft"
"""The arm of the least endorsed human reply to each post: the draft that IM revises."""


MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SFT_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("post_id", pa.string()),
        ("post_author", pa.string()),
        ("author", pa.string()),
        ("draft_author", pa.string()),
        ("community", pa.string()),
        ("risk", pa.string()),
        ("prompt", MESSAGES),
        ("completion", MESSAGES),
        ("score", pa.int64()),
    ]
)
"""`pairs/<name>/<role>-sft/<split>/`: TRL's conversational prompt and completion.

Authors are pseudonyms, there so that a person's text can be found again and removed; `author` wrote the completion and
is null where a teacher model did, `draft_author` wrote IM's draft and is null for GM. `risk` is the tier of the post
(`llumi.safety`). `score` is null for a teacher's.
"""

DPO_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("post_id", pa.string()),
        ("post_author", pa.string()),
        ("chosen_author", pa.string()),
        ("rejected_author", pa.string()),
        ("community", pa.string()),
        ("risk", pa.string()),
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("chosen_score", pa.int64()),
        ("rejected_score", pa.int64()),
        ("weight", pa.float64()),
        ("similarity", pa.float64()),
    ]
)
"""`pairs/<name>/<role>-dpo/<split>/`: TRL's conversational prompt, chosen and rejected.

`weight` says how much the pair counts (1 where the preset gives no weight). `similarity` is that of draft and revision,
null for GM. `chosen_author` and `chosen_score` are null where a teacher model wrote the chosen revision. Pairs that people
preferred have no scores and no similarity, and authors only where their file names some.
"""

PEOPLE_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("post_id", pa.string()),
        ("author", pa.string()),
        ("part", pa.string()),
    ]
)
"""`pairs/<name>/people/`, beside pairs that people preferred: who else had a part in a pair, as a pseudonym.

`part` is `draft` (wrote IM's draft) or `rater` (preferred the chosen text).
"""

HELD_OUT_SCHEMA = pa.schema(
    [
        ("post_id", pa.string()),
        ("post_author", pa.string()),
        ("community", pa.string()),
        ("risk", pa.string()),
        ("post", pa.string()),
        ("reply", pa.string()),
        ("reply_author", pa.string()),
        ("reply_score", pa.int64()),
        ("draft", pa.string()),
        ("draft_author", pa.string()),
        ("draft_score", pa.int64()),
    ]
)
"""`pairs/<name>/held-out/` (test posts) and `drafts/` (training posts), each with the replies of its widest pair.

The better one is the human arm of an evaluation, the weaker one IM's draft.
"""

GENERATION_SCHEMA = pa.schema(
    [
        ("generation_id", pa.string()),
        ("post_id", pa.string()),
        ("community", pa.string()),
        ("role", pa.string()),
        ("model", pa.string()),
        ("reply", pa.string()),
        ("finish_reason", pa.string()),
        ("error", pa.string()),
        ("num_prompt_tokens", pa.int64()),
        ("num_completion_tokens", pa.int64()),
        ("seed", pa.int64()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_new_tokens", pa.int64()),
    ]
)
"""`generations/<role>-<model>/`: one row per prompt; `error` is null where a reply was generated, else `reply` is null."""

SCALE_SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("rater", pa.string()),
        ("item", pa.string()),
        ("post_id", pa.string()),
        ("arm", pa.string()),
        ("dimension", pa.string()),
        ("score", pa.int64()),
        ("is_repeat", pa.bool_()),
    ]
)
"""`scales.parquet` of `llumi rate export`: one score from 1 to 5. A scale for both replies stands with the revision's arm."""

CHOICE_SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("rater", pa.string()),
        ("item", pa.string()),
        ("post_id", pa.string()),
        ("left_arm", pa.string()),
        ("right_arm", pa.string()),
        ("verdict", pa.string()),
        ("first_shown", pa.string()),
        ("is_repeat", pa.bool_()),
        ("seconds", pa.float64()),
    ]
)
"""`choices.parquet`: which of two replies was preferred, `left`, `right` or `tie`.

`first_shown` is the arm that was read first: the left one, which is above the other on a phone. `seconds` are from when the
page was shown to when it was sent.
"""

CHECK_SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("rater", pa.string()),
        ("item", pa.string()),
        ("num_asked", pa.int64()),
        ("num_right", pa.int64()),
        ("seconds", pa.float64()),
    ]
)
"""`checks.parquet`: of the answers that a page asked for, how many were given."""
