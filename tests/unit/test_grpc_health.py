"""grpc.health.v1: Check, and Watch that hears of changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest_asyncio

from servolley.front.grpc.health import POLL_S
from servolley.front.grpc.services import GrpcServices
from servolley.repository.layout import ModelOnDisk
from unit.fake_core import GRPC_CANCEL
from unit.grpc_front import HEALTH, GrpcFront


@pytest_asyncio.fixture
async def front(descriptors: bytes) -> GrpcFront:
    front = GrpcFront(descriptors)
    await front.load()
    return front


SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
SERVERS = [
    "",
    "inference.GRPCInferenceService",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "PredictionService",
    "ModelService",
]


async def test_check(front: GrpcFront) -> None:
    async def status(service: str) -> int:
        return int((await front.call(f"{HEALTH}Check", {"service": service})).status)

    for service in SERVERS:
        assert await status(service) == NOT_SERVING
    assert await status("m") == SERVING
    assert await status("bad") == NOT_SERVING
    assert await front.call(f"{HEALTH}Check", {"service": "x"}) == (5, "unknown service 'x'")
    del front.manager._models["bad"]
    for service in SERVERS:
        assert await status(service) == SERVING
    front.context.draining = True
    for service in [*SERVERS, "m"]:
        assert await status(service) == NOT_SERVING


def told(front: GrpcFront, exchange: int) -> list[int]:
    return [answer.status for answer in front.answers(f"{HEALTH}Watch", exchange)]


async def test_watchers_hear_of_changes_and_only_of_them(front: GrpcFront) -> None:
    server, model, nobody = (front.begin(f"{HEALTH}Watch", {"service": name}) for name in ("", "m", "later"))
    assert [told(front, each) for each in (server, model, nobody)] == [
        [NOT_SERVING],
        [SERVING],
        [SERVICE_UNKNOWN],
    ]
    assert [delay for delay, _ in front.timers.pending] == [POLL_S]
    front.timers.fire()
    assert told(front, server) == [NOT_SERVING]

    del front.manager._models["bad"]
    found = {"later": ModelOnDisk("later", None, versions={1: Path("1")})}
    await front.manager.load_first(found)  # which waits for "m" to go, too
    front.timers.fire()
    assert told(front, server) == [NOT_SERVING, SERVING]
    assert told(front, model) == [SERVING, SERVICE_UNKNOWN]
    assert told(front, nobody) == [SERVICE_UNKNOWN, SERVING]
    assert front.core.finished == {}

    front.event(GRPC_CANCEL, server)
    front.event(GRPC_CANCEL, model)
    assert len(front.timers.pending) == 1
    front.event(GRPC_CANCEL, nobody)
    assert front.timers.pending == []  # nobody watches, nobody looks
    await front.manager.close()


async def test_watchers_hear_that_the_server_goes(front: GrpcFront) -> None:
    exchange = front.begin(f"{HEALTH}Watch", {"service": "m"})
    front.context.draining = True
    front.services.tell_watchers()
    front.calls.end_streams()
    assert told(front, exchange) == [SERVING, NOT_SERVING]
    assert front.core.finished[exchange] == (14, "Server exiting")
    assert front.timers.pending == []


async def test_watching_ends_with_the_connection(front: GrpcFront) -> None:
    front.begin(f"{HEALTH}Watch", {"service": "m"})
    front.calls.close()
    assert front.timers.pending == []


async def test_what_can_never_be_known_is_not_watched(front: GrpcFront) -> None:
    exchange = front.begin(f"{HEALTH}Watch", {"service": "x" * 1000})
    assert front.core.finished[exchange] == (3, "neither a service nor a model name")
    assert front.timers.pending == []


def test_servers_without_calls_tell_nobody() -> None:
    GrpcServices(cast("Any", None), cast("Any", None)).tell_watchers()
