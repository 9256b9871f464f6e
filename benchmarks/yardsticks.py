"""What the server is held against, each in a process of its own: ONNX Runtime called directly, orjson with
numpy, a bare uvloop protocol, and a companion that keeps a share of the machine busy.

``python -m benchmarks.yardsticks ort|parse|sink|companion ARGUMENTS`` is how the functions below start it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.servers import ROOT, running

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class OrtRun:
    """ONNX Runtime in process: `callers` threads that each run batches with `threads` intra-op threads."""

    batch: int
    threads: int
    callers: int
    items_per_second: float
    cpu_us_per_item: float


# ---- in the child


def _ort(model: str, configurations: Sequence[tuple[int, int, int]], seconds: float) -> list[OrtRun]:
    """Measures (batch, threads, callers) one after the other, with inputs and outputs bound once to memory of
    the caller's: nothing but the model is timed."""
    import numpy as np
    import onnxruntime

    runs: list[OrtRun] = []
    sessions: dict[int, onnxruntime.InferenceSession] = {}
    for batch, threads, callers in configurations:
        if threads not in sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            sessions[threads] = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        session = sessions[threads]

        def bind(session: onnxruntime.InferenceSession = session, batch: int = batch) -> Callable[[], None]:
            binding = session.io_binding()
            for value in session.get_inputs():
                shape = [batch, *value.shape[1:]]
                data = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
                binding.bind_ortvalue_input(value.name, onnxruntime.OrtValue.ortvalue_from_numpy(data))
            for value in session.get_outputs():
                shape = [batch, *value.shape[1:]]
                empty = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
                binding.bind_ortvalue_output(value.name, empty)
            return lambda: session.run_with_iobinding(binding)

        rate, cpu = _repeat([bind() for _ in range(callers)], seconds)
        runs.append(OrtRun(batch, threads, callers, rate * batch, cpu / batch * 1e6))
    return runs


def _repeat(calls: Sequence[Callable[[], None]], seconds: float) -> tuple[float, float]:
    """(calls per second, processor seconds per call) of every call repeated on a thread of its own."""
    for call in calls:
        call()
    counts = [0] * len(calls)
    walls = [0.0] * len(calls)

    def loop(index: int) -> None:
        began = time.perf_counter()
        while counts[index] < 3 or time.perf_counter() - began < seconds:
            calls[index]()
            counts[index] += 1
        walls[index] = time.perf_counter() - began

    used = time.process_time()
    threads = [threading.Thread(target=loop, args=(index,)) for index in range(1, len(calls))]
    for thread in threads:
        thread.start()
    loop(0)
    for thread in threads:
        thread.join()
    used = time.process_time() - used
    return sum(count / wall for count, wall in zip(counts, walls, strict=True)), used / sum(counts)


def _parse(path: str, keys: Sequence[str | int], seconds: float) -> float:
    """Processor microseconds that orjson.loads and numpy.asarray take for a JSON tensor; their median."""
    import numpy as np
    import orjson

    text = Path(path).read_bytes()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        before = time.thread_time()
        data = orjson.loads(text)
        for key in keys:
            data = data[key]
        array = np.asarray(data, dtype=np.float32)
        del data
        times.append(time.thread_time() - before)
        assert array.size > 1
    return statistics.median(times) * 1e6


class _Sink(asyncio.BufferedProtocol):
    """Reads a request into one buffer and answers with the bytes of its body, out of that buffer. It knows
    only what wrk sends: one request at a time, its head in the first read."""

    def __init__(self) -> None:
        self._buffer = bytearray(1 << 20)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._body = 0
        self._end = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only like them.
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if not self._end:
            self._body = self._buffer.index(b"\r\n\r\n", 0, self._filled) + 4
            head = bytes(self._view[: self._body]).lower()
            self._end = self._body + int(head.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0])
        if self._filled < self._end:
            return
        assert self._transport is not None
        answer = self._view[self._body : self._end]
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
            % len(answer)
        )
        self._transport.writelines((head, answer))
        self._filled = self._end = 0


def _serve_sink() -> None:
    import uvloop

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Sink, "127.0.0.1", 0)
        print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()

    uvloop.run(serve())


def _keep_busy(share: float, period_s: float) -> None:
    """Uses `share` of one processor, a slice every `period_s`, as a load generator does for every answer."""
    began, used = time.monotonic(), time.process_time()
    while True:
        due = (time.monotonic() - began + period_s) * share
        while time.process_time() - used < due:
            pass
        time.sleep(period_s)


# ---- in the parent


def _child(cores: Collection[int], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.yardsticks", *arguments],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return done.stdout


def ort_in_process(
    model: Path, configurations: Sequence[tuple[int, int, int]], seconds: float, cores: Collection[int]
) -> list[OrtRun]:
    """One OrtRun for every (batch, threads, callers), `seconds` each, in one process on `cores`."""
    text = _child(cores, "ort", str(model), json.dumps(configurations), str(seconds))
    return [OrtRun(**run) for run in json.loads(text)]


def orjson_and_numpy_us(
    text: Path, keys: Sequence[str | int], seconds: float, cores: Collection[int]
) -> float:
    """Processor microseconds for parsing the file into an array that is found under `keys`."""
    return float(_child(cores, "parse", str(text), json.dumps(keys), str(seconds)))


@contextlib.contextmanager
def companion(share: float, period_s: float, folder: Path, cores: Collection[int]) -> Iterator[None]:
    """A process that takes `share` of a processor away while the context lasts."""
    arguments = ["companion", str(share), str(period_s)]
    command = [sys.executable, "-m", "benchmarks.yardsticks", *arguments]
    with running(command, folder / "companion.log", cores):
        yield


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    ort = kinds.add_parser("ort")
    ort.add_argument("model")
    ort.add_argument("configurations", type=json.loads)
    ort.add_argument("seconds", type=float)
    parse = kinds.add_parser("parse")
    parse.add_argument("text")
    parse.add_argument("keys", type=json.loads)
    parse.add_argument("seconds", type=float)
    kinds.add_parser("sink")
    busy = kinds.add_parser("companion")
    busy.add_argument("share", type=float)
    busy.add_argument("period_s", type=float)
    given = parser.parse_args()
    if given.kind == "ort":
        print(json.dumps([asdict(run) for run in _ort(given.model, given.configurations, given.seconds)]))
    elif given.kind == "parse":
        print(_parse(given.text, given.keys, given.seconds))
    elif given.kind == "sink":
        _serve_sink()
    else:
        _keep_busy(given.share, given.period_s)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
