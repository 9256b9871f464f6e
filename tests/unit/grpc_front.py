"""The gRPC services over a manager whose engine is the stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool

from servolley.front.example_calls import ExampleCalls
from servolley.front.grpc.calls import GrpcCalls
from servolley.front.grpc.messages import Messages
from servolley.front.grpc.services import GrpcServices
from unit import fake_core
from unit.fake_core import GRPC_HALF_CLOSE, GRPC_MESSAGE, GRPC_OPEN
from unit.routes_front import Front

OIP = "/inference.GRPCInferenceService/"
PREDICTION = "/tensorflow.serving.PredictionService/"
MODELS = "/tensorflow.serving.ModelService/"
HEALTH = "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"


Entry = tuple[float, Callable[[], None]]


@dataclass
class Timer:
    pending: list[Entry]
    entry: Entry

    def cancel(self) -> None:
        self.pending.remove(self.entry)


class Timers:
    """A loop whose clock is a test's: tasks are real, timers run when told."""

    def __init__(self) -> None:
        self.pending: list[Entry] = []

    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.pending.append((delay, callback))
        return Timer(self.pending, (delay, callback))

    def fire(self) -> None:
        ((_, callback),) = self.pending
        self.pending.clear()
        callback()


class GrpcFront(Front):
    """One connection to the services of Front's models."""

    def __init__(self, descriptors: bytes) -> None:
        super().__init__()
        self.messages = Messages(descriptors)
        self.context.examples = ExampleCalls(self.context, lambda: self.messages)
        self.timers = Timers()
        loop = cast("Any", self.timers)
        self.services = GrpcServices(self.context, loop)
        self.core = fake_core.Connection(self.engine)
        self.calls = GrpcCalls(cast("Any", self.core), self.services.find, loop, lambda _: None, self.gate)
        self.exchange = -1

    def event(self, kind: int, exchange: int, target: str = "", body: bytes = b"") -> None:
        self.calls.dispatch(cast("Any", fake_core.ControlCall(exchange, "POST", target, [], body, kind)))

    def begin(self, target: str, request: dict[str, Any] | bytes | None) -> int:
        """Sends a request, a document or bytes; returns the exchange's number."""
        self.exchange += 2
        self.event(GRPC_OPEN, self.exchange, target)
        if request is not None:
            self.say(target, self.exchange, request)
        return self.exchange

    def say(self, target: str, exchange: int, request: dict[str, Any] | bytes) -> None:
        if not isinstance(request, bytes):
            message = self.messages.message(self.messages.method(target).input_type.full_name)
            request = json_format.ParseDict(request, message()).SerializeToString()
        self.event(GRPC_MESSAGE, exchange, body=request)

    def answers(self, target: str, exchange: int) -> list[Any]:
        response = self.messages.message(self.messages.method(target).output_type.full_name)
        return [response.FromString(body) for number, body in self.core.messages if number == exchange]

    async def call(self, target: str, request: dict[str, Any] | bytes) -> Any:
        """The response message of a unary call, or its (code, text)."""
        exchange = self.begin(target, request)
        self.event(GRPC_HALF_CLOSE, exchange)
        async with asyncio.timeout(10):
            while exchange not in self.core.finished:  # noqa: ASYNC110 - a thread may have to answer first
                await asyncio.sleep(0)
        code, text = self.core.finished[exchange]
        answers = self.answers(target, exchange)
        if code != 0:
            assert not answers
            return code, text
        (answer,) = answers
        return answer

    async def document(self, target: str, request: dict[str, Any]) -> dict[str, Any]:
        """The response in protobuf's JSON form, every field shown."""
        answer = await self.call(target, request)
        assert not isinstance(answer, tuple), answer
        return shown(answer, self.messages.pool)


def shown(message: Any, pool: DescriptorPool) -> dict[str, Any]:
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        descriptor_pool=pool,
    )


def numbers_as_text(document: Any) -> Any:
    """A REST document as protobuf's JSON form writes it: 64-bit numbers are strings there."""
    if isinstance(document, dict):
        return {key: numbers_as_text(value) for key, value in document.items()}
    if isinstance(document, list):
        return [numbers_as_text(value) for value in document]
    return str(document) if isinstance(document, int) and not isinstance(document, bool) else document
