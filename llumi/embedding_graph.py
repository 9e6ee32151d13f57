"""The encoder of all-MiniLM-L6-v2 as an ONNX graph with weights of eight bits, for `llumi.embedding_light`.

Each dense layer multiplies integers: a scale for each output of its weights, and one for each token of what it is given
(absmax quantisation; Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, section 2.1). What a token is rounded to hangs on
that token alone, never on its neighbours.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

HEADS = 12
NORM_EPSILON = 1e-12
INPUT = "embedded"
WEIGHT_LEVELS = 64
"""Weights are -64 to 64. CPUs with AVX2 or AVX-512 but no VNNI add two products, of 255 levels each, in 16 bits, which
larger weights would overflow without a word: 2 * 255 * 64 fits. So every CPU has the same sums.
"""

TOKEN_LEVELS = 127
ZERO = 128
"""The unsigned byte that stands for 0 in a token."""

ONNX_OPSET = 20
ONNX_IR = 10

_FUSED = "com.microsoft"
Array = npt.NDArray[np.float32]
Weights = dict[str, Array]


def encoder_graph(weights: Weights) -> bytes:
    """From a sentence's summed embeddings, `INPUT`, shape (1, tokens, width), to the mean states of each layer, `output_of`.

    `weights` are named as in Hugging Face's BERT.
    """
    graph = _Graph()
    norm = "embeddings.LayerNorm"
    states = graph.node("LayerNormalization", [INPUT, *graph.constants(weights, norm)], "states", epsilon=NORM_EPSILON)
    layers = range(1, num_layers(weights) + 1)
    for layer in layers:
        states = graph.layer(states, weights, f"encoder.layer.{layer - 1}")
        graph.node("ReduceMean", [states, graph.over_tokens], output_of(layer), keepdims=0)
    return graph.model([output_of(layer) for layer in layers], len(weights[f"{norm}.weight"]))


def num_layers(weights: Weights) -> int:
    """How many layers the encoder has."""
    return len({name.split(".")[2] for name in weights if name.startswith("encoder.layer.")})


def output_of(layer: int) -> str:
    """The name of what the graph gives for a layer, the first is 1; shape (1, width)."""
    return f"layer{layer}"


class _Graph:
    """Nodes and constants as they are added; each method gives the name of its result."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self.over_tokens = self.constant("over_tokens", np.array([1]))
        self._but_tokens = self.constant("but_tokens", np.array([0, 2]))
        self._one = self.constant("one", np.float32(1))
        self._per_level = self.constant("per_level", np.float32(1 / TOKEN_LEVELS))
        self._zero = self.constant("zero", np.uint8(ZERO))
        num_tokens = self.node("Shape", [INPUT], "num_tokens", start=1, end=2)
        byte = helper.make_tensor("zero", TensorProto.UINT8, [1], [ZERO])
        self._zeros = self.node("ConstantOfShape", [num_tokens], "zeros", value=byte)

    def constant(self, name: str, array: npt.NDArray[Any] | np.generic) -> str:
        self._constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def constants(self, weights: Weights, name: str) -> Iterator[str]:
        """The weight and the bias of a part."""
        return (self.constant(f"{name}.{each}", weights[f"{name}.{each}"]) for each in ("weight", "bias"))

    def node(self, operator: str, inputs: Sequence[str], *results: str, domain: str = "", **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, results, name=results[0], domain=domain, **attributes))
        return results[0]

    def layer(self, states: str, weights: Weights, name: str) -> str:
        """Self-attention and the wide layer, each added to what it was given and normalised (Devlin et al. 2018)."""
        mixed = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        parts = [f"{name}.{part}" for part in ("queries", "keys", "values")]
        self.node("Split", [self._dense(states, weights, *mixed)], *parts, axis=-1, num_outputs=len(parts))
        bias = self.constant(f"{name}.mixed.bias", np.concatenate([weights[f"{part}.bias"] for part in mixed]))
        attended = self.node("MultiHeadAttention", [*parts, bias], f"{name}.attended", domain=_FUSED, num_heads=HEADS)
        states = self._added(attended, states, weights, f"{name}.attention.output")
        widened = self._dense(states, weights, f"{name}.intermediate.dense")
        bias = self.constant(f"{name}.widened.bias", weights[f"{name}.intermediate.dense.bias"])
        widened = self.node("BiasGelu", [widened, bias], f"{name}.widened", domain=_FUSED)
        return self._added(widened, states, weights, f"{name}.output")

    def _added(self, given: str, states: str, weights: Weights, name: str) -> str:
        dense = self._dense(given, weights, f"{name}.dense")
        norm = self.constants(weights, f"{name}.LayerNorm")
        bias = self.constant(f"{name}.bias", weights[f"{name}.dense.bias"])
        inputs = [dense, states, *norm, bias]
        return self.node("SkipLayerNormalization", inputs, f"{name}.states", domain=_FUSED, epsilon=NORM_EPSILON)

    def _dense(self, given: str, weights: Weights, *names: str) -> str:
        """The product with the weights of `names` side by side; whoever takes it adds the bias."""
        name = names[0]
        weight = np.concatenate([weights[f"{each}.weight"] for each in names])
        weight_steps = np.abs(weight).max(1) / np.float32(WEIGHT_LEVELS)
        columns = self.constant(f"{name}.rounded", np.rint(weight / weight_steps[:, None]).astype(np.int8).T)
        sizes = self.node("Abs", [given], f"{name}.sizes")
        largest = self.node("ReduceMax", [sizes, self._but_tokens], f"{name}.largest", keepdims=0)
        step = self.node("Mul", [largest, self._per_level], f"{name}.step")
        tokens = self.node("QuantizeLinear", [given, step, self._zeros], f"{name}.tokens", axis=1)
        inputs = [tokens, columns, self._one, self.constant(f"{name}.weight_steps", weight_steps), self._zero]
        product = self.node("MatMulIntegerToFloat", inputs, f"{name}.product", domain=_FUSED)
        of_tokens = self.node("Unsqueeze", [step, self.over_tokens], f"{name}.of_tokens")
        return self.node("Mul", [product, of_tokens], f"{name}.scaled")

    def model(self, outputs: Sequence[str], width: int) -> bytes:
        given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, "tokens", width])
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in outputs]
        graph = helper.make_graph(self._nodes, "encoder", [given], results, self._constants)
        opsets = [helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(_FUSED, 1)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=ONNX_IR).SerializeToString())
