"""Load at a constant rate, by open_loop.cc on its own core."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from benchmarks.load import Request
    from benchmarks.servers import Server

PROGRAM = ROOT / "build" / "bench" / "open_loop"


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of what was due under one name. `failed`: answers other than 200, and connections that were lost.
    `sent_late_p99_us`: how late the generator itself was to send."""

    requests: int
    failed: int
    seconds: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    sent_late_p99_us: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class OpenLoop:
    """A run of the generator. What is due inside of `counting()` counts under that name, nothing else."""

    def __init__(
        self,
        server: Server,
        request: Request,
        connections: int,
        per_second: float,
        folder: Path,
        cores: Collection[int],
    ) -> None:
        """`per_second` 0: a closed loop."""
        self._names: list[str] = []
        head = f"POST {request.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(request.body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        file = folder / "open_loop.request"
        file.write_bytes(head.encode() + b"\r\n" + request.body)
        self._process = subprocess.Popen(
            [str(PROGRAM), str(server.port), str(file), str(connections), str(per_second)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )

    @contextlib.contextmanager
    def counting(self, name: str) -> Iterator[None]:
        assert self._process.stdin is not None
        if name not in self._names:
            self._names.append(name)
        self._process.stdin.write(b"%d" % (self._names.index(name) + 1))
        yield
        self._process.stdin.write(b"0")

    def finish(self) -> dict[str, Latencies]:
        """Raises RuntimeError if the generator failed, which includes a server that does not keep up."""
        output, errors = self._process.communicate(timeout=60)
        if self._process.returncode != 0:
            raise RuntimeError(errors.decode(errors="replace").strip())
        lines = output.splitlines()
        return {name: Latencies(**json.loads(line)) for name, line in zip(self._names, lines, strict=False)}

    def __enter__(self) -> OpenLoop:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
