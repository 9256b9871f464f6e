"""The benchmark on a GPU: servolley over loopback beside ONNX Runtime called in process, in one table.

    python benchmarks/gpu.py [--device cuda:0] [--models tiny,bert,resnet50] [--full|--quick] [--markdown]

"host copies" are counted in a server of its own: the bytes that it copies in user space for one request, over
the request's tensor. What the kernel copies from a socket and what a GPU fetches itself are not among them.
On the CPU the model's own copies are.

"share" is the server's items per second over the best that ONNX Runtime reaches in process on the same GPU,
with any batch size, with or without CUDA graphs, its inputs already on the device. `--device cpu` runs the
same script where there is no GPU: without CUDA shared memory, lanes and graphs, and its figures say nothing
about GPUs. `--quick` is for a GPU that is lent for minutes: a second of every line, three batch sizes. The
table of limits comes last; the exit status is 1 if one of them was missed.
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
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]

import numpy as np  # noqa: E402
from benchmarks import models, servers  # noqa: E402
from benchmarks.gpu_load import Plan, ask, http_request, measure  # noqa: E402
from benchmarks.gpu_results import Copies, Results, Row, Variant  # noqa: E402
from benchmarks.gpu_yardsticks import BusyShare, DeviceMemory, raw  # noqa: E402
from benchmarks.report import processor  # noqa: E402

import models as test_models  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


class Bench:
    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self._given = given
        self._folder = folder
        self._on_gpu = given.device.startswith("cuda")
        cores = sorted(os.sched_getaffinity(0))
        self._processes = max(1, min(len(cores) // 2, 8))
        self._cores = frozenset(cores)
        self.results = Results()

    def run(self) -> None:
        for name in self._given.models:
            build, row = MODELS[name]
            _say(f"{name}: ONNX Runtime in process")
            file = test_models.save_model(self._folder / name / name, build())
            sizes = _FEW_BATCHES if self._given.quick else _BATCHES
            batches = [batch for batch in sizes if batch <= self._given.largest_batch]
            self.results.raw[name] = raw(file, self._given.device, self._given.seconds / 2, batches)
            for variant in self._variants():
                self._serve(name, row, variant)
            self._count_copies(name, row)

    def _variants(self) -> list[Variant]:
        if not self._on_gpu:
            return [Variant(0, graphs=False)]
        return [Variant(lanes, graphs) for lanes in (2, 1) for graphs in (False, True)]

    def _serve(self, name: str, row: npt.NDArray[Any], variant: Variant) -> None:
        repository = self._configure(name, variant)
        options = ["--shared-memory"] if self._on_gpu else []
        with servers.servolley(repository, self._folder, self._cores, *options) as server:
            # Everything over every transport for the first variant; of the others what tells them apart.
            first = variant == self._variants()[0] or self._given.full
            memory = DeviceMemory(self._given.device, row.tobytes()) if self._on_gpu and first else None
            if memory:
                _register(server, memory)
            for transport in self._transports() if first else ["http"]:
                request = _request(transport, name, row)
                body = self._folder / f"{name}.{transport}"
                body.write_bytes(request)
                for connections in self._given.connections if first else _telling(self._given.connections):
                    method = _METHOD if transport == "grpc" else ""
                    plan = Plan(server.port, str(body), connections, self._given.seconds, method)
                    _say(f"{name}: {transport}, {connections} at once, {variant}")
                    before = servers.cpu_seconds(server.pid)
                    with BusyShare(self._given.device) as busy:
                        seen = measure(plan, self._processes, self._given.seconds)
                    used = (servers.cpu_seconds(server.pid) - before) / seen.requests * 1e6
                    self.results.rows.append(
                        Row(name, variant, transport, connections, seen, used, busy.share)
                    )
            if memory:
                _post(server, f"/v2/cudasharedmemory/region/{_REGION}/unregister", {})
                memory.close()

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
        repository = self._configure(name, self._variants()[0])
        file = self._folder / f"{name}.copied"
        with contextlib.ExitStack() as stack:
            with _environment(LD_PRELOAD=str(library), SERVOLLEY_COPIES=str(file)):
                server = stack.enter_context(servers.servolley(repository, self._folder, self._cores))
            for transport in ("http", "grpc"):
                body = str(self._folder / f"{name}.{transport}")
                plan = Plan(server.port, body, 1, 0, _METHOD if transport == "grpc" else "")
                ask(plan, 10)
                before = int.from_bytes(file.read_bytes(), sys.byteorder)
                ask(plan, _COUNTED)
                copied = int.from_bytes(file.read_bytes(), sys.byteorder) - before
                self.results.copies.append(Copies(name, transport, row.nbytes, copied / _COUNTED))

    def _transports(self) -> list[str]:
        return ["http", "grpc", "cuda-shm"] if self._on_gpu else ["http", "grpc"]


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """What children that are started meanwhile inherit."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def _register(server: servers.Server, memory: DeviceMemory) -> None:
    content = {
        "raw_handle": {"b64": base64.b64encode(memory.handle).decode()},
        "device_id": memory.device,
        "byte_size": memory.bytes,
    }
    _post(server, f"/v2/cudasharedmemory/region/{_REGION}/register", content)


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


def _telling(connections: Sequence[int]) -> list[int]:
    """What shows lanes and graphs: alone, and plenty."""
    return [count for count in connections if count in (1, 64)] or [connections[-1]]


def _gpu_name(device: str) -> str:
    if not device.startswith("cuda"):
        return processor()
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i"]
    index = device.partition(":")[2] or "0"
    done = subprocess.run([*query, index], capture_output=True, text=True, check=False)
    return done.stdout.strip() or device


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
    parser.add_argument("--models", type=_names, default=["tiny", "bert", "resnet50"])
    parser.add_argument(
        "--connections", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 64, 256]
    )
    parser.add_argument("--seconds", type=float, help="of every line (2; with --quick 1)")
    parser.add_argument("--largest-batch", type=int, default=64)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--full", action="store_true", help="everything with every variant")
    extent.add_argument("--quick", action="store_true", help="a few minutes in all")
    parser.add_argument("--markdown", action="store_true", help="the tables as Markdown")
    given = parser.parse_args()
    given.seconds = given.seconds or (1.0 if given.quick else 2.0)
    # Ended from outside, it still stops what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="servolley-gpu-") as folder:
        bench = Bench(given, Path(folder))
        bench.run()
    results = bench.results
    print(
        results.render(
            given.markdown, f"{_gpu_name(given.device)}, loopback; medians of {given.seconds:g} s."
        )
    )
    return 1 if any(limit.verdict == "FAIL" for limit in results.limits()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
