"""What the server is held against on a GPU, and what is read beside it: ONNX Runtime called directly, how
busy the GPU is, and a client's memory on the GPU.

``python -m benchmarks.gpu_yardsticks MODEL DEVICE SECONDS BATCHES`` is how `raw` measures, in a process of
its own.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from benchmarks.servers import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


#: What the server asks of the CUDA provider: see csrc/runtime/ort/providers.cc.
SERVER_OPTIONS: Final = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}


@dataclass(frozen=True, slots=True)
class RawRun:
    """ONNX Runtime in process: one thread, inputs and outputs bound once to memory of the device.
    ``own_options``: those that it has by itself, instead of the server's."""

    batch: int
    graph: bool
    items_per_second: float
    us: float
    own_options: bool = False

    def __str__(self) -> str:
        """As it comes, on one line."""
        how = ("with graphs" if self.graph else "no graphs") + (", its own options" * self.own_options)
        return f"batches of {self.batch}, {how}: {self.items_per_second:,.0f}/s, {self.us:,.0f} us"


def raw(
    model: Path, device: str, seconds: float, batches: Sequence[int], timeout_s: float = 600
) -> Iterator[RawRun]:
    """Every batch size, on a GPU with and without CUDA graphs, then the largest with ONNX Runtime's own
    options, each as soon as it is there. Raises RuntimeError at the end for those that failed, or if all took
    longer than ``timeout_s``."""
    command = [sys.executable, "-m", "benchmarks.gpu_yardsticks", str(model), device, str(seconds)]
    command.append(",".join(map(str, batches)))
    errors: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:

        def give_up() -> None:
            errors.append(f"ONNX Runtime in process: not finished within {timeout_s:.0f} s")
            process.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.start()
        try:
            for line in process.stdout or ():
                found = json.loads(line) if line.startswith("{") and line.endswith("}\n") else {}
                if "batch" in found:
                    yield RawRun(**found)
                elif "error" in found:
                    errors.append(found["error"])
        except BaseException:  # whoever asked wants no more
            process.kill()
            raise
        finally:
            timer.cancel()
    if process.returncode != 0 and not errors:
        errors.append(f"ONNX Runtime in process ended with {process.returncode}")
    if errors:
        raise RuntimeError("\n".join(errors))


def _raw(model: str, device: str, seconds: float, batches: Sequence[int]) -> Iterator[RawRun | str]:
    """What was measured, or the error instead."""
    import onnxruntime

    on_gpu = device.startswith("cuda")
    if on_gpu and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    wanted = [(batch, False, False) for batch in batches]
    if on_gpu:
        wanted += [(batch, True, False) for batch in batches] + [(max(batches), False, True)]
    for batch, graph, own_options in wanted:
        try:
            # A session records one graph for one shape.
            options = {"enable_cuda_graph": "1"} if graph else {}
            bound = BoundSession(model, device, batch, options if own_options else SERVER_OPTIONS | options)
            for _ in range(3):
                bound.run()
            count, began = 0, time.perf_counter()
            while count < 3 or time.perf_counter() - began < seconds:
                bound.run()
                count += 1
            took = time.perf_counter() - began
            yield RawRun(batch, graph, count * batch / took, took / count * 1e6, own_options)
        except Exception as error:  # of one: the others are still worth their time
            yield f"batches of {batch}, {graph=}, {own_options=}: {error}"


class BoundSession:
    """A session whose input and output lie on the device."""

    def __init__(self, model: str, device: str, batch: int, options: Mapping[str, str]) -> None:
        import onnxruntime

        on_gpu = device.startswith("cuda")
        self._place = ("cuda", int(device.partition(":")[2] or 0)) if on_gpu else ("cpu", 0)
        given = {"device_id": str(self._place[1]), **options}
        provider = ("CUDAExecutionProvider", given) if on_gpu else "CPUExecutionProvider"
        self._session = onnxruntime.InferenceSession(model, providers=[provider])
        if on_gpu and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise RuntimeError("this onnxruntime does not run on the GPU")
        self._runtime = onnxruntime
        self._bindings: dict[int, Any] = {}
        self._batch = batch
        self._binding(batch)

    def _binding(self, batch: int) -> Any:
        import numpy as np

        if batch not in self._bindings:
            binding = self._session.io_binding()
            values = self._runtime.OrtValue
            for value in self._session.get_inputs():
                shape = [batch, *value.shape[1:]]
                integers = value.type == "tensor(int64)"
                data = np.full(shape, 7, np.int64) if integers else np.full(shape, 0.5, np.float32)
                binding.bind_ortvalue_input(value.name, values.ortvalue_from_numpy(data, *self._place))
            for value in self._session.get_outputs():
                shape = [batch, *value.shape[1:]]
                empty = values.ortvalue_from_shape_and_type(shape, np.float32, *self._place)
                binding.bind_ortvalue_output(value.name, empty)
            self._bindings[batch] = binding
        return self._bindings[batch]

    def run(self, batch: int | None = None, options: Any = None) -> None:
        self._session.run_with_iobinding(self._binding(batch or self._batch), options)

    def wait(self) -> None:
        """For what runs with options that do not wait have started."""
        self._binding(self._batch).synchronize_outputs()


class BusyShare:
    """How busy the GPU is while this is open, as nvidia-smi counts it; None where there is no nvidia-smi."""

    def __init__(self, device: str) -> None:
        self._command = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "-lms",
            "100",
        ]
        self._command += ["-i", device.partition(":")[2] or "0"]
        self._possible = device.startswith("cuda") and shutil.which("nvidia-smi") is not None
        self._values: list[float] = []

    def __enter__(self) -> Self:
        if self._possible:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        return self

    def _read(self) -> None:
        for line in self._process.stdout or ():
            if line.strip().isdigit():
                self._values.append(float(line) / 100)

    def __exit__(self, *_: object) -> None:
        if self._possible:
            self._process.kill()
            self._process.wait()
            self._reader.join()

    @property
    def share(self) -> float | None:
        return sum(self._values) / len(self._values) if self._values else None


class DeviceMemory:
    """A client's allocation on the GPU, for CUDA shared memory: filled, with the handle for the server."""

    def __init__(self, device: str, content: bytes) -> None:
        self.device = int(device.partition(":")[2] or 0)
        self.bytes = len(content)
        self._driver = ctypes.CDLL("libcuda.so.1")
        context, self._pointer = ctypes.c_void_p(), ctypes.c_uint64()
        handle = ctypes.create_string_buffer(64)
        self._must("cuInit", 0)
        self._must("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self._must("cuCtxSetCurrent", context)
        self._must("cuMemAlloc_v2", ctypes.byref(self._pointer), ctypes.c_size_t(len(content)))
        self._must("cuMemcpyHtoD_v2", self._pointer, content, ctypes.c_size_t(len(content)))
        self._must("cuIpcGetMemHandle", handle, self._pointer)
        self.handle = handle.raw

    def content(self) -> bytes:
        """What lies in it now."""
        content = ctypes.create_string_buffer(self.bytes)
        self._must("cuMemcpyDtoH_v2", content, self._pointer, ctypes.c_size_t(self.bytes))
        return content.raw

    def _must(self, name: str, *arguments: Any) -> None:
        result = getattr(self._driver, name)(*arguments)
        if result != 0:
            raise RuntimeError(f"{name} answered {result}")

    def close(self) -> None:
        self._must("cuMemFree_v2", self._pointer)


if __name__ == "__main__":
    path, where, how_long, sizes = sys.argv[1:]
    for found in _raw(path, where, float(how_long), [int(size) for size in sizes.split(",")]):
        print(json.dumps({"error": found} if isinstance(found, str) else asdict(found)), flush=True)
