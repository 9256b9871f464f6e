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
from onnx import TensorProto, helper

from model_parts import DTYPES, Dims, build, floats, ints, normal, tensor
from odd_models import (
    expand,
    external_in_subgraph,
    external_weights,
    fails_at_zero,
    fixed_batch,
    float8_input,
    misdeclared,
    misnamed_output,
    nonzero,
    not_a_number,
    picky,
    row_sums,
    running_sums,
    scalar,
    sequence_first,
    sequence_output,
    unknown_rank,
)

__all__ = [
    "DTYPES",
    "MODELS",
    "SLOW_REPEATS",
    "expand",
    "external_in_subgraph",
    "external_weights",
    "fails_at_zero",
    "fixed_batch",
    "float8_input",
    "half_plus_two",
    "heavy",
    "identity",
    "identity_large",
    "identity_pair",
    "main",
    "misdeclared",
    "misnamed_output",
    "mlp",
    "nonzero",
    "not_a_number",
    "passthrough",
    "picky",
    "plus",
    "plus_slowly",
    "rank17",
    "row_sums",
    "running_sums",
    "save_model",
    "save_repository",
    "scalar",
    "scaled",
    "sequence_first",
    "sequence_output",
    "slow",
    "slow_to_load",
    "small_conv",
    "tiny",
    "two_inputs",
    "unknown_rank",
]

#: Rows that `slow` makes of one.
SLOW_REPEATS: Final = 128


def tiny() -> onnx.ModelProto:
    """FP32 ``INPUT0`` [-1,16] -> MatMul 16x16 -> Relu -> ``OUTPUT0`` [-1,16]."""
    return build(
        "tiny",
        [
            helper.make_node("MatMul", ["INPUT0", "w"], ["product"]),
            helper.make_node("Relu", ["product"], ["OUTPUT0"]),
        ],
        [tensor("INPUT0", ["batch", 16])],
        [tensor("OUTPUT0", ["batch", 16])],
        {"w": normal(1, 16, 16, scale=0.25)},
    )


def mlp(sizes: Sequence[int] = (256, 512, 512, 10)) -> onnx.ModelProto:
    """FP32 ``INPUT0`` [-1,sizes[0]] -> dense layers with Relu between -> ``OUTPUT0`` [-1,sizes[-1]]."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, npt.NDArray[np.generic]] = {}
    last = len(sizes) - 2
    current = "INPUT0"
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights[f"w{i}"] = normal(10 + i, rows, columns, scale=rows**-0.5)
        weights[f"b{i}"] = normal(20 + i, columns, scale=0.1)
        dense = "OUTPUT0" if i == last else f"dense{i}"
        nodes.append(helper.make_node("Gemm", [current, f"w{i}", f"b{i}"], [dense]))
        if i != last:
            nodes.append(helper.make_node("Relu", [dense], [f"relu{i}"]))
        current = f"relu{i}"
    return build(
        "mlp",
        nodes,
        [tensor("INPUT0", ["batch", sizes[0]])],
        [tensor("OUTPUT0", ["batch", sizes[-1]])],
        weights,
    )


def identity(dtype: str = "FP32", dims: Dims = ("batch", "items")) -> onnx.ModelProto:
    """``INPUT0`` -> ``OUTPUT0``, unchanged, of an Open Inference Protocol datatype."""
    element = DTYPES[dtype]
    return build(
        f"identity_{dtype.lower()}",
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
        [tensor("INPUT0", dims, element)],
        [tensor("OUTPUT0", dims, element)],
    )


def identity_large() -> onnx.ModelProto:
    """FP32 [-1,150528] (a 224x224x3 image), unchanged: 602,112 bytes a row."""
    return identity("FP32", ("batch", 150528))


def identity_pair() -> onnx.ModelProto:
    """Two independent identities: FP32 ``INPUT0`` and BYTES ``INPUT1``, [-1,-1] each."""
    return build(
        "identity_pair",
        [
            helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"]),
            helper.make_node("Identity", ["INPUT1"], ["OUTPUT1"]),
        ],
        [
            tensor("INPUT0", ["batch", "items"]),
            tensor("INPUT1", ["batch", "words"], TensorProto.STRING),
        ],
        [
            tensor("OUTPUT0", ["batch", "items"]),
            tensor("OUTPUT1", ["batch", "words"], TensorProto.STRING),
        ],
    )


def half_plus_two() -> onnx.ModelProto:
    """TensorFlow Serving's first example: ``x`` [-1] -> ``y`` [-1], y = 0.5 x + 2."""
    return build(
        "half_plus_two",
        [helper.make_node("Mul", ["x", "a"], ["ax"]), helper.make_node("Add", ["ax", "b"], ["y"])],
        [tensor("x", ["batch"])],
        [tensor("y", ["batch"])],
        {"a": floats(0.5), "b": floats(2.0)},
    )


def plus(constant: float) -> onnx.ModelProto:
    """``x`` [-1] -> ``y`` [-1], y = x + constant: every answer says which of several models gave it."""
    return build(
        "plus",
        [helper.make_node("Add", ["x", "c"], ["y"])],
        [tensor("x", ["batch"])],
        [tensor("y", ["batch"])],
        {"c": floats(constant)},
    )


def slow_to_load(rounds: int, constant: float) -> onnx.ModelProto:
    """``plus`` whose constant is the end of `rounds` multiplications of 1024x1024 matrices, which the runtime
    works out while it loads the model."""
    nodes = [helper.make_node("MatMul", [f"w{i}" if i else "w", "w"], [f"w{i + 1}"]) for i in range(rounds)]
    return build(
        "slow_to_load",
        [
            *nodes,
            helper.make_node("ReduceMax", [f"w{rounds}"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "nothing"], ["none"]),
            helper.make_node("Add", ["c", "none"], ["constant"]),
            helper.make_node("Add", ["x", "constant"], ["y"]),
        ],
        [tensor("x", ["batch"])],
        [tensor("y", ["batch"])],
        {"c": floats(constant), "nothing": floats(0), "w": normal(60, 1024, 1024, scale=1 / 32)},
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
    weights: dict[str, npt.NDArray[np.generic]] = {"c": floats(constant), "w": normal(3, 512, 512)}
    return build("plus_slowly", nodes, [tensor("x", ["batch"])], [tensor("y", ["batch"])], weights)


def scaled(factor: float) -> onnx.ModelProto:
    """FP32 [-1,4]: ``OUTPUT0`` = factor * ``INPUT0``."""
    return build(
        "scaled",
        [helper.make_node("Mul", ["INPUT0", "c"], ["OUTPUT0"])],
        [tensor("INPUT0", ["batch", 4])],
        [tensor("OUTPUT0", ["batch", 4])],
        {"c": floats(factor)},
    )


def two_inputs() -> onnx.ModelProto:
    """INT32 [-1,16] twice: ``OUTPUT0`` is the sum, ``OUTPUT1`` the difference."""
    dims: Dims = ["batch", 16]
    return build(
        "two_inputs",
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        [tensor("INPUT0", dims, TensorProto.INT32), tensor("INPUT1", dims, TensorProto.INT32)],
        [tensor("OUTPUT0", dims, TensorProto.INT32), tensor("OUTPUT1", dims, TensorProto.INT32)],
    )


def small_conv() -> onnx.ModelProto:
    """FP32 [batch,3,32,32] -> [batch,8]: convolutions, which GPUs prepare for every number of rows."""
    return build(
        "small_conv",
        [
            helper.make_node("Conv", ["INPUT0", "first"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "second"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["c"], ["d"]),
            helper.make_node("Flatten", ["d"], ["OUTPUT0"]),
        ],
        [tensor("INPUT0", ["batch", 3, 32, 32])],
        [tensor("OUTPUT0", ["batch", 8])],
        {"first": normal(1, 16, 3, 3, 3, scale=0.2), "second": normal(2, 8, 16, 3, 3, scale=0.1)},
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
            tensor("round", [], TensorProto.INT64),
            tensor("keep_in", [], TensorProto.BOOL),
            tensor("wide", ["rows", size]),
        ],
        [tensor("keep_out", [], TensorProto.BOOL), tensor("wide_out", ["rows", size])],
    )
    return build(
        "slow",
        [
            # Repeating each row makes one item as heavy as many.
            helper.make_node("Tile", ["INPUT0", "repeats"], ["tiled"]),
            helper.make_node("Loop", ["rounds", "keep", "tiled"], ["looped"], body=body),
            helper.make_node("Reshape", ["looped", "grouped"], ["groups"]),
            helper.make_node("ReduceMean", ["groups", "axes"], ["OUTPUT0"], keepdims=0),
        ],
        [tensor("INPUT0", ["batch", size])],
        [tensor("OUTPUT0", ["batch", size])],
        {
            "w": normal(40, size, size, scale=size**-0.5),
            "rounds": np.array(rounds, dtype=np.int64),
            "keep": np.array(True),
            "repeats": ints(SLOW_REPEATS, 1),
            "grouped": ints(SLOW_REPEATS, -1, size),
            "axes": ints(0),
        },
    )


def passthrough() -> onnx.ModelProto:
    """``INPUT0`` [batch,4] is itself an output, beside a constant [1,3] that is declared [batch,3]."""
    return build(
        "passthrough",
        [helper.make_node("Identity", ["three"], ["constant"])],
        [tensor("INPUT0", ["batch", 4])],
        [tensor("INPUT0", ["batch", 4]), tensor("constant", ["batch", 3])],
        {"three": np.array([[1, 2, 3]], dtype=np.float32)},
    )


def heavy(megabytes: int = 50) -> onnx.ModelProto:
    """FP32 [-1,256] -> [-1,columns] through `megabytes` MB of weights."""
    columns = megabytes * 1_000_000 // 4 // 256
    return build(
        "heavy",
        [helper.make_node("MatMul", ["INPUT0", "w"], ["OUTPUT0"])],
        [tensor("INPUT0", ["batch", 256])],
        [tensor("OUTPUT0", ["batch", columns])],
        {"w": normal(50, 256, columns, scale=1 / 16)},
    )


def rank17() -> onnx.ModelProto:
    """More dimensions than the server takes."""
    dims: Dims = ["batch"] + [1] * 16
    return identity("FP32", dims)


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
    for name, make in MODELS.items():
        save_model(root / name, make())
    # The file that external_inside may read, and one that external_outside must not reach.
    bias = floats(1, 2, 3, 4).tobytes()
    (root / "external_inside" / "1" / "weights.bin").write_bytes(bias)
    (root / "secret.bin").write_bytes(bias)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
