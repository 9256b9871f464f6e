"""Server reflection, so that tools need no .proto files: which services there are, and their descriptors."""

from typing import TYPE_CHECKING, Any

from google.protobuf.message_factory import GetMessageClass

from servolley.front.grpc.messages import Messages, reader
from servolley.front.grpc.methods import Conversation, Method
from servolley.status import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import FileDescriptor

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Reflection:
    """``services``: full names of what is served, reflection itself included."""

    def __init__(self, services: list[str]) -> None:
        self._services = sorted(services)

    def methods(self, messages: Messages) -> dict[str, Method]:
        targets = [f"/{service}/ServerReflectionInfo" for service in SERVICES]
        return {target: self._version(messages, target) for target in targets}

    def _version(self, messages: Messages, target: str) -> Conversation:
        """The two versions of the protocol have the same messages in two packages."""
        descriptor = messages.method(target)
        response: Callable[..., Any] = GetMessageClass(descriptor.output_type)
        index = _Index(messages)

        def answer(request: Any) -> bytes:
            message = response(valid_host=request.host, original_request=request)
            self._answer(index, request, message)
            return bytes(message.SerializeToString())

        return Conversation(reader(GetMessageClass(descriptor.input_type)), answer)

    def _answer(self, index: "_Index", request: Any, message: Any) -> None:
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in self._services:
                    message.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                message.file_descriptor_response.file_descriptor_proto.extend(
                    index.file(request.file_by_filename)
                )
            elif kind == "file_containing_symbol":
                message.file_descriptor_response.file_descriptor_proto.extend(
                    index.symbol(request.file_containing_symbol)
                )
            elif kind == "all_extension_numbers_of_type":
                # None of our messages has extensions.
                index.message(request.all_extension_numbers_of_type)
                message.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
            elif kind == "file_containing_extension":
                raise KeyError("extension")
            else:
                _refuse(message, Code.INVALID_ARGUMENT, "the request asks for nothing")
        except KeyError:
            _refuse(message, Code.NOT_FOUND, f"{kind}: not found")


class _Index:
    """Serialized files by name and by symbol, each with everything that it imports."""

    def __init__(self, messages: Messages) -> None:
        self._pool = messages.pool
        self._files = messages.files
        self._closures: dict[str, list[bytes]] = {}

    def file(self, name: str) -> list[bytes]:
        """The file first, then its imports. Raises KeyError."""
        if name not in self._closures:
            found: dict[str, None] = {}
            _collect(self._pool.FindFileByName(name), found)
            self._closures[name] = [self._files[each] for each in found]
        return self._closures[name]

    def symbol(self, symbol: str) -> list[bytes]:
        """A message, enumeration, service, method or field. Raises KeyError."""
        try:
            file = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            owner, dot, member = symbol.rpartition(".")
            if not dot or member not in self._pool.FindServiceByName(owner).methods_by_name:
                raise
            file = self._pool.FindFileContainingSymbol(owner)
        return self.file(file.name)

    def message(self, name: str) -> None:
        self._pool.FindMessageTypeByName(name)


def _collect(file: "FileDescriptor", found: dict[str, None]) -> None:
    if file.name not in found:
        found[file.name] = None
        for imported in file.dependencies:
            _collect(imported, found)


def _refuse(message: Any, code: Code, text: str) -> None:
    message.error_response.error_code = code.grpc_number
    message.error_response.error_message = text
