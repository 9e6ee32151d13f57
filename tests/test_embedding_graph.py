"""The graph of a small random encoder, run by ONNX Runtime: what stands in it, and how near it is to floats."""

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import InferenceSession

from llumi.embedding_graph import INPUT, TOKEN_LEVELS, ZERO, Weights, encoder_graph, num_layers, output_of

WIDTH, WIDE, LAYERS = 48, 96, 2
SIXTEEN_BITS = 2**15 - 1


def random_weights() -> Weights:
    chance = np.random.default_rng(17)
    shapes = {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (WIDE, WIDTH), "output.dense": (WIDTH, WIDE)}
    shapes |= {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    norms = ["embeddings", *(f"encoder.layer.{layer}.{part}output" for layer in range(LAYERS) for part in ("attention.", ""))]
    weights = {}
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            weights[f"encoder.layer.{layer}.{name}.weight"] = chance.normal(0, shape[1] ** -0.5, shape)
            weights[f"encoder.layer.{layer}.{name}.bias"] = chance.normal(0, 0.1, shape[0])
    for name in norms:
        weights[f"{name}.LayerNorm.weight"] = chance.uniform(0.5, 1.5, WIDTH)
        weights[f"{name}.LayerNorm.bias"] = chance.normal(0, 0.1, WIDTH)
    return {name: each.astype(np.float32) for name, each in weights.items()}


WEIGHTS = random_weights()
GRAPH = encoder_graph(WEIGHTS)


def in_floats(embedded: np.ndarray) -> list[np.ndarray]:
    """torch's own encoder layers."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=1,
        hidden_size=WIDTH,
        intermediate_size=WIDE,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        layer_norm_eps=1e-12,
        attn_implementation="eager",
    )
    bert = BertModel(config, add_pooling_layer=False).eval()
    unset, unknown = bert.load_state_dict({name: torch.tensor(each) for name, each in WEIGHTS.items()}, strict=False)
    assert not unknown
    assert all("embeddings.weight" in name for name in unset)
    with torch.inference_mode():
        states = bert.embeddings.LayerNorm(torch.tensor(embedded))
        means = []
        for layer in bert.encoder.layer:
            states = layer(states)
            states = states[0] if isinstance(states, tuple) else states
            means.append(states.mean(1).numpy())
    return means


def test_each_layer_is_near_the_one_in_floats() -> None:
    assert num_layers(WEIGHTS) == LAYERS
    session = InferenceSession(GRAPH, providers=["CPUExecutionProvider"])
    embedded = np.random.default_rng(3).normal(0, 1, (1, 9, WIDTH)).astype(np.float32)
    rounded = session.run([output_of(1), output_of(LAYERS)], {INPUT: embedded})
    for low, full in zip(rounded, in_floats(embedded), strict=True):
        assert low.shape == full.shape == (1, WIDTH)
        assert (low * full).sum() / np.linalg.norm(low) / np.linalg.norm(full) > 0.995


def test_no_two_products_overflow_sixteen_bits_where_a_cpu_adds_them_in_these() -> None:
    constants = [numpy_helper.to_array(each) for each in onnx.load_from_string(GRAPH).graph.initializer]
    weights = [each.astype(int) for each in constants if each.dtype == np.int8]
    assert len(weights) == 4 * LAYERS
    largest = max(np.abs(each).max() for each in weights)
    assert 2 * (ZERO + TOKEN_LEVELS) * largest <= SIXTEEN_BITS
    assert all(np.abs(each).max(0).min() == largest for each in weights)  # each output uses all of its levels
