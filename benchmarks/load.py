"""One prepared request, sent by wrk from its own core; what it cost the server."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.servers import cpu_seconds, cpu_seconds_of, machine_busy_seconds, process_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from benchmarks.servers import Server

_SCRIPT: Final = Path(__file__).with_name("request.lua")
_SAMPLE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. `volleys`: the server answers so slowly, or so many at once, that only a window from one
    answer to a later one counts right."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    volleys: bool = False

    def send(self, server: Server) -> bytes:
        """One answer's body. Raises urllib.error.HTTPError for a status that is not a success."""
        request = urllib.request.Request(server.url + self.path, self.body, self.headers, method="POST")
        with urllib.request.urlopen(request, timeout=120) as answer:
            content: bytes = answer.read()
        return content


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `cpu_us`: of the server, per answered request; `load_cpu_us`: of wrk. `others`: the part of
    the machine that belonged to neither."""

    requests: int
    seconds: float
    cpu_us: float
    load_cpu_us: float
    p50_us: float
    p99_us: float
    others: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class _CpuClock(threading.Thread):
    """Reads a server's processor time against the steady clock while wrk runs.

    It runs beside a server that has every core for itself, and what it takes is missing there: so the
    processes are looked up only once.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pids = tuple(process_tree(pid))
        self._stop_event = threading.Event()
        self._points: list[tuple[float, float]] = []

    def run(self) -> None:
        while not self._stop_event.is_set():
            self._points.append((time.monotonic(), cpu_seconds_of(self._pids)))
            self._stop_event.wait(_SAMPLE_S)

    def stop(self) -> None:
        self._stop_event.set()
        self.join()
        self._points.append((time.monotonic(), cpu_seconds_of(self._pids)))

    def at(self, instant: float) -> float:
        """Processor seconds used until `instant`, between two readings in proportion."""
        for (before, low), (after, high) in zip(self._points, self._points[1:], strict=False):
            if before <= instant <= after:
                return low + (high - low) * (instant - before) / max(after - before, 1e-9)
        raise ValueError("outside the run")


def measure(
    server: Server, request: Request, connections: int, seconds: int, folder: Path, cores: Collection[int]
) -> Sample:
    """Runs wrk for whole `seconds`. Raises RuntimeError if any request fails: errors cost little."""
    body, headers = folder / "request.body", folder / "request.headers"
    body.write_bytes(request.body)
    headers.write_text("".join(f"{name}: {value}\n" for name, value in request.headers.items()))
    stamps = "stamps" if request.volleys else "-"
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "60s", "--script", str(_SCRIPT), server.url + request.path]
    command += ["--", "POST", str(headers), str(body), stamps]

    clock = _CpuClock(server.pid)
    if request.volleys:
        clock.start()
    done = run_load(server, command, seconds, cores)
    cpu = done.cpu_s
    if request.volleys:
        clock.stop()

    marker = done.output.rfind("RESULT {")
    if marker < 0:
        raise RuntimeError(f"wrk failed: {done.output[-500:]}")
    result = json.loads(done.output[marker + len("RESULT ") :])
    if result["failed"] or not result["requests"]:
        raise RuntimeError(f"{server.name} {request.path}: {result['failed']} of {result['requests']} failed")
    requests, window = int(result["requests"]), float(result["seconds"])
    load_cpu_us = done.load_cpu_s / requests * 1e6
    volleys = _window(result["arrivals"], window) if request.volleys else None
    if volleys is not None:
        requests, first, last = volleys
        window, cpu = last - first, clock.at(last) - clock.at(first)
    return Sample(
        requests, window, cpu / requests * 1e6, load_cpu_us, result["p50_us"], result["p99_us"], done.others
    )


@dataclass(frozen=True, slots=True)
class LoadRun:
    """A finished load generator: what it printed, processor seconds of server and generator, and the part of
    the machine that belonged to neither."""

    output: str
    cpu_s: float
    load_cpu_s: float
    others: float


def run_load(server: Server, command: Sequence[str], seconds: int, cores: Collection[int]) -> LoadRun:
    """Runs a load generator on its cores. Raises RuntimeError if it fails."""
    began, busy, used = time.monotonic(), machine_busy_seconds(), _own_cpu()
    cpu_before, load_before = cpu_seconds(server.pid), _children_cpu()
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds + 90,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    cpu, load_cpu = cpu_seconds(server.pid) - cpu_before, _children_cpu() - load_before
    ours = cpu + load_cpu + _own_cpu() - used
    elapsed = time.monotonic() - began
    others = max(0.0, machine_busy_seconds() - busy - ours) / elapsed / (os.cpu_count() or 1)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return LoadRun(done.stdout, cpu, load_cpu, others)


def _window(arrivals: list[float], run_s: float) -> tuple[int, float, float] | None:
    """(answers, first, last): from the end of the first volley to the end of the last, so that every volley
    that is counted was also timed. None: the run saw too few volleys for that.

    Answers of one volley come closer together than a quarter of the mean, or half a millisecond.
    """
    arrivals = sorted(arrivals)
    apart = max((arrivals[-1] - arrivals[0]) / len(arrivals) / 4, 0.0005)
    ends = [i for i in range(len(arrivals) - 1) if arrivals[i + 1] - arrivals[i] > apart]
    ends.append(len(arrivals) - 1)
    first, last = arrivals[ends[0]], arrivals[ends[-1]]
    return (ends[-1] - ends[0], first, last) if last - first > run_s / 3 else None


def _own_cpu() -> float:
    return time.process_time()


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
