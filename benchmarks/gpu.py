"""The benchmark on a GPU: servolley over loopback beside ONNX Runtime called in process, in one table.

    python benchmarks/gpu.py [--device cuda:0] [--models tiny,bert,resnet50] [--full|--quick] [--markdown]

"host copies" are counted in a server of its own: the bytes that it copies in user space for one request, over
the request's tensor. What the kernel copies from a socket and what a GPU fetches itself are not among them.
On the CPU the model's own copies are.

"share" is the server's items per second over the best that ONNX Runtime reaches in process on the same GPU,
with any batch size, with or without CUDA graphs, its inputs already on the device. `--device cpu` runs the
same script where there is no GPU: without CUDA shared memory, lanes and graphs, and its figures say nothing
about GPUs. `--quick` is for a GPU that is lent for minutes: a second of every line, three batch sizes, and
480 seconds in all. What the limits are about is measured first; every line is told as it comes, and what
fails does not end the rest. The table of limits comes last; the exit status is 1 if one of them was missed
or anything failed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]

import numpy as np  # noqa: E402
from benchmarks import models, servers  # noqa: E402
from benchmarks.gpu_load import Plan, ask, http_request, measure  # noqa: E402
from benchmarks.gpu_plan import Budget, Extent, Line, Serving, Variant  # noqa: E402
from benchmarks.gpu_results import Copies, Results, Row  # noqa: E402
from benchmarks.gpu_yardsticks import BusyShare, DeviceMemory, raw  # noqa: E402
from benchmarks.report import processor  # noqa: E402

import models as test_models  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt
    import onnx

#: (the model, one row of its input).
MODELS: Final[dict[str, tuple[Callable[[], onnx.ModelProto], npt.NDArray[Any]]]] = {
    "tiny": (test_models.tiny, np.full((1, 16), 0.5, np.float32)),
    "bert": (models.bert, np.full((1, 128), 7, np.int64)),
    "resnet50": (models.resnet50, np.full((1, 3, 224, 224), 0.5, np.float32)),
    # Of the same make and small, to try the script with.
    "bert-small": (lambda: models.bert(2, 128, 1000, 16), np.full((1, 16), 7, np.int64)),
}
_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
_FEW_BATCHES: Final = (1, 16, 64)
_DATATYPES: Final = {"float32": "FP32", "int64": "INT64"}
_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_REGION: Final = "benchmark"
_COUNTED: Final = 50  # requests
_QUICK_BUDGET_S: Final = 480
_OVERRUN_S: Final = 20
#: What a server's start may take, until one has taken longer; what a line takes beside its seconds.
_START_S: Final = 8.0
_LINE_S: Final = 1.5


class Bench:
    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self._given = given
        self._folder = folder
        self._on_gpu = given.device.startswith("cuda")
        self._extent = Extent(given.connections, self._on_gpu, given.full)
        self._budget = Budget(given.budget)
        cores = sorted(os.sched_getaffinity(0))
        self._processes = max(1, min(len(cores) // 2, 8))
        self._cores = frozenset(cores)
        self._start_s = _START_S
        self._refused: set[tuple[str, Variant]] = set()
        self.results = Results()

    def run(self) -> None:
        """What fails is in the results, and the rest goes on."""
        made = []
        for name in self._given.models:
            with self._noting(name):
                build, _ = MODELS[name]
                file = test_models.save_model(self._folder / name / name, build())
                made.append(name)
                with self._noting(f"{name}: ONNX Runtime in process"):
                    self._raw(name, file)
                for serving in self._extent.first(name):
                    self._serve(serving)
        for name in made:
            for serving in self._extent.rest(name):
                self._serve(serving)
            with self._noting(f"{name}: copies"):
                self._count_copies(name, MODELS[name][1])

    def _raw(self, name: str, file: Path) -> None:
        sizes = _FEW_BATCHES if self._given.quick else _BATCHES
        batches = [batch for batch in sizes if batch <= self._given.largest_batch]
        # A third of what is left at most: without the server's lines these say nothing.
        timeout_s = min(600, self._budget.left() / 3)
        if timeout_s < _START_S:
            self.results.skipped.append(f"{name}: ONNX Runtime in process")
            return
        _say(f"{name}: ONNX Runtime in process")
        runs = self.results.raw.setdefault(name, [])
        for run in raw(file, self._given.device, self._given.seconds / 2, batches, timeout_s):
            _say(f"{name}: {run}")
            runs.append(run)

    def _serve(self, serving: Serving) -> None:
        what = f"{serving.model}, {serving.variant}"
        which = (serving.model, serving.variant)
        if which in self._refused:
            return
        left = list(serving.lines)
        with self._noting(what):
            if not self._budget.fits(self._start_s + self._line_s()):
                self.results.skipped.append(f"{what}: {len(left)} lines")
                return
            row = MODELS[serving.model][1]
            repository = self._configure(serving.model, serving.variant)
            options = ["--shared-memory"] if self._on_gpu else []
            with contextlib.ExitStack() as stack:
                began = time.monotonic()
                self._refused.add(which)
                server = stack.enter_context(
                    servers.servolley(repository, self._folder, self._cores, *options)
                )
                self._refused.remove(which)
                self._start_s = max(self._start_s, time.monotonic() - began)
                if any(line.transport == "cuda-shm" for line in left):
                    with self._noting(f"{what}: CUDA shared memory"):
                        stack.enter_context(_shared(server, DeviceMemory(self._given.device, row.tobytes())))
                for line in serving.lines:
                    if not self._budget.fits(self._line_s()):
                        break
                    left.remove(line)
                    name = f"{serving.model}, {line.transport}, {line.connections} at once, {serving.variant}"
                    with self._noting(name, self._folder / servers.SERVOLLEY_LOG):
                        self._measure(server, serving, line)
            self.results.skipped += [f"{what}: {line.transport}, {line.connections} at once" for line in left]

    def _measure(self, server: servers.Server, serving: Serving, line: Line) -> None:
        body = self._folder / f"{serving.model}.{line.transport}"
        body.write_bytes(_request(line.transport, serving.model, MODELS[serving.model][1]))
        method = _METHOD if line.transport == "grpc" else ""
        patience_s = 20 if self._given.budget else 60
        seconds = self._given.seconds
        plan = Plan(server.port, str(body), line.connections, seconds, method, patience_s)
        before = servers.cpu_seconds(server.pid)
        # Asking the driver ten times a second is seen in the latency of requests one by one.
        with BusyShare(self._given.device) if line.connections > 1 else contextlib.nullcontext() as busy:
            seen = measure(plan, self._processes, seconds)
        used = (servers.cpu_seconds(server.pid) - before) / seen.requests * 1e6
        share = busy.share if busy else None
        row = Row(serving.model, serving.variant, line.transport, line.connections, seen, used, share)
        _say(str(row))
        self.results.rows.append(row)

    def _line_s(self) -> float:
        return float(self._given.seconds) + _LINE_S

    @contextlib.contextmanager
    def _noting(self, what: str, log: Path | None = None) -> Iterator[None]:
        """Whatever goes wrong in there is told now and again at the end, and goes no further."""
        try:
            yield
        except Exception as error:
            text = str(error) or type(error).__name__
            self.results.failed.append((what, text))
            said = f"\n{log.read_text(errors='replace')[-1500:]}" if log and log.exists() else ""
            _say(f"FAILED: {what}: {text}{said}")

    def _configure(self, name: str, variant: Variant) -> Path:
        settings = f'[runtime]\ndevice = "{self._given.device}"\n'
        if self._on_gpu:
            settings += f"lanes = {variant.lanes}\ncuda_graphs = {str(variant.graphs).lower()}\n"
        settings += f"[batching]\nmax_batch_size = {self._given.largest_batch}\n"
        repository = self._folder / name
        (repository / name / "model.toml").write_text(settings)
        return repository

    def _count_copies(self, name: str, row: npt.NDArray[Any]) -> None:
        library = next(iter(sorted(_ROOT.glob("build/*/libcopy_counter.so"))), None)
        if library is None:
            return
        if not self._budget.fits(2 * self._start_s):
            self.results.skipped.append(f"{name}: copies")
            return
        repository = self._configure(name, self._extent.variants()[0])
        file = self._folder / f"{name}.copied"
        with contextlib.ExitStack() as stack:
            with _environment(LD_PRELOAD=str(library), SERVOLLEY_COPIES=str(file)):
                server = stack.enter_context(servers.servolley(repository, self._folder, self._cores))
            for transport in ("http", "grpc"):
                body = self._folder / f"{name}.{transport}"
                body.write_bytes(_request(transport, name, row))
                plan = Plan(server.port, str(body), 1, 0, _METHOD if transport == "grpc" else "")
                ask(plan, 10)
                before = int.from_bytes(file.read_bytes(), sys.byteorder)
                ask(plan, _COUNTED)
                copied = int.from_bytes(file.read_bytes(), sys.byteorder) - before
                self.results.copies.append(Copies(name, transport, row.nbytes, copied / _COUNTED))


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """What children that are started meanwhile inherit."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


@contextlib.contextmanager
def _shared(server: servers.Server, memory: DeviceMemory) -> Iterator[None]:
    """A client's memory on the GPU, known to the server meanwhile."""
    region = f"/v2/cudasharedmemory/region/{_REGION}"
    handle = {"b64": base64.b64encode(memory.handle).decode()}
    content = {"raw_handle": handle, "device_id": memory.device, "byte_size": memory.bytes}
    _post(server, f"{region}/register", content)
    try:
        yield
        _post(server, f"{region}/unregister", {})
    finally:
        memory.close()


def _post(server: servers.Server, path: str, content: dict[str, Any]) -> None:
    request = urllib.request.Request(server.url + path, json.dumps(content).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30):
        pass


def _request(transport: str, model: str, row: npt.NDArray[Any]) -> bytes:
    """What is sent over and over: a whole HTTP request, or gRPC's message."""
    datatype = _DATATYPES[str(row.dtype)]
    if transport == "grpc":
        from tritonclient.grpc import service_pb2

        message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[row.tobytes()])
        message.inputs.add(name="INPUT0", datatype=datatype, shape=row.shape)
        message.outputs.add(name="OUTPUT0")
        serialized: bytes = message.SerializeToString()
        return serialized
    parameters: dict[str, Any] = {"binary_data_size": row.nbytes}
    if transport == "cuda-shm":
        parameters = {"shared_memory_region": _REGION, "shared_memory_byte_size": row.nbytes}
    tensor = {"name": "INPUT0", "shape": row.shape, "datatype": datatype, "parameters": parameters}
    output = {"name": "OUTPUT0", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    content = head if transport == "cuda-shm" else head + row.tobytes()
    return http_request(f"/v2/models/{model}/infer", content, headers)


def _gpu_name(device: str) -> str:
    if not device.startswith("cuda"):
        return processor()
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i"]
    index = device.partition(":")[2] or "0"
    try:
        done = subprocess.run([*query, index], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return str(device)
    return done.stdout.strip() or str(device)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(MODELS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda:0", help='"cuda:N" or "cpu"')
    parser.add_argument("--models", type=_names, default=["resnet50", "bert", "tiny"])
    parser.add_argument(
        "--connections", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 64, 256]
    )
    parser.add_argument("--seconds", type=float, help="of every line (2; with --quick 1)")
    parser.add_argument("--largest-batch", type=int, default=64)
    parser.add_argument(
        "--budget", type=float, help="seconds in all: what no longer fits is skipped (with --quick 480)"
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--full", action="store_true", help="everything with every variant")
    extent.add_argument("--quick", action="store_true", help="a few minutes in all")
    parser.add_argument("--markdown", action="store_true", help="the tables as Markdown")
    given = parser.parse_args()
    given.seconds = given.seconds or (1.0 if given.quick else 2.0)
    given.budget = given.budget or (_QUICK_BUDGET_S if given.quick else None)
    # Ended from outside, it still stops what it has started and prints what it has; the same where something
    # takes so long that the budget is overrun.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(128 + signal.SIGALRM))
    if given.budget:
        signal.alarm(int(given.budget) + _OVERRUN_S)
    results = Results()
    try:
        with tempfile.TemporaryDirectory(prefix="servolley-gpu-") as folder:
            bench = Bench(given, Path(folder))
            results = bench.results
            bench.run()
    finally:
        signal.alarm(0)
        note = f"{_gpu_name(given.device)}, loopback; medians of {given.seconds:g} s."
        print(results.render(given.markdown, note), flush=True)
    return 1 if results.failed or any(limit.verdict == "FAIL" for limit in results.limits()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
