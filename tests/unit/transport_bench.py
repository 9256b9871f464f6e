"""A driver and connections over the stand-in core, with a clock and a loop that tests turn by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from servolley.front import transport as transport_module
from servolley.front.driver import Driver
from servolley.front.router import Router
from servolley.front.transport import HttpProtocol
from unit import fake_core

if TYPE_CHECKING:
    from servolley._core import Engine


class Loop:
    """Records what is scheduled; ``now`` stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Any] = []
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any) -> None:
        self.soon.append(lambda: callback(*args))

    def call_later(self, delay: float, callback: Any) -> Timer:
        self.timers.append(Timer(self.now + delay, callback))
        return self.timers[-1]

    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def run_soon(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def pending(self) -> list[float]:
        return [timer.when for timer in self.timers if not timer.over]

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in list(self.timers):
            if not timer.over and timer.when <= self.now:
                timer.over = True
                timer.callback()


class Timer:
    def __init__(self, when: float, callback: Any) -> None:
        self.when, self.callback, self.over = when, callback, False

    def cancel(self) -> None:
        self.over = True


class Socket:
    def fileno(self) -> int:
        return 77


class Tls:
    def __init__(self, alpn: str | None) -> None:
        self.alpn = alpn

    def selected_alpn_protocol(self) -> str | None:
        return self.alpn


class Transport(asyncio.Transport):
    """Takes ``room`` bytes, then pauses its protocol."""

    def __init__(self, log: list[str], room: int = 1 << 30) -> None:
        super().__init__()
        self.log, self.room = log, room
        self.protocol: Any = None
        self.sent = b""
        self.buffered = b""
        self.closing = False
        self.tls: Tls | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": Socket(), "ssl_object": self.tls}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.log.append(f"limits {high}")

    def get_write_buffer_size(self) -> int:
        return len(self.buffered)

    def write(self, data: Any) -> None:
        self.writelines([data])

    def writelines(self, pieces: Any) -> None:
        data = self.buffered + b"".join(pieces)
        self.sent += data[: self.room]
        self.buffered, self.room = data[self.room :], max(0, self.room - len(data))
        if self.buffered:
            self.protocol.pause_writing()

    def drain(self, count: int) -> None:
        self.sent += self.buffered[:count]
        self.buffered = self.buffered[count:]
        if not self.buffered:
            self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")

    def write_eof(self) -> None:
        self.log.append("write_eof")

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.log.append("close")
        self.closing = True

    def abort(self) -> None:
        self.log.append("abort")
        self.closing = True


class Bench:
    """A driver, and connections on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, max_connections: int = 10) -> None:
        monkeypatch.setattr(transport_module, "Connection", fake_core.Connection)
        self.loop = Loop()
        self.engine = fake_core.Engine()
        self.driver = Driver(cast("Engine", self.engine), cast("Any", self.loop), max_connections)
        self.router = Router()

    def connect(
        self, *flags: int, room: int = 1 << 30
    ) -> tuple[HttpProtocol, fake_core.Connection, Transport]:
        protocol = HttpProtocol(self.driver, self.router)
        core = cast("fake_core.Connection", protocol._core)
        transport = Transport(core.log, room)
        transport.protocol = protocol
        protocol.connection_made(transport)
        core.flags = list(flags)
        return protocol, core, transport
