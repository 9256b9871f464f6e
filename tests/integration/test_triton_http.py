"""The stock ``tritonclient.http``: every datatype in every form, every control call, errors, concurrency."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

import models
from integration.server_process import Server
from integration.tensors import BINARY_ONLY, Array, assert_same, run_onnx, sample

DATATYPES = list(models.DTYPES)


@pytest.fixture
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.url, concurrency=8) as client:
        yield client


def given(name: str, datatype: str, array: Array, *, binary: bool = True) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def wanted(name: str, **options: Any) -> InferRequestedOutput:
    return InferRequestedOutput(name, **options)


def refused(client: InferenceServerClient, model: str, inputs: list[Any], **options: Any) -> tuple[str, str]:
    """(status, message) of a request that must fail."""
    with pytest.raises(InferenceServerException) as failure:
        client.infer(model, inputs, **options)
    return failure.value.status(), failure.value.message()


# --- datatypes and forms


@pytest.mark.parametrize(
    ("datatype", "binary_in", "binary_out"),
    [
        (datatype, binary_in, binary_out)
        for datatype in DATATYPES
        for binary_in in (True, False)
        for binary_out in (True, False)
        # See test_half_floats_have_no_json_form.
        if datatype not in BINARY_ONLY or (binary_in and binary_out)
    ],
)
def test_every_datatype(
    client: InferenceServerClient, datatype: str, binary_in: bool, binary_out: bool
) -> None:
    for shape in ((1, 1), (3, 5), (7, 64)):
        array = sample(datatype, shape, seed=len(shape))
        result = client.infer(
            f"identity_{datatype.lower()}",
            [given("INPUT0", datatype, array, binary=binary_in)],
            outputs=[wanted("OUTPUT0", binary_data=binary_out)],
        )
        assert_same(result.as_numpy("OUTPUT0"), array)
        output = result.get_output("OUTPUT0")
        assert (output["datatype"], output["shape"]) == (datatype, list(shape))
        assert ("data" in output) == (not binary_out)


@pytest.mark.parametrize("datatype", sorted(BINARY_ONLY))
def test_half_floats_have_no_json_form(server: Server, client: InferenceServerClient, datatype: str) -> None:
    model = f"identity_{datatype.lower()}"
    tensor = {"name": "INPUT0", "datatype": datatype, "shape": [1, 1], "data": [1.0]}
    answer = server.infer(model, [tensor])
    assert answer.status == 400
    assert datatype in answer.error
    array = sample(datatype, (1, 2))
    status, message = refused(
        client,
        model,
        [given("INPUT0", datatype, array)],
        outputs=[wanted("OUTPUT0", binary_data=False)],
    )
    assert status == "400"
    assert datatype in message


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", [t for t in DATATYPES if t not in BINARY_ONLY])
@pytest.mark.parametrize("shape", [(1, 0), (3, 0)])
def test_zero_elements(
    client: InferenceServerClient, datatype: str, shape: tuple[int, int], binary: bool
) -> None:
    array = sample(datatype, shape)
    result = client.infer(
        f"identity_{datatype.lower()}",
        [given("INPUT0", datatype, array, binary=binary)],
        outputs=[wanted("OUTPUT0", binary_data=binary)],
    )
    assert result.get_output("OUTPUT0")["shape"] == list(shape)
    output = result.as_numpy("OUTPUT0")
    assert output is None or output.size == 0


def test_bytes_that_are_not_utf8(client: InferenceServerClient) -> None:
    array = np.array([[b"\xff\xfe\x00", b"\x80" * 300, b""]], dtype=np.object_)
    result = client.infer("identity_bytes", [given("INPUT0", "BYTES", array)])
    assert_same(result.as_numpy("OUTPUT0"), array)


def test_bytes_that_are_not_utf8_have_no_json_form(client: InferenceServerClient) -> None:
    array = np.array([[b"\xff"]], dtype=np.object_)
    status, message = refused(
        client,
        "identity_bytes",
        [given("INPUT0", "BYTES", array)],
        outputs=[wanted("OUTPUT0", binary_data=False)],
    )
    assert status == "400"
    assert "UTF-8" in message


def test_special_floats_in_json(client: InferenceServerClient) -> None:
    array = np.array([[np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4028235e38]], dtype=np.float32)
    result = client.infer(
        "identity_fp32",
        [given("INPUT0", "FP32", array, binary=False)],
        outputs=[wanted("OUTPUT0", binary_data=False)],
    )
    assert_same(result.as_numpy("OUTPUT0"), array)
    nan = client.infer(
        "identity_fp32", [given("INPUT0", "FP32", np.full((1, 2), np.nan, np.float32), binary=False)]
    )
    assert np.isnan(nan.as_numpy("OUTPUT0")).all()


def test_numbers_survive_json_exactly(client: InferenceServerClient) -> None:
    random = np.random.default_rng(5)
    singles = random.integers(0, 2**32, (4, 512), dtype=np.uint32).view(np.float32)
    doubles = random.integers(0, 2**64, (4, 512), dtype=np.uint64).view(np.float64)
    for model, datatype, array in (
        ("identity_fp32", "FP32", np.nan_to_num(singles)),
        ("identity_fp64", "FP64", np.nan_to_num(doubles)),
    ):
        result = client.infer(
            model,
            [given("INPUT0", datatype, array, binary=False)],
            outputs=[wanted("OUTPUT0", binary_data=False)],
        )
        assert_same(result.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize("first_binary", [True, False])
@pytest.mark.parametrize("second_binary", [True, False])
def test_mixed_forms_in_one_request(
    client: InferenceServerClient, first_binary: bool, second_binary: bool
) -> None:
    floats, words = sample("FP32", (2, 3)), sample("BYTES", (2, 4))
    for order in (1, -1):
        inputs = [
            given("INPUT0", "FP32", floats, binary=first_binary),
            given("INPUT1", "BYTES", words, binary=second_binary),
        ][::order]
        outputs = [
            wanted("OUTPUT0", binary_data=second_binary),
            wanted("OUTPUT1", binary_data=first_binary),
        ][::order]
        result = client.infer("identity_pair", inputs, outputs=outputs)
        assert_same(result.as_numpy("OUTPUT0"), floats)
        assert_same(result.as_numpy("OUTPUT1"), words)


def test_large_tensor(client: InferenceServerClient) -> None:
    array = sample("FP32", (8, 150528))
    result = client.infer("identity_large", [given("INPUT0", "FP32", array)])
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
    result = client.infer("two_inputs", inputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    for name, expected in run_onnx(models.two_inputs(), arrays).items():
        assert_same(result.as_numpy(name), expected)


@pytest.mark.parametrize("names", [["OUTPUT0"], ["OUTPUT1"], ["OUTPUT1", "OUTPUT0"]])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_requested_outputs_and_their_order(
    client: InferenceServerClient, names: list[str], binary: bool
) -> None:
    arrays, inputs = two_inputs(rows=2)
    expected = run_onnx(models.two_inputs(), arrays)
    result = client.infer("two_inputs", inputs, outputs=[wanted(name, binary_data=binary) for name in names])
    assert [output["name"] for output in result.get_response()["outputs"]] == names
    for name in names:
        assert_same(result.as_numpy(name), expected[name])


def test_binary_data_output_holds_for_outputs_that_are_not_listed(server: Server) -> None:
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    answer = server.infer("identity_fp32", [tensor], parameters={"binary_data_output": True})
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 8}
    assert answer.body[length:] == np.array([1, 2], np.float32).tobytes()
    # Listed without a form of its own: JSON.
    listed = server.infer(
        "identity_fp32", [tensor], parameters={"binary_data_output": True}, outputs=[{"name": "OUTPUT0"}]
    )
    assert listed.headers["content-type"] == "application/json"
    assert listed.json()["outputs"][0]["data"] == [1.0, 2.0]


def test_answer_names_model_and_version(server: Server) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    for path, version in (("", "7"), ("/versions/3", "3"), ("/versions/7", "7")):
        answer = server.post(f"/v2/models/two_versions{path}/infer", {"inputs": [tensor]})
        assert answer.status == 200, answer
        assert answer.json() == {
            "model_name": "two_versions",
            "model_version": version,
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [2.5, 3.0]}],
        }


def test_classification(client: InferenceServerClient) -> None:
    scores = np.array([[0.1, 0.9, -3, 0.5, 2, 0, 0.3, 0.2], [8, 7, 6, 5, 4, 3, 2, 1]], np.float32)
    inputs = [given("INPUT0", "FP32", scores)]
    result = client.infer("identity_fp32", inputs, outputs=[wanted("OUTPUT0", class_count=3)])
    classes = result.as_numpy("OUTPUT0")
    assert result.get_output("OUTPUT0")["datatype"] == "BYTES"
    assert classes.tolist() == [
        [b"2.000000:4", b"0.900000:1", b"0.500000:3"],
        [b"8.000000:0", b"7.000000:1", b"6.000000:2"],
    ]
    labelled = client.infer("labelled", inputs, outputs=[wanted("OUTPUT0", class_count=2, binary_data=False)])
    assert labelled.as_numpy("OUTPUT0").tolist() == [
        ["2.000000:4:four", "0.900000:1:one"],
        ["8.000000:0:zero", "7.000000:1:one"],
    ]


def test_classification_of_more_classes_than_there_are(client: InferenceServerClient) -> None:
    array = np.array([[3, 1, 2]], np.int64)
    result = client.infer(
        "identity_int64",
        [given("INPUT0", "INT64", array)],
        outputs=[wanted("OUTPUT0", class_count=10)],
    )
    assert result.as_numpy("OUTPUT0").tolist() == [[b"3:0", b"2:2", b"1:1"]]


# --- ids, parameters, compression


@pytest.mark.parametrize("request_id", ["", "a", "7" * 200, 'quote " \\ / \n\t', "日本語 \U0001f680"])
def test_request_id_comes_back(client: InferenceServerClient, request_id: str) -> None:
    result = client.infer(
        "identity_fp32", [given("INPUT0", "FP32", sample("FP32", (1, 1)))], request_id=request_id
    )
    response = result.get_response()
    assert response.get("id", "") == request_id
    assert ("id" in response) == bool(request_id)


@pytest.mark.parametrize("answer_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_compression(
    client: InferenceServerClient, request_coding: str | None, answer_coding: str | None, binary: bool
) -> None:
    array = sample("FP32", (4, 1000))
    result = client.infer(
        "identity_fp32",
        [given("INPUT0", "FP32", array, binary=binary)],
        outputs=[wanted("OUTPUT0", binary_data=binary)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=answer_coding,
    )
    assert_same(result.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", None),  # the asyncio client says so on every call, and means nothing by it
        ("br", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("deflate;q=0.5, gzip", None),  # only what is asked for alone is meant
    ],
)
def test_which_coding_an_answer_takes(server: Server, accepted: str, coding: str | None) -> None:
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 200], "data": [1.0] * 200}
    answer = server.post(
        "/v2/models/identity_fp32/infer", {"inputs": [tensor]}, {"Accept-Encoding": accepted}
    )
    assert answer.status == 200
    assert answer.headers.get("content-encoding") == coding


def test_control_answers_are_never_compressed(server: Server) -> None:
    answer = server.get("/v2/models/identity_fp32/config", {"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert answer.json()["name"] == "identity_fp32"


def test_priority_timeout_and_custom_parameters(client: InferenceServerClient) -> None:
    array = sample("FP32", (1, 4))
    result = client.infer(
        "identity_fp32",
        [given("INPUT0", "FP32", array)],
        priority=1,
        timeout=60_000_000,
        parameters={"text": "x", "number": 7, "flag": True, "real": 0.5},
    )
    assert_same(result.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize(
    "parameters",
    [{"triton_final_response": True}, {"custom": [1]}, {"custom": {"a": 1}}, {"custom": None}],
    ids=str,
)
def test_parameters_that_are_refused(server: Server, parameters: dict[str, Any]) -> None:
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    answer = server.infer("identity_fp32", [tensor], parameters=parameters)
    assert answer.status == 400
    assert next(iter(parameters)) in answer.error


def test_sequences_are_refused_not_ignored(client: InferenceServerClient) -> None:
    """State that is silently not kept would be a wrong answer."""
    tensor = given("INPUT0", "FP32", sample("FP32", (1, 4)))
    for sequence in (5, "correlation"):
        status, message = refused(
            client, "identity_fp32", [tensor], sequence_id=sequence, sequence_start=True, sequence_end=True
        )
        assert status == "501"
        assert "sequence" in message


# --- errors


def test_unknown_model_and_version(client: InferenceServerClient) -> None:
    inputs = [given("INPUT0", "FP32", sample("FP32", (1, 16)))]
    assert refused(client, "nobody", inputs) == ("404", "Request for unknown model: 'nobody' is not found")
    assert refused(client, "tiny", inputs, model_version="2") == (
        "404",
        "Request for unknown model: 'tiny' version 2 is not at ready state",
    )
    assert refused(client, "tiny", inputs, model_version="x")[0] == "404"


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
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_wrong_inputs(
    client: InferenceServerClient,
    inputs: list[tuple[str, str, tuple[int, ...]]],
    words: list[str],
    binary: bool,
) -> None:
    tensors = [given(name, kind, sample(kind, shape), binary=binary) for name, kind, shape in inputs]
    status, message = refused(client, "tiny", tensors)
    assert status == "400"
    for word in words:
        assert word in message


@pytest.mark.parametrize("names", [["NOBODY"], ["OUTPUT0", "NOBODY"], ["OUTPUT0", "OUTPUT0"]])
def test_wrong_outputs(client: InferenceServerClient, names: list[str]) -> None:
    inputs = [given("INPUT0", "FP32", sample("FP32", (1, 16)))]
    status, message = refused(client, "tiny", inputs, outputs=[wanted(name) for name in names])
    assert status == "400"
    assert names[-1] in message


def test_inputs_of_different_batch_sizes(client: InferenceServerClient) -> None:
    inputs = [
        given("INPUT0", "INT32", np.zeros((2, 16), np.int32)),
        given("INPUT1", "INT32", np.zeros((3, 16), np.int32)),
    ]
    assert refused(client, "two_inputs", inputs)[0] == "400"


def test_missing_second_input(client: InferenceServerClient) -> None:
    status, message = refused(client, "two_inputs", two_inputs()[1][:1])
    assert status == "400"
    assert "INPUT1" in message or "inputs" in message


# --- concurrency: answers out = requests in


def test_async_infer(client: InferenceServerClient) -> None:
    arrays = [sample("INT32", (rows, 16), seed=rows) for rows in range(1, 41)]
    pending = [client.async_infer("identity_int32", [given("INPUT0", "INT32", array)]) for array in arrays]
    for array, request in zip(arrays, pending, strict=True):
        assert_same(request.get_result(timeout=30).as_numpy("OUTPUT0"), array)


def test_many_clients_each_get_their_own_answer(server: Server) -> None:
    wrong: list[str] = []
    answered = [0] * 12

    def ask(worker: int) -> None:
        try:
            with InferenceServerClient(server.url) as client:
                for i in range(60):
                    array = np.full((1 + i % 4, 16), worker * 1000 + i, np.int32)
                    inputs = [given("INPUT0", "INT32", array), given("INPUT1", "INT32", array * 2)]
                    result = client.infer("two_inputs", inputs, request_id=f"{worker}-{i}")
                    assert result.get_response()["id"] == f"{worker}-{i}"
                    assert_same(result.as_numpy("OUTPUT0"), array * 3)
                    assert_same(result.as_numpy("OUTPUT1"), -array)
                    answered[worker] += 1
        except BaseException as error:
            wrong.append(f"{worker}: {error!r}")

    workers = [threading.Thread(target=ask, args=(worker,)) for worker in range(len(answered))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong
    assert answered == [60] * 12
