"""What decides how fast the server can be on this GPU, in a minute and before anything else: what ONNX
Runtime loads, what launching costs and whether a changed batch size makes it plan again, what waiting for an
event and pinning memory cost, and which options of the CUDA provider pay off.

    python -m benchmarks.gpu_probe [cuda:0]

Each line stands alone: what fails says so, and the next one is tried.
"""

from __future__ import annotations

import ctypes
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.gpu_yardsticks import SERVER_OPTIONS, BoundSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_ROWS: Final = 32
_RUNS: Final = 40
_WAITS: Final = 1000
_MAPPED: Final = re.compile(r"/\S*lib(?:cudart|cudnn|cublas|cublasLt|cuda|cufft)\.so[.0-9]*$", re.MULTILINE)
#: The driver's numbers, from cuda.h.
_EVENT_SPINS, _EVENT_BLOCKS = 2, 3  # without timing; 1 is blocking
_NON_BLOCKING: Final = 1
#: Long enough to fall asleep over: some 50 us of a GPU with 3 TB/s.
_FILLED_BYTES: Final = 128 << 20
_PINNED_BYTES: Final = 640 << 10


def libraries(model: str, device: str) -> str:
    """After a first session: whatever is there twice was found in two places."""
    import onnxruntime

    began = time.perf_counter()
    if device.startswith("cuda"):
        onnxruntime.preload_dlls()
    session = BoundSession(model, device, 1, SERVER_OPTIONS)
    session.run()
    took = time.perf_counter() - began
    mapped = sorted(set(_MAPPED.findall(Path("/proc/self/maps").read_text())))
    return "\n  ".join([f"onnxruntime {onnxruntime.__version__}, first run after {took:.1f} s", *mapped])


def batches(model: str, device: str, rows: Sequence[int], more: Mapping[str, str], runs: int = _RUNS) -> str:
    """Batches of these sizes in turn: until each is done, and until the call that launches it returns."""
    import onnxruntime

    session = BoundSession(model, device, rows[0], {**SERVER_OPTIONS, **more})
    launch_only = onnxruntime.RunOptions()
    launch_only.add_run_config_entry("disable_synchronize_execution_providers", "1")
    for count in (*rows, *rows):
        session.run(count)
    launched, took = [], []
    for index in range(runs):
        began = time.perf_counter()
        session.run(rows[index % len(rows)], launch_only)
        launched.append(time.perf_counter() - began)
        session.wait()
        took.append(time.perf_counter() - began)
    times = sorted(took)
    return (
        f"{statistics.median(took) * 1e6:,.0f} us, launching {statistics.median(launched) * 1e6:,.0f} us "
        f"(fastest {times[0] * 1e6:,.0f}, slowest {times[-1] * 1e6:,.0f})"
    )


class Driver:
    """The driver's own calls, on the primary context of a device."""

    def __init__(self, device: str) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._context = ctypes.c_void_p()
        self.must("cuInit", 0)
        index = int(device.partition(":")[2] or 0)
        self.must("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), index)
        self.must("cuCtxSetCurrent", self._context)

    def must(self, name: str, *arguments: Any) -> None:
        result = getattr(self._library, name)(*arguments)
        if result != 0:
            raise RuntimeError(f"{name} answered {result}")

    def wake_up(self, flags: int) -> str:
        """From the start of a fill to the return from the wait for the event after it."""
        pointer, stream, event = ctypes.c_uint64(), ctypes.c_void_p(), ctypes.c_void_p()
        size = ctypes.c_size_t(_FILLED_BYTES)
        self.must("cuMemAlloc_v2", ctypes.byref(pointer), size)
        self.must("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        self.must("cuEventCreate", ctypes.byref(event), flags)
        took, used = [], time.process_time()
        for _ in range(_WAITS):
            began = time.perf_counter()
            self.must("cuMemsetD8Async", pointer, ctypes.c_ubyte(0), size, stream)
            self.must("cuEventRecord", event, stream)
            self.must("cuEventSynchronize", event)
            took.append(time.perf_counter() - began)
        used = (time.process_time() - used) / _WAITS
        self.must("cuEventDestroy_v2", event)
        self.must("cuStreamDestroy_v2", stream)
        self.must("cuMemFree_v2", pointer)
        took.sort()
        p99 = took[len(took) * 99 // 100]
        return f"p50 {took[len(took) // 2] * 1e6:.1f} us, p99 {p99 * 1e6:.1f} us, CPU {used * 1e6:.1f} us"

    def pinning(self) -> str:
        """As the pool grows while it is asked for more."""
        pointers, took = [], []
        for _ in range(20):
            pointers.append(ctypes.c_void_p())
            began = time.perf_counter()
            self.must("cuMemHostAlloc", ctypes.byref(pointers[-1]), ctypes.c_size_t(_PINNED_BYTES), 0)
            took.append(time.perf_counter() - began)
        for pointer in pointers:
            self.must("cuMemFreeHost", pointer)
        first, last = took[0] * 1e6, took[-1] * 1e6
        return f"{sum(took) * 1e3:.2f} ms in all, {first:.0f} us the first, {last:.0f} us the last"


def main() -> int:
    device = sys.argv[1] if len(sys.argv) > 1 else "cuda:0"
    failed = 0

    def tell(what: str, ask: Callable[[], str]) -> None:
        nonlocal failed
        began = time.perf_counter()
        try:
            answer = ask()
        except Exception as error:  # of one: the next is tried
            failed += 1
            answer = f"FAILED: {error}"
        print(f"probe: {what}: {answer} [{time.perf_counter() - began:.1f} s]", flush=True)

    print(f"probe: {len(os.sched_getaffinity(0))} processors", flush=True)
    with tempfile.TemporaryDirectory(prefix="servolley-probe-") as folder:
        file = str(Path(folder) / "resnet50.onnx")
        tell("resnet50 made", lambda: _save(file))
        tell("libraries", lambda: libraries(file, device))
        same, other = [_ROWS], [_ROWS, _ROWS + 1]
        tell(f"resnet50, rows {same}", lambda: batches(file, device, same, {}))
        tell(f"resnet50, rows {other} in turn", lambda: batches(file, device, other, {}))
        for key in ("prefer_nhwc", "fuse_conv_bias"):
            tell(f"resnet50, rows {same}, {key}", lambda key=key: batches(file, device, same, {key: "1"}))  # type: ignore[misc]
        tell("resnet50, rows [1]", lambda: batches(file, device, [1], {}))
        tell("waiting for an event, spinning", lambda: Driver(device).wake_up(_EVENT_SPINS))
        tell("waiting for an event, blocking", lambda: Driver(device).wake_up(_EVENT_BLOCKS))
        tell(f"pinning 20 x {_PINNED_BYTES >> 10} KiB", lambda: Driver(device).pinning())
    return 1 if failed else 0


def _save(file: str) -> str:
    import onnx
    from benchmarks import models

    onnx.save(models.resnet50(), file)
    return f"{Path(file).stat().st_size:,} bytes"


if __name__ == "__main__":
    raise SystemExit(main())
