"""The stock ``tritonclient.http.aio``: the same core paths. It offers ``gzip, deflate, br`` on every call and
decodes only what ``infer`` returns, so most answers must come as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

import models
from integration.server_process import Server
from integration.tensors import BINARY_ONLY, Array, assert_same, run_onnx, sample


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[InferenceServerClient]:
    async with InferenceServerClient(server.url) as client:
        yield client


def given(name: str, datatype: str, array: Array, *, binary: bool = True) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


@pytest.mark.parametrize(
    ("datatype", "binary"),
    [
        (datatype, binary)
        for datatype in models.DTYPES
        for binary in (True, False)
        if binary or datatype not in BINARY_ONLY  # the protocol has no JSON form for these
    ],
)
async def test_every_datatype(client: InferenceServerClient, datatype: str, binary: bool) -> None:
    array = sample(datatype, (3, 5))
    result = await client.infer(
        f"identity_{datatype.lower()}",
        [given("INPUT0", datatype, array, binary=binary)],
        outputs=[InferRequestedOutput("OUTPUT0", binary_data=binary)],
    )
    assert_same(result.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize("answer_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
async def test_compression(
    client: InferenceServerClient, request_coding: str | None, answer_coding: str | None
) -> None:
    array = sample("FP32", (4, 1000))
    result = await client.infer(
        "identity_fp32",
        [given("INPUT0", "FP32", array)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=answer_coding,
    )
    assert_same(result.as_numpy("OUTPUT0"), array)


async def test_mixed_forms_and_requested_outputs(client: InferenceServerClient) -> None:
    floats, words = sample("FP32", (2, 3)), sample("BYTES", (2, 4))
    result = await client.infer(
        "identity_pair",
        [given("INPUT1", "BYTES", words, binary=False), given("INPUT0", "FP32", floats)],
        outputs=[
            InferRequestedOutput("OUTPUT1", binary_data=True),
            InferRequestedOutput("OUTPUT0", binary_data=False),
        ],
        request_id="seven",
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == ["OUTPUT1", "OUTPUT0"]
    assert result.get_response()["id"] == "seven"
    assert_same(result.as_numpy("OUTPUT0"), floats)
    assert_same(result.as_numpy("OUTPUT1"), words)


async def test_classification(client: InferenceServerClient) -> None:
    result = await client.infer(
        "identity_fp32",
        [given("INPUT0", "FP32", np.array([[1, 3, 2]], np.float32))],
        outputs=[InferRequestedOutput("OUTPUT0", class_count=2)],
    )
    assert result.as_numpy("OUTPUT0").tolist() == [[b"3.000000:1", b"2.000000:2"]]


async def test_control_calls(client: InferenceServerClient) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("tiny")
    assert not await client.is_model_ready("nobody")
    assert (await client.get_server_metadata())["name"] == "servolley"
    assert (await client.get_model_metadata("tiny"))["inputs"][0]["shape"] == [-1, 16]
    assert (await client.get_model_config("tiny"))["name"] == "tiny"
    assert (await client.get_inference_statistics("tiny"))["model_stats"][0]["name"] == "tiny"
    index = await client.get_model_repository_index()
    assert {"name": "tiny", "version": "1", "state": "READY", "reason": ""} in index
    with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed"):
        await client.load_model("tiny")
    assert (await client.get_trace_settings())["trace_level"] == ["OFF"]
    assert (await client.get_log_settings())["log_format"] == "ISO8601"


async def test_errors(client: InferenceServerClient) -> None:
    async def status(model: str, tensor: InferInput, **options: Any) -> str:
        with pytest.raises(InferenceServerException) as failure:
            await client.infer(model, [tensor], **options)
        return str(failure.value.status())

    good = given("INPUT0", "FP32", sample("FP32", (1, 16)))
    assert await status("nobody", good) == "404"
    assert await status("tiny", good, model_version="9") == "404"
    assert await status("tiny", given("INPUT0", "FP32", sample("FP32", (1, 15)))) == "400"
    assert await status("tiny", given("OTHER", "FP32", sample("FP32", (1, 16)))) == "400"
    assert await status("tiny", good, outputs=[InferRequestedOutput("NOBODY")]) == "400"


async def test_many_at_once(client: InferenceServerClient) -> None:
    arrays = [sample("FP32", (1 + i % 4, 256), seed=i) for i in range(200)]

    async def ask(array: Array) -> None:
        result = await client.infer("mlp", [given("INPUT0", "FP32", array)])
        expected = run_onnx(models.mlp(), {"INPUT0": array})["OUTPUT0"]
        np.testing.assert_allclose(result.as_numpy("OUTPUT0"), expected, rtol=1e-5, atol=1e-6)

    await asyncio.gather(*map(ask, arrays))
