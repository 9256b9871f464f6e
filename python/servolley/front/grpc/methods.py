"""What a gRPC method is, before any message class exists. ``read`` parses a request and raises StatusError
for bytes that are none."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from servolley.front.gate import Access

Read = Callable[[bytes], Any]


class Stream(Protocol):
    """The server's side of one call of a ``ServerStream``."""

    def send(self, message: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Unary:
    """``answer``: the serialized response, at once or later; raises StatusError. ``access``: what its calls
    ask for, or each request."""

    read: Read
    answer: Callable[[Any], bytes | Awaitable[bytes]]
    access: Access | Callable[[Any], Access] = Access.OPEN


@dataclass(frozen=True, slots=True)
class ServerStream:
    """One request, then messages until somebody ends the call.

    ``begin``: sends by itself from then on; what it returns is called once when the call is over.
    """

    read: Read
    begin: Callable[[Any, Stream], Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One response for each request, in order, until the client has no more."""

    read: Read
    answer: Callable[[Any], bytes]


Method = Unary | ServerStream | Conversation
Find = Callable[[str], Method | None]
"""A method by its target, "/package.Service/Method"."""
