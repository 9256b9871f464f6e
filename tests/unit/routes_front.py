"""A router over a manager whose engine is the stand-in."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson

from servolley.config.model import ModelConfig, Versions
from servolley.config.settings import Repository
from servolley.front.calls import Call, Reply, status_reply
from servolley.front.context import ServerContext
from servolley.front.gate import Gate
from servolley.front.label_routes import LabelRoutes
from servolley.front.metrics_routes import MetricsRoutes
from servolley.front.oip_routes import OipRoutes
from servolley.front.router import Router
from servolley.front.tfs_routes import TfsRoutes
from servolley.front.traffic_routes import TrafficRoutes
from servolley.observe.trace_settings import TraceSettings
from servolley.observe.tracing import Tracing
from servolley.repository.layout import ModelOnDisk
from servolley.repository.manager import Manager
from servolley.repository.traffic_control import TrafficControl
from servolley.status import StatusError
from unit import fake_core

if TYPE_CHECKING:
    from servolley._core import Engine


class Front:
    """Two models: ``m`` with versions 1 and 3 (label stable = 1), ``bad`` which does not load."""

    def __init__(self) -> None:
        self.engine = fake_core.Engine()
        engine = cast("Engine", self.engine)
        self.manager = Manager(engine, Repository(), asyncio.get_running_loop())
        self.context = ServerContext("1.2.3", self.manager)
        self.gate = Gate()
        self.context.tracing = Tracing(engine, None, 0, TraceSettings())
        self.router = Router()
        OipRoutes(self.context).register(self.router)
        LabelRoutes(self.context).register(self.router)
        TfsRoutes(self.context).register(self.router)
        TrafficRoutes(self.context, TrafficControl(self.manager)).register(self.router)
        MetricsRoutes(engine, self.manager, "1.2.3").register(self.router)

    async def load(self) -> None:
        config = ModelConfig(versions=Versions(all=True, labels={"stable": 1}))
        self.engine.failures["bad", 1] = fake_core.core_error("INVALID_ARGUMENT", 400, "not a model")
        await self.manager.load_first(
            {
                "m": ModelOnDisk("m", None, config, {1: Path("1"), 3: Path("3")}),
                "bad": ModelOnDisk("bad", None, versions={1: Path("1")}),
            }
        )

    async def ask(self, method: str, target: str, body: Any = None, **headers: str) -> Reply:
        raw = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        core = fake_core.ControlCall(1, method, target, list(headers.items()), raw)
        try:
            answer = self.router.answer(Call.from_core(cast("Any", core)), self.gate)
            return await answer if inspect.isawaitable(answer) else answer
        except StatusError as error:
            return status_reply(error)

    async def get(self, target: str) -> Any:
        reply = await self.ask("GET", target)
        assert (reply.status, reply.content_type) == (200, "application/json"), reply
        return orjson.loads(reply.body)

    async def error(self, method: str, target: str, body: Any = None) -> tuple[int, str]:
        reply = await self.ask(method, target, body)
        assert reply.content_type == "application/json"
        document = orjson.loads(reply.body)
        assert list(document) == ["error"]
        return reply.status, document["error"]


def row(version: int, state: str = "AVAILABLE", code: str = "OK", message: str = "") -> dict[str, Any]:
    return {
        "version": str(version),
        "state": state,
        "status": {"error_code": code, "error_message": message},
    }
