"""grpc.health.v1: the server under its services' names, and each model under its own."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from servolley.front.context import ServerContext
from servolley.front.grpc import oip_service, tfs_service
from servolley.front.grpc.messages import Document, Messages
from servolley.front.grpc.methods import Method, ServerStream, Stream
from servolley.repository.names import valid_model_name
from servolley.status import invalid_argument, not_found

SERVICE = "grpc.health.v1.Health"

# How late a watcher may learn of a change.
POLL_S = 0.25

# TensorFlow Serving's short names, too.
_SERVER = {
    "",
    oip_service.SERVICE,
    tfs_service.PREDICTION_SERVICE,
    tfs_service.MODEL_SERVICE,
    "PredictionService",
    "ModelService",
}

_log = logging.getLogger(__name__)


class Serving(Enum):
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


@dataclass(slots=True, eq=False)
class _Watcher:
    service: str
    stream: Stream
    told: Serving | None = None


class HealthService:
    """Looks at what is watched every POLL_S, and not at all while nobody watches."""

    def __init__(self, context: ServerContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop
        self._watchers: set[_Watcher] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._messages: dict[Serving, bytes] = {}

    def methods(self, messages: Messages) -> dict[str, Method]:
        check, watch = f"/{SERVICE}/Check", f"/{SERVICE}/Watch"
        response: Any = messages.message("grpc.health.v1.HealthCheckResponse")
        self._messages = {state: response(status=state.value).SerializeToString() for state in Serving}
        return {
            check: messages.unary(check, self.check),
            watch: ServerStream(messages.read(watch), self.watch),
        }

    def status(self, service: str) -> Serving:
        if service in _SERVER:
            return Serving.SERVING if self._context.ready else Serving.NOT_SERVING
        model = self._context.manager.models.get(service)
        if model is None:
            return Serving.SERVICE_UNKNOWN
        serving = bool(model.available()) and self._context.staying
        return Serving.SERVING if serving else Serving.NOT_SERVING

    def check(self, request: Any) -> Document:
        status = self.status(request.service)
        if status is Serving.SERVICE_UNKNOWN:
            raise not_found(f"unknown service '{request.service}'")
        return {"status": status.name}

    def watch(self, request: Any, stream: Stream) -> Callable[[], None]:
        service = request.service
        # What can never become known is not remembered: the client chooses how long it is.
        if service not in _SERVER and not valid_model_name(service):
            raise invalid_argument("neither a service nor a model name")
        watcher = _Watcher(service, stream)
        self._tell(watcher, self.status(service))
        self._watchers.add(watcher)
        if self._timer is None:
            self._timer = self._loop.call_later(POLL_S, self._poll)

        def stop() -> None:
            self._watchers.discard(watcher)
            if not self._watchers and self._timer is not None:
                self._timer.cancel()
                self._timer = None

        return stop

    def tell(self) -> None:
        """Every watcher of whose service the state has changed."""
        states: dict[str, Serving] = {}
        for watcher in tuple(self._watchers):
            service = watcher.service
            if service not in states:
                states[service] = self.status(service)
            if watcher.told is not states[service]:
                self._tell(watcher, states[service])

    def _tell(self, watcher: _Watcher, state: Serving) -> None:
        watcher.told = state
        watcher.stream.send(self._messages[state])

    def _poll(self) -> None:
        self._timer = None
        try:
            self.tell()
        except Exception:
            _log.exception("watching health failed")
        if self._watchers:
            self._timer = self._loop.call_later(POLL_S, self._poll)
