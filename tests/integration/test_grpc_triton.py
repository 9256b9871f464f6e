"""The stock ``tritonclient.grpc``, synchronous and asyncio: every datatype, what is asked for, errors."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.grpc import aio as triton_aio
from tritonclient.utils import InferenceServerException

import models
from integration.grpc_calls import assert_text_tells_nothing
from integration.server_process import Server
from integration.tensors import Array, assert_same, run_onnx, sample


@pytest.fixture
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.url) as client:
        yield client


def given(name: str, datatype: str, array: Array) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def refused(client: InferenceServerClient, model: str, inputs: list[Any], **options: Any) -> tuple[str, str]:
    """(code, message) of a request that must fail."""
    with pytest.raises(InferenceServerException) as failure:
        client.infer(model, inputs, **options)
    assert_text_tells_nothing(failure.value.message())
    return failure.value.status().removeprefix("StatusCode."), failure.value.message()


# --- datatypes


@pytest.mark.parametrize("datatype", models.DTYPES)
def test_every_datatype(client: InferenceServerClient, datatype: str) -> None:
    for shape in ((1, 1), (3, 5), (7, 64), (2, 0)):
        array = sample(datatype, shape, seed=len(shape))
        result = client.infer(f"identity_{datatype.lower()}", [given("INPUT0", datatype, array)])
        assert_same(result.as_numpy("OUTPUT0"), array)
        output = result.get_output("OUTPUT0")
        assert (output.datatype, list(output.shape)) == (datatype, list(shape))


@pytest.mark.parametrize("datatype", models.DTYPES)
async def test_every_datatype_with_asyncio(server: Server, datatype: str) -> None:
    async with triton_aio.InferenceServerClient(server.url) as client:
        array = sample(datatype, (3, 5))
        result = await client.infer(f"identity_{datatype.lower()}", [given("INPUT0", datatype, array)])
        assert_same(result.as_numpy("OUTPUT0"), array)


def test_bytes_that_are_not_utf8(client: InferenceServerClient) -> None:
    array = np.array([[b"\xff\xfe\x00", b"\x80" * 300, b""]], dtype=np.object_)
    result = client.infer("identity_bytes", [given("INPUT0", "BYTES", array)])
    assert_same(result.as_numpy("OUTPUT0"), array)


def test_a_large_tensor(client: InferenceServerClient) -> None:
    array = sample("FP32", (8, 150528))
    result = client.infer("identity_large", [given("INPUT0", "FP32", array)])
    assert_same(result.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_requests(client: InferenceServerClient, coding: str) -> None:
    array = sample("FP32", (40, 1000))
    result = client.infer("identity_fp32", [given("INPUT0", "FP32", array)], compression_algorithm=coding)
    assert_same(result.as_numpy("OUTPUT0"), array)


# --- outputs


def two_inputs(rows: int = 1) -> tuple[dict[str, Array], list[InferInput]]:
    arrays = {
        "INPUT0": np.arange(16 * rows, dtype=np.int32).reshape(rows, 16),
        "INPUT1": np.full((rows, 16), 3, np.int32),
    }
    return arrays, [given(name, "INT32", array) for name, array in arrays.items()]


def test_all_outputs_by_default(client: InferenceServerClient) -> None:
    arrays, inputs = two_inputs(rows=4)
    for order in (1, -1):
        result = client.infer("two_inputs", inputs[::order])
        assert [output.name for output in result.get_response().outputs] == ["OUTPUT0", "OUTPUT1"]
        for name, expected in run_onnx(models.two_inputs(), arrays).items():
            assert_same(result.as_numpy(name), expected)


@pytest.mark.parametrize("names", [["OUTPUT0"], ["OUTPUT1"], ["OUTPUT1", "OUTPUT0"]])
def test_requested_outputs_and_their_order(client: InferenceServerClient, names: list[str]) -> None:
    arrays, inputs = two_inputs(rows=2)
    expected = run_onnx(models.two_inputs(), arrays)
    result = client.infer("two_inputs", inputs, outputs=[InferRequestedOutput(name) for name in names])
    assert [output.name for output in result.get_response().outputs] == names
    for name in names:
        assert_same(result.as_numpy(name), expected[name])


def test_classification(client: InferenceServerClient) -> None:
    scores = np.array([[0.1, 0.9, -3, 0.5, 2, 0, 0.3, 0.2], [8, 7, 6, 5, 4, 3, 2, 1]], np.float32)
    inputs = [given("INPUT0", "FP32", scores)]
    result = client.infer("identity_fp32", inputs, outputs=[InferRequestedOutput("OUTPUT0", class_count=3)])
    assert result.get_output("OUTPUT0").datatype == "BYTES"
    assert result.as_numpy("OUTPUT0").tolist() == [
        [b"2.000000:4", b"0.900000:1", b"0.500000:3"],
        [b"8.000000:0", b"7.000000:1", b"6.000000:2"],
    ]
    labelled = client.infer("labelled", inputs, outputs=[InferRequestedOutput("OUTPUT0", class_count=2)])
    assert labelled.as_numpy("OUTPUT0").tolist() == [
        [b"2.000000:4:four", b"0.900000:1:one"],
        [b"8.000000:0:zero", b"7.000000:1:one"],
    ]
    more = client.infer("labelled", inputs, outputs=[InferRequestedOutput("OUTPUT0", class_count=100)])
    assert more.as_numpy("OUTPUT0").shape == (2, 8)


@pytest.mark.parametrize("count", [-1, 2**40])
def test_impossible_class_counts(client: InferenceServerClient, count: int) -> None:
    inputs = [given("INPUT0", "FP32", sample("FP32", (1, 4)))]
    code, message = refused(
        client, "identity_fp32", inputs, outputs=[InferRequestedOutput("OUTPUT0", class_count=count)]
    )
    assert code == "INVALID_ARGUMENT"
    assert "classification" in message


def test_strings_have_no_classes(client: InferenceServerClient) -> None:
    inputs = [given("INPUT0", "BYTES", sample("BYTES", (1, 4)))]
    code, message = refused(
        client, "identity_bytes", inputs, outputs=[InferRequestedOutput("OUTPUT0", class_count=1)]
    )
    assert code == "INVALID_ARGUMENT"
    assert "BYTES" in message


# --- what comes back with the answer


@pytest.mark.parametrize("request_id", ["", "a", "7" * 200, 'quote " \\ / \n\t', "日本語 \U0001f680"])
def test_request_id_comes_back(client: InferenceServerClient, request_id: str) -> None:
    inputs = [given("INPUT0", "FP32", sample("FP32", (1, 1)))]
    assert client.infer("identity_fp32", inputs, request_id=request_id).get_response().id == request_id


def test_answer_names_model_and_version(client: InferenceServerClient) -> None:
    inputs = [given("x", "FP32", np.array([1, 2], np.float32))]
    for asked, version in (("", "7"), ("3", "3"), ("7", "7")):
        result = client.infer("two_versions", inputs, model_version=asked)
        response = result.get_response()
        assert (response.model_name, response.model_version) == ("two_versions", version)
        assert result.as_numpy("y").tolist() == [2.5, 3.0]


def test_priority_timeout_and_custom_parameters(client: InferenceServerClient) -> None:
    array = sample("FP32", (1, 4))
    result = client.infer(
        "identity_fp32",
        [given("INPUT0", "FP32", array)],
        priority=1,
        timeout=60_000_000,
        client_timeout=60.0,
        headers={"x-anything": "at all", "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"},
        parameters={"text": "x", "number": 7, "flag": True, "real": 0.5},
    )
    assert_same(result.as_numpy("OUTPUT0"), array)


def test_callbacks(client: InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for i in range(200):
        array = np.full((1, 4), i, np.float32)
        client.async_infer(
            "identity_fp32",
            [given("INPUT0", "FP32", array)],
            lambda result, error: answers.put((result, error)),
            request_id=str(i),
        )
    client.async_infer("nobody", [], lambda result, error: answers.put((result, error)))
    seen = set()
    failures = []
    for _ in range(201):
        result, error = answers.get(timeout=30)
        if error is not None:
            failures.append(error.status())
            continue
        number = int(result.get_response().id)
        assert (result.as_numpy("OUTPUT0") == number).all()
        seen.add(number)
    assert (seen, failures) == (set(range(200)), ["StatusCode.NOT_FOUND"])


async def test_many_at_once_with_asyncio(server: Server) -> None:
    async with triton_aio.InferenceServerClient(server.url) as client:

        async def ask(number: int) -> None:
            array = np.full((1 + number % 3, 16), number, np.float32)
            result = await client.infer("identity_fp32", [given("INPUT0", "FP32", array)])
            assert_same(result.as_numpy("OUTPUT0"), array)

        await asyncio.gather(*(ask(number) for number in range(300)))


def test_threads_share_a_client(client: InferenceServerClient) -> None:
    failures: queue.Queue[BaseException] = queue.Queue()

    def ask(worker: int) -> None:
        try:
            for i in range(50):
                array = np.full((1, 16), worker * 1000 + i, np.int32)
                inputs = [given(name, "INT32", array) for name in ("INPUT0", "INPUT1")]
                result = client.infer("two_inputs", inputs, request_id=f"{worker}.{i}")
                assert result.get_response().id == f"{worker}.{i}"
                assert_same(result.as_numpy("OUTPUT0"), array * 2)
        except BaseException as error:
            failures.put(error)

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures.empty(), failures.get()


# --- errors


def test_unknown_model_and_version(client: InferenceServerClient) -> None:
    inputs = [given("INPUT0", "FP32", sample("FP32", (1, 16)))]
    assert refused(client, "nobody", inputs) == (
        "NOT_FOUND",
        "Request for unknown model: 'nobody' is not found",
    )
    assert refused(client, "tiny", inputs, model_version="2") == (
        "NOT_FOUND",
        "Request for unknown model: 'tiny' version 2 is not at ready state",
    )
    for version in ("x", "-1", "1.0", "99999999999999999999", " 1"):
        code, _ = refused(client, "tiny", inputs, model_version=version)
        assert code == "INVALID_ARGUMENT", version


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([("NOBODY", "FP32", (1, 16))], ["NOBODY"]),
        ([("INPUT0", "FP32", (1, 16)), ("NOBODY", "FP32", (1, 16))], ["NOBODY"]),
        ([("INPUT0", "FP64", (1, 16))], ["INPUT0", "FP32", "FP64"]),
        ([("INPUT0", "FP32", (1, 15))], ["INPUT0", "[-1,16]", "[1,15]"]),
        ([("INPUT0", "FP32", (16,))], ["INPUT0", "[-1,16]", "[16]"]),
        ([("INPUT0", "FP32", (1, 1, 16))], ["INPUT0", "[1,1,16]"]),
        ([("INPUT0", "FP32", (1, 16)), ("INPUT0", "FP32", (1, 16))], ["INPUT0"]),
        ([], ["input"]),
    ],
    ids=str,
)
def test_wrong_inputs(
    client: InferenceServerClient, inputs: list[tuple[str, str, tuple[int, ...]]], words: list[str]
) -> None:
    tensors = [given(name, kind, sample(kind, shape)) for name, kind, shape in inputs]
    code, message = refused(client, "tiny", tensors)
    assert code == "INVALID_ARGUMENT"
    for word in words:
        assert word in message


@pytest.mark.parametrize("names", [["NOBODY"], ["OUTPUT0", "NOBODY"], ["OUTPUT0", "OUTPUT0"]])
def test_wrong_outputs(client: InferenceServerClient, names: list[str]) -> None:
    inputs = [given("INPUT0", "FP32", sample("FP32", (1, 16)))]
    code, message = refused(client, "tiny", inputs, outputs=[InferRequestedOutput(name) for name in names])
    assert code == "INVALID_ARGUMENT"
    assert names[-1] in message


def test_sequences_are_refused_not_ignored(client: InferenceServerClient) -> None:
    """State that is silently not kept would be a wrong answer."""
    tensor = given("INPUT0", "FP32", sample("FP32", (1, 4)))
    for sequence in (5, "correlation"):
        code, message = refused(
            client, "identity_fp32", [tensor], sequence_id=sequence, sequence_start=True, sequence_end=True
        )
        assert code == "UNIMPLEMENTED"
        assert "sequence" in message


def test_shared_memory_is_refused_not_ignored(client: InferenceServerClient) -> None:
    tensor = InferInput("INPUT0", [1, 4], "FP32")
    tensor.set_shared_memory("region", 16)
    assert refused(client, "identity_fp32", [tensor])[0] == "UNIMPLEMENTED"
    output = InferRequestedOutput("OUTPUT0")
    output.set_shared_memory("region", 16)
    good = given("INPUT0", "FP32", sample("FP32", (1, 4)))
    assert refused(client, "identity_fp32", [good], outputs=[output])[0] == "UNIMPLEMENTED"


def test_a_run_that_fails(client: InferenceServerClient) -> None:
    """The runtime's own words, without its places."""
    code, message = refused(client, "picky", [given("INPUT0", "INT64", np.array([[99]], np.int64))])
    assert code in {"INVALID_ARGUMENT", "INTERNAL"}
    assert "99" in message
    result = client.infer("picky", [given("INPUT0", "INT64", np.array([[1]], np.int64))])
    assert result.as_numpy("OUTPUT0").tolist() == [[4.0, 5.0, 6.0, 7.0]]
