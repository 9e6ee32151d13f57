"""Which posts generations answer, and what they are called."""

from collections.abc import Sequence
from typing import Literal

from llumi.prompts import ROLES, Role

Posts = Literal["held-out", "train", "drafts"]
"""`held-out` for evaluation, `train` for a study whose preferences dpo2 learns from, `drafts` (IM) all, for a teacher."""

TRAIN_POSTS: tuple[Posts, ...] = ("train", "drafts")


def generation_name(role: Role, model: str, posts: Posts = "held-out") -> str:
    """The artifact of `model` in `role`: ("gm", "gm-dpo1") gives "gm-dpo1", ("im", "base", "drafts") "im-base-drafts"."""
    return f"{role}-{model.removeprefix(f'{role}-')}" + ("" if posts == "held-out" else f"-{posts}")


def answers_train_posts(name: str, models: Sequence[str]) -> bool:
    """Whether generations called `name`, which came of one of `models`, are material for training."""
    names = (generation_name(role, model, posts) for role in ROLES for model in models for posts in TRAIN_POSTS)
    return name in names
