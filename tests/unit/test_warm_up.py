"""What is run before a version is available: declared tensors, recorded requests; and what failures do."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import tf_records
from servolley._core import crc32c
from servolley.config.model import ModelConfig, Runtime, Signature
from servolley.config.settings import Repository
from servolley.config.strict import ConfigError, parse_toml
from servolley.config.warm_up import Warmup, WarmupInput, WarmupRequest
from servolley.front.grpc.messages import Messages
from servolley.front.tf_records import records
from servolley.front.warm_up import MOST_RECORDS, RECORDED, WarmUp
from servolley.front.warm_up_tensors import fill_tensor
from servolley.repository.layout import ModelOnDisk
from servolley.repository.manager import Manager
from servolley.repository.records import VersionRecord
from servolley.repository.versions import State
from servolley.status import Code, StatusError
from unit import fake_core


@pytest.fixture(scope="module")
def messages(descriptors: bytes) -> Messages:
    return Messages(descriptors)


# --- record files


def read(data: bytes, largest: int = 1 << 20) -> list[bytes]:
    return list(records(io.BytesIO(data), len(data), largest))


def test_records_are_read_as_they_are_written() -> None:
    contents = [b"", b"a", bytes(range(256)) * 5]
    assert read(tf_records.record_file(contents)) == contents
    assert read(b"") == []
    assert [crc32c(content) for content in contents] == [tf_records.crc32c(content) for content in contents]


def test_files_that_are_none() -> None:
    good = tf_records.record_file([b"one", b"two"])
    for wrong in (b"x", b"not a record file at all", good[:-1], good[:20], good[1:], good + b"x"):
        with pytest.raises(StatusError) as refused:
            read(wrong)
        assert refused.value.code is Code.DATA_LOSS, wrong
    for at in range(len(good)):
        flipped = bytes([*good[:at], good[at] ^ 1, *good[at + 1 :]])
        with pytest.raises(StatusError) as refused:
            read(flipped)
        assert refused.value.code is Code.DATA_LOSS, at


def test_a_length_takes_no_memory_before_it_is_believed() -> None:
    for length in (1 << 40, (1 << 64) - 1):
        head = length.to_bytes(8, "little")
        with pytest.raises(StatusError) as refused:
            read(head + tf_records.masked(head) + b"x", largest=1 << 62)
        assert refused.value.code is Code.DATA_LOSS
    with pytest.raises(StatusError) as refused:
        read(tf_records.record(b"x" * 100), largest=99)
    assert refused.value.code is Code.RESOURCE_EXHAUSTED


# --- declared tensors


def filled(
    messages: Messages,
    spec: fake_core.TensorSpec,
    given: WarmupInput,
    rows: int | None,
    folder: Path | None = None,
) -> Any:
    tensor = messages.message("tensorflow.TensorProto")()
    fill_tensor(tensor, cast("Any", spec), given, rows, folder)
    return tensor


def shape_of(tensor: Any) -> list[int]:
    return [dim.size for dim in tensor.tensor_shape.dim]


SIZES = {
    "BOOL": 1,
    "INT8": 1,
    "UINT16": 2,
    "FP16": 2,
    "BF16": 2,
    "INT32": 4,
    "FP32": 4,
    "UINT64": 8,
    "FP64": 8,
}


@pytest.mark.parametrize(("datatype", "size"), SIZES.items())
def test_zeros_and_random_numbers(messages: Messages, datatype: str, size: int) -> None:
    spec = fake_core.TensorSpec("x", datatype, shape=[-1, 3, -1])
    zeros = filled(messages, spec, WarmupInput(), 4)
    assert shape_of(zeros) == [4, 3, 1]
    assert zeros.tensor_content == bytes(4 * 3 * size)
    given = WarmupInput(shape=[3, 2000], data="random")
    some = filled(messages, spec, given, 2)
    assert shape_of(some) == [2, 3, 2000]
    row = 6000 * size
    assert len(some.tensor_content) == 2 * row
    assert some.tensor_content[:row] == some.tensor_content[row:]
    assert some == filled(messages, spec, given, 2)
    numbers = numbers_of(datatype, some.tensor_content)
    assert 0 <= numbers.min() < numbers.max() <= 1


def numbers_of(datatype: str, content: bytes) -> Any:
    if datatype == "BF16":
        words = np.frombuffer(content, "<u2").astype(np.uint32) << 16
        return words.view(np.float32)
    kinds = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BOOL": "u1", "INT8": "i1"}
    kinds |= {"UINT16": "<u2", "INT32": "<i4", "UINT64": "<u8"}
    return np.frombuffer(content, kinds[datatype])


def test_texts(messages: Messages, tmp_path: Path) -> None:
    spec = fake_core.TensorSpec("x", "BYTES", shape=[-1, -1])
    assert list(filled(messages, spec, WarmupInput(shape=[2]), 3).string_val) == [b""] * 6
    some = list(filled(messages, spec, WarmupInput(shape=[5000], data="random"), 2).string_val)
    assert len(some) == 10_000
    assert some[:5000] == some[5000:]
    assert len(set(some)) > 1000
    packed = b"".join(struct.pack("<I", len(text)) + text for text in (b"ab", b"", b"cde"))
    (tmp_path / "t").write_bytes(packed)
    given = WarmupInput(shape=[3], file="t")
    assert list(filled(messages, spec, given, 1, tmp_path).string_val) == [b"ab", b"", b"cde"]
    for wrong in (packed[:-1], packed + b"\0\0\0\0", b"", packed[:2], b"\xff\xff\xff\xff" + packed):
        (tmp_path / "t").write_bytes(wrong)
        with pytest.raises(StatusError, match="elements"):
            filled(messages, spec, given, 1, tmp_path)


def test_files_and_where_they_lie(messages: Messages, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "warmup").mkdir(parents=True)
    (folder / "warmup" / "x").write_bytes(bytes(range(12)))
    (tmp_path / "secret").write_bytes(bytes(12))
    (folder / "link").symlink_to(tmp_path / "secret")
    spec = fake_core.TensorSpec("x", shape=[-1, 3])
    tensor = filled(messages, spec, WarmupInput(file="warmup/x"), 2, folder)
    assert tensor.tensor_content == bytes(range(12)) * 2
    for name, word in (
        ("../secret", "outside"),
        ("/etc/hostname", "outside"),
        ("link", "outside"),
        ("warmup", "no file"),
        ("nobody", "no file"),
        ("a\0b", "cannot read"),
    ):
        with pytest.raises(StatusError, match=word):
            filled(messages, spec, WarmupInput(file=name), 2, folder)
    (folder / "warmup" / "x").write_bytes(bytes(11))
    with pytest.raises(StatusError, match="11 bytes, one row has 12"):
        filled(messages, spec, WarmupInput(file="warmup/x"), 2, folder)
    with pytest.raises(StatusError, match="single model file"):
        filled(messages, spec, WarmupInput(file="warmup/x"), 2, None)


def test_tensors_that_do_not_fit(messages: Messages) -> None:
    spec = fake_core.TensorSpec("x", shape=[-1, 3])
    unknown = fake_core.TensorSpec("x", shape=[], rank_known=False)
    for of, given, rows, word in (
        (spec, WarmupInput(shape=[4]), 1, r"\[4\] is not \[3\], without the batch dimension"),
        (spec, WarmupInput(shape=[1, 3]), 1, "is not"),
        (spec, WarmupInput(datatype="FP64"), 1, "FP32, not FP64"),
        (spec, WarmupInput(), 1 << 30, "more than"),
        (spec, WarmupInput(shape=[1 << 40, 3]), None, "more than"),
        (unknown, WarmupInput(), 1, "give one"),
    ):
        with pytest.raises(StatusError, match=word):
            filled(messages, of, given, rows)
    assert shape_of(filled(messages, unknown, WarmupInput(shape=[2, 5]), None)) == [2, 5]
    assert shape_of(filled(messages, spec, WarmupInput(shape=[0, 3]), None)) == [0, 3]


# --- what is run


class Fixture:
    """The model m, version 1, with one FP32 input x and one output y."""

    def __init__(self, root: Path, messages: Messages, **arguments: Any) -> None:
        self.engine = fake_core.Engine()
        self.messages = messages
        self.warm_up = WarmUp(cast("Any", self.engine), lambda: messages, **arguments)
        self.directory = root / "m"
        self.path = self.directory / "1" / "model.onnx"
        self.path.parent.mkdir(parents=True)

    def found(self, **config: Any) -> ModelOnDisk:
        return ModelOnDisk("m", self.directory, ModelConfig(**config), {1: self.path})

    def run(self, **config: Any) -> list[tuple[Any, int]]:
        """The requests that are run, and how often each."""
        self.engine.warm_ups.clear()
        life = VersionRecord(1, self.path)
        self.warm_up(self.found(**config), life, cast("Any", fake_core.Servable("m", 1)))
        predict = self.messages.message("tensorflow.serving.PredictRequest")
        return [(predict.FromString(request), runs) for _, _, request, runs in self.engine.warm_ups]

    def fails(self, **config: Any) -> tuple[Code, str]:
        with pytest.raises(StatusError) as failure:
            self.run(**config)
        return failure.value.code, failure.value.message

    def record(self, *contents: bytes) -> None:
        file = self.path.parent / RECORDED
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(tf_records.record_file(contents))

    def log(self, kind: str, request: dict[str, Any]) -> bytes:
        from google.protobuf import json_format

        message = self.messages.message("tensorflow.serving.PredictionLog")()
        document = {kind: {"request": request}} if request else {kind: {}}
        return json_format.ParseDict(document, message).SerializeToString()


@pytest.fixture
def f(tmp_path: Path, messages: Messages) -> Fixture:
    return Fixture(tmp_path, messages)


def test_declared_requests_are_run_in_order(f: Fixture) -> None:
    declared = [
        WarmupRequest(name="a", batch_size=2, count=3, inputs={"x": WarmupInput(data="random")}),
        WarmupRequest(),
    ]
    (first, often), (second, once) = f.run(warmup=Warmup(requests=declared))
    assert (often, once) == (3, 1)
    assert (first.inputs["x"].dtype, shape_of(first.inputs["x"])) == (1, [2, 16])
    assert shape_of(second.inputs["x"]) == [1, 16]
    assert f.run() == []


def test_declared_requests_that_are_none(f: Fixture) -> None:
    for request, word in (
        (
            WarmupRequest(name="a", inputs={"nobody": WarmupInput()}),
            "request 'a': the model has no input 'nobody'",
        ),
        (WarmupRequest(batch_size=9), "request 0: batch_size 9, the model takes 8"),
        (WarmupRequest(inputs={"x": WarmupInput(shape=[3])}), "request 0: input 'x'"),
    ):
        code, text = f.fails(warmup=Warmup(requests=[request]))
        assert (code, text.startswith(f"warm-up: {word}")) == (Code.INVALID_ARGUMENT, True), text


def test_recorded_requests_of_every_kind(f: Fixture) -> None:
    predict = {"model_spec": {"name": "other"}, "inputs": {"x": {"dtype": 1, "float_val": [7.0]}}}
    features = {"feature": {"x": {"float_list": {"value": [5.0] * 16}}}}
    examples = {"example_list": {"examples": [{"features": features}]}}
    spec = {"name": "m", "signature_name": "r"}
    f.record(
        f.log("predict_log", predict),
        f.log("regress_log", {"model_spec": spec, "input": examples}),
        f.log("classify_log", {"model_spec": {"name": "m", "signature_name": "c"}, "input": examples}),
        f.log(
            "multi_inference_log",
            {
                "tasks": [{"model_spec": spec, "method_name": "tensorflow/serving/regress"}] * 2,
                "input": examples,
            },
        ),
    )
    signatures = {"r": Signature(method="regress"), "c": Signature(method="classify")}
    ran = f.run(signatures=signatures)
    values = [list(request.inputs["x"].float_val) for request, _ in ran]
    assert values == [[7.0], *[[5.0] * 16] * 4]
    assert {runs for _, runs in ran} == {1}


def test_recorded_requests_that_are_none(f: Fixture, messages: Messages, tmp_path: Path) -> None:
    for content, code, word in (
        (f.log("session_run_log", {}), Code.UNIMPLEMENTED, "session_run_log"),
        (f.log("predict_streamed_log", {}), Code.UNIMPLEMENTED, "predict_streamed_log"),
        (b"", Code.UNIMPLEMENTED, "none"),
        (b"\xff\xff", Code.INVALID_ARGUMENT, "no PredictionLog"),
        (
            f.log("regress_log", {"model_spec": {"signature_name": "nobody"}}),
            Code.INVALID_ARGUMENT,
            "No signature",
        ),
        (
            f.log("multi_inference_log", {"tasks": [{"method_name": "x"}]}),
            Code.UNIMPLEMENTED,
            "method_name: x",
        ),
    ):
        f.record(f.log("predict_log", {"inputs": {}}), content)
        found, text = f.fails()
        assert (found, word in text) == (code, True), text
        assert text.startswith(f"warm-up: record 1 of {RECORDED}: ")
    (f.path.parent / RECORDED).write_bytes(b"no record file")
    assert f.fails()[0] is Code.DATA_LOSS
    (f.path.parent / RECORDED).unlink()
    (f.path.parent / RECORDED).mkdir()
    assert f.fails()[0] is Code.INVALID_ARGUMENT


def test_there_is_a_limit_to_records(f: Fixture) -> None:
    one = f.log("predict_log", {"inputs": {}})
    f.record(*[one] * MOST_RECORDS)
    assert len(f.run()) == MOST_RECORDS
    f.record(*[one] * (MOST_RECORDS + 1))
    code, text = f.fails()
    assert (code, "more than 1000 records" in text) == (Code.INVALID_ARGUMENT, True)


def test_iterations_and_a_folder_around_the_model(tmp_path: Path, messages: Messages) -> None:
    f = Fixture(tmp_path, messages, iterations=4)
    f.record(f.log("predict_log", {"inputs": {}}))
    f.path = f.path / "model.onnx"
    assert [runs for _, runs in f.run()] == [4]


def test_it_ends_when_it_takes_too_long(tmp_path: Path, messages: Messages) -> None:
    times = iter(range(0, 1000, 10))
    f = Fixture(tmp_path, messages, now=lambda: float(next(times)))
    requests = [WarmupRequest()] * 10
    assert len(f.run(warmup=Warmup(requests=requests, max_time_s=35))) == 3


# --- and the load


async def settled(f: Fixture, until: Callable[[Manager], bool], **config: Any) -> Manager:
    manager = Manager(
        cast("Any", f.engine), Repository(load_retries=0), asyncio.get_running_loop(), f.warm_up
    )
    await manager.load_first({"m": f.found(**config)})
    assert until(manager)
    return manager


async def test_a_failing_warm_up_fails_the_load(f: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(fake_core.Servable, "close", lambda self: closed.append(self.version))
    warmup = Warmup(requests=[WarmupRequest(name="w")])
    f.engine.warm_up_failure = fake_core.core_error("INVALID_ARGUMENT", 400, "no such shape")
    manager = await settled(f, lambda manager: not manager.ready, warmup=warmup)
    life = manager.models["m"].versions[1]
    assert life.state is State.END
    assert life.failure is not None
    assert (life.failure.code, life.failure.message) == (
        "INVALID_ARGUMENT",
        "warm-up: request 'w': no such shape",
    )
    assert closed == [1]
    assert f.engine.routes["m"] == ([], None, {})


async def test_a_version_is_available_after_its_warm_up(f: Fixture) -> None:
    warmup = Warmup(requests=[WarmupRequest()])
    await settled(f, lambda manager: manager.ready, warmup=warmup)
    assert len(f.engine.warm_ups) == 1
    assert f.engine.routes["m"] == ([1], 1, {})


async def test_other_batching_over_the_same_weights_is_warmed_up_as_well(f: Fixture) -> None:
    warmup = Warmup(requests=[WarmupRequest(name="w")])
    manager = await settled(f, lambda manager: manager.ready, warmup=warmup)
    old = manager.models["m"].versions[1].servable

    async def take(instances: int) -> None:
        manager.apply({"m": f.found(warmup=warmup, runtime=Runtime(instances=instances))})
        await manager.settle("m")

    await take(2)
    assert (len(f.engine.reconfigured), len(f.engine.warm_ups)) == (1, 2)
    second = manager.models["m"].versions[1].servable
    assert second is not old
    # A failure leaves what serves.
    f.engine.warm_up_failure = fake_core.core_error("INTERNAL", 500, "no")
    await take(3)
    assert len(f.engine.reconfigured) == 2
    assert manager.models["m"].versions[1].servable is second
    assert manager.ready


# --- model.toml


def test_in_model_toml() -> None:
    text = """
    [warmup]
    batch_sizes = [3]
    [[warmup.requests]]
    name = "a"
    batch_size = 2
    inputs.x = { shape = [3], data = "random" }
    [[warmup.requests]]
    [warmup.requests.inputs]
    y = { file = "warmup/y.bin" }
    """
    config = parse_toml(text, ModelConfig, source="model.toml")
    assert config.warmup == Warmup(
        batch_sizes=[3],
        requests=[
            WarmupRequest(name="a", batch_size=2, inputs={"x": WarmupInput(shape=[3], data="random")}),
            WarmupRequest(inputs={"y": WarmupInput(file="warmup/y.bin")}),
        ],
    )
    for wrong, word in (
        ("[warmup]\nbatch_size = [3]", "did you mean 'batch_sizes'"),
        ("[[warmup.requests]]\nbatchsize = 3", "warmup.requests.0.batchsize', did you mean 'batch_size'"),
        (
            "[[warmup.requests]]\ninputs.x = { dat = 'zero' }",
            "'warmup.requests.0.inputs.x.dat', did you mean 'data'",
        ),
        ("[[warmup.requests]]\nbatch_size = 0", "batch_size"),
        ("[[warmup.requests]]\ninputs.x = { data = 'ones' }", "data"),
        ("[[warmup.requests]]\ninputs.x = { shape = [-1] }", "shape"),
        ("[warmup]\nrequests = 3", "requests"),
        ("[warmup]\nmax_time_s = 0", "max_time_s"),
    ):
        with pytest.raises(ConfigError) as refused:
            parse_toml(wrong, ModelConfig, source="model.toml")
        assert word in str(refused.value), refused.value
