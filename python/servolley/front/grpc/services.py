"""The gRPC services of a port. Nothing of protobuf is imported before the first call, unless a port of their
own announces calls: a server that nobody asks over gRPC is smaller by it and starts sooner."""

import asyncio
import importlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servolley.front.context import ServerContext
    from servolley.front.grpc.health import HealthService
    from servolley.front.grpc.messages import Messages
    from servolley.front.grpc.methods import Method


class GrpcServices:
    """Every service, over one server's context."""

    def __init__(self, context: "ServerContext", loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop
        self._health: HealthService | None = None
        self._methods: dict[str, Method] | None = None

    def find(self, target: str) -> "Method | None":
        if self._methods is None:
            self._methods = self._build()
        return self._methods.get(target)

    async def prepare(self) -> None:
        """Spares the first call what ``find`` would do for it; meanwhile the loop has its turns."""
        await asyncio.to_thread(_import_everything)
        self.find("")

    def tell_watchers(self) -> None:
        """At once, without waiting for the next look at the state: the server is going."""
        if self._health is not None:
            self._health.tell()

    def _build(self) -> "dict[str, Method]":
        from servolley.front.grpc import health, oip_service, reflection, tfs_service

        messages = built_messages()
        self._health = health.HealthService(self._context, self._loop)
        served = [
            oip_service.SERVICE,
            tfs_service.PREDICTION_SERVICE,
            tfs_service.MODEL_SERVICE,
            health.SERVICE,
            *reflection.SERVICES,
        ]
        return {
            **oip_service.OipService(self._context).methods(messages),
            **tfs_service.TfsService(self._context).methods(messages),
            **self._health.methods(messages),
            **reflection.Reflection(served).methods(messages),
        }


def _import_everything() -> None:
    for name in ("health", "messages", "oip_service", "reflection", "tfs_service"):
        importlib.import_module(f"servolley.front.grpc.{name}")


@cache
def built_messages() -> "Messages":
    """Every message of ours, once per process."""
    from servolley.front.grpc.messages import Messages

    return Messages.built()


def no_services(_: str) -> "Method | None":
    """``GrpcServices.find`` of a port on which there are none."""
    return None
