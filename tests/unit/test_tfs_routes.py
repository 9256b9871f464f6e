"""TensorFlow Serving's control calls over REST, without sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    pass

from unit.routes_front import Front, row


@pytest_asyncio.fixture
async def front() -> Front:
    front = Front()
    await front.load()
    return front


async def test_tfs_status(front: Front) -> None:
    for path in ("/v1/models/m", "/V1/Models/m"):
        assert await front.get(path) == {"model_version_status": [row(3), row(1)]}
    assert await front.get("/v1/models/m/versions/1") == {"model_version_status": [row(1)]}
    assert await front.get("/v1/models/m/labels/stable") == {"model_version_status": [row(1)]}
    assert await front.get("/v1/models/bad") == {
        "model_version_status": [row(1, "END", "INVALID_ARGUMENT", "not a model")]
    }


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/models/x", 404, "Could not find any versions of model x"),
        ("/v1/models/x/labels/l", 404, "Could not find any versions of model x"),
        ("/v1/models/m/versions/5", 404, "Could not find version 5 of model m"),
        ("/v1/models/m/labels/l", 400, "Unrecognized servable version label: l"),
        ("/v1/models/x/metadata", 404, "Servable not found for request: Latest(x)"),
        ("/v1/models/bad/metadata", 404, "Servable not found for request: Latest(bad)"),
        ("/v1/models/m/versions/5/metadata", 404, "Servable not found for request: Specific(m, 5)"),
        ("/v1/models/m/labels/l/metadata", 400, "Unrecognized servable version label: l"),
        ("/v1/models/m/", 400, "Malformed request: GET /v1/models/m/"),
        ("/v1/", 400, "Malformed request: GET /v1/"),
        ("/v1/models/m/versions/x", 400, "Malformed request: GET /v1/models/m/versions/x"),
        ("/v1/models/m:PREDICT", 400, "Malformed request: GET /v1/models/m:PREDICT"),
        ("/v1/models/m:explain?x=1", 400, "Malformed request: GET /v1/models/m:explain"),
    ],
)
async def test_tfs_errors(front: Front, path: str, status: int, text: str) -> None:
    assert await front.error("GET", path) == (status, text)


async def test_tfs_metadata(front: Front) -> None:
    def info(name: str, size: int) -> dict[str, Any]:
        return {
            "dtype": "DT_FLOAT",
            "tensor_shape": {
                "dim": [{"size": "-1", "name": ""}, {"size": str(size), "name": ""}],
                "unknown_rank": False,
            },
            "name": name,
        }

    signature = {
        "inputs": {"x": info("x", 16)},
        "outputs": {"y": info("y", 4)},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    expected: dict[str, Any] = {
        "model_spec": {"name": "m", "signature_name": "", "version": "3"},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }
    assert await front.get("/v1/models/m/metadata") == expected
    expected["model_spec"]["version"] = "1"
    assert await front.get("/v1/models/m/labels/stable/metadata") == expected


async def test_tfs_metadata_of_an_unknown_rank(front: Front) -> None:
    cast("Any", front.manager.models["m"].versions[3].servable).inputs[0].rank_known = False
    document = await front.get("/v1/models/m/metadata")
    shape = document["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["x"][
        "tensor_shape"
    ]
    assert shape == {"dim": [], "unknown_rank": True}


async def test_tfs_model_list(front: Front) -> None:
    models = (await front.get("/v1/models"))["models"]
    assert [model["name"] for model in models] == ["m", "bad"]
    assert models[0]["model_version_status"] == [row(3), row(1)]


async def test_tfs_options(front: Front) -> None:
    for path in ("/v1/models/m:predict", "/v1/models/m", "/v1/whatever"):
        assert (await front.ask("OPTIONS", path, origin="https://site.example")).status == 200
        assert (await front.error("OPTIONS", path))[0] == 400
