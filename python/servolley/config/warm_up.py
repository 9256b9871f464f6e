"""[warmup] of model.toml: requests that are run before a version becomes available."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Rows = Annotated[int, Meta(ge=1, le=1 << 31)]
Text = Annotated[str, Meta(min_length=1, max_length=1024)]
Dimension = Annotated[int, Meta(ge=0, le=1 << 40)]


class WarmupInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[warmup.requests.inputs.NAME]: one input's tensor.

    shape: of one row where the model is batched, else of all of it. Absent: the model's, free dimensions 1.
    datatype: as the Open Inference Protocol names it. Only compared with the model's.
    data: "zero" or "random" (numbers from 0 to 1, short texts, the same at every load).
    file: instead of data, the row's bytes as binary tensors have them, in a file of the model's folder.
    """

    shape: Annotated[list[Dimension], Meta(max_length=16)] | None = None
    datatype: Text | None = None
    data: Literal["zero", "random"] = "zero"
    file: Text | None = None


class WarmupRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[warmup.requests]]: one that must succeed.

    name: for messages. batch_size: rows, each the same. count: how often it is run.
    inputs: those that are not named are zeros.
    """

    name: Annotated[str, Meta(max_length=1024)] = ""
    batch_size: Rows = 1
    count: Annotated[int, Meta(ge=1, le=100_000)] = 1
    inputs: dict[Text, WarmupInput] = {}


class Warmup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[warmup]: what is run before a version is available. A request that fails fails the load.

    batch_sizes: to be run with zeros, besides 1, the preferred ones and the largest; see runtime.warmup.
    requests: after those; then those that TensorFlow Serving would find in the version's folder, in
        assets.extra/tf_serving_warmup_requests.
    max_time_s: no further request is begun after that.
    """

    batch_sizes: Annotated[list[Rows], Meta(max_length=1000)] = []
    requests: Annotated[list[WarmupRequest], Meta(max_length=1000)] = []
    max_time_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
