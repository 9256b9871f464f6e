"""Models and inputs whose answers are compared with direct ONNX Runtime, over every protocol."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from integration.tensors import Array, sample

#: (model, input -> (datatype, tensor)).
CASES: list[tuple[str, Mapping[str, tuple[str, Array]]]] = [
    ("tiny", {"INPUT0": ("FP32", sample("FP32", (1, 16), 1))}),
    ("tiny", {"INPUT0": ("FP32", sample("FP32", (7, 16), 2))}),
    ("mlp", {"INPUT0": ("FP32", sample("FP32", (1, 256), 3))}),
    ("mlp", {"INPUT0": ("FP32", sample("FP32", (5, 256), 4))}),
    ("two_inputs", {f"INPUT{i}": ("INT32", sample("INT32", (3, 16), i)) for i in (0, 1)}),
    ("half_plus_two", {"x": ("FP32", sample("FP32", (4,), 5))}),
    ("row_sums", {"INPUT0": ("FP32", sample("FP32", (4, 9), 6))}),
    ("scalar", {"INPUT0": ("FP32", np.array(2.5, np.float32))}),
    ("fixed_batch", {"INPUT0": ("FP32", sample("FP32", (1, 4), 7))}),
    ("passthrough", {"INPUT0": ("FP32", sample("FP32", (2, 4), 8))}),
    ("misnamed_output", {"INPUT0": ("FP32", sample("FP32", (2, 3), 9))}),
    ("picky", {"INPUT0": ("INT64", np.array([[3], [-1], [0]], np.int64))}),
    (
        "sequence_first",
        {"tokens": ("FP32", sample("FP32", (5, 2, 4), 10)), "scale": ("FP32", sample("FP32", (2, 4), 11))},
    ),
    (
        "identity_pair",
        {"INPUT0": ("FP32", sample("FP32", (2, 3), 12)), "INPUT1": ("BYTES", sample("BYTES", (2, 5), 13))},
    ),
    ("unknown_rank", {"INPUT0": ("FP32", np.array(-1.5, np.float32))}),
    ("unknown_rank", {"INPUT0": ("FP32", sample("FP32", (3,), 14))}),
    ("unknown_rank", {"INPUT0": ("FP32", sample("FP32", (2, 1, 3, 2), 15))}),
    ("expand", {"INPUT0": ("INT64", np.array([3, 2, 5], np.int64))}),
    ("nonzero", {"INPUT0": ("FP32", np.array([[0, 1, 0], [2, 0, 3]], np.float32))}),
    ("nonzero", {"INPUT0": ("FP32", np.ones((40, 40), np.float32))}),
    ("nonzero", {"INPUT0": ("FP32", np.zeros((2, 3), np.float32))}),
]
