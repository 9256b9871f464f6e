"""What the server said of a model's versions while clients asked for them, and whether the two agree. A look
or a request lasts a moment, so only what holds for all of that moment is held against the server."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from integration.server_process import Server
from integration.slim_tensorflow import stock_module

AVAILABLE = "AVAILABLE"
_ORDER = {None: 0, "START": 10, "LOADING": 20, AVAILABLE: 30, "UNLOADING": 40, "END": 50}
#: The repository index's words for the same states.
_OF_INDEX = {"READY": AVAILABLE, "LOADING": "LOADING", "UNLOADING": "UNLOADING", "UNAVAILABLE": "END"}


@dataclass(frozen=True, slots=True)
class Look:
    """The states that the server gave, between two times."""

    began: float
    ended: float
    states: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. wanted: a version by its number, None for whichever is served by default. version: the
    one that answered, None if there was none to answer."""

    began: float
    ended: float
    wanted: int | None
    version: int | None


@dataclass(frozen=True, slots=True)
class _Span:
    """A time for which the looks leave no doubt about a version."""

    version: int
    available: bool
    began: float
    ended: float

    def holds(self, asked: Asked) -> bool:
        return self.began <= asked.began and asked.ended <= self.ended


def contradictions(looks: Sequence[Look], asked: Iterable[Asked]) -> list[str]:
    """Requests whose outcome is not what the looks around them say. Pure."""
    versions = {version for look in looks for version in look.states}
    spans = [span for version in sorted(versions) for span in _spans(looks, version)]
    found = []
    for one in asked:
        around = [span for span in spans if span.holds(one)]
        there = {span.version for span in around if span.available}
        gone = {span.version for span in around if not span.available}
        if one.version is None:
            lacking = there if one.wanted is None else there & {one.wanted}
            if lacking:
                found.append(f"{one}: refused, while {lacking} were available")
        elif one.version in gone:
            found.append(f"{one}: answered by a version that was not available")
        elif one.wanted is None and any(version > one.version for version in there):
            found.append(f"{one}: answered by an old version, while {there} were available")
    return found


def _spans(looks: Sequence[Look], version: int) -> Iterator[_Span]:
    run = [looks[0]]
    for before, look in itertools.pairwise(looks):
        states = before.states.get(version), look.states.get(version)
        if (states[0] == AVAILABLE) == (states[1] == AVAILABLE) and not _may_hide_a_life(*states):
            run.append(look)
            continue
        yield from _span(version, run)
        run = [look]
    yield from _span(version, run)


def _span(version: int, run: Sequence[Look]) -> Iterator[_Span]:
    # The server looked at some moment of each look: what the first found held from its end at the latest.
    if run[0].ended < run[-1].began:
        yield _Span(version, run[0].states.get(version) == AVAILABLE, run[0].ended, run[-1].began)


def _may_hide_a_life(before: str | None, after: str | None) -> bool:
    """Whether the version may have been available between two looks that both say that it is not."""
    if after == "UNLOADING":
        return before != "UNLOADING"
    return _ORDER[before] < _ORDER[AVAILABLE] < _ORDER[after]


class Connection:
    """One HTTP connection that is kept: a thread that asks without a pause needs no port for each request."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection(*server.address, timeout=60)

    def call(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        self._connection.request(method, path, None if document is None else json.dumps(document))
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        self._connection.close()


class Witness:
    """Two threads: one looks at the model m wherever states can be seen, one asks for its versions by their
    numbers, those that are gone and those that are yet to come as well."""

    def __init__(self, server: Server) -> None:
        self.looks: list[Look] = []
        self.asked: list[Asked] = []
        self.errors: list[str] = []
        self._server = server
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guard, args=(work,)) for work in (self._look, self._ask)
        ]

    def states_seen(self, version: int) -> set[str | None]:
        return {look.states.get(version) for look in self.looks}

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.errors.append(f"{work.__name__}: {error!r}")

    def _look(self) -> None:
        connection = Connection(self._server)
        with grpc.insecure_channel(self._server.url) as channel:
            ways = itertools.cycle([_status(connection), _index(connection), _grpc_status(channel)])
            while not self._stop.is_set():
                began = time.monotonic()
                states = next(ways)()
                self.looks.append(Look(began, time.monotonic(), states))
        connection.close()

    def _ask(self) -> None:
        connection = Connection(self._server)
        while not self._stop.is_set():
            known = sorted(self.looks[-1].states)[-3:] if self.looks else [1]
            for version in (*known, max(known, default=0) + 1):
                began = time.monotonic()
                path = f"/v1/models/m/versions/{version}:predict"
                status, answer = connection.call("POST", path, {"instances": [0.0]})
                if status not in {200, 404}:
                    raise AssertionError(f"{path}: {status} {answer}")
                self.asked.append(Asked(began, time.monotonic(), version, version if status == 200 else None))
        connection.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def _status(connection: Connection) -> Callable[[], dict[int, str]]:
    def look() -> dict[int, str]:
        status, answer = connection.call("GET", "/v1/models/m")
        if status == 404:
            return {}
        return {int(row["version"]): row["state"] for row in answer["model_version_status"]}

    return look


def _index(connection: Connection) -> Callable[[], dict[int, str]]:
    def look() -> dict[int, str]:
        _, answer = connection.call("POST", "/v2/repository/index", {})
        return {
            int(row["version"]): _OF_INDEX[row["state"]]
            for row in answer
            if row["name"] == "m" and row.get("version") and row.get("state")
        }

    return look


def _grpc_status(channel: grpc.Channel) -> Callable[[], dict[int, str]]:
    stub = stock_module("model_service_pb2_grpc").ModelServiceStub(channel)
    messages = stock_module("get_model_status_pb2")
    request = messages.GetModelStatusRequest()
    request.model_spec.name = "m"
    names = messages.ModelVersionStatus.State.Name

    def look() -> dict[int, str]:
        try:
            answer = stub.GetModelStatus(request, timeout=30)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise
        return {row.version: names(row.state) for row in answer.model_version_status}

    return look
