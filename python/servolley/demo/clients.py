"""The two clients: stock tritonclient with binary tensors, and TensorFlow Serving's JSON over http.client."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]  # [rows, features]
Labels = npt.NDArray[np.int64]  # [rows]
Ask = Callable[[Rows], int]  # one row [1, features] -> its label
Connect = Callable[[], tuple[Ask, Callable[[], None]]]  # -> ask, close; one per thread


@dataclass(frozen=True, slots=True)
class Volley:
    """What came back. latencies_ms: one per request, in no order."""

    labels: Labels
    latencies_ms: npt.NDArray[np.float64]
    seconds: float


def tritonclient_connection(port: int, model: str) -> tuple[Ask, Callable[[], None]]:
    """The Open Inference Protocol: binary tensors both ways."""
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    client = InferenceServerClient(f"127.0.0.1:{port}")
    client.is_model_ready(model)  # connects
    wanted = [InferRequestedOutput("label", binary_data=True)]

    def ask(row: Rows) -> int:
        tensor = InferInput("input", list(row.shape), "FP32")
        tensor.set_data_from_numpy(row, binary_data=True)
        return int(client.infer(model, [tensor], outputs=wanted).as_numpy("label")[0])

    return ask, client.close


def tensorflow_serving_connection(port: int, model: str) -> tuple[Ask, Callable[[], None]]:
    """TensorFlow Serving's REST predict, row format."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.connect()

    def ask(row: Rows) -> int:
        connection.request("POST", f"/v1/models/{model}:predict", json.dumps({"instances": row.tolist()}))
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer}")
        return int(answer["predictions"][0]["label"])

    return ask, connection.close


def fire(connect: Connect, rows: Rows, callers: int) -> Volley:
    """Every row as a request of its own, from ``callers`` threads at once, each on its own connection.

    Raises what a client raised.
    """
    labels = np.full(len(rows), -1, dtype=np.int64)
    latencies = np.zeros(len(rows))
    errors: list[BaseException] = []
    together = threading.Barrier(callers + 1)

    def caller(first: int) -> None:
        try:
            ask, close = connect()
            try:
                together.wait()
                for index in range(first, len(rows), callers):
                    start = time.perf_counter()
                    labels[index] = ask(rows[index : index + 1])
                    latencies[index] = time.perf_counter() - start
            finally:
                close()
        except BaseException as error:  # carried to the thread that asked
            errors.append(error)
            together.abort()

    threads = [threading.Thread(target=caller, args=(first,)) for first in range(callers)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):  # a caller failed; its error is raised below
        together.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if errors:
        raise next(
            (error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0]
        )
    return Volley(labels, latencies * 1e3, seconds)
