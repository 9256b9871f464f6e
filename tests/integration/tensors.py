"""Arrays of every protocol datatype, and what ONNX Runtime itself makes of a model's inputs."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

Array = npt.NDArray[Any]

NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
#: Datatypes that have no JSON form in the protocol.
BINARY_ONLY = {"FP16", "BF16"}

WORDS = ["", "a", "naïve", "日本語", 'quote " backslash \\ slash /', "tab\tline\nnul\0end", "\U0001f680" * 3]


def sample(datatype: str, shape: Sequence[int], seed: int = 0) -> Array:
    """Seeded values that reach the type's limits; BYTES elements are UTF-8 ``bytes``."""
    random = np.random.default_rng(seed)
    count = int(np.prod(shape))
    if datatype == "BOOL":
        return random.integers(0, 2, shape).astype(np.bool_)
    if datatype == "BYTES":
        words = [WORDS[i % len(WORDS)].encode() + b"%d" % random.integers(100) for i in range(count)]
        return np.array(words, dtype=np.object_).reshape(shape)
    if datatype in {"FP16", "BF16", "FP32", "FP64"}:
        return (random.standard_normal(shape) * 100).astype(NUMPY_TYPES[datatype])
    kind = NUMPY_TYPES[datatype]
    limits = np.iinfo(kind)
    values = random.integers(limits.min, limits.max, count, dtype=kind, endpoint=True)
    values[:2] = (limits.min, limits.max)[: len(values[:2])]
    return values.reshape(shape)


def to_bytes(datatype: str, array: Array) -> bytes:
    """The protocol's binary form."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel())
    return array.astype(NUMPY_TYPES[datatype]).tobytes()


def to_json(array: Array) -> list[Any]:
    """The flat JSON form of ``data``."""
    return [item.decode() if isinstance(item, bytes) else item for item in array.ravel().tolist()]


def assert_same(actual: Array | None, expected: Array) -> None:
    """Equal in shape, type and every bit."""
    assert actual is not None
    assert actual.shape == expected.shape
    if expected.dtype == np.object_:
        texts = [item.encode() if isinstance(item, str) else item for item in actual.ravel()]
        assert texts == expected.ravel().tolist()
    else:
        assert actual.dtype == expected.dtype
        assert actual.tobytes() == expected.tobytes()


@functools.lru_cache(maxsize=64)
def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The oracle: outputs by name, straight from ONNX Runtime. Strings are ``bytes`` on both sides."""
    session = _session(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    feeds = {name: _each(bytes.decode, array) for name, array in inputs.items()}
    return {
        name: _each(str.encode, array) for name, array in zip(names, session.run(names, feeds), strict=True)
    }


def _each(convert: Callable[[Any], Any], array: Array) -> Array:
    if array.dtype != np.object_:
        return array
    return np.array([convert(item) for item in array.ravel()], dtype=np.object_).reshape(array.shape)
