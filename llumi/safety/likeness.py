"""Posts that are like posts at risk, in their words or in what they mean: for wordings that no rule foresaw.

Two kernels are added up: n-grams of words and letters, which slips of the fingers leave half whole, and nearness of sentence
embeddings (all-MiniLM-L6-v2), which other words leave whole. A kernel ridge regression over the made-up posts of posts.yaml
(Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, section 5.8.2) tells for each tier how like a
sentence is; the threshold is the score that `FALSE_ALARMS` of the posts below that tier reach when each is left out of the
fit. What was fitted lies beside posts.yaml in likeness.npz; where that was fitted to other posts, it is fitted anew.

It is for posts alone. Of replies it cannot tell kindness from harm: "you are not a burden" is near "you are a burden".
"""

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from llumi.embedding_light import light_embedder
from llumi.errors import ConfigError, ModelError
from llumi.safety.documents import Document, read_document
from llumi.safety.sentences import Sentences

DEFAULT_FILE = Path(__file__).with_name("posts.yaml")
FITTED_FILE = DEFAULT_FILE.with_name("likeness.npz")
FALSE_ALARMS = {"possible": 0.04, "imminent": 0.02}
SENTENCES = 40
"""So many of a post's last sentences are read: a chat may be long, and its end is now."""

_NUM_FEATURES = 2**14
_WORDS_IN_A_ROW = 2
_LETTERS_IN_A_ROW = (2, 3, 4, 5)
_SHARPNESS = 3.0
_RIDGE = 0.3
_WORD = re.compile(r"[a-z0-9']+")

Array = npt.NDArray[np.float32]
RiskTier = Literal["possible", "imminent"]
_HEADS: tuple[RiskTier, ...] = ("imminent", "possible")


class LabelledPosts(Document):
    """`posts.yaml`: for each tier its posts, by kind."""

    none: dict[str, tuple[str, ...]]
    possible: dict[str, tuple[str, ...]]
    imminent: dict[str, tuple[str, ...]]

    def of(self, tier: Literal["none", "possible", "imminent"]) -> list[str]:
        """The posts of a tier."""
        kinds: dict[str, tuple[str, ...]] = getattr(self, tier)
        return [post for posts in kinds.values() for post in posts]


@dataclass(frozen=True, eq=False)
class Likeness:
    """What was fitted: `rarity` and `weights` of the n-grams, `embeddings` of the posts with their `duals`, and thresholds;
    a column for each of `_HEADS`.
    """

    digest: str
    rarity: Array
    weights: Array
    embeddings: Array
    duals: Array
    thresholds: Array

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """For the posts of `path`, else LLUMI's; raises ConfigError where the file or the embedding model is missing."""
        posts = read_document(LabelledPosts, path or DEFAULT_FILE)
        try:
            light_embedder()
            with np.load(FITTED_FILE) as fitted:
                if str(fitted["digest"]) == _digest(posts):
                    arrays = {field.name: fitted[field.name].astype(np.float32) for field in fields(cls)[1:]}
                    return cls(str(fitted["digest"]), **arrays)
            return cls.fit(posts)
        except ModelError as error:
            raise ConfigError(f"safety.likeness: {error}; or set safety.likeness=false") from None

    @classmethod
    def fit(cls, posts: LabelledPosts) -> Self:
        """About a second of one core for each hundred posts, nearly all of it for embeddings."""
        imminent, possible, none = posts.of("imminent"), posts.of("possible"), posts.of("none")
        texts = [*imminent, *possible, *none]
        counts = _counted(texts)
        rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(0))).astype(np.float32) + 1
        grams = _scaled(counts, rarity)
        embeddings = light_embedder().embed(texts)
        rank = np.repeat([2, 1, 0], [len(imminent), len(possible), len(none)])
        targets = np.stack([np.where(rank >= least, 1.0, -1.0) for least in (2, 1)], axis=1)
        inverse = np.linalg.inv(grams @ grams.T + _nearness(embeddings, embeddings) + _RIDGE * np.eye(len(texts)))
        duals = inverse @ targets
        left_out = targets - duals / np.diag(inverse)[:, None]
        thresholds = [np.quantile(left_out[targets[:, at] < 0, at], 1 - FALSE_ALARMS[tier]) for at, tier in enumerate(_HEADS)]
        arrays = (rarity, grams.T @ duals, embeddings, duals, np.array(thresholds))
        return cls(_digest(posts), *(np.asarray(each, np.float32) for each in arrays))

    def save(self, path: Path = FITTED_FILE) -> None:
        """Halves of the digits are enough."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        np.savez_compressed(path, digest=self.digest, **{name: each.astype(np.float16) for name, each in arrays.items()})

    def tiers(self, posts: Sequence[str]) -> list[RiskTier | None]:
        """For each post the highest tier whose threshold one of its sentences reaches; many posts at once cost less each."""
        of_posts = [Sentences.of(post).sentences[-SENTENCES:] for post in posts]
        place = {each: at for at, each in enumerate(dict.fromkeys(each for sentences in of_posts for each in sentences))}
        reached = self.scores(list(place)) > self.thresholds
        each = (np.logical_or.reduce(reached[[place[sentence] for sentence in sentences]]) for sentences in of_posts)
        return [next((tier for tier, is_reached in zip(_HEADS, row, strict=True) if is_reached), None) for row in each]

    def scores(self, sentences: Sequence[str]) -> Array:
        """For each sentence a score for each tier, shape (sentences, 2): 1 is like the posts at risk, -1 like the others."""
        if not sentences:
            return np.zeros((0, len(_HEADS)), np.float32)
        grams = _scaled(_counted(sentences), self.rarity) @ self.weights
        return np.asarray(grams + _nearness(light_embedder().embed(sentences), self.embeddings) @ self.duals)


def _nearness(embeddings: Array, others: Array) -> Array:
    return np.asarray(np.exp(_SHARPNESS * (embeddings @ others.T - 1)))


def _counted(texts: Sequence[str]) -> Array:
    """Logarithms of how often each n-gram stands in each text, shape (texts, features); n-grams of one hash count as one."""
    counts = np.zeros((len(texts), _NUM_FEATURES), np.float32)
    for row, text in enumerate(texts):
        for gram, count in Counter(_grams(text)).items():
            counts[row, zlib.crc32(gram.encode()) % _NUM_FEATURES] += count
    return np.log1p(counts)


def _scaled(counts: Array, rarity: Array) -> Array:
    weighted = counts * rarity
    return np.asarray(weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-9))


def _grams(text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    for length in range(1, _WORDS_IN_A_ROW + 1):
        yield from (" ".join(words[at : at + length]) for at in range(len(words) - length + 1))
    for word in words:
        bordered = f"<{word}>"
        for length in _LETTERS_IN_A_ROW:
            yield from (f"#{bordered[at : at + length]}" for at in range(len(bordered) - length + 1))


def _digest(posts: LabelledPosts) -> str:
    shape = (_NUM_FEATURES, _WORDS_IN_A_ROW, _LETTERS_IN_A_ROW, _SHARPNESS, _RIDGE, sorted(FALSE_ALARMS.items()))
    return hashlib.sha256(f"{shape}{posts.model_dump_json()}".encode()).hexdigest()[:16]


if __name__ == "__main__":
    Likeness.fit(read_document(LabelledPosts, DEFAULT_FILE)).save()
