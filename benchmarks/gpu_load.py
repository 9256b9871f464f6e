"""Load for fast servers, and for machines that have no wrk: processes with blocking sockets, one thread and
one request under way for each connection.

``python -m benchmarks.gpu_load`` reads a plan (JSON) from its input, says "ready", waits for a line, works,
and prints what it saw (JSON). `measure` below starts several.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.servers import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WARM_UP_S = 0.3


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process sends. ``method``: of gRPC; empty: the body is a whole HTTP request. ``patience_s``:
    an answer that takes longer ends the run."""

    port: int
    body_file: str
    connections: int
    seconds: float
    method: str = ""
    patience_s: float = 60


@dataclass(frozen=True, slots=True)
class Seen:
    """Answers within the window, and their latencies."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def http_request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """The bytes of a POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def measure(plan: Plan, processes: int, seconds: float) -> Seen:
    """Spreads the plan's connections over processes and sums up. Raises RuntimeError if a request fails."""
    processes = max(1, min(processes, plan.connections))
    with contextlib.ExitStack() as stack:
        workers = []
        for index in range(processes):
            share = plan.connections // processes + (index < plan.connections % processes)
            workers.append(stack.enter_context(_worker({**asdict(plan), "connections": share})))
        for worker in workers:
            _expect(worker, "ready", plan.patience_s + 30)
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        results = [json.loads(_line(worker, seconds + plan.patience_s + 30)) for worker in workers]
    latencies = sorted(latency for result in results for latency in result["latencies_us"])
    if not latencies:
        raise RuntimeError("no request was answered in time")
    return Seen(
        requests=len(latencies),
        seconds=statistics.fmean(result["seconds"] for result in results),
        p50_us=latencies[len(latencies) // 2],
        p99_us=latencies[len(latencies) * 99 // 100],
    )


def ask(plan: Plan, times: int) -> None:
    """One request after the other, from here."""
    call = (_grpc if plan.method else _http)(plan, Path(plan.body_file).read_bytes())
    for _ in range(times):
        call()


@contextlib.contextmanager
def _worker(plan: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.gpu_load"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()


def _line(process: subprocess.Popen[str], timeout_s: float) -> str:
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    assert process.stdout
    try:
        text = process.stdout.readline()
    finally:
        timer.cancel()
    if not text:
        raise RuntimeError("a load process ended early: see its error above")
    return text


def _expect(process: subprocess.Popen[str], word: str, timeout_s: float) -> None:
    line = _line(process, timeout_s).strip()
    if line != word:
        raise RuntimeError(f"a load process said {line!r}")


# ---- in the child


def _http(plan: Plan, body: bytes) -> Callable[[], None]:
    connection = socket.create_connection(("127.0.0.1", plan.port), timeout=plan.patience_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = bytearray(1 << 20)

    def ask() -> None:
        connection.sendall(body)
        filled, end = 0, -1
        while end < 0:
            got = connection.recv_into(memoryview(buffer)[filled:])
            if got == 0:
                raise RuntimeError("the server closed the connection")
            filled += got
            end = buffer.find(b"\r\n\r\n", 0, filled)
        head = bytes(buffer[:end]).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(bytes(buffer[:filled]).decode(errors="replace"))
        left = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]) - (filled - end - 4)
        while left > 0:
            got = connection.recv_into(buffer, min(left, len(buffer)))
            if got == 0:
                raise RuntimeError("the server closed the connection")
            left -= got

    return ask


def _grpc(plan: Plan, body: bytes) -> Callable[[], None]:
    import grpc

    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
    ]
    call = grpc.insecure_channel(f"127.0.0.1:{plan.port}", options).unary_unary(plan.method)
    return lambda: cast("None", call(body, timeout=plan.patience_s))


def _work(plan: Plan) -> dict[str, Any]:
    body = Path(plan.body_file).read_bytes()
    connect = _grpc if plan.method else _http
    asks = [connect(plan, body) for _ in range(plan.connections)]
    for ask in asks:
        ask()
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.perf_counter() + _WARM_UP_S
    end = begin + plan.seconds
    latencies: list[list[float]] = [[] for _ in asks]
    errors: list[BaseException] = []

    def loop(index: int) -> None:
        ask, mine = asks[index], latencies[index]
        try:
            while not errors:
                asked = time.perf_counter()
                ask()
                answered = time.perf_counter()
                if answered >= end:
                    return
                if answered >= begin:
                    mine.append((answered - asked) * 1e6)
        except Exception as error:  # whatever it is, the parent is told
            errors.append(error)

    threads = [threading.Thread(target=loop, args=(index,), daemon=True) for index in range(len(asks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {"seconds": plan.seconds, "latencies_us": [value for mine in latencies for value in mine]}


def main() -> None:
    print(json.dumps(_work(Plan(**json.loads(sys.stdin.readline())))), flush=True)
    os._exit(0)  # grpcio's threads take their time otherwise


if __name__ == "__main__":
    main()
