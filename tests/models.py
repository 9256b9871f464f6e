"""Small ONNX models with fixed seeds, made for the tests: no model file is kept in the project.

``python tests/models.py OUT_DIR`` writes every model of ``MODELS`` as ``OUT_DIR/<name>/1/model.onnx``; tests
import the module and pick: ``save_repository(path, {"tiny": tiny()})``.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET: Final = 18
IR_VERSION: Final = 9

#: Rows that `slow` makes of one.
SLOW_REPEATS: Final = 128

Dims = Sequence[int | str | None] | None  # None = no shape declared; a str is a symbolic dimension

#: ONNX element type of every Open Inference Protocol datatype.
DTYPES: Final[dict[str, int]] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def _value(name: str, dims: Dims, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, None if dims is None else list(dims))


def _model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), name, list(inputs), list(outputs), initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="servolley-tests"
    )
    model.ir_version = IR_VERSION
    return model


def _normal(seed: int, *shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def _floats(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def _ints(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def tiny() -> onnx.ModelProto:
    """FP32 ``INPUT0`` [-1,16] -> MatMul 16x16 -> Relu -> ``OUTPUT0`` [-1,16]."""
    return _model(
        "tiny",
        [
            helper.make_node("MatMul", ["INPUT0", "w"], ["product"]),
            helper.make_node("Relu", ["product"], ["OUTPUT0"]),
        ],
        [_value("INPUT0", ["batch", 16])],
        [_value("OUTPUT0", ["batch", 16])],
        {"w": _normal(1, 16, 16, scale=0.25)},
    )


def mlp(sizes: Sequence[int] = (256, 512, 512, 10)) -> onnx.ModelProto:
    """FP32 ``INPUT0`` [-1,sizes[0]] -> dense layers with Relu between -> ``OUTPUT0`` [-1,sizes[-1]]."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, npt.NDArray[np.generic]] = {}
    last = len(sizes) - 2
    current = "INPUT0"
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights[f"w{i}"] = _normal(10 + i, rows, columns, scale=rows**-0.5)
        weights[f"b{i}"] = _normal(20 + i, columns, scale=0.1)
        dense = "OUTPUT0" if i == last else f"dense{i}"
        nodes.append(helper.make_node("Gemm", [current, f"w{i}", f"b{i}"], [dense]))
        if i != last:
            nodes.append(helper.make_node("Relu", [dense], [f"relu{i}"]))
        current = f"relu{i}"
    return _model(
        "mlp",
        nodes,
        [_value("INPUT0", ["batch", sizes[0]])],
        [_value("OUTPUT0", ["batch", sizes[-1]])],
        weights,
    )


def identity(dtype: str = "FP32", dims: Dims = ("batch", "items")) -> onnx.ModelProto:
    """``INPUT0`` -> ``OUTPUT0``, unchanged, of an Open Inference Protocol datatype."""
    element = DTYPES[dtype]
    return _model(
        f"identity_{dtype.lower()}",
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
        [_value("INPUT0", dims, element)],
        [_value("OUTPUT0", dims, element)],
    )


def identity_large() -> onnx.ModelProto:
    """FP32 [-1,150528] (a 224x224x3 image), unchanged: 602,112 bytes a row."""
    return identity("FP32", ("batch", 150528))


def identity_pair() -> onnx.ModelProto:
    """Two independent identities: FP32 ``INPUT0`` and BYTES ``INPUT1``, [-1,-1] each."""
    return _model(
        "identity_pair",
        [
            helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"]),
            helper.make_node("Identity", ["INPUT1"], ["OUTPUT1"]),
        ],
        [_value("INPUT0", ["batch", "items"]), _value("INPUT1", ["batch", "words"], TensorProto.STRING)],
        [_value("OUTPUT0", ["batch", "items"]), _value("OUTPUT1", ["batch", "words"], TensorProto.STRING)],
    )


def half_plus_two() -> onnx.ModelProto:
    """TensorFlow Serving's first example: ``x`` [-1] -> ``y`` [-1], y = 0.5 x + 2."""
    return _model(
        "half_plus_two",
        [helper.make_node("Mul", ["x", "a"], ["ax"]), helper.make_node("Add", ["ax", "b"], ["y"])],
        [_value("x", ["batch"])],
        [_value("y", ["batch"])],
        {"a": _floats(0.5), "b": _floats(2.0)},
    )


def plus(constant: float) -> onnx.ModelProto:
    """``x`` [-1] -> ``y`` [-1], y = x + constant: every answer says which of several models gave it."""
    return _model(
        "plus",
        [helper.make_node("Add", ["x", "c"], ["y"])],
        [_value("x", ["batch"])],
        [_value("y", ["batch"])],
        {"c": _floats(constant)},
    )


def fails_at_zero(constant: float) -> onnx.ModelProto:
    """``plus`` that fails where x is 0, as every x of a warm-up with zeros is."""
    return _model(
        "fails_at_zero",
        [
            helper.make_node("Cast", ["x"], ["nonzero"], to=TensorProto.BOOL),
            helper.make_node("Not", ["nonzero"], ["zero"]),
            helper.make_node("Cast", ["zero"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["c", "index"], ["constant"]),
            helper.make_node("Add", ["x", "constant"], ["y"]),
        ],
        [_value("x", ["batch"])],
        [_value("y", ["batch"])],
        {"c": _floats(constant)},
    )


def slow_to_load(rounds: int, constant: float) -> onnx.ModelProto:
    """``plus`` whose constant is the end of `rounds` multiplications of 1024x1024 matrices, which the runtime
    works out while it loads the model."""
    nodes = [helper.make_node("MatMul", [f"w{i}" if i else "w", "w"], [f"w{i + 1}"]) for i in range(rounds)]
    return _model(
        "slow_to_load",
        [
            *nodes,
            helper.make_node("ReduceMax", [f"w{rounds}"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "nothing"], ["none"]),
            helper.make_node("Add", ["c", "none"], ["constant"]),
            helper.make_node("Add", ["x", "constant"], ["y"]),
        ],
        [_value("x", ["batch"])],
        [_value("y", ["batch"])],
        {"c": _floats(constant), "nothing": _floats(0), "w": _normal(60, 1024, 1024, scale=1 / 32)},
    )


def plus_slowly(constant: float, rounds: int = 3) -> onnx.ModelProto:
    """What ``plus`` answers for x = 0, after `rounds` multiplications of 512x512 matrices: milliseconds."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["w", "sum"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{i}", "w"], [f"m{i + 1}"]) for i in range(rounds)),
        helper.make_node("ReduceMax", [f"m{rounds}"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "nothing"], ["same"]),
        helper.make_node("Add", ["same", "c"], ["y"]),
    ]
    weights: dict[str, npt.NDArray[np.generic]] = {"c": _floats(constant), "w": _normal(3, 512, 512)}
    return _model("plus_slowly", nodes, [_value("x", ["batch"])], [_value("y", ["batch"])], weights)


def not_a_number() -> onnx.ModelProto:
    """Takes what ``plus`` does; every answer is NaN."""
    return _model(
        "not_a_number",
        [helper.make_node("Mul", ["x", "c"], ["y"])],
        [_value("x", ["batch"])],
        [_value("y", ["batch"])],
        {"c": _floats(float("nan"))},
    )


def scaled(factor: float) -> onnx.ModelProto:
    """FP32 [-1,4]: ``OUTPUT0`` = factor * ``INPUT0``."""
    return _model(
        "scaled",
        [helper.make_node("Mul", ["INPUT0", "c"], ["OUTPUT0"])],
        [_value("INPUT0", ["batch", 4])],
        [_value("OUTPUT0", ["batch", 4])],
        {"c": _floats(factor)},
    )


def two_inputs() -> onnx.ModelProto:
    """INT32 [-1,16] twice: ``OUTPUT0`` is the sum, ``OUTPUT1`` the difference."""
    dims: Dims = ["batch", 16]
    return _model(
        "two_inputs",
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        [_value("INPUT0", dims, TensorProto.INT32), _value("INPUT1", dims, TensorProto.INT32)],
        [_value("OUTPUT0", dims, TensorProto.INT32), _value("OUTPUT1", dims, TensorProto.INT32)],
    )


def scalar() -> onnx.ModelProto:
    """FP32 rank 0: ``OUTPUT0`` = ``INPUT0`` + 1."""
    return _model(
        "scalar",
        [helper.make_node("Add", ["INPUT0", "one"], ["OUTPUT0"])],
        [_value("INPUT0", [])],
        [_value("OUTPUT0", [])],
        {"one": np.array(1.0, dtype=np.float32)},
    )


def fixed_batch() -> onnx.ModelProto:
    """FP32 [1,4] with no free dimension: ``OUTPUT0`` = -``INPUT0``."""
    return _model(
        "fixed_batch",
        [helper.make_node("Neg", ["INPUT0"], ["OUTPUT0"])],
        [_value("INPUT0", [1, 4])],
        [_value("OUTPUT0", [1, 4])],
    )


def nonzero() -> onnx.ModelProto:
    """FP32 [-1,-1] -> INT64 [2,hits]: the output's size depends on the data."""
    return _model(
        "nonzero",
        [helper.make_node("NonZero", ["INPUT0"], ["OUTPUT0"])],
        [_value("INPUT0", ["batch", "items"])],
        [_value("OUTPUT0", [2, "hits"], TensorProto.INT64)],
    )


def expand() -> onnx.ModelProto:
    """UINT8 ``OUTPUT0`` of the shape that INT64 ``INPUT0`` [-1] holds, filled with 7: a client's number
    decides how much memory the answer takes."""
    return _model(
        "expand",
        [helper.make_node("Expand", ["seven", "INPUT0"], ["OUTPUT0"])],
        [_value("INPUT0", ["rank"], TensorProto.INT64)],
        [_value("OUTPUT0", None, TensorProto.UINT8)],
        {"seven": np.array([7], dtype=np.uint8)},
    )


def sequence_first() -> onnx.ModelProto:
    """``tokens`` [sequence,batch,4] beside ``scale`` [batch,4]: every first dimension is free, but they mean
    different things, so requests must not be concatenated."""
    return _model(
        "sequence_first",
        [helper.make_node("Mul", ["tokens", "scale"], ["OUTPUT0"])],
        [_value("tokens", ["sequence", "batch", 4]), _value("scale", ["batch", 4])],
        [_value("OUTPUT0", ["sequence", "batch", 4])],
    )


def small_conv() -> onnx.ModelProto:
    """FP32 [batch,3,32,32] -> [batch,8]: convolutions, which GPUs prepare for every number of rows."""
    return _model(
        "small_conv",
        [
            helper.make_node("Conv", ["INPUT0", "first"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "second"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["c"], ["d"]),
            helper.make_node("Flatten", ["d"], ["OUTPUT0"]),
        ],
        [_value("INPUT0", ["batch", 3, 32, 32])],
        [_value("OUTPUT0", ["batch", 8])],
        {"first": _normal(1, 16, 3, 3, 3, scale=0.2), "second": _normal(2, 8, 16, 3, 3, scale=0.1)},
    )


def running_sums() -> onnx.ModelProto:
    """FP32 [time,4] -> [time,4]: sums along the first dimension, which is no batch although it is free."""
    return _model(
        "running_sums",
        [helper.make_node("CumSum", ["INPUT0", "axis"], ["OUTPUT0"])],
        [_value("INPUT0", ["time", 4])],
        [_value("OUTPUT0", ["time", 4])],
        {"axis": _ints(0)},
    )


def misnamed_output() -> onnx.ModelProto:
    """FP32 [batch,items] -> [batch,items] by declaration; the output really has twice as many items."""
    return _model(
        "misnamed_output",
        [helper.make_node("Concat", ["INPUT0", "INPUT0"], ["OUTPUT0"], axis=1)],
        [_value("INPUT0", ["batch", "items"])],
        [_value("OUTPUT0", ["batch", "items"])],
    )


def row_sums() -> onnx.ModelProto:
    """FP32 [-1,-1] -> ``OUTPUT0`` [-1] with a batch dimension that the model gives no name."""
    return _model(
        "row_sums",
        [helper.make_node("ReduceSum", ["INPUT0", "axes"], ["OUTPUT0"], keepdims=0)],
        [_value("INPUT0", [None, None])],
        [_value("OUTPUT0", [None])],
        {"axes": _ints(1)},
    )


def picky() -> onnx.ModelProto:
    """INT64 [-1,1] indices into a table of 8 FP32 rows of 4: an index outside -8..7 fails the whole run."""
    return _model(
        "picky",
        [
            helper.make_node("Squeeze", ["INPUT0", "axes"], ["indices"]),
            helper.make_node("Gather", ["table", "indices"], ["OUTPUT0"], axis=0),
        ],
        [_value("INPUT0", ["batch", 1], TensorProto.INT64)],
        [_value("OUTPUT0", ["batch", 4])],
        {"table": np.arange(32, dtype=np.float32).reshape(8, 4), "axes": _ints(1)},
    )


def slow(rounds: int = 160, size: int = 512) -> onnx.ModelProto:
    """FP32 [-1,size]: a Loop of `rounds` multiplications by a size x size matrix with SLOW_REPEATS rows for
    every item; near 100 ms at batch 1 on one core with the defaults."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["wide", "w"], ["wider"]),
            helper.make_node("Tanh", ["wider"], ["wide_out"]),
            helper.make_node("Identity", ["keep_in"], ["keep_out"]),
        ],
        "step",
        [
            _value("round", [], TensorProto.INT64),
            _value("keep_in", [], TensorProto.BOOL),
            _value("wide", ["rows", size]),
        ],
        [_value("keep_out", [], TensorProto.BOOL), _value("wide_out", ["rows", size])],
    )
    return _model(
        "slow",
        [
            # Repeating each row makes one item as heavy as many.
            helper.make_node("Tile", ["INPUT0", "repeats"], ["tiled"]),
            helper.make_node("Loop", ["rounds", "keep", "tiled"], ["looped"], body=body),
            helper.make_node("Reshape", ["looped", "grouped"], ["groups"]),
            helper.make_node("ReduceMean", ["groups", "axes"], ["OUTPUT0"], keepdims=0),
        ],
        [_value("INPUT0", ["batch", size])],
        [_value("OUTPUT0", ["batch", size])],
        {
            "w": _normal(40, size, size, scale=size**-0.5),
            "rounds": np.array(rounds, dtype=np.int64),
            "keep": np.array(True),
            "repeats": _ints(SLOW_REPEATS, 1),
            "grouped": _ints(SLOW_REPEATS, -1, size),
            "axes": _ints(0),
        },
    )


def passthrough() -> onnx.ModelProto:
    """``INPUT0`` [batch,4] is itself an output, beside a constant [1,3] that is declared [batch,3]."""
    return _model(
        "passthrough",
        [helper.make_node("Identity", ["three"], ["constant"])],
        [_value("INPUT0", ["batch", 4])],
        [_value("INPUT0", ["batch", 4]), _value("constant", ["batch", 3])],
        {"three": np.array([[1, 2, 3]], dtype=np.float32)},
    )


def unknown_rank() -> onnx.ModelProto:
    """FP32 without any declared shape: ``OUTPUT0`` = |``INPUT0``|."""
    return _model(
        "unknown_rank",
        [helper.make_node("Abs", ["INPUT0"], ["OUTPUT0"])],
        [_value("INPUT0", None)],
        [_value("OUTPUT0", None)],
    )


def sequence_output() -> onnx.ModelProto:
    """What a classifier converted with ZipMap looks like to the server: an output that is no tensor."""
    graph = helper.make_graph(
        [
            helper.make_node("SequenceConstruct", ["INPUT0"], ["probabilities"]),
            helper.make_node("Identity", ["INPUT0"], ["label"]),
        ],
        "sequence_output",
        [_value("INPUT0", ["batch", 4])],
        [
            _value("label", ["batch", 4]),
            helper.make_tensor_sequence_value_info("probabilities", TensorProto.FLOAT, ["batch", 4]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    return model


def misdeclared() -> onnx.ModelProto:
    """Declares ``OUTPUT0`` [4,4] where inference finds [1,4]: the runtime warns while it loads."""
    return _model(
        "misdeclared",
        [helper.make_node("Neg", ["INPUT0"], ["OUTPUT0"])],
        [_value("INPUT0", [1, 4])],
        [_value("OUTPUT0", [4, 4])],
    )


def rank17() -> onnx.ModelProto:
    """More dimensions than the server takes."""
    dims: Dims = ["batch"] + [1] * 16
    return identity("FP32", dims)


def external_in_subgraph(location: str = "../../secret.bin") -> onnx.ModelProto:
    """The same trick as ``external_weights`` from inside a branch."""
    bias = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    bias.external_data.add(key="location", value=location)

    def branch(name: str, operator: str) -> onnx.GraphProto:
        graph = helper.make_graph(
            [helper.make_node(operator, ["INPUT0", "bias"], [name])], name, [], [_value(name, ["batch", 4])]
        )
        graph.initializer.append(bias)
        return graph

    return _model(
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
        [_value("INPUT0", ["batch", 4]), _value("yes", [], TensorProto.BOOL)],
        [_value("OUTPUT0", ["batch", 4])],
    )


def float8_input() -> onnx.ModelProto:
    """An input of a type that the protocol cannot carry."""
    model = _model(
        "float8_input",
        [helper.make_node("Cast", ["narrow"], ["OUTPUT0"], to=TensorProto.FLOAT)],
        [_value("narrow", ["batch", 4], TensorProto.FLOAT8E4M3FN)],
        [_value("OUTPUT0", ["batch", 4])],
    )
    model.opset_import[0].version = 19  # the first that casts from it
    return model


def heavy(megabytes: int = 50) -> onnx.ModelProto:
    """FP32 [-1,256] -> [-1,columns] through `megabytes` MB of weights."""
    columns = megabytes * 1_000_000 // 4 // 256
    return _model(
        "heavy",
        [helper.make_node("MatMul", ["INPUT0", "w"], ["OUTPUT0"])],
        [_value("INPUT0", ["batch", 256])],
        [_value("OUTPUT0", ["batch", columns])],
        {"w": _normal(50, 256, columns, scale=1 / 16)},
    )


def external_weights(location: str) -> onnx.ModelProto:
    """``OUTPUT0`` = ``INPUT0`` [-1,4] + 4 floats that lie in another file. `location` is written as it is, so
    that it may point where no model should look."""
    model = _model(
        "external_weights",
        [helper.make_node("Add", ["INPUT0", "bias"], ["OUTPUT0"])],
        [_value("INPUT0", ["batch", 4])],
        [_value("OUTPUT0", ["batch", 4])],
    )
    bias = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        bias.external_data.add(key=key, value=value)
    model.graph.initializer.append(bias)
    return model


MODELS: Final[dict[str, Callable[[], onnx.ModelProto]]] = {
    "tiny": tiny,
    "mlp": mlp,
    **{f"identity_{name.lower()}": functools.partial(identity, name) for name in DTYPES},
    "identity_large": identity_large,
    "identity_pair": identity_pair,
    "small_conv": small_conv,
    "half_plus_two": half_plus_two,
    "two_inputs": two_inputs,
    "scalar": scalar,
    "fixed_batch": fixed_batch,
    "nonzero": nonzero,
    "expand": expand,
    "sequence_first": sequence_first,
    "misnamed_output": misnamed_output,
    "row_sums": row_sums,
    "picky": picky,
    "slow": slow,
    "passthrough": passthrough,
    "unknown_rank": unknown_rank,
    "sequence_output": sequence_output,
    "misdeclared": misdeclared,
    "rank17": rank17,
    "float8_input": float8_input,
    "heavy": heavy,
    "external_outside": lambda: external_weights("../../secret.bin"),
    "external_absolute": lambda: external_weights("/etc/hostname"),
    "external_in_subgraph": external_in_subgraph,
    "external_inside": lambda: external_weights("weights.bin"),
}


def save_model(folder: str | Path, model: onnx.ModelProto, version: int = 1) -> Path:
    """Writes ``folder/<version>/model.onnx`` and returns its path."""
    path = Path(folder) / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def save_repository(
    root: str | Path, models: Mapping[str, onnx.ModelProto | Mapping[int, onnx.ModelProto]]
) -> Path:
    """Writes ``root/<name>/<version>/model.onnx`` for every model; a bare model is version 1."""
    for name, entry in models.items():
        versions = {1: entry} if isinstance(entry, onnx.ModelProto) else entry
        for version, model in versions.items():
            save_model(Path(root) / name, model, version)
    return Path(root)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python tests/models.py OUT_DIR", file=sys.stderr)
        return 2
    root = Path(sys.argv[1])
    for name, build in MODELS.items():
        save_model(root / name, build())
    # The file that external_inside may read, and one that external_outside must not reach.
    bias = _floats(1, 2, 3, 4).tobytes()
    (root / "external_inside" / "1" / "weights.bin").write_bytes(bias)
    (root / "secret.bin").write_bytes(bias)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
