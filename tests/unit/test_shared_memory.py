"""The calls that register shared memory, over both protocols; what a region is, the core's tests say."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest
import pytest_asyncio

from servolley.front.shared_memory import SharedMemory
from unit.grpc_front import OIP, GrpcFront

if TYPE_CHECKING:
    from servolley._core import Engine

PATH = "/v2/systemsharedmemory"
GOOD = {"key": "/k", "byte_size": 64}
CUDA_PATH = "/v2/cudasharedmemory"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


NO_HANDLES: list[Any] = [None, "x", 3, [], {}, {"b64": 3}, {"b64": None}]
CUDA_GOOD: dict[str, Any] = {"raw_handle": {"b64": b64(bytes(range(64)))}, "device_id": 0, "byte_size": 64}


@pytest_asyncio.fixture
async def front(descriptors: bytes) -> GrpcFront:
    front = GrpcFront(descriptors)
    front.context.shared_memory = SharedMemory(cast("Engine", front.engine))
    return front


async def test_register_status_unregister_over_rest(front: GrpcFront) -> None:
    a = {"name": "a b", "key": "/k", "offset": 4096, "byte_size": 64}
    b = {"name": "b", "key": "/k", "offset": 0, "byte_size": 1 << 62}
    for region in (a, b):
        path = f"{PATH}/region/{str(region['name']).replace(' ', '%20')}/register"
        body = {key: value for key, value in region.items() if key != "name" and value != 0}
        assert (await front.ask("POST", path, body)).status == 200
    assert await front.get(f"{PATH}/status") == [a, b]
    assert await front.get(f"{PATH}/region/a%20b/status") == [a]
    assert (await front.error("GET", f"{PATH}/region/c/status"))[0] == 404
    assert (await front.ask("POST", f"{PATH}/region/c/unregister")).status == 200
    assert (await front.ask("POST", f"{PATH}/region/b/unregister")).status == 200
    assert await front.get(f"{PATH}/status") == [a]
    assert (await front.ask("POST", f"{PATH}/unregister")).status == 200
    assert await front.get(f"{PATH}/status") == []


async def test_what_a_gpu_may_copy_itself_is_pinned_before_the_answer(front: GrpcFront) -> None:
    large = GOOD | {"byte_size": 1 << 16}
    assert (await front.ask("POST", f"{PATH}/region/large/register", large)).status == 200
    assert front.engine.pinned == ["large"]
    large = GOOD | {"name": "too", "byte_size": 1 << 20}
    assert not (await front.call(f"{OIP}SystemSharedMemoryRegister", large)).ListFields()
    assert (await front.ask("POST", f"{PATH}/region/small/register", GOOD)).status == 200
    assert front.engine.pinned == ["large", "too"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"key": "/k"},
        {"byte_size": 64},
        GOOD | {"key": 3},
        GOOD | {"key": None},
        *(GOOD | {"byte_size": value} for value in (-1, 1.0, "64", True, None, [64])),
        *(GOOD | {"offset": value} for value in (-4096, 0.5, "0", False, None)),
        b'{"key":"/k","byte_size":18446744073709551616}',
        b'{"key":"/k","byte_size":64,"offset":18446744073709551616}',
        b"[]",
        b"{",
        b'{"key":"\xff","byte_size":64}',
    ],
)
async def test_bad_documents(front: GrpcFront, body: Any) -> None:
    assert (await front.error("POST", f"{PATH}/region/r/register", body))[0] == 400
    assert front.engine.shared_memory == {}


async def test_the_cores_errors(front: GrpcFront) -> None:
    assert await front.error("POST", f"{PATH}/region/taken/register", GOOD) == (409, "taken")
    answer = await front.call(f"{OIP}SystemSharedMemoryRegister", GOOD | {"name": "taken"})
    assert answer == (6, "taken")


async def test_register_status_unregister_over_grpc(front: GrpcFront) -> None:
    async def regions(name: str = "") -> dict[str, tuple[str, int, int]]:
        answer = await front.call(f"{OIP}SystemSharedMemoryStatus", {"name": name})
        return {key: (r.key, r.offset, r.byte_size) for key, r in answer.regions.items() if r.name == key}

    for name in ("a", "b"):
        assert not (
            await front.call(f"{OIP}SystemSharedMemoryRegister", GOOD | {"name": name, "offset": "4096"})
        ).ListFields()
    assert await regions() == {"a": ("/k", 4096, 64), "b": ("/k", 4096, 64)}
    assert await regions("b") == {"b": ("/k", 4096, 64)}
    code, _ = await front.call(f"{OIP}SystemSharedMemoryStatus", {"name": "c"})
    assert code == 5
    await front.call(f"{OIP}SystemSharedMemoryUnregister", {"name": "a"})
    assert set(await regions()) == {"b"}
    await front.call(f"{OIP}SystemSharedMemoryUnregister", {})
    assert await regions() == {}


# --- memory of GPUs


async def test_cuda_register_status_unregister_over_rest(front: GrpcFront) -> None:
    for name, device in (("a b", 0), ("b", 1)):
        path = f"{CUDA_PATH}/region/{name.replace(' ', '%20')}/register"
        assert (await front.ask("POST", path, CUDA_GOOD | {"device_id": device})).status == 200
    a, b = ({"name": name, "device_id": i, "byte_size": 64} for i, name in enumerate(("a b", "b")))
    assert await front.get(f"{CUDA_PATH}/status") == [a, b]
    assert await front.get(f"{CUDA_PATH}/region/a%20b/status") == [a]
    assert (await front.error("GET", f"{CUDA_PATH}/region/c/status"))[0] == 404
    assert (await front.error("GET", f"{PATH}/region/b/status"))[0] == 404
    assert (await front.ask("POST", f"{PATH}/unregister")).status == 200
    assert (await front.ask("POST", f"{CUDA_PATH}/region/c/unregister")).status == 200
    assert (await front.ask("POST", f"{CUDA_PATH}/region/b/unregister")).status == 200
    assert await front.get(f"{CUDA_PATH}/status") == [a]
    assert (await front.ask("POST", f"{CUDA_PATH}/unregister")).status == 200
    assert await front.get(f"{CUDA_PATH}/status") == []


@pytest.mark.parametrize(
    "body",
    [
        *({key: CUDA_GOOD[key] for key in CUDA_GOOD if key != missing} for missing in CUDA_GOOD),
        *(CUDA_GOOD | {"raw_handle": value} for value in NO_HANDLES),
        *(CUDA_GOOD | {"raw_handle": {"b64": text}} for text in ("", "?" * 88, "x" * 87, "\u00e9" * 88)),
        *(CUDA_GOOD | {"raw_handle": {"b64": b64(bytes(count))}} for count in (0, 63, 65, 4096)),
        *(CUDA_GOOD | {"device_id": value} for value in (-1, 9, 1 << 31, 0.0, "0", True, None)),
        *(CUDA_GOOD | {"byte_size": value} for value in (-1, 1.0, "64", True, None)),
        b"[]",
        b"{",
    ],
    ids=str,
)
async def test_bad_cuda_documents(front: GrpcFront, body: Any) -> None:
    assert (await front.error("POST", f"{CUDA_PATH}/region/r/register", body))[0] == 400
    assert front.engine.cuda_shared_memory == {}


async def test_cuda_over_grpc(front: GrpcFront) -> None:
    async def regions(name: str = "") -> dict[str, tuple[int, int]]:
        answer = await front.call(f"{OIP}CudaSharedMemoryStatus", {"name": name})
        return {key: (r.device_id, r.byte_size) for key, r in answer.regions.items() if r.name == key}

    good = {"name": "a", "raw_handle": b64(bytes(range(64))), "device_id": "1", "byte_size": "64"}
    for name in ("a", "b"):
        answer = await front.call(f"{OIP}CudaSharedMemoryRegister", good | {"name": name})
        assert not answer.ListFields()
    assert await regions() == {"a": (1, 64), "b": (1, 64)}
    assert await regions("b") == {"b": (1, 64)}
    assert (await front.call(f"{OIP}CudaSharedMemoryStatus", {"name": "c"}))[0] == 5
    assert await front.call(f"{OIP}CudaSharedMemoryRegister", good | {"name": "taken"}) == (6, "taken")
    for bad in ({"raw_handle": b64(bytes(63))}, {"device_id": "-1"}, {"device_id": "4294967296"}):
        assert (await front.call(f"{OIP}CudaSharedMemoryRegister", good | bad))[0] == 3
    assert (await front.call(f"{OIP}CudaSharedMemoryRegister", good | {"device_id": "9"}))[0] == 9
    await front.call(f"{OIP}CudaSharedMemoryUnregister", {"name": "a"})
    assert set(await regions()) == {"b"}
    await front.call(f"{OIP}CudaSharedMemoryUnregister", {})
    assert await regions() == {}


async def test_where_it_is_off_there_is_nothing(front: GrpcFront) -> None:
    front.context.shared_memory = None
    assert await front.get(f"{PATH}/status") == []
    assert (await front.error("POST", f"{PATH}/region/r/register", GOOD))[0] == 501
    assert not (await front.call(f"{OIP}SystemSharedMemoryStatus", {})).regions
    assert await front.get(f"{CUDA_PATH}/status") == []
    assert (await front.error("POST", f"{CUDA_PATH}/region/r/register", CUDA_GOOD))[0] == 501
    assert (await front.error("POST", f"{CUDA_PATH}/unregister"))[0] == 501
    assert not (await front.call(f"{OIP}CudaSharedMemoryStatus", {})).regions
    assert "system_shared_memory" not in (await front.get("/v2"))["extensions"]


async def test_the_extension_is_listed(front: GrpcFront) -> None:
    reply = await front.ask("GET", "/v2")
    assert orjson.loads(reply.body)["extensions"] == [
        "classification",
        "model_configuration",
        "system_shared_memory",
        "cuda_shared_memory",
        "binary_tensor_data",
        "parameters",
        "statistics",
        "logging",
    ]
