"""Tensors in system shared memory with the stock clients of both protocols, and what hostile clients do with
it: ``tritonclient.utils.shared_memory`` makes the regions."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as triton_memory
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

import models
from integration.hostile import assert_refused, assert_still_right, survives, tensor
from integration.server_process import Answer, Server, wait_until
from integration.tensors import Array, assert_same, run_onnx, sample, to_bytes

PAGE = 4096
SHM = Path("/dev/shm")
STATUS = "/v2/systemsharedmemory/status"
INFER = "/v2/models/identity_fp32/infer"
_numbers = itertools.count()

MODELS = {
    name: models.MODELS[name]()
    for name in ("identity_fp32", "identity_bytes", "identity_bf16", "two_inputs", "slow")
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = models.save_repository(tmp_path_factory.mktemp("memory") / "models", MODELS)
    with Server(repository, "--shared-memory") as server:
        yield server.wait_ready()
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log
        assert "exception=" not in server.log


@pytest.fixture(params=["http", "grpc"])
def stock(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """The module of a stock client, with a client of it in ``.client``."""
    module = tritonclient.http if request.param == "http" else tritonclient.grpc
    with module.InferenceServerClient(server.url) as client:
        yield Stock(module, client)
        client.unregister_system_shared_memory()


class Stock:
    def __init__(self, module: Any, client: Any) -> None:
        self.module, self.client = module, client

    def given(self, name: str, datatype: str, shape: tuple[int, ...], region: str, *where: int) -> Any:
        """``where``: byte size and offset."""
        tensor = self.module.InferInput(name, list(shape), datatype)
        tensor.set_shared_memory(region, *where)
        return tensor

    def wanted(self, name: str, region: str, *where: int) -> Any:
        output = self.module.InferRequestedOutput(name)
        output.set_shared_memory(region, *where)
        return output

    def error(self, call: Callable[[], object]) -> str:
        """The status in gRPC's words."""
        with pytest.raises(InferenceServerException) as failure:
            call()
        status = str(failure.value.status())
        return {
            "400": "INVALID_ARGUMENT",
            "404": "NOT_FOUND",
            "409": "ALREADY_EXISTS",
            "429": "RESOURCE_EXHAUSTED",
            "501": "UNIMPLEMENTED",
        }.get(status, status.removeprefix("StatusCode."))


@contextmanager
def region(byte_size: int) -> Iterator[tuple[Any, str]]:
    """A region as the stock client makes it, and its key."""
    key = f"/servolley_test_{os.getpid()}_{next(_numbers)}"
    handle = triton_memory.create_shared_memory_region("r", key, byte_size)
    try:
        yield handle, key
    finally:
        triton_memory.destroy_shared_memory_region(handle)


@contextmanager
def raw_object(byte_size: int) -> Iterator[Path]:
    """A shared memory object as the file that it is."""
    path = SHM / f"servolley_test_{os.getpid()}_{next(_numbers)}"
    path.write_bytes(b"")
    os.truncate(path, byte_size)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def register(server: Server, name: str, key: str, byte_size: object, offset: object = 0) -> Answer:
    body = {"key": key, "byte_size": byte_size, "offset": offset}
    return server.post(f"/v2/systemsharedmemory/region/{name}/register", body)


def unregister(server: Server, name: str | None = None) -> None:
    where = "" if name is None else f"/region/{name}"
    assert server.post(f"/v2/systemsharedmemory{where}/unregister").status == 200


def part(name: str, byte_size: object, offset: object = 0) -> dict[str, Any]:
    """The parameters of a tensor."""
    return {
        "shared_memory_region": name,
        "shared_memory_byte_size": byte_size,
        "shared_memory_offset": offset,
    }


def shared(parameters: dict[str, Any], count: int = 2) -> dict[str, Any]:
    """An input of identity_fp32 in shared memory."""
    return tensor(data=..., shape=[1, count], parameters=parameters)


# --- the stock clients


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES"])
def test_inputs_and_outputs(stock: Stock, datatype: str) -> None:
    array = sample(datatype, (3, 5))
    bytes_in = len(to_bytes(datatype, array))
    model = f"identity_{datatype.lower()}"
    with region(1 << 16) as (handle, key):
        stock.client.register_system_shared_memory("r", key, 1 << 16)
        stored = serialize_byte_tensor(array) if datatype == "BYTES" else array
        triton_memory.set_shared_memory_region(handle, [stored], offset=128)
        result = stock.client.infer(
            model,
            [stock.given("INPUT0", datatype, (3, 5), "r", bytes_in, 128)],
            outputs=[stock.wanted("OUTPUT0", "r", 1 << 15, 1 << 15)],
        )
        output = result.get_output("OUTPUT0")
        if stock.module is tritonclient.http:
            assert (output["datatype"], output["shape"]) == (datatype, [3, 5])
            assert output["parameters"] == part("r", bytes_in, 1 << 15)
            assert "data" not in output
        else:
            assert (output.datatype, list(output.shape)) == (datatype, [3, 5])
            assert output.parameters["shared_memory_region"].string_param == "r"
            assert output.parameters["shared_memory_byte_size"].int64_param == bytes_in
            assert output.parameters["shared_memory_offset"].int64_param == 1 << 15
        if datatype == "BF16":
            file = SHM / key.lstrip("/")
            assert file.read_bytes()[1 << 15 :][:bytes_in] == to_bytes(datatype, array)
        else:
            found = triton_memory.get_contents_as_numpy(handle, array.dtype, (3, 5), offset=1 << 15)
            assert_same(found, array)


def test_several_tensors_in_one_region_and_some_outside(stock: Stock) -> None:
    a, b = sample("INT32", (2, 16), 1), sample("INT32", (2, 16), 2)

    def outside(name: str, array: Array) -> Any:
        given = stock.module.InferInput(name, list(array.shape), "INT32")
        given.set_data_from_numpy(array)
        return given

    with region(PAGE) as (handle, key):
        stock.client.register_system_shared_memory("r", key, PAGE)
        triton_memory.set_shared_memory_region(handle, [a, b])
        inside = [
            stock.given("INPUT0", "INT32", (2, 16), "r", a.nbytes),
            stock.given("INPUT1", "INT32", (2, 16), "r", b.nbytes, a.nbytes),
        ]
        for inputs in (
            inside,
            [inside[0], outside("INPUT1", b)],
            [outside("INPUT0", a), inside[1]],
            [outside("INPUT1", b), inside[0]],
        ):
            result = stock.client.infer("two_inputs", inputs)
            assert_same(result.as_numpy("OUTPUT0"), a + b)
            assert_same(result.as_numpy("OUTPUT1"), a - b)
        outputs = [stock.wanted("OUTPUT1", "r", a.nbytes, 1024), stock.module.InferRequestedOutput("OUTPUT0")]
        result = stock.client.infer("two_inputs", inside, outputs=outputs)
        assert_same(result.as_numpy("OUTPUT0"), a + b)
        assert_same(triton_memory.get_contents_as_numpy(handle, a.dtype, a.shape, offset=1024), a - b)


def test_register_status_and_unregister(stock: Stock) -> None:
    client = stock.client
    with region(4 * PAGE) as (_, key):
        client.register_system_shared_memory("a", key, 2 * PAGE)
        client.register_system_shared_memory("b", key.lstrip("/"), PAGE, offset=3 * PAGE)
        assert stock.error(lambda: client.register_system_shared_memory("a", key, 1)) == "ALREADY_EXISTS"
        status = client.get_system_shared_memory_status()
        if stock.module is tritonclient.http:
            found = {entry["name"]: (entry["offset"], entry["byte_size"]) for entry in status}
        else:
            found = {name: (entry.offset, entry.byte_size) for name, entry in status.regions.items()}
        assert found == {"a": (0, 2 * PAGE), "b": (3 * PAGE, PAGE)}
        assert client.get_system_shared_memory_status("a")
        client.unregister_system_shared_memory("a")
        client.unregister_system_shared_memory("a")
        assert stock.error(lambda: client.get_system_shared_memory_status("a")) == "NOT_FOUND"
        client.unregister_system_shared_memory()
        assert stock.error(lambda: client.get_system_shared_memory_status("b")) == "NOT_FOUND"


def test_errors_of_use(stock: Stock) -> None:
    array = sample("FP32", (1, 4))

    def infer(*where: int, name: str = "r", wanted: tuple[int, ...] | None = None) -> None:
        outputs = None if wanted is None else [stock.wanted("OUTPUT0", name, *wanted)]
        given = stock.module.InferInput("INPUT0", [1, 4], "FP32")
        given.set_data_from_numpy(array)
        inputs = [stock.given("INPUT0", "FP32", (1, 4), name, *where)] if where else [given]
        stock.client.infer("identity_fp32", inputs, outputs=outputs)

    with region(PAGE) as (_, key):
        stock.client.register_system_shared_memory("r", key, PAGE)
        infer(16)
        infer(16, PAGE - 16)
        infer(wanted=(16, 0))
        assert stock.error(lambda: infer(16, name="nobody")) == "NOT_FOUND"
        for bad in ((16, PAGE), (16, PAGE - 15), (12,), (20,), (16, (1 << 63) - 1)):
            assert stock.error(partial(infer, *bad)) == "INVALID_ARGUMENT"
        for bad in ((15,), (16, PAGE), (PAGE + 1,), ((1 << 63) - 1, 64)):
            assert stock.error(partial(infer, wanted=bad)) == "INVALID_ARGUMENT"
        assert stock.error(lambda: infer(wanted=(16,), name="nobody")) == "NOT_FOUND"
        infer(16)


# --- hostile cases 29, 30 and 32


@pytest.fixture
def calm(server: Server) -> Iterator[None]:
    with survives(server):
        yield
        unregister(server)


@pytest.mark.usefixtures("calm")
def test_hostile_registrations(server: Server) -> None:
    with raw_object(2 * PAGE) as path:
        key = f"/{path.name}"
        for byte_size, offset in (
            (PAGE, (1 << 64) - PAGE),
            ((1 << 64) - PAGE, 2 * PAGE),
            (PAGE, 1),
            (PAGE, PAGE - 1),
            (0, 0),
            (2 * PAGE + 1, 0),
            (PAGE + 1, PAGE),
            (1, 2 * PAGE),
            (-1, 0),
            (PAGE, -PAGE),
            (1 << 64, 0),
            (PAGE, 1 << 64),
            ("4096", 0),
            (4096.0, 0),
            (None, 0),
        ):
            assert_refused(register(server, "r", key, byte_size, offset), 400, 429)
        for bad in (
            *("/", "//", "../x", "/../x", f"/x/../{path.name}", "", ".", "/nobody_made_it", "/a\0b"),
            *("/triton_python_backend_shm_region_0", "/sem.x", "/" + "k" * 5000),
        ):
            assert_refused(register(server, "r", bad, PAGE))
        assert_refused(register(server, "%00", key, PAGE))
        assert_refused(register(server, "n" * 300, key, PAGE))
        assert_refused(server.post("/v2/systemsharedmemory/region/r/register", "[" * 250_000))
        assert register(server, "r", key, PAGE).status == 200
        assert_refused(register(server, "r", key, PAGE), 409)
    assert server.get(STATUS).json() == [{"name": "r", "key": key, "offset": 0, "byte_size": PAGE}]


@pytest.mark.usefixtures("calm")
def test_the_quota(server: Server) -> None:
    with raw_object(PAGE) as path:
        answers = [register(server, f"r{i}", path.name, PAGE).status for i in range(300)]
        assert answers == [200] * 256 + [429] * 44
        assert server.metric("servolley_shared_memory_regions") == 256
        assert server.metric("servolley_shared_memory_bytes") == 256 * PAGE
        unregister(server)
        assert server.metric("servolley_shared_memory_regions") == 0
    with raw_object(20 << 30) as path:  # sparse: it takes no memory
        assert_refused(register(server, "r", path.name, 20 << 30), 429)
        assert register(server, "r", path.name, 16 << 30).status == 200
        assert_refused(register(server, "s", path.name, 1), 429)


@pytest.mark.usefixtures("calm")
def test_hostile_uses(server: Server) -> None:
    with raw_object(PAGE) as path:
        assert register(server, "r", path.name, PAGE).status == 200
        wrap = (1 << 64) - 32
        for parameters in (
            part("r", 8, PAGE),
            part("r", 8, wrap),
            part("r", wrap, 0),
            part("r", wrap, wrap),
            part("r", wrap, 64),
            part("r", -8),
            part("r", 8, -8),
            part("r", "8"),
            part("r", 8.0),
            part("r", 1 << 64),
            {"shared_memory_region": "r"},
            {"shared_memory_region": 1, "shared_memory_byte_size": 8},
            part("r", 8) | {"binary_data_size": 8},
        ):
            assert_refused(server.infer("identity_fp32", [shared(parameters)]))
            asked = [{"name": "OUTPUT0", "parameters": parameters}]
            if "binary_data_size" not in parameters:
                assert_refused(server.infer("identity_fp32", [tensor()], outputs=asked))
        assert_refused(server.infer("identity_fp32", [shared(part("nobody", 8))]), 404)
        too_small = [{"name": "OUTPUT0", "parameters": part("r", 7)}]
        assert_refused(server.infer("identity_fp32", [tensor()], outputs=too_small))
        for excluded in ({"binary_data": True}, {"classification": 1}):
            asked = [{"name": "OUTPUT0", "parameters": part("r", 8) | excluded}]
            assert_refused(server.infer("identity_fp32", [tensor()], outputs=asked))
        assert path.read_bytes() == bytes(PAGE)
    assert_still_right(server)


@pytest.mark.usefixtures("calm")
def test_truncated_under_the_server(server: Server) -> None:
    """A mapping of it would be SIGBUS, the end of the process."""
    with raw_object(1 << 20) as path:
        assert register(server, "r", path.name, 1 << 20).status == 200
        asked = [{"name": "OUTPUT0", "parameters": part("r", 8, 1 << 19)}]
        assert server.infer("identity_fp32", [shared(part("r", 8, 1 << 19))], outputs=asked).status == 200
        for size in (1 << 19, PAGE, 0):
            os.truncate(path, size)
            assert_refused(server.infer("identity_fp32", [shared(part("r", 8, 1 << 19))]))
            assert_refused(server.infer("identity_fp32", [tensor()], outputs=asked))
            assert path.stat().st_size == size
        os.truncate(path, 1 << 20)
        assert server.infer("identity_fp32", [shared(part("r", 8, 1 << 19))]).status == 200


@pytest.mark.usefixtures("calm")
def test_truncated_and_lengthened_all_the_time(server: Server) -> None:
    floats = 1 << 16
    with raw_object(8 * floats) as path:
        assert register(server, "r", path.name, 8 * floats).status == 200
        stop = threading.Event()

        def shake() -> None:
            while not stop.is_set():
                os.truncate(path, 0)
                os.truncate(path, 8 * floats)

        shaker = threading.Thread(target=shake)
        shaker.start()
        try:
            asked = [{"name": "OUTPUT0", "parameters": part("r", 4 * floats, 4 * floats)}]
            for _ in range(200):
                whole = shared(part("r", 4 * floats), floats)
                assert server.infer("identity_fp32", [whole], outputs=asked).status in {200, 400}
        finally:
            stop.set()
            shaker.join()
    assert_still_right(server)


@pytest.mark.usefixtures("calm")
def test_unregistering_during_use_is_deferred(server: Server) -> None:
    array = sample("FP32", (4, 512))
    data = to_bytes("FP32", array)
    with raw_object(1 << 20) as path:
        path.write_bytes(data.ljust(1 << 20, b"\0"))
        assert register(server, "r", path.name, 1 << 20).status == 200
        given = {"name": "INPUT0", "datatype": "FP32", "shape": [4, 512]}
        asked = {"name": "OUTPUT0", "parameters": part("r", 1 << 19, 1 << 19)}
        document = {"inputs": [given | {"parameters": part("r", len(data))}], "outputs": [asked]}
        connection = http.client.HTTPConnection(*server.address, timeout=60)
        connection.request("POST", "/v2/models/slow/infer", json.dumps(document))
        # A later connection is read later: when it has its answer, the model runs or has run.
        server.assert_live()
        unregister(server, "r")
        assert server.get(STATUS).json() == []
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["outputs"][0]["parameters"]) == (
            200,
            part("r", len(data), 1 << 19),
        )
        connection.close()
        (expected,) = run_onnx(MODELS["slow"], {"INPUT0": array}).values()
        written = np.frombuffer(path.read_bytes()[1 << 19 :][: len(data)], np.float32).reshape(4, 512)
        np.testing.assert_allclose(written, expected, rtol=1e-4, atol=1e-5)
        wait_until(lambda: server.metric("servolley_shared_memory_regions") == 0, 5, "the last use")


@pytest.mark.usefixtures("calm")
def test_registering_a_thousand_times_leaks_nothing(server: Server) -> None:
    def mappings() -> list[str]:
        lines = Path(f"/proc/{server.pid}/maps").read_text().splitlines()
        return [line for line in lines if "/dev/shm" in line]

    before = server.vitals().descriptors, mappings()
    with raw_object(PAGE) as path, tritonclient.grpc.InferenceServerClient(server.url) as client:
        for i in range(1000):
            name = f"r{i % 7}"
            client.register_system_shared_memory(name, path.name, PAGE)
            if i % 3 == 0:
                client.get_system_shared_memory_status(name)
            client.unregister_system_shared_memory(name)
        held = server.vitals().descriptors
        assert held <= before[0] + 1  # the client's connection
        assert mappings() == before[1] == []


# --- where it is off


def test_off_by_default(tmp_path: Path) -> None:
    repository = models.save_repository(tmp_path / "models", {"identity_fp32": MODELS["identity_fp32"]})
    with Server(repository) as server, raw_object(PAGE) as path:
        server.wait_ready()
        assert "system_shared_memory" not in server.get("/v2").json()["extensions"]
        assert_refused(register(server, "r", path.name, PAGE), 501)
        assert_refused(server.post("/v2/systemsharedmemory/unregister"), 501)
        assert server.get(STATUS).json() == []
        assert_refused(server.infer("identity_fp32", [shared(part("r", 8))]), 501)
        assert server.stop() == 0


def test_the_extension_is_listed(server: Server) -> None:
    assert "system_shared_memory" in server.get("/v2").json()["extensions"]
