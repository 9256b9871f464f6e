"""What the server is held against on a GPU, and what is read beside it: ONNX Runtime called directly, how
busy the GPU is, and a client's memory on the GPU.

``python -m benchmarks.gpu_yardsticks MODEL DEVICE SECONDS BATCHES`` is how `raw` measures, in a process of
its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from benchmarks.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class RawRun:
    """ONNX Runtime in process: one thread, inputs and outputs bound once to memory of the device."""

    batch: int
    graph: bool
    items_per_second: float
    us: float


def raw(model: Path, device: str, seconds: float, batches: Sequence[int]) -> list[RawRun]:
    """Every batch size, on a GPU with and without CUDA graphs. Raises RuntimeError with the child's error."""
    command = [sys.executable, "-m", "benchmarks.gpu_yardsticks", str(model), device, str(seconds)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [*command, ",".join(map(str, batches))],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"ONNX Runtime in process failed:\n{done.stderr[-2000:]}")
    return [RawRun(**run) for run in json.loads(done.stdout.splitlines()[-1])]


def _raw(model: str, device: str, seconds: float, batches: Sequence[int]) -> list[RawRun]:
    import numpy as np
    import onnxruntime

    on_gpu = device.startswith("cuda")
    kind, index = ("cuda", int(device.partition(":")[2] or 0)) if on_gpu else ("cpu", 0)
    if on_gpu and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    runs = []
    for graph in (False, True) if on_gpu else (False,):
        options: dict[str, Any] = {"device_id": index, "enable_cuda_graph": "1" if graph else "0"}
        provider = ("CUDAExecutionProvider", options) if on_gpu else "CPUExecutionProvider"
        for batch in batches:
            # A session records one graph for one shape.
            session = onnxruntime.InferenceSession(model, providers=[provider])
            if on_gpu and session.get_providers()[0] != "CUDAExecutionProvider":
                raise RuntimeError("this onnxruntime does not run on the GPU")
            binding = session.io_binding()
            for value in session.get_inputs():
                shape = [batch, *value.shape[1:]]
                integers = value.type == "tensor(int64)"
                data = np.full(shape, 7, np.int64) if integers else np.full(shape, 0.5, np.float32)
                bound = onnxruntime.OrtValue.ortvalue_from_numpy(data, kind, index)
                binding.bind_ortvalue_input(value.name, bound)
            for value in session.get_outputs():
                shape = [batch, *value.shape[1:]]
                empty = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, kind, index)
                binding.bind_ortvalue_output(value.name, empty)
            for _ in range(3):
                session.run_with_iobinding(binding)
            count, began = 0, time.perf_counter()
            while count < 3 or time.perf_counter() - began < seconds:
                session.run_with_iobinding(binding)
                count += 1
            took = time.perf_counter() - began
            runs.append(RawRun(batch, graph, count * batch / took, took / count * 1e6))
    return runs


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
    found = _raw(path, where, float(how_long), [int(size) for size in sizes.split(",")])
    print(json.dumps([asdict(run) for run in found]))
