"""Models that declare too little, too much or the wrong thing, and such that fail: what a server meets
besides the ordinary ones. Part of ``models``, which is what tests import."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from model_parts import IR_VERSION, OPSET, build, floats, ints, tensor


def fails_at_zero(constant: float) -> onnx.ModelProto:
    """``plus`` that fails where x is 0, as every x of a warm-up with zeros is."""
    return build(
        "fails_at_zero",
        [
            helper.make_node("Cast", ["x"], ["nonzero"], to=TensorProto.BOOL),
            helper.make_node("Not", ["nonzero"], ["zero"]),
            helper.make_node("Cast", ["zero"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["c", "index"], ["constant"]),
            helper.make_node("Add", ["x", "constant"], ["y"]),
        ],
        [tensor("x", ["batch"])],
        [tensor("y", ["batch"])],
        {"c": floats(constant)},
    )


def not_a_number() -> onnx.ModelProto:
    """Takes what ``plus`` does; every answer is NaN."""
    return build(
        "not_a_number",
        [helper.make_node("Mul", ["x", "c"], ["y"])],
        [tensor("x", ["batch"])],
        [tensor("y", ["batch"])],
        {"c": floats(float("nan"))},
    )


def scalar() -> onnx.ModelProto:
    """FP32 rank 0: ``OUTPUT0`` = ``INPUT0`` + 1."""
    return build(
        "scalar",
        [helper.make_node("Add", ["INPUT0", "one"], ["OUTPUT0"])],
        [tensor("INPUT0", [])],
        [tensor("OUTPUT0", [])],
        {"one": np.array(1.0, dtype=np.float32)},
    )


def fixed_batch() -> onnx.ModelProto:
    """FP32 [1,4] with no free dimension: ``OUTPUT0`` = -``INPUT0``."""
    return build(
        "fixed_batch",
        [helper.make_node("Neg", ["INPUT0"], ["OUTPUT0"])],
        [tensor("INPUT0", [1, 4])],
        [tensor("OUTPUT0", [1, 4])],
    )


def nonzero() -> onnx.ModelProto:
    """FP32 [-1,-1] -> INT64 [2,hits]: the output's size depends on the data."""
    return build(
        "nonzero",
        [helper.make_node("NonZero", ["INPUT0"], ["OUTPUT0"])],
        [tensor("INPUT0", ["batch", "items"])],
        [tensor("OUTPUT0", [2, "hits"], TensorProto.INT64)],
    )


def expand() -> onnx.ModelProto:
    """UINT8 ``OUTPUT0`` of the shape that INT64 ``INPUT0`` [-1] holds, filled with 7: a client's number
    decides how much memory the answer takes."""
    return build(
        "expand",
        [helper.make_node("Expand", ["seven", "INPUT0"], ["OUTPUT0"])],
        [tensor("INPUT0", ["rank"], TensorProto.INT64)],
        [tensor("OUTPUT0", None, TensorProto.UINT8)],
        {"seven": np.array([7], dtype=np.uint8)},
    )


def sequence_first() -> onnx.ModelProto:
    """``tokens`` [sequence,batch,4] beside ``scale`` [batch,4]: every first dimension is free, but they mean
    different things, so requests must not be concatenated."""
    return build(
        "sequence_first",
        [helper.make_node("Mul", ["tokens", "scale"], ["OUTPUT0"])],
        [tensor("tokens", ["sequence", "batch", 4]), tensor("scale", ["batch", 4])],
        [tensor("OUTPUT0", ["sequence", "batch", 4])],
    )


def running_sums() -> onnx.ModelProto:
    """FP32 [time,4] -> [time,4]: sums along the first dimension, which is no batch although it is free."""
    return build(
        "running_sums",
        [helper.make_node("CumSum", ["INPUT0", "axis"], ["OUTPUT0"])],
        [tensor("INPUT0", ["time", 4])],
        [tensor("OUTPUT0", ["time", 4])],
        {"axis": ints(0)},
    )


def misnamed_output() -> onnx.ModelProto:
    """FP32 [batch,items] -> [batch,items] by declaration; the output really has twice as many items."""
    return build(
        "misnamed_output",
        [helper.make_node("Concat", ["INPUT0", "INPUT0"], ["OUTPUT0"], axis=1)],
        [tensor("INPUT0", ["batch", "items"])],
        [tensor("OUTPUT0", ["batch", "items"])],
    )


def row_sums() -> onnx.ModelProto:
    """FP32 [-1,-1] -> ``OUTPUT0`` [-1] with a batch dimension that the model gives no name."""
    return build(
        "row_sums",
        [helper.make_node("ReduceSum", ["INPUT0", "axes"], ["OUTPUT0"], keepdims=0)],
        [tensor("INPUT0", [None, None])],
        [tensor("OUTPUT0", [None])],
        {"axes": ints(1)},
    )


def picky() -> onnx.ModelProto:
    """INT64 [-1,1] indices into a table of 8 FP32 rows of 4: an index outside -8..7 fails the whole run."""
    return build(
        "picky",
        [
            helper.make_node("Squeeze", ["INPUT0", "axes"], ["indices"]),
            helper.make_node("Gather", ["table", "indices"], ["OUTPUT0"], axis=0),
        ],
        [tensor("INPUT0", ["batch", 1], TensorProto.INT64)],
        [tensor("OUTPUT0", ["batch", 4])],
        {"table": np.arange(32, dtype=np.float32).reshape(8, 4), "axes": ints(1)},
    )


def unknown_rank() -> onnx.ModelProto:
    """FP32 without any declared shape: ``OUTPUT0`` = |``INPUT0``|."""
    return build(
        "unknown_rank",
        [helper.make_node("Abs", ["INPUT0"], ["OUTPUT0"])],
        [tensor("INPUT0", None)],
        [tensor("OUTPUT0", None)],
    )


def sequence_output() -> onnx.ModelProto:
    """What a classifier converted with ZipMap looks like to the server: an output that is no tensor."""
    graph = helper.make_graph(
        [
            helper.make_node("SequenceConstruct", ["INPUT0"], ["probabilities"]),
            helper.make_node("Identity", ["INPUT0"], ["label"]),
        ],
        "sequence_output",
        [tensor("INPUT0", ["batch", 4])],
        [
            tensor("label", ["batch", 4]),
            helper.make_tensor_sequence_value_info("probabilities", TensorProto.FLOAT, ["batch", 4]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    return model


def misdeclared() -> onnx.ModelProto:
    """Declares ``OUTPUT0`` [4,4] where inference finds [1,4]: the runtime warns while it loads."""
    return build(
        "misdeclared",
        [helper.make_node("Neg", ["INPUT0"], ["OUTPUT0"])],
        [tensor("INPUT0", [1, 4])],
        [tensor("OUTPUT0", [4, 4])],
    )


def external_in_subgraph(location: str = "../../secret.bin") -> onnx.ModelProto:
    """The same trick as ``external_weights`` from inside a branch."""
    bias = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    bias.external_data.add(key="location", value=location)

    def branch(name: str, operator: str) -> onnx.GraphProto:
        graph = helper.make_graph(
            [helper.make_node(operator, ["INPUT0", "bias"], [name])],
            name,
            [],
            [tensor(name, ["batch", 4])],
        )
        graph.initializer.append(bias)
        return graph

    return build(
        "external_in_subgraph",
        [
            helper.make_node(
                "If",
                ["yes"],
                ["OUTPUT0"],
                then_branch=branch("then", "Add"),
                else_branch=branch("else", "Sub"),
            )
        ],
        [tensor("INPUT0", ["batch", 4]), tensor("yes", [], TensorProto.BOOL)],
        [tensor("OUTPUT0", ["batch", 4])],
    )


def float8_input() -> onnx.ModelProto:
    """An input of a type that the protocol cannot carry."""
    model = build(
        "float8_input",
        [helper.make_node("Cast", ["narrow"], ["OUTPUT0"], to=TensorProto.FLOAT)],
        [tensor("narrow", ["batch", 4], TensorProto.FLOAT8E4M3FN)],
        [tensor("OUTPUT0", ["batch", 4])],
    )
    model.opset_import[0].version = 19  # the first that casts from it
    return model


def external_weights(location: str) -> onnx.ModelProto:
    """``OUTPUT0`` = ``INPUT0`` [-1,4] + 4 floats that lie in another file. `location` is written as it is, so
    that it may point where no model should look."""
    model = build(
        "external_weights",
        [helper.make_node("Add", ["INPUT0", "bias"], ["OUTPUT0"])],
        [tensor("INPUT0", ["batch", 4])],
        [tensor("OUTPUT0", ["batch", 4])],
    )
    bias = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        bias.external_data.add(key=key, value=value)
    model.graph.initializer.append(bias)
    return model
