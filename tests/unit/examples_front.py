"""A front that answers classify and regress calls without a model: its place is taken by a function."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from servolley.config.model import ModelConfig, Signature
from servolley.front.context import ServerContext
from servolley.front.example_calls import ExampleCalls
from servolley.front.grpc.messages import Messages
from servolley.front.tfs_answers import Which, servable_of
from servolley.repository.layout import ModelOnDisk
from unit import fake_core
from unit.grpc_front import GrpcFront

Model = Callable[[Any], Mapping[str, tuple[str, list[int], list[Any]]]]


@dataclass
class FakeLease:
    servable: fake_core.Servable
    rest: bool
    held: bool = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.held = False


class FakeInner:
    """Answers predict requests with what ``model`` makes of them. ``leases``: all that were given out."""

    def __init__(self, messages: Messages, context: ServerContext) -> None:
        self._messages = messages
        self._context = context
        self.leases: list[FakeLease] = []
        self.requests: list[Any] = []
        self.model: Model = lambda _: {}
        self.timeouts: list[tuple[bool, int]] = []

    def choose(self, model: str, version: int | None, label: str | None, *, rest: bool) -> FakeLease:
        servable = servable_of(self._context, Which(model, version, label))
        self.leases.append(FakeLease(cast("Any", servable), rest))
        return self.leases[-1]

    async def predict(self, request: bytes, lease: FakeLease, *, timeout_us: int = 0) -> bytes:
        assert lease.held
        self.timeouts.append((lease.rest, timeout_us))
        message = cast("Any", self._messages.message("tensorflow.serving.PredictRequest")())
        message.ParseFromString(request)
        self.requests.append(message)
        response = cast("Any", self._messages.message("tensorflow.serving.PredictResponse")())
        for name, (field, shape, values) in self.model(message).items():
            if name not in message.output_filter:
                continue
            for size in shape:
                response.outputs[name].tensor_shape.dim.add().size = size
            getattr(response.outputs[name], field).extend(values)
        await asyncio.sleep(0)
        return bytes(response.SerializeToString())


class ExamplesFront(GrpcFront):
    """One model "h" with inputs x (FP32 [-1,1]) and outputs y, z; more in ``inputs`` and ``outputs``."""

    def __init__(self, descriptors: bytes) -> None:
        super().__init__(descriptors)
        self.inner = FakeInner(self.messages, self.context)
        self.context.inner = cast("Any", self.inner)
        self.context.examples = ExampleCalls(self.context, lambda: self.messages, 30_000_000)

    async def serve(
        self,
        inputs: list[fake_core.TensorSpec],
        outputs: list[fake_core.TensorSpec],
        signatures: dict[str, Signature] | None = None,
        version: int = 7,
    ) -> None:
        """Instead of what was served before."""
        config = ModelConfig(signatures=signatures or {})
        found = {"h": ModelOnDisk("h", None, config, {version: Path(f"{version}")})}
        await self.manager.load_first(found)
        servable = cast("Any", self.manager.models["h"].available()[version])
        servable.inputs, servable.outputs = inputs, outputs

    async def rest(self, verb: str, body: Any, model: str = "h") -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self.ask("POST", f"/v1/models/{model}:{verb}", raw)
        document = json.loads(reply.body)
        return document["results"] if reply.status == 200 else (reply.status, document["error"])


def spec(
    name: str, tf_dtype: str = "DT_FLOAT", shape: list[int] | None = None, **rest: Any
) -> fake_core.TensorSpec:
    return fake_core.TensorSpec(name, "", tf_dtype, [-1, 1] if shape is None else shape, **rest)


def half_plus(message: Any) -> dict[str, tuple[str, list[int], list[Any]]]:
    x = list(message.inputs["x"].float_val)
    return {
        "y": ("float_val", [len(x), 1], [0.5 * v + 2 for v in x]),
        "z": ("double_val", [len(x)], [0.5 * v + 3 for v in x]),
    }


SIGNATURES = {
    "serving_default": Signature(method="regress", value="y"),
    "regress_x_to_y2": Signature(method="regress", value="z"),
    "regress_other": Signature(method="regress", value="y", features={"x": "x2"}),
    "defaulted": Signature(method="regress", value="y", defaults={"x": 4}),
    "classify_x_to_y": Signature(method="classify", scores="y"),
}


async def serve_half_plus(front: ExamplesFront, version: int = 7) -> None:
    """Instead of what was served before."""
    await front.serve([spec("x")], [spec("y"), spec("z", "DT_DOUBLE", [-1])], SIGNATURES, version)
    front.inner.model = half_plus


def example(**features: Any) -> dict[str, Any]:
    """An Example as protobuf's JSON: floats, ints or bytes, lists of them or one."""
    out = {}
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        kind = (
            {float: "float_list", int: "int64_list", bytes: "bytes_list"}[type(values[0])] if values else None
        )
        plain = [base64.b64encode(v).decode() if isinstance(v, bytes) else v for v in values]
        out[name] = {} if kind is None else {kind: {"value": plain}}
    return {"features": {"feature": out}}


def classification(*rows: dict[str, Any], signature: str = "", **model_spec: Any) -> dict[str, Any]:
    return {
        "model_spec": {"name": "h", "signature_name": signature} | model_spec,
        "input": {"example_list": {"examples": list(rows)}},
    }
