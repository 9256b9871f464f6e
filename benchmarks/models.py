"""The benchmark's own models: those of the tests are too small to be a load. Random weights, fixed seeds."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET: Final = 18
IR_VERSION: Final = 9
#: A 224x224x3 image.
IMAGE_VALUES: Final = 150_528


def image_mean(dims: tuple[int, ...] = (IMAGE_VALUES,)) -> onnx.ModelProto:
    """FP32 ``INPUT0`` [-1,*dims] -> ``OUTPUT0`` [-1,1], each row's mean: a large question, a small answer."""
    nodes = [
        helper.make_node("Flatten", ["INPUT0"], ["flat"]),
        helper.make_node("ReduceMean", ["flat", "axes"], ["OUTPUT0"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "image_mean",
        [helper.make_tensor_value_info("INPUT0", TensorProto.FLOAT, ["batch", *dims])],
        [helper.make_tensor_value_info("OUTPUT0", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")],
    )
    return _finish(graph)


def resnet50() -> onnx.ModelProto:
    """FP32 ``INPUT0`` [-1,3,224,224] -> ``OUTPUT0`` [-1,1000].

    ResNet-50 v1.5 as it is exported for inference, that is with batch normalization folded into the
    convolutions: 25.5 million weights, 4.1 billion multiplications an image.
    """
    net = _Network()
    current = net.convolution("INPUT0", 3, 64, kernel=7, stride=2)
    current = net.node("MaxPool", [current], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            current = net.bottleneck(current, channels, width, stride)
            channels = width * 4
    current = net.node("GlobalAveragePool", [current])
    current = net.node("Flatten", [current])
    weights = [net.weight((channels, 1000), channels**-0.5), net.weight((1000,), 0.01)]
    net.nodes.append(helper.make_node("Gemm", [current, *weights], ["OUTPUT0"]))
    graph = helper.make_graph(
        net.nodes,
        "resnet50",
        [helper.make_tensor_value_info("INPUT0", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("OUTPUT0", TensorProto.FLOAT, ["batch", 1000])],
        net.weights,
    )
    return _finish(graph)


def bert(layers: int = 12, width: int = 768, words: int = 30_522, length: int = 128) -> onnx.ModelProto:
    """INT64 ``INPUT0`` [-1,length] token numbers -> FP32 ``OUTPUT0`` [-1,width], the first token's state.

    An encoder of BERT-base's size (109 million weights): layers of self-attention with heads of 64 values and
    of a feed-forward network four times as wide, each followed by a sum and a layer normalization.
    """
    net = _Network()
    token = net.node("Gather", [net.weight((words, width), 0.02), "INPUT0"])
    current = net.node("Add", [token, net.weight((length, width), 0.02)])
    current = net.normalization(current, width)
    for _ in range(layers):
        current = net.normalization(net.node("Add", [current, net.attention(current, width)]), width)
        inner = net.gelu(net.dense(current, width, width * 4))
        current = net.normalization(net.node("Add", [current, net.dense(inner, width * 4, width)]), width)
    first = net.constant(np.array(0, dtype=np.int64))
    net.nodes.append(helper.make_node("Gather", [current, first], ["OUTPUT0"], axis=1))
    graph = helper.make_graph(
        net.nodes,
        "bert",
        [helper.make_tensor_value_info("INPUT0", TensorProto.INT64, ["batch", length])],
        [helper.make_tensor_value_info("OUTPUT0", TensorProto.FLOAT, ["batch", width])],
        net.weights,
    )
    return _finish(graph)


class _Network:
    """Nodes and weights in the order in which they are asked for."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(50)

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, shape: tuple[int, ...], scale: float) -> str:
        name = f"w{len(self.weights)}"
        values: npt.NDArray[np.float32] = self._random.standard_normal(shape, dtype=np.float32) * np.float32(
            scale
        )
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def convolution(
        self, source: str, inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True
    ) -> str:
        # He's scale keeps the activations of many layers in range.
        scale = float((2 / (inputs * kernel * kernel)) ** 0.5)
        weights = [self.weight((outputs, inputs, kernel, kernel), scale), self.weight((outputs,), 0.01)]
        pads = [kernel // 2] * 4
        shape = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": pads}
        result = self.node("Conv", [source, *weights], **shape)
        return self.node("Relu", [result]) if relu else result

    def constant(self, value: npt.NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def dense(self, source: str, inputs: int, outputs: int) -> str:
        product = self.node("MatMul", [source, self.weight((inputs, outputs), inputs**-0.5)])
        return self.node("Add", [product, self.weight((outputs,), 0.01)])

    def normalization(self, source: str, width: int) -> str:
        scale, shift = np.ones(width, np.float32), np.zeros(width, np.float32)
        return self.node("LayerNormalization", [source, self.constant(scale), self.constant(shift)])

    def gelu(self, source: str) -> str:
        root, one, half = (self.constant(np.array(value, np.float32)) for value in (2**-0.5, 1, 0.5))
        error = self.node("Erf", [self.node("Mul", [source, root])])
        return self.node("Mul", [self.node("Mul", [source, self.node("Add", [error, one])]), half])

    def attention(self, source: str, width: int) -> str:
        split = self.constant(np.array([0, 0, width // 64, 64], dtype=np.int64))
        merge = self.constant(np.array([0, 0, width], dtype=np.int64))

        def heads(order: list[int]) -> str:
            values = self.node("Reshape", [self.dense(source, width, width), split])
            return self.node("Transpose", [values], perm=order)

        query, key, value = heads([0, 2, 1, 3]), heads([0, 2, 3, 1]), heads([0, 2, 1, 3])
        scale = self.constant(np.array(64**-0.5, np.float32))
        scores = self.node("Mul", [self.node("MatMul", [query, key]), scale])
        mixed = self.node("MatMul", [self.node("Softmax", [scores]), value])
        mixed = self.node("Reshape", [self.node("Transpose", [mixed], perm=[0, 2, 1, 3]), merge])
        return self.dense(mixed, width, width)

    def bottleneck(self, source: str, inputs: int, width: int, stride: int) -> str:
        outputs = width * 4
        inner = self.convolution(source, inputs, width, kernel=1)
        inner = self.convolution(inner, width, width, kernel=3, stride=stride)
        inner = self.convolution(inner, width, outputs, kernel=1, relu=False)
        if inputs != outputs or stride != 1:
            source = self.convolution(source, inputs, outputs, kernel=1, stride=stride, relu=False)
        return self.node("Relu", [self.node("Add", [inner, source])])


def _finish(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="servolley-bench"
    )
    model.ir_version = IR_VERSION
    return model
