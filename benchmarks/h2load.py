"""What h2load sends from its own core, mostly one prepared gRPC message; what it cost the server."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np
from benchmarks.load import Sample, run_load
from tritonclient.grpc import service_pb2

from servolley.front.grpc.messages import Messages

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import numpy.typing as npt
    from benchmarks.load import Request
    from benchmarks.servers import Server

    Floats = npt.NDArray[np.float32]

_RATE: Final = re.compile(r"finished in ([\d.]+)s,")
_REQUESTS: Final = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_DATA: Final = re.compile(r"\((\d+)\) data")


@dataclass(frozen=True, slots=True)
class GrpcRequest:
    """What is sent to a method, over and over, `streams` calls at once on each connection."""

    method: str
    message: bytes
    streams: int = 1

    def send(self, server: Server) -> bytes:
        """One answer's message, through grpcio. Raises grpc.RpcError for a status that is not OK."""
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
            answer: bytes = channel.unary_unary(self.method)(self.message, timeout=120)
        return answer


def model_infer(model: str, values: Floats, streams: int = 1) -> GrpcRequest:
    """inference.GRPCInferenceService/ModelInfer with raw contents."""
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[values.tobytes()])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=values.shape)
    request.outputs.add(name="OUTPUT0")
    method = "/inference.GRPCInferenceService/ModelInfer"
    return GrpcRequest(method, request.SerializeToString(), streams)


def predict(model: str, values: Floats) -> GrpcRequest:
    """tensorflow.serving.PredictionService/Predict with tensor_content."""
    request: Any = Messages.built().message("tensorflow.serving.PredictRequest")()
    request.model_spec.name = model
    tensor = request.inputs["INPUT0"]
    tensor.dtype = 1  # DT_FLOAT
    for size in values.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = values.tobytes()
    return GrpcRequest("/tensorflow.serving.PredictionService/Predict", request.SerializeToString())


def measure_h2load(
    server: Server,
    request: GrpcRequest | Request,
    connections: int,
    seconds: int,
    folder: Path,
    cores: Collection[int],
    answer_bytes: int,
) -> Sample:
    """Runs h2load for whole `seconds`. Raises RuntimeError unless every answer has its `answer_bytes`."""
    body, log = folder / "request.message", folder / "h2load.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "--threads=1", f"--clients={connections}", f"--duration={seconds}"]
    command += [f"--data={body}", f"--log-file={log}"]
    if isinstance(request, GrpcRequest):
        body.write_bytes(b"\0" + struct.pack(">I", len(request.message)) + request.message)
        headers = {"content-type": "application/grpc", "te": "trailers"}
        command.append(f"--max-concurrent-streams={request.streams}")
        path = request.method
    else:
        body.write_bytes(request.body)
        headers, path = request.headers, request.path
        command.append("--h1")
    command += [f"--header={name}: {value}" for name, value in headers.items()]
    done = run_load(server, [*command, server.url + path], seconds, cores)
    rate, counts, data = (pattern.search(done.output) for pattern in (_RATE, _REQUESTS, _DATA))
    if not rate or not counts or not data:
        raise RuntimeError(f"h2load failed: {done.output[-500:]}")
    requests, *bad = map(int, counts.groups())
    # gRPC's errors come without a message, so the data say whether there were any.
    if not requests or any(bad) or int(data[1]) < requests * answer_bytes:
        raise RuntimeError(f"{server.name} {path}: failures: {done.output[-500:]}")
    p50, p99 = np.percentile(np.loadtxt(log, usecols=2, ndmin=1), (50, 99))
    per_request = 1e6 / requests
    return Sample(
        requests,
        float(rate[1]),
        done.cpu_s * per_request,
        done.load_cpu_s * per_request,
        float(p50),
        float(p99),
        done.others,
    )
