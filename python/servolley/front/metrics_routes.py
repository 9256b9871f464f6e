"""/metrics, under its own name and under TensorFlow Serving's."""

import re
from typing import TYPE_CHECKING, Protocol

from servolley.front.calls import Call, Reply
from servolley.front.router import Router

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from servolley._core import Engine
    from servolley.observe.metrics import Snapshot
    from servolley.observe.mirror_metrics import MirrorSnapshot
    from servolley.observe.traffic_metrics import TrafficSnapshot
    from servolley.repository.manager import Manager
    from servolley.repository.records import ModelRecord


class MirrorFigures(Protocol):
    """What is needed of mirror.repository.MirrorStats."""

    syncs: dict[str, int]
    last_success_s: float
    problems: int
    bytes: int
    restarts: int


class MetricsRoutes:
    """Everything is read on the loop at the moment of the scrape. ``path``: one more. ``refused``: calls that
    change the server, by why they were refused. ``mirror``: the figures of a remote repository's."""

    def __init__(
        self,
        engine: "Engine",
        manager: "Manager",
        version: str,
        path: str | None = None,
        refused: "Callable[[], Mapping[str, int]]" = dict,
        mirror: "Callable[[], MirrorFigures] | None" = None,
    ) -> None:
        self._path = path
        self._refused = refused
        self._mirror = mirror
        self._engine = engine
        self._manager = manager
        self._version = version

    def register(self, router: Router) -> None:
        router.add(r"/metrics/?|/monitoring/prometheus/metrics", {"GET": self.metrics})
        if self._path is not None:
            router.add(re.escape(self._path), {"GET": self.metrics})

    async def metrics(self, _: Call) -> Reply:
        # Imported late: it takes as long as the rest of the start together (see server.py).
        from servolley.observe.metrics import CONTENT_TYPE, render

        return Reply(200, await render(self._snapshot()), CONTENT_TYPE)

    def _snapshot(self) -> "Snapshot":
        from servolley.observe.metrics import ServableSnapshot, Snapshot

        return Snapshot(
            server_version=self._version,
            runtime_version=self._engine.runtime_version,
            servables=[
                ServableSnapshot(
                    model.name, version, servable.load_ns / 1e9, servable.stats(), servable.cuda_graphs
                )
                for model in self._manager.models.values()
                for version, servable in model.available().items()
            ],
            pool=self._engine.pool_stats(),
            front=self._engine.front_stats(),
            shared_memory=self._engine.shared_memory_usage(),
            gpus=self._engine.gpus(),
            traffic=[_traffic(model) for model in self._manager.models.values()],
            refused=self._refused(),
            mirror=None if self._mirror is None else _mirror(self._mirror()),
            tags={model.name: model.found.config.metric_tags for model in self._manager.models.values()},
        )


def _mirror(figures: MirrorFigures) -> "MirrorSnapshot":
    from servolley.observe.mirror_metrics import MirrorSnapshot

    return MirrorSnapshot(
        figures.syncs, figures.last_success_s, figures.bytes, figures.problems, figures.restarts
    )


def _traffic(model: "ModelRecord") -> "TrafficSnapshot":
    from servolley.observe.traffic_metrics import TrafficSnapshot

    routing, traffic = model.routing(), model.traffic
    canary = None
    if routing.canary is not None and routing.state is not None:
        canary = (routing.canary, routing.state.value)
    shadow = None
    if traffic.shadow is not None and routing.shadow is not None:
        shadow = (routing.shadow, traffic.shadow.stats())
    return TrafficSnapshot(
        model.name,
        routing.weights,
        canary,
        {reason.value: count for reason, count in traffic.rollbacks.items()},
        traffic.promotions,
        shadow,
    )
