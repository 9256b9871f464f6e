"""A config.pbtxt of Triton's, held against the model that lies beside it."""

from __future__ import annotations

from pathlib import Path

from tritonclient.grpc import InferenceServerClient

import models
from integration.conftest import ServerFactory
from integration.server_process import wait_until

IDENTITY = (
    'name: "{name}" {batch} input {{ name: "INPUT0" {input} }} output {{ name: "OUTPUT0" {output} }} {rest}'
)


def config(name: str, input: str, output: str, batch: str = "", rest: str = "") -> str:  # noqa: A002
    return IDENTITY.format(name=name, batch=batch, input=input, output=output, rest=rest)


FP32 = "data_type: TYPE_FP32 dims: "
BATCHED = "max_batch_size: 4"


def test_tensors_are_compared_and_narrowed(serve: ServerFactory, tmp_path: Path) -> None:
    wrong = {
        "datatype": (
            "data_type: TYPE_INT32 dims: 3",
            FP32 + "-1",
            BATCHED,
            "'INPUT0' has the datatype INT32",
        ),
        "rank": (FP32 + "[ 3, 1 ]", FP32 + "-1", BATCHED, "'INPUT0' has the shape [3,1]"),
        "batch": (FP32 + "[ -1, 3 ]", FP32 + "-1", BATCHED, "with the batch dimension [-1,-1,3]"),
        "output": (FP32 + "3", "data_type: TYPE_FP64 dims: 3", BATCHED, "'OUTPUT0' has the datatype FP64"),
    }
    right = {
        "free": (FP32 + "-1", FP32 + "-1", BATCHED, [-1, -1]),
        "narrow": (FP32 + "3", FP32 + "3", BATCHED, [-1, 3]),
        "unbatched": (FP32 + "[ 2, 3 ]", FP32 + "[ 2, 3 ]", "", [2, 3]),
    }
    root = models.save_repository(tmp_path / "models", {name: models.identity() for name in wrong | right})
    for name, (given, output, batch, _) in (wrong | right).items():
        (root / name / "config.pbtxt").write_text(config(name, given, output, batch))
    (root / "free" / "config.pbtxt").write_text(
        config("free", FP32 + "-1", FP32 + "-1", BATCHED, 'metric_tags { key: "team" value: "vision" }')
    )
    server = serve(root, wait=False)
    server.wait_listening()
    wait_until(lambda: any("not ready" in line for line in server.stderr), 30, "loading is over")
    index = {entry["name"]: entry for entry in server.post("/v2/repository/index").json()}
    for name, (_, _, _, reason) in wrong.items():
        assert index[name]["state"] == "UNAVAILABLE", name
        assert reason in index[name]["reason"], index[name]
    for name, (_, _, _, shape) in right.items():
        assert index[name]["state"] == "READY", index[name]
        for tensors in ("inputs", "outputs"):
            assert server.get(f"/v2/models/{name}").json()[tensors][0]["shape"] == shape, name

    def status(model: str, shape: list[int]) -> int:
        data = [0.0] * (shape[0] * shape[1])
        tensor = {"name": "INPUT0", "datatype": "FP32", "shape": shape, "data": data}
        return server.infer(model, [tensor]).status

    assert (status("free", [1, 3]), status("free", [4, 7]), status("free", [5, 1])) == (200, 200, 400)
    assert (status("narrow", [2, 3]), status("narrow", [2, 4])) == (200, 400)
    assert (status("unbatched", [2, 3]), status("unbatched", [1, 3])) == (200, 400)
    # What is changed over the same weights is compared, too, and a mismatch leaves what serves.
    assert server.get("/v2/models/free/config").json()["metric_tags"] == {"team": "vision"}
    page = server.get("/metrics").body.decode()
    assert 'nv_inference_exec_count{_team="vision",model="free",version="1"} 2.0' in page
    assert 'nv_inference_exec_count{model="narrow",version="1"} 1.0' in page
    (root / "narrow" / "config.pbtxt").write_text(config("narrow", FP32 + "5", FP32 + "5", BATCHED))
    wait_until(lambda: status("narrow", [2, 5]) == 200, 30, "another shape holds")
    (root / "narrow" / "config.pbtxt").write_text(config("narrow", FP32 + "5", FP32 + "[ 5, 5 ]", BATCHED))
    wait_until(lambda: any("[5,5]" in line for line in server.stderr), 30, "it is noticed")
    assert status("narrow", [2, 5]) == 200


def test_what_is_only_shown(serve: ServerFactory, tmp_path: Path) -> None:
    """An owner's parameters, and the format of images: clients read them."""
    root = models.save_repository(tmp_path / "models", {name: models.identity() for name in ("m", "n", "t")})
    rest = """parameters { key: "owner" value: { string_value: "vision" } }
              parameters { key: "intra_op_thread_count" value: { string_value: "1" } }"""
    (root / "m" / "config.pbtxt").write_text(
        config("m", FP32 + "-1 format: FORMAT_NHWC", FP32 + "-1", BATCHED, rest)
    )
    (root / "t" / "model.toml").write_text("parameters = { a = 'b' }\ninput_formats = { INPUT0 = 'NCHW' }")
    server = serve(root)
    shown = {name: server.get(f"/v2/models/{name}/config").json() for name in ("m", "n", "t")}
    assert {name: document["input"][0]["format"] for name, document in shown.items()} == {
        "m": "FORMAT_NHWC",
        "n": "FORMAT_NONE",
        "t": "FORMAT_NCHW",
    }
    usual = shown["n"]["parameters"]
    own = {"owner": {"string_value": "vision"}, "intra_op_thread_count": {"string_value": "1"}}
    assert shown["m"]["parameters"] == usual | own
    assert shown["t"]["parameters"] == usual | {"a": {"string_value": "b"}}
    with InferenceServerClient(server.url) as client:
        answer = client.get_model_config("m").config
    assert answer.input[0].format == answer.input[0].FORMAT_NHWC
    assert {key: value.string_value for key, value in answer.parameters.items()} == {
        key: value["string_value"] for key, value in shown["m"]["parameters"].items()
    }
    # Changed, they are shown as they are, and nothing is loaded.
    (root / "t" / "model.toml").write_text("parameters = { a = 'c' }")
    wait_until(
        lambda: server.get("/v2/models/t/config").json()["parameters"]["a"] == {"string_value": "c"}, 30, "c"
    )
    assert server.get("/v2/models/t/config").json()["input"][0]["format"] == "FORMAT_NONE"
    assert server.log.count("loading model=") == 3
