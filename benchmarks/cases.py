"""What is asked of the server: one request per case, made once and sent over and over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from benchmarks import models
from benchmarks.h2load import GrpcRequest, model_infer, predict
from benchmarks.load import Request

import models as test_models

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt
    import onnx

    Floats = npt.NDArray[np.float32]

CONNECTIONS: Final = (1, 8, 64)

MODELS: Final[dict[str, Callable[[], onnx.ModelProto]]] = {
    "tiny": test_models.tiny,
    "mlp": test_models.mlp,
    "resnet50": models.resnet50,
    "image_mean": models.image_mean,
    "image_mean_nested": lambda: models.image_mean((224, 224, 3)),
    "identity_large": test_models.identity_large,
}


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked of one model.

    answer_shape: of the one output, for a look at the first answer.
    json_keys: where a JSON tensor lies in the request's text, for those who parse it with orjson.
    both_cores: server and load share them all.
    connections: how many, one after the other.
    h2load: sends it, not wrk, so that gRPC's client and HTTP's are the same.
    """

    name: str
    title: str
    model: str
    request: Request | GrpcRequest
    answer_shape: tuple[int, ...]
    json_keys: tuple[str | int, ...] = ()
    both_cores: bool = False
    connections: tuple[int, ...] = CONNECTIONS
    h2load: bool = False

    @property
    def body(self) -> bytes:
        """What is sent, without what the protocol puts around it."""
        return self.request.message if isinstance(self.request, GrpcRequest) else self.request.body

    def check(self, answer: bytes) -> None:
        """Raises RuntimeError unless the answer carries a tensor of the expected size."""
        values = int(np.prod(self.answer_shape))
        if answer.startswith(b"{") and answer.rstrip().endswith(b"}"):
            content = orjson.loads(answer)
            data = content["outputs"][0]["data"] if "outputs" in content else content["predictions"]
            right = np.asarray(data, dtype=np.float32).size == values
        else:
            right = len(answer) > values * 4
        if not right:
            raise RuntimeError(f"{self.name}: no answer of {values} values: {answer[:200]!r}")


def _rows(*shape: int) -> Floats:
    return np.random.default_rng(9).standard_normal(shape).astype(np.float32)


def _binary(model: str, values: Floats, binary_answer: bool = True, volleys: bool = False) -> Request:
    """V2 infer with the binary tensor extension, as the stock client sends it."""
    tensor = {
        "name": "INPUT0",
        "shape": list(values.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": values.nbytes},
    }
    output = {"name": "OUTPUT0", "parameters": {"binary_data": binary_answer}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return Request(f"/v2/models/{model}/infer", head + values.tobytes(), headers, volleys)


def _json(path: str, content: dict[str, Any], floats: str) -> Request:
    """`floats`: "long", as json.dumps(array.tolist()) in every Python client writes them (17 digits), or
    "short", the fewest digits that read back as the same FP32 (orjson's numpy writer)."""
    if floats == "short":
        text = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    else:
        text = json.dumps(content, default=lambda array: array.tolist()).encode()
    return Request(path, text, {"Content-Type": "application/json"}, volleys=True)


def _v2_json(model: str, values: Floats, floats: str) -> Request:
    tensor = {"name": "INPUT0", "shape": list(values.shape), "datatype": "FP32", "data": values.reshape(-1)}
    return _json(f"/v2/models/{model}/infer", {"inputs": [tensor]}, floats)


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    row, image = _rows(1, 16), _rows(1, models.IMAGE_VALUES)
    instances = json.dumps({"instances": row.tolist()}).encode()
    tfs_tiny = Request("/v1/models/tiny:predict", instances, {"Content-Type": "application/json"})
    nested = {"instances": image.reshape(1, 224, 224, 3)}
    tfs_nested = _json("/v1/models/image_mean_nested:predict", nested, "long")
    resnet_request = _binary("resnet50", _rows(1, 3, 224, 224), volleys=True)
    v2_keys = ("inputs", 0, "data")
    one = (1, 1)
    return [
        Case("tiny", "tiny, V2 binary", "tiny", _binary("tiny", row), (1, 16)),
        Case("tfs", "tiny, TF Serving JSON", "tiny", tfs_tiny, (1, 16)),
        Case("mlp", "mlp, V2 binary", "mlp", _binary("mlp", _rows(1, 256)), (1, 10)),
        Case(
            "identity",
            "602 KB in and out, V2 binary",
            "identity_large",
            _binary("identity_large", image),
            image.shape,
        ),
        Case(
            "json_flat",
            "150,528 floats in, V2 JSON, flat, 17 digits",
            "image_mean",
            _v2_json("image_mean", image, "long"),
            one,
            v2_keys,
        ),
        Case(
            "json_short",
            "150,528 floats in, V2 JSON, flat, 9 digits",
            "image_mean",
            _v2_json("image_mean", image, "short"),
            one,
            v2_keys,
        ),
        Case(
            "json_nested",
            "150,528 floats in, TF Serving JSON, 224x224x3, 17 digits",
            "image_mean_nested",
            tfs_nested,
            one,
            ("instances",),
        ),
        Case(
            "json_answer",
            "150,528 floats out, V2 JSON (binary in)",
            "identity_large",
            _binary("identity_large", image, binary_answer=False, volleys=True),
            image.shape,
        ),
        Case("grpc", "tiny, gRPC ModelInfer", "tiny", model_infer("tiny", row), (1, 16)),
        Case(
            "grpc_channel",
            "tiny, gRPC ModelInfer, 64 streams each",
            "tiny",
            model_infer("tiny", row, streams=64),
            (1, 16),
            connections=(1,),
        ),
        Case("grpc_predict", "tiny, gRPC Predict", "tiny", predict("tiny", row), (1, 16)),
        Case(
            "identity_h2load",
            "602 KB in and out, V2 binary, by h2load",
            "identity_large",
            _binary("identity_large", image),
            image.shape,
            h2load=True,
        ),
        Case(
            "grpc_identity",
            "602 KB in and out, gRPC ModelInfer",
            "identity_large",
            model_infer("identity_large", image),
            image.shape,
        ),
        Case("resnet50", "resnet50, V2 binary", "resnet50", resnet_request, (1, 1000), both_cores=True),
    ]


def save_models(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """A model repository of the named models; their files."""
    return {name: test_models.save_model(folder / name, MODELS[name]()) for name in dict.fromkeys(names)}
