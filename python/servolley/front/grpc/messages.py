"""Our messages: the descriptors that the build made of protos/, in a pool of their own. In protobuf's default
pool they would collide with those of tritonclient or tensorflow-serving-api in the same process."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from servolley.front import grpc
from servolley.front.gate import Access
from servolley.front.grpc.methods import Read, Unary
from servolley.status import invalid_argument

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

DESCRIPTORS = "descriptors.bin"

Document = dict[str, Any]


class Messages:
    """Message classes by their full name. ``serialized``: a FileDescriptorSet, imported files first."""

    def __init__(self, serialized: bytes) -> None:
        self.pool = DescriptorPool()
        self.files: dict[str, bytes] = {}
        for file in descriptor_pb2.FileDescriptorSet.FromString(serialized).file:
            self.files[file.name] = file.SerializeToString()
            self.pool.AddSerializedFile(self.files[file.name])

    @classmethod
    def built(cls) -> "Messages":
        return cls(built_descriptors())

    def message(self, full_name: str) -> "type[Message]":
        return GetMessageClass(self.pool.FindMessageTypeByName(full_name))

    def method(self, target: str) -> "MethodDescriptor":
        """``target``: "/package.Service/Method"."""
        service, _, name = target[1:].partition("/")
        return self.pool.FindServiceByName(service).methods_by_name[name]

    def read(self, target: str) -> Read:
        return reader(GetMessageClass(self.method(target).input_type))

    def unary(
        self,
        target: str,
        answer: "Callable[[Any], Document | Awaitable[Document]]",
        access: "Access | Callable[[Any], Access]" = Access.OPEN,
    ) -> Unary:
        """A method whose handler answers with a document: the response in protobuf's JSON form."""
        response = GetMessageClass(self.method(target).output_type)

        def rendered(document: Document) -> bytes:
            message = json_format.ParseDict(document, response(), descriptor_pool=self.pool)
            return message.SerializeToString()

        async def rendered_later(document: "Awaitable[Document]") -> bytes:
            return rendered(await document)

        def handler(request: Any) -> bytes | Awaitable[bytes]:
            document = answer(request)
            return rendered(document) if isinstance(document, dict) else rendered_later(document)

        return Unary(self.read(target), handler, access)


def reader(message: "type[Message]") -> Read:
    def read(body: bytes) -> Any:
        try:
            return message.FromString(body)
        except DecodeError:
            name = message.DESCRIPTOR.full_name
            raise invalid_argument(f"failed to parse the request: not a {name} message") from None

    return read


def built_descriptors() -> bytes:
    """The FileDescriptorSet of protos/. Raises FileNotFoundError where it was not built."""
    # An editable install keeps what was built apart from the sources: the package has two folders.
    for folder in grpc.__path__:
        path = Path(folder, DESCRIPTORS)
        if path.is_file():
            return path.read_bytes()
    raise FileNotFoundError(f"{DESCRIPTORS} was not built")
