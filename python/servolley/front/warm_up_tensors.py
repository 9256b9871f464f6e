"""Tensors of declared warm-up requests: zeros, random numbers that are the same at every load, files."""

import math
import random
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servolley.status import StatusError, invalid_argument

if TYPE_CHECKING:
    from servolley._core import TensorSpec
    from servolley.config.warm_up import WarmupInput

# Bytes of one input, all rows together.
LARGEST_TENSOR_BYTES = 256 << 20

_SIZES = {
    "BOOL": 1,
    "INT8": 1,
    "UINT8": 1,
    "INT16": 2,
    "UINT16": 2,
    "FP16": 2,
    "BF16": 2,
    "INT32": 4,
    "UINT32": 4,
    "FP32": 4,
    "INT64": 8,
    "UINT64": 8,
    "FP64": 8,
}
# So many different values; then they repeat.
_RANDOM_VALUES = 4096


def fill_tensor(
    tensor: Any, spec: "TensorSpec", given: "WarmupInput", rows: int | None, folder: Path | None
) -> None:
    """Fills a tensorflow.TensorProto. ``rows``: None = the model is not batched. ``folder``: where files lie.

    Raises StatusError.
    """
    if given.datatype is not None and given.datatype != spec.datatype:
        raise _bad(spec, f"the model's datatype is {spec.datatype}, not {given.datatype}")
    shape = _row_shape(spec, given.shape, rows is not None)
    count = math.prod(shape)
    times = 1 if rows is None else rows
    for size in shape if rows is None else [rows, *shape]:
        tensor.tensor_shape.dim.add().size = size
    # An element of BYTES takes at least its length.
    if count * times * _SIZES.get(spec.datatype, 4) > LARGEST_TENSOR_BYTES:
        raise _bad(spec, f"it has more than {LARGEST_TENSOR_BYTES} bytes")
    if spec.datatype == "BYTES":
        texts = _texts(spec, given, count, folder)
        if sum(map(len, texts)) * times > LARGEST_TENSOR_BYTES:
            raise _bad(spec, f"it has more than {LARGEST_TENSOR_BYTES} bytes")
        tensor.string_val.extend(list(texts) * times)
    else:
        tensor.tensor_content = _numbers(spec, given, count, folder) * times


def _row_shape(spec: "TensorSpec", given: Sequence[int] | None, batched: bool) -> list[int]:
    if not spec.rank_known:
        if given is None:
            raise _bad(spec, "the model does not say its shape: give one")
        return list(given)
    own = spec.shape[1:] if batched else spec.shape
    if given is None:
        return [1 if size == -1 else size for size in own]
    if len(given) != len(own) or any(
        size not in (-1, wanted) for size, wanted in zip(own, given, strict=True)
    ):
        raise _bad(
            spec, f"shape {list(given)} is not {own}{', without the batch dimension' if batched else ''}"
        )
    return list(given)


def _numbers(spec: "TensorSpec", given: "WarmupInput", count: int, folder: Path | None) -> bytes:
    size = count * _SIZES[spec.datatype]
    if given.file is not None:
        content = _read(spec, given.file, folder, size)
        if len(content) != size:
            raise _bad(spec, f"'{given.file}' has {len(content)} bytes, one row has {size}")
        return content
    if given.data == "zero":
        return bytes(size)
    values = _random_values(spec.datatype)
    return (values * (size // len(values) + 1))[:size]


def _random_values(datatype: str) -> bytes:
    source = random.Random(datatype)  # noqa: S311 - to be the same every time
    if datatype in ("FP16", "BF16", "FP32", "FP64"):
        floats = [source.random() for _ in range(_RANDOM_VALUES)]
        if datatype == "FP16":
            return struct.pack(f"<{_RANDOM_VALUES}e", *floats)
        if datatype == "BF16":  # the upper half of an FP32
            return b"".join(struct.pack("<f", value)[2:] for value in floats)
        return array("f" if datatype == "FP32" else "d", floats).tobytes()
    # Often they are indices, of which few are certain to exist.
    return b"".join(source.getrandbits(1).to_bytes(_SIZES[datatype], "little") for _ in range(_RANDOM_VALUES))


def _texts(spec: "TensorSpec", given: "WarmupInput", count: int, folder: Path | None) -> list[bytes]:
    if given.file is not None:
        return _texts_in(spec, given.file, _read(spec, given.file, folder, LARGEST_TENSOR_BYTES), count)
    if given.data == "zero":
        return [b""] * count
    source = random.Random("BYTES")  # noqa: S311 - to be the same every time
    some = [
        source.randbytes(source.randrange(1, 16)).hex().encode() for _ in range(min(count, _RANDOM_VALUES))
    ]
    return (some * (count // _RANDOM_VALUES + 1))[:count]


def _texts_in(spec: "TensorSpec", name: str, content: bytes, count: int) -> list[bytes]:
    """Elements behind their lengths, as in binary tensors."""
    texts: list[bytes] = []
    at = 0
    while at < len(content) and len(texts) < count:
        length = int.from_bytes(content[at : at + 4], "little")
        texts.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(content) or len(texts) != count:
        raise _bad(spec, f"'{name}' does not hold {count} elements, each behind its length of 4 bytes")
    return texts


def _read(spec: "TensorSpec", name: str, folder: Path | None, largest: int) -> bytes:
    if folder is None:
        raise _bad(spec, "a single model file has no files beside it")
    inside = folder.resolve()
    try:
        path = (inside / name).resolve()
        if not path.is_relative_to(inside):
            raise _bad(spec, f"'{name}' lies outside the model's directory")
        if not path.is_file() or path.stat().st_size > largest:
            raise _bad(spec, f"'{name}' is no file, or has more than {largest} bytes")
        return path.read_bytes()
    except (OSError, ValueError):
        raise _bad(spec, f"cannot read '{name}'") from None


def _bad(spec: "TensorSpec", what: str) -> StatusError:
    return invalid_argument(f"input '{spec.name}': {what}")
