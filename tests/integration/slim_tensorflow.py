"""The stock ``tensorflow_serving`` modules without TensorFlow, of which they need only modules of messages.

Both come from PyPI without their dependencies: the modules from tensorflow-serving-api, TensorFlow's messages
from tensorboard, which carries copies under a package name of its own. Messages that tensorboard lacks
(examples, error codes: no test here sends any) are those of our own .proto files.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pool, wrappers_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass

from servolley.front.grpc.messages import built_descriptors

#: In the default pool once they are imported.
_IMPORTED = (any_pb2, wrappers_pb2)

_THEIRS = "tensorboard/compat/proto/"
#: Where tensorflow_serving imports them from; whatever else they need is put beside the tensor.
_PLACES = {
    "meta_graph": "tensorflow/core/protobuf/",
    "error_codes": "tensorflow/core/protobuf/",
    "example": "tensorflow/core/example/",
}
_ELSEWHERE = "tensorflow/core/framework/"
_importing = threading.Lock()


def stock_module(name: str) -> Any:
    """The module of that name in tensorflow_serving.apis, as its users import it."""
    for package in ("tensorflow_serving", "tensorboard"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: ./dev test does it", allow_module_level=True)
    whole = f"tensorflow_serving.apis.{name}"
    with _importing:
        if whole not in sys.modules:
            modules = _tensorflow_modules()
            sys.modules.update(modules)
            try:
                importlib.import_module(whole)
            finally:
                # Nobody else shall take this for TensorFlow.
                for module in modules:
                    del sys.modules[module]
        return sys.modules[whole]


_made: dict[str, ModuleType] = {}


def _tensorflow_modules() -> dict[str, ModuleType]:
    if not _made:
        pool = descriptor_pool.Default()
        for package in (
            "tensorflow",
            *(f"tensorflow.{sub}" for sub in ("core", "core.framework", "core.protobuf", "core.example")),
        ):
            _made[package] = ModuleType(package)
        for file in [*_from_tensorboard("tensor", "meta_graph"), *_from_ours("example", "error_codes")]:
            pool.AddSerializedFile(file.SerializeToString())
            found = pool.FindFileByName(file.name)
            module = ModuleType(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
            module.__dict__["DESCRIPTOR"] = found
            for message in found.message_types_by_name.values():
                module.__dict__[message.name] = GetMessageClass(message)
            # TensorFlow's file of error codes hands on another's, which its importers ask it for.
            module.__dict__["xla_dot_tsl_dot_protobuf_dot_error__codes__pb2"] = module
            _made[module.__name__] = module
            parent, _, last = module.__name__.rpartition(".")
            setattr(_made[parent], last, module)
    return _made


def _place(path: str) -> str:
    stem = Path(path).stem
    return f"{_PLACES.get(stem, _ELSEWHERE)}{stem}.proto"


def _from_tensorboard(*wanted: str) -> list[FileDescriptorProto]:
    """Imported files first, with TensorFlow's names for everything."""
    spec = importlib.util.find_spec("tensorboard")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0], "compat", "proto")
    ordered: dict[str, FileDescriptorProto] = {}

    def add(stem: str) -> None:
        if stem in ordered:
            return
        file = _described(folder / f"{stem}_pb2.py")
        for dependency in file.dependency:
            if dependency.startswith(_THEIRS):
                add(Path(dependency).stem)
        ordered[stem] = _renamed(file)

    for stem in wanted:
        add(stem)
    return list(ordered.values())


def _described(path: Path) -> FileDescriptorProto:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            argument = node.args[0] if node.args else None
            if node.func.attr == "AddSerializedFile" and isinstance(argument, ast.Constant):
                assert isinstance(argument.value, bytes)
                return FileDescriptorProto.FromString(argument.value)
    raise AssertionError(f"no descriptor in {path}")


def _renamed(file: FileDescriptorProto) -> FileDescriptorProto:
    def rename_types(message: DescriptorProto) -> None:
        for field in message.field:
            if field.type_name.startswith(".tensorboard."):
                field.type_name = ".tensorflow." + field.type_name.removeprefix(".tensorboard.")
        for nested in message.nested_type:
            rename_types(nested)

    file.name = _place(file.name)
    file.package = file.package.replace("tensorboard", "tensorflow", 1)
    file.dependency[:] = [_place(name) if name.startswith(_THEIRS) else name for name in file.dependency]
    for message in file.message_type:
        rename_types(message)
    assert not file.service
    return file


def _from_ours(*wanted: str) -> list[FileDescriptorProto]:
    files = FileDescriptorSet.FromString(built_descriptors()).file
    found = [file for file in files if file.name in {f"tensorflow/{stem}.proto" for stem in wanted}]
    assert len(found) == len(wanted)
    for file in found:
        assert not file.dependency
        file.name = _place(file.name)
    return found
