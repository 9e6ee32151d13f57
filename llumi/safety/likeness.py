"""Texts that are like labelled ones, in their words or in what they mean: for wordings that no rule foresaw.

Kernels are added up: n-grams of words and letters, which slips of the fingers leave half whole, and nearness of sentence
embeddings (all-MiniLM-L6-v2), which other words leave whole. A kernel ridge regression over made-up texts (Hastie, Tibshirani
and Friedman 2009, The Elements of Statistical Learning, section 5.8.2) tells for each head how like a sentence is; the
threshold is the score that a share of the texts below that head (`Kernel.false_alarms`) reach when each is left out of the fit.
What was fitted lies beside the texts in an .npz; where that was fitted to other texts, it is fitted anew.

Posts (posts.yaml) have the heads `imminent` and `possible`, replies (replies.yaml) one, harm. "You are not a burden" is near
"you are a burden", so replies are fitted to pairs of such sentences; and the embedding model's fourth layer, which is nearer
to the words, is asked beside its last. N-grams only add false alarms there.
"""

import hashlib
import re
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt

from llumi.embedding_light import LAST_LAYER, MODEL, light_embedder
from llumi.errors import ConfigError, ModelError
from llumi.safety.documents import Document, read_document
from llumi.safety.remembered import Remembered
from llumi.safety.sentences import Sentences

SENTENCES = 40
"""So many of a post's last sentences are read: a chat may be long, and its end is now."""

_FOLDER = Path(__file__).parent
_NUM_FEATURES = 2**14
_WORDS_IN_A_ROW = 2
_LETTERS_IN_A_ROW = (2, 3, 4, 5)
_WORD = re.compile(r"[a-z0-9']+")
_FEW_LETTERS = 4
_LETTER = re.compile("[a-z]", re.IGNORECASE)

Array = npt.NDArray[np.float32]
RiskTier = Literal["possible", "imminent"]
Text = TypeVar("Text")
_TIERS: tuple[RiskTier, ...] = ("imminent", "possible")


@dataclass(frozen=True)
class Kernel:
    """How texts are compared: `sharpness` of the nearness in each layer of the embedding model, and n-grams or none."""

    sharpness: tuple[tuple[int, float], ...]
    has_grams: bool
    ridge: float
    false_alarms: tuple[float, ...]
    """For each head."""


class Labelled(Document):
    """A file of labelled texts, with its kernel and where what was fitted to it lies."""

    file: ClassVar[Path]
    fitted: ClassVar[Path]
    kernel: ClassVar[Kernel]

    @abstractmethod
    def labelled(self) -> tuple[list[str], Array]:
        """The texts, and 1 or -1 for each text and head, shape (texts, heads)."""

    @classmethod
    def read(cls, path: Path | None = None) -> Self:
        """From `path`, else the file that LLUMI ships; raises ConfigError in one line."""
        return read_document(cls, path or cls.file)

    def digest(self) -> str:
        """Tells texts, kernels and embedding models apart."""
        shape = (MODEL, _NUM_FEATURES, _WORDS_IN_A_ROW, _LETTERS_IN_A_ROW, self.kernel)
        return hashlib.sha256(f"{shape}{self.model_dump_json()}".encode()).hexdigest()[:16]


class LabelledPosts(Labelled):
    """`posts.yaml`: for each tier its posts, by kind."""

    file = _FOLDER / "posts.yaml"
    fitted = _FOLDER / "likeness_posts.npz"
    kernel = Kernel(sharpness=((LAST_LAYER, 3.0),), has_grams=True, ridge=0.3, false_alarms=(0.02, 0.04))

    none: dict[str, tuple[str, ...]]
    possible: dict[str, tuple[str, ...]]
    imminent: dict[str, tuple[str, ...]]

    def of(self, tier: Literal["none", "possible", "imminent"]) -> list[str]:
        """The posts of a tier."""
        kinds: dict[str, tuple[str, ...]] = getattr(self, tier)
        return _every(kinds)

    def labelled(self) -> tuple[list[str], Array]:
        """A post at imminent risk is like both tiers."""
        imminent, possible, none = self.of("imminent"), self.of("possible"), self.of("none")
        rank = np.repeat([2, 1, 0], [len(imminent), len(possible), len(none)])
        return [*imminent, *possible, *none], _targets(rank >= 2, rank >= 1)


class LabelledReplies(Labelled):
    """`replies.yaml`: replies to be refused, by kind, and safe ones; pairs of a harmful and a kind sentence; kind sentences."""

    file = _FOLDER / "replies.yaml"
    fitted = _FOLDER / "likeness_replies.npz"
    kernel = Kernel(sharpness=((4, 5.0), (LAST_LAYER, 3.0)), has_grams=False, ridge=0.1, false_alarms=(0.02,))

    of_people: ClassVar = frozenset({"experience"})
    """Kinds that are wrong from a model and may stand in a person's draft: `RevisionRules` judge them beside the draft."""

    refused: dict[str, tuple[str, ...]]
    safe: tuple[str, ...]
    pairs: dict[str, tuple[tuple[str, str], ...]]
    kind: dict[str, tuple[str, ...]]

    def labelled(self) -> tuple[list[str], Array]:
        """Sentences; of a refused reply of several nobody knows which is the harmful one, so it is left out."""
        refused = _every({name: texts for name, texts in self.refused.items() if name not in self.of_people})
        pairs = _every(self.pairs)
        harmful = [text for text in refused if len(Sentences.of(text).sentences) == 1] + [pair[0] for pair in pairs]
        kind = [sentence for text in self.safe for sentence in Sentences.of(text).sentences]
        kind += [pair[1] for pair in pairs] + _every(self.kind)
        return [*harmful, *kind], _targets(np.repeat([True, False], [len(harmful), len(kind)]))


@dataclass(frozen=True, eq=False)
class Likeness:
    """What was fitted: `rarity` and `weights` of the n-grams, `embeddings` of the texts with their `duals`, and thresholds;
    a column for each head.
    """

    kernel: Kernel
    digest: str
    rarity: Array
    weights: Array
    embeddings: Array
    duals: Array
    thresholds: Array

    @classmethod
    def load(cls, document: type[Labelled], path: Path | None = None) -> Self:
        """For the texts of `path`, else LLUMI's; raises ConfigError where the file or the embedding model is missing."""
        texts = document.read(path)
        try:
            light_embedder()
            with np.load(document.fitted) as fitted:
                if str(fitted["digest"]) == texts.digest():
                    arrays = {name: fitted[name].astype(np.float32) for name in _ARRAYS}
                    return cls(document.kernel, str(fitted["digest"]), **arrays)
            return cls.fit(texts)
        except ModelError as error:
            raise ConfigError(f"safety.likeness: {error}; or set safety.likeness=false") from None

    @classmethod
    def fit(cls, document: Labelled) -> Self:
        """About half a second of one core for each hundred texts, most of it for embeddings."""
        rarity, grams, embeddings, targets, inverse = _regression(document)
        duals = inverse @ targets
        false_alarms = document.kernel.false_alarms
        left_out = _left_out(targets, duals, inverse)
        thresholds = [np.quantile(left_out[targets[:, head] < 0, head], 1 - share) for head, share in enumerate(false_alarms)]
        arrays = (rarity, grams.T @ duals, embeddings, duals, np.array(thresholds))
        return cls(document.kernel, document.digest(), *(np.asarray(each, np.float32) for each in arrays))

    @staticmethod
    def left_out(document: Labelled) -> tuple[Array, Array]:
        """The targets of a document, and the scores of each text by what is fitted to all others, shapes (texts, heads)."""
        *_, targets, inverse = _regression(document)
        return targets, _left_out(targets, inverse @ targets, inverse)

    def save(self, path: Path) -> None:
        """Halves of the digits are enough."""
        arrays = {name: getattr(self, name).astype(np.float16) for name in _ARRAYS}
        np.savez_compressed(path, digest=self.digest, **arrays)

    def tiers(self, posts: Sequence[str]) -> list[RiskTier | None]:
        """For each post the highest tier whose threshold one of its sentences reaches; many posts at once cost less each."""
        of_posts = [Sentences.of(post).sentences[-SENTENCES:] for post in posts]
        place = {each: at for at, each in enumerate(dict.fromkeys(each for sentences in of_posts for each in sentences))}
        reached = self.scores(list(place)) > self.thresholds
        each = (np.logical_or.reduce(reached[[place[sentence] for sentence in sentences]]) for sentences in of_posts)
        return [next((tier for tier, is_reached in zip(_TIERS, row, strict=True) if is_reached), None) for row in each]

    def is_harmful(self, reply: str) -> bool:
        """Whether a sentence of the reply is like the harmful ones; what has hardly a letter, such as "2.", is not judged."""
        worded = [sentence for sentence in Sentences.of(reply).sentences if len(_LETTER.findall(sentence)) >= _FEW_LETTERS]
        return bool((self.scores(worded) > self.thresholds).any())

    def scores(self, sentences: Sequence[str]) -> Array:
        """A score for each sentence and head, shape (sentences, heads): 1 is like the texts of the head, -1 like the others."""
        known = [self._remembered.get(sentence) for sentence in sentences]
        unknown = list(dict.fromkeys(each for each, scores in zip(sentences, known, strict=True) if scores is None))
        new = dict(zip(unknown, self._scored(unknown), strict=True))
        for sentence, scores in new.items():
            self._remembered.put(sentence, scores)
        rows = [new[each] if scores is None else scores for each, scores in zip(sentences, known, strict=True)]
        return np.array(rows, np.float32).reshape(len(sentences), len(self.thresholds))

    @cached_property
    def _remembered(self) -> Remembered:
        return Remembered()

    def _scored(self, sentences: Sequence[str]) -> Array:
        if not sentences:
            return np.zeros((0, len(self.thresholds)), np.float32)
        scores = _nearness(_embedded(sentences, self.kernel), self.embeddings, self.kernel) @ self.duals
        if self.kernel.has_grams:
            scores = _scaled(_counted(sentences), self.rarity) @ self.weights + scores
        return np.asarray(scores)


_ARRAYS = tuple(field.name for field in fields(Likeness)[2:])


def _every(kinds: dict[str, tuple[Text, ...]]) -> list[Text]:
    return [text for texts in kinds.values() for text in texts]


def _targets(*heads: npt.NDArray[np.bool_]) -> Array:
    return np.stack([np.where(head, np.float32(1), np.float32(-1)) for head in heads], axis=1)


def _regression(document: Labelled) -> tuple[Array, Array, Array, Array, Array]:
    """Rarity and n-grams, embeddings, targets, and the inverse of the kernel's matrix with its ridge."""
    kernel = document.kernel
    texts, targets = document.labelled()
    embeddings = _embedded(texts, kernel)
    similar = _nearness(embeddings, embeddings, kernel)
    rarity, grams = np.zeros(0, np.float32), np.zeros((len(texts), 0), np.float32)
    if kernel.has_grams:
        counts = _counted(texts)
        rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(0))).astype(np.float32) + 1
        grams = _scaled(counts, rarity)
        similar = grams @ grams.T + similar
    return rarity, grams, embeddings, targets, np.linalg.inv(similar + kernel.ridge * np.eye(len(texts)))


def _left_out(targets: Array, duals: Array, inverse: Array) -> Array:
    """Each text's score by the others: its target, less its residual over one less its leverage (the same source, 7.10)."""
    return np.asarray(targets - duals / np.diag(inverse)[:, None])


def _embedded(texts: Sequence[str], kernel: Kernel) -> Array:
    """The embeddings of the kernel's layers side by side, so long that their products are as sharp as the kernel says."""
    layers = light_embedder().embed_layers(texts, [layer for layer, _ in kernel.sharpness])
    return np.hstack([np.float32(sharp**0.5) * each for (_, sharp), each in zip(kernel.sharpness, layers, strict=True)])


def _nearness(embeddings: Array, others: Array, kernel: Kernel) -> Array:
    return np.asarray(np.exp(embeddings @ others.T - np.float32(sum(sharp for _, sharp in kernel.sharpness))))


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


if __name__ == "__main__":
    for document in (LabelledPosts, LabelledReplies):
        Likeness.fit(document.read()).save(document.fitted)
