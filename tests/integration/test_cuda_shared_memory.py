"""Tensors in memory of a GPU that another process exports, with the stock clients of both protocols, on the
stand-in driver that the C++ tests build: the server finds it as it would find NVIDIA's."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, shared_memory

import models
from integration.hostile import assert_refused, survives, tensor
from integration.server_process import Answer, Server

BUILD = Path(__file__).resolve().parents[2] / "build" / "dev"
DRIVER = BUILD / "standin" / "libcuda.so.1"
EXPORTER = BUILD / "standin_exporter"
PATH = "/v2/cudasharedmemory"
BYTES = 4096


@pytest.fixture(scope="module", autouse=True)
def standin() -> None:
    """Where everything has to be tested nothing is left out silently."""
    if not (DRIVER.exists() and EXPORTER.exists()):
        why = "the C++ tests, and with them the stand-in, are not built"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    names = ("identity_fp32", "identity_bytes")
    repository = models.save_repository(
        tmp_path_factory.mktemp("cuda") / "models", {name: models.MODELS[name]() for name in names}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", str(DRIVER.parent))
        patch.setenv("SERVOLLEY_STANDIN", "devices=2,guard=1")  # the host touches what it must not: it ends
        with Server(repository, "--shared-memory") as server:
            yield server.wait_ready()
            assert server.stop() == 0, server.log
            assert "Traceback" not in server.log


class Exporter:
    """Another process with memory on a GPU, every byte of one value."""

    def __init__(self, value: int) -> None:
        self.process = subprocess.Popen(
            [EXPORTER, DRIVER, str(BYTES), str(value)],
            env=os.environ | {"SERVOLLEY_STANDIN": "devices=2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.handle = bytes.fromhex(self.process.stdout.readline())

    def end(self) -> int:
        """The first byte that it finds in its memory."""
        output, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return int(output)


@contextmanager
def exported(value: int) -> Iterator[Exporter]:
    exporter = Exporter(value)
    try:
        yield exporter
    finally:
        if exporter.process.poll() is None:
            exporter.end()


@pytest.fixture(params=["http", "grpc"])
def stock(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """The module of a stock client, and a client of it. Both want handles in base64."""
    module = tritonclient.http if request.param == "http" else tritonclient.grpc
    with module.InferenceServerClient(server.url) as client:
        yield module, client
        client.unregister_cuda_shared_memory()


@pytest.fixture
def calm(server: Server) -> Iterator[None]:
    with survives(server):
        yield
        assert server.post(f"{PATH}/unregister").status == 200
        assert server.metric("servolley_shared_memory_regions") == 0


def status_of(call: Callable[[], object]) -> str:
    with pytest.raises(InferenceServerException) as failure:
        call()
    return str(failure.value.status()).removeprefix("StatusCode.")


def test_inputs_and_outputs(stock: Any) -> None:
    module, client = stock
    with exported(64) as exporter:  # as FP32: 3.0039215...
        client.register_cuda_shared_memory("r", base64.b64encode(exporter.handle), 0, BYTES)
        row = np.frombuffer(bytes([64]) * 16, np.float32).reshape(1, 4)
        given = module.InferInput("INPUT0", [1, 4], "FP32")
        given.set_shared_memory("r", 16, 1024)
        result = client.infer("identity_fp32", [given])
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), row)

        # And back: what the client finds at its memory's first byte.
        other = np.frombuffer(bytes([9]) * 16, np.float32).reshape(1, 4)
        given = module.InferInput("INPUT0", [1, 4], "FP32")
        given.set_data_from_numpy(other)
        wanted = module.InferRequestedOutput("OUTPUT0")
        wanted.set_shared_memory("r", 16)
        result = client.infer("identity_fp32", [given], outputs=[wanted])
        output = result.get_output("OUTPUT0")
        if module is tritonclient.http:
            assert "data" not in output
            assert output["parameters"]["shared_memory_region"] == "r"
        else:
            assert output.parameters["shared_memory_byte_size"].int64_param == 16
        assert exporter.end() == 9


def test_system_memory_is_pinned_once_a_gpu_is_in_use(server: Server, stock: Any) -> None:
    module, client = stock
    key, size = f"servolley_pinned_{os.getpid()}", 1 << 17
    memory = shared_memory.create_shared_memory_region("s", key, size)
    row = np.arange(size // 8, dtype=np.float32).reshape(1, -1)[:, :4]
    try:
        with exported(1) as exporter:  # opens the GPU
            client.register_cuda_shared_memory("r", base64.b64encode(exporter.handle), 0, BYTES)
            client.register_system_shared_memory("s", key, size)
            assert server.metric("servolley_shared_memory_pinned_bytes") == size
            # A model on the CPU has it copied: a processor that touched the pinned pages would end here.
            shared_memory.set_shared_memory_region(memory, [row])
            given = module.InferInput("INPUT0", [1, 4], "FP32")
            given.set_shared_memory("s", row.nbytes)
            wanted = module.InferRequestedOutput("OUTPUT0")
            wanted.set_shared_memory("s", row.nbytes, 4096)
            client.infer("identity_fp32", [given], outputs=[wanted])
            found = shared_memory.get_contents_as_numpy(memory, np.float32, [1, 4], 4096)
            np.testing.assert_array_equal(found, row)
            client.unregister_system_shared_memory("s")
            assert server.metric("servolley_shared_memory_pinned_bytes") == 0
    finally:
        client.unregister_system_shared_memory()
        shared_memory.destroy_shared_memory_region(memory)


def test_register_status_and_unregister(stock: Any) -> None:
    module, client = stock
    with exported(1) as first, exported(2) as second:
        client.register_cuda_shared_memory("a", base64.b64encode(first.handle), 0, BYTES)
        client.register_cuda_shared_memory("b", base64.b64encode(second.handle), 0, 100)
        again = status_of(
            lambda: client.register_cuda_shared_memory("a", base64.b64encode(second.handle), 0, 1)
        )
        assert again in ("409", "ALREADY_EXISTS")
        status = client.get_cuda_shared_memory_status()
        if module is tritonclient.http:
            found = {entry["name"]: (entry["device_id"], entry["byte_size"]) for entry in status}
        else:
            found = {name: (entry.device_id, entry.byte_size) for name, entry in status.regions.items()}
        assert found == {"a": (0, BYTES), "b": (0, 100)}
        assert status_of(lambda: client.get_system_shared_memory_status("a")) in ("404", "NOT_FOUND")
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory("a")
        client.unregister_cuda_shared_memory("a")
        assert status_of(lambda: client.get_cuda_shared_memory_status("a")) in ("404", "NOT_FOUND")
        assert client.get_cuda_shared_memory_status("b")


def register(
    server: Server, name: str, handle: bytes, device: object = 0, byte_size: object = BYTES
) -> Answer:
    body = {
        "raw_handle": {"b64": base64.b64encode(handle).decode()},
        "device_id": device,
        "byte_size": byte_size,
    }
    return server.post(f"{PATH}/region/{name}/register", body)


@pytest.mark.usefixtures("calm")
def test_hostile_registrations(server: Server) -> None:
    """Case 31: nothing of it harms the context."""
    with exported(5) as exporter:
        for handle in (os.urandom(64), bytes(64), exporter.handle[:63], exporter.handle + b"\0", b""):
            assert_refused(register(server, "r", handle))
        for device in (-1, 1, 2, 999, 1 << 31, 1 << 62, "0", None):
            assert_refused(register(server, "r", exporter.handle, device))
        for byte_size in (0, -1, BYTES + 1, 1 << 33, "4096", None):
            assert_refused(register(server, "r", exporter.handle, 0, byte_size))
        assert_refused(register(server, "r", exporter.handle, 0, 1 << 40), 429)
        assert_refused(register(server, "%00", exporter.handle))
        assert server.get(f"{PATH}/status").json() == []
        assert register(server, "r", exporter.handle).status == 200
        assert_refused(register(server, "r", exporter.handle), 409)
        for bad in ((8, BYTES), (8, BYTES - 4), (8, (1 << 64) - 8), ((1 << 64) - 8, 0), (12, 0)):
            parameters = {
                "shared_memory_region": "r",
                "shared_memory_byte_size": bad[0],
                "shared_memory_offset": bad[1],
            }
            given = tensor(data=..., shape=[1, 2], parameters=parameters)
            assert_refused(server.infer("identity_fp32", [given]))
    assert server.post(f"{PATH}/unregister").status == 200
    assert_refused(register(server, "s", exporter.handle))  # of a process that is gone


@pytest.mark.usefixtures("calm")
def test_registering_again_and_again_leaks_nothing(server: Server) -> None:
    with exported(5) as exporter, tritonclient.grpc.InferenceServerClient(server.url) as client:
        handle = base64.b64encode(exporter.handle)
        client.register_cuda_shared_memory("r", handle, 0, BYTES)
        client.unregister_cuda_shared_memory("r")
        before = server.vitals().descriptors
        for i in range(300):
            client.register_cuda_shared_memory(f"r{i % 3}", handle, 0, BYTES)
            client.unregister_cuda_shared_memory(f"r{i % 3}")
        assert server.vitals().descriptors <= before + 1


def test_without_a_driver_it_says_so(tmp_path: Path) -> None:
    repository = models.save_repository(
        tmp_path / "models", {"identity_fp32": models.MODELS["identity_fp32"]()}
    )
    with pytest.MonkeyPatch.context() as patch:
        empty = tmp_path / "empty"
        empty.mkdir()
        (empty / "libcuda.so.1").write_bytes(b"no library")
        patch.setenv("LD_LIBRARY_PATH", str(empty))
        with Server(repository, "--shared-memory") as server:
            server.wait_ready()
            assert_refused(register(server, "r", bytes(64)))
            assert server.infer("identity_fp32", [tensor()]).status == 200
            assert server.stop() == 0
