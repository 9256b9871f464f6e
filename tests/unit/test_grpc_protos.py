"""Our .proto files against those of the stock clients: every message, field, enumeration and method."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

ROOT = Path(__file__).resolve().parents[2]

# What our files leave out of theirs on purpose, because nothing here could fill or obey it.
LEFT_OUT = {
    "inference.ModelConfig": {
        "ensemble_scheduling",
        "model_operations",
        "model_repository_agents",
        "sequence_batching",
    },
    "tensorflow.TensorInfo": {"composite_tensor"},
    "tensorflow.TensorProto": {"resource_handle_val", "variant_val"},
    # Here only the scope of the version policy, which ModelConfig uses.
    "tensorflow.serving.FileSystemStoragePathSourceConfig": {
        "fail_if_zero_versions_at_startup",
        "file_system_poll_wait_seconds",
        "servable_versions_always_present",
        "servables",
    },
    "tensorflow.serving.ModelConfig": {"logging_config"},
    "tensorflow.serving.PredictRequest": {"request_options"},
    "tensorflow.serving.PredictionLog": {"log_metadata"},
    "tensorflow.serving.PredictStreamedLog": {"request", "response"},
    "tensorflow.serving.SessionRunLog": {"request", "response"},
}


# What the server reads and no client of its knows.
SERVERS_OWN = {
    f"tensorflow.serving.{name}"
    for name in ("BatchingParameters", "MonitoringConfig", "PrometheusConfig", "SSLConfig")
}


class Vocabulary:
    """Files taken apart: messages, enumerations and methods by full name."""

    def __init__(self, files: list[FileDescriptorProto], rename: tuple[str, str] = ("", "")) -> None:
        self._rename = rename
        self.messages: dict[str, DescriptorProto] = {}
        self.enums: dict[str, EnumDescriptorProto] = {}
        self.methods: dict[str, tuple[str, str, bool, bool]] = {}
        for file in files:
            package = self._renamed(file.package)
            for enum in file.enum_type:
                self.enums[f"{package}.{enum.name}"] = enum
            for message in file.message_type:
                self._add(package, message)
            for service in file.service:
                for method in service.method:
                    self.methods[f"{package}.{service.name}/{method.name}"] = (
                        method.input_type,
                        method.output_type,
                        method.client_streaming,
                        method.server_streaming,
                    )

    def _renamed(self, name: str) -> str:
        theirs, ours = self._rename
        if not theirs:
            return name
        dot = "." if name.startswith(".") else ""
        bare = name.removeprefix(".")
        return dot + (ours + bare[len(theirs) :] if bare.split(".")[0] == theirs else bare)

    def _add(self, scope: str, message: DescriptorProto) -> None:
        name = f"{scope}.{message.name}"
        self.messages[name] = message
        for enum in message.enum_type:
            self.enums[f"{name}.{enum.name}"] = enum
        for nested in message.nested_type:
            self._add(name, nested)

    def fields(self, message: str) -> dict[str, tuple[Any, ...]]:
        descriptor = self.messages[message]
        return {field.name: self._meaning(descriptor, field) for field in descriptor.field}

    def _meaning(self, message: DescriptorProto, field: FieldDescriptorProto) -> tuple[Any, ...]:
        """Everything about a field that the wire or a client's code can see. That an enumeration is read as
        its number is the same on the wire; that repeated numbers are packed is proto3's default."""
        in_oneof = field.HasField("oneof_index") and not field.proto3_optional
        return (
            field.number,
            field.type,
            field.label,
            self._renamed(field.type_name),
            message.oneof_decl[field.oneof_index].name if in_oneof else None,
            message.options.map_entry,
        )


@pytest.fixture(scope="session")
def ours(descriptors: bytes) -> Vocabulary:
    return Vocabulary(list(FileDescriptorSet.FromString(descriptors).file))


def compare(ours: Vocabulary, theirs: Vocabulary, least: int) -> None:
    """What both have is the same, and what theirs has beyond ours is known."""
    common = theirs.messages.keys() & ours.messages.keys()
    assert len(common) >= least
    for name in sorted(common):
        expected, found = theirs.fields(name), ours.fields(name)
        assert found.keys() <= expected.keys(), name
        assert expected.keys() - found.keys() == LEFT_OUT.get(name, set()), name
        for field, meaning in found.items():
            assert meaning == expected[field], f"{name}.{field}"
    for name in theirs.enums.keys() & ours.enums.keys():
        values = {value.name: value.number for value in theirs.enums[name].value}
        for value in ours.enums[name].value:
            assert values[value.name] == value.number, f"{name}.{value.name}"
    for name in theirs.methods.keys() & ours.methods.keys():
        assert ours.methods[name] == theirs.methods[name], name


def of_module(module: Any) -> FileDescriptorProto:
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file


# --- tritonclient, grpcio-health-checking, grpcio-reflection ---


def test_inference(ours: Vocabulary) -> None:
    grpc = pytest.importorskip("tritonclient.grpc")
    theirs = Vocabulary([of_module(grpc.service_pb2), of_module(grpc.model_config_pb2)])
    compare(ours, theirs, least=90)
    in_service = Vocabulary([of_module(grpc.service_pb2)])
    assert in_service.messages.keys() <= ours.messages.keys()
    methods = {name for name in ours.methods if name.startswith("inference.")}
    assert methods == theirs.methods.keys()
    assert len(methods) == 20


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("grpc_health.v1.health_pb2", "grpc.health.v1."),
        ("grpc_reflection.v1alpha.reflection_pb2", "grpc.reflection.v1alpha."),
    ],
)
def test_grpcs_own(ours: Vocabulary, module: str, package: str) -> None:
    theirs = Vocabulary([of_module(pytest.importorskip(module))])
    compare(ours, theirs, least=2)
    own = {name for name in ours.methods if name.startswith(package)}
    assert own
    assert own <= theirs.methods.keys()
    assert {name for name in ours.messages if name.startswith(package)} <= theirs.messages.keys()


def test_the_two_reflections_differ_by_package_only(ours: Vocabulary) -> None:
    v1, v1alpha = (
        {name: ours.fields(name) for name in ours.messages if name.startswith(f"grpc.reflection.{version}.")}
        for version in ("v1", "v1alpha")
    )
    assert len(v1) == len(v1alpha) == 8
    for name, fields in v1.items():
        other = v1alpha[name.replace(".v1.", ".v1alpha.")]
        assert str(fields).replace(".v1.", ".v1alpha.") == str(other)


# --- tensorflow-serving-api: read, not imported, which would take TensorFlow ---


def described_in(package: str, folder: str) -> list[FileDescriptorProto]:
    """The descriptors inside the generated modules of an installed package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    paths = sorted(Path(spec.submodule_search_locations[0], folder).glob("*_pb2.py"))
    return [FileDescriptorProto.FromString(text) for path in paths for text in serialized_files(path)]


def serialized_files(path: Path) -> Iterator[bytes]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            argument = node.args[0] if node.args else None
            if node.func.attr == "AddSerializedFile" and isinstance(argument, ast.Constant):
                assert isinstance(argument.value, bytes)
                yield argument.value


def test_serving(ours: Vocabulary) -> None:
    files = described_in("tensorflow_serving", "apis") + described_in("tensorflow_serving", "config")
    theirs = Vocabulary(files)
    compare(ours, theirs, least=40)
    methods = {name for name in ours.methods if name.startswith("tensorflow.serving.")}
    assert methods <= theirs.methods.keys()
    assert len(methods) == 7
    assert {
        n for n in ours.messages if n.startswith("tensorflow.serving.")
    } <= theirs.messages.keys() | SERVERS_OWN


def test_tensorflow(ours: Vocabulary) -> None:
    """tensorboard carries TensorFlow's messages under a package name of its own."""
    for package, folder, rename in (
        ("tensorboard", "compat/proto", ("tensorboard", "tensorflow")),
        ("tensorflow", "core/framework", ("", "")),
    ):
        if importlib.util.find_spec(package) is not None:
            compare(ours, Vocabulary(described_in(package, folder), rename), least=8)
            return
    pytest.skip("neither tensorboard nor tensorflow is installed")


# --- beside each other in one process ---

BESIDE = """
import importlib, sys
sys.path[:0] = sys.argv[2:]
import unit.conftest
from servolley.front import grpc
grpc.__path__.append(sys.argv[1])
from servolley.front.grpc.messages import Messages
order = [lambda: Messages.built(), lambda: importlib.import_module("tritonclient.grpc"),
         lambda: importlib.import_module("grpc_health.v1.health_pb2"),
         lambda: importlib.import_module("grpc_reflection.v1alpha.reflection_pb2")]
{reverse}
for step in order:
    step()
theirs = sys.modules["tritonclient.grpc"].service_pb2.ModelReadyRequest(name="m", version="3")
mine = Messages.built().message("inference.ModelReadyRequest").FromString(theirs.SerializeToString())
assert type(mine) is not type(theirs)
assert (mine.name, mine.version) == ("m", "3")
print("both")
"""


@pytest.mark.parametrize("reverse", ["", "order.reverse()"])
def test_tritonclient_works_in_the_same_process(reverse: str, descriptors: bytes, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc")
    (tmp_path / "descriptors.bin").write_bytes(descriptors)
    command = [sys.executable, "-c", BESIDE.replace("{reverse}", reverse)]
    paths = [str(tmp_path), str(ROOT / "tests"), str(ROOT / "python")]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "both\n", done.stderr
