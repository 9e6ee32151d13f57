"""Which prompts are answered: held-out posts, train posts, or drafts for a teacher, chosen by a hash of their ids."""

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llumi.config import Config
from llumi.errors import ArtifactError
from llumi.generate.names import Posts
from llumi.prompts import Role
from llumi.storage import Manifest, Storage, store_errors

FOLDERS: dict[Posts, tuple[str, ...]] = {"held-out": ("held-out",), "train": ("drafts",), "drafts": ("drafts", "held-out")}
"""Where the pairs keep them; the folder `drafts` holds train posts alone."""


def select_prompts(config: Config, storage: Storage, role: Role, posts: Posts = "held-out") -> pa.Table:
    """The posts (for IM those with a draft), by a hash of their ids: the first `max_posts` are a fair sample.

    Of `drafts` there are `pairs.revisions.max_pairs`. Only what is chosen is held in memory.
    """
    folders = FOLDERS[posts]
    limit = config.pairs.revisions.max_pairs if posts == "drafts" else config.generate.max_posts
    pairs = storage.manifest(f"pairs/{config.pairs.name}")
    ranks = np.concatenate([np.empty(0, np.uint64), *(rank for _, rank in _posts(storage, pairs, folders, role, ["post_id"]))])
    if not len(ranks):
        advice = "raise pairs.test_fraction" if posts == "held-out" else "see its card: llumi pairs card"
        raise ArtifactError(f"{storage.uri}/{pairs.reference}: no {posts} post for {role}; {advice}")
    last = None if limit is None or limit >= len(ranks) else np.partition(ranks, limit - 1)[limit - 1]
    chosen, places = [], []
    for part, rank in _posts(storage, pairs, folders, role, ["post_id", "community", "post"]):
        is_chosen = np.full(len(rank), True) if last is None else rank <= last
        chosen.append(part.filter(pa.array(is_chosen)))
        places.append(rank[is_chosen])
    return pa.concat_tables(chosen).take(pa.array(np.argsort(np.concatenate(places), kind="stable")))


def _posts(
    storage: Storage, pairs: Manifest, folders: tuple[str, ...], role: Role, columns: list[str]
) -> Iterator[tuple[pa.Table, npt.NDArray[np.uint64]]]:
    """File by file: the posts to answer, and the rank of each, a hash of its id."""
    for folder in folders:
        files = pairs.files_under(folder)
        if not files:
            raise ArtifactError(f"{storage.uri}/{pairs.reference}: holds no {folder}/; run `llumi pairs build` again")
        for file in files:
            with store_errors(storage.uri):
                posts = pq.read_table(
                    storage.path(pairs.reference, file), filesystem=storage.filesystem, columns=[*columns, "draft"]
                )
            if role == "im":
                posts = posts.filter(pc.is_valid(posts["draft"]))
            ranks = [hashlib.sha256(post_id.encode()).digest()[:8] for post_id in posts["post_id"].to_pylist()]
            yield posts, np.frombuffer(b"".join(ranks), dtype=">u8").astype(np.uint64)
