"""The one error vocabulary, as Python speaks it. The table is the core's (csrc/base/status.cc); a test
compares the two."""

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servolley._core import CoreError


class Code(Enum):
    """A canonical code: its name as TensorFlow Serving prints it, its HTTP status, its number in gRPC."""

    CANCELLED = ("CANCELLED", 499, 1)
    UNKNOWN = ("UNKNOWN", 500, 2)
    INVALID_ARGUMENT = ("INVALID_ARGUMENT", 400, 3)
    DEADLINE_EXCEEDED = ("DEADLINE_EXCEEDED", 504, 4)
    NOT_FOUND = ("NOT_FOUND", 404, 5)
    ALREADY_EXISTS = ("ALREADY_EXISTS", 409, 6)
    PERMISSION_DENIED = ("PERMISSION_DENIED", 403, 7)
    FAILED_PRECONDITION = ("FAILED_PRECONDITION", 400, 9)
    ABORTED = ("ABORTED", 409, 10)
    RESOURCE_EXHAUSTED = ("RESOURCE_EXHAUSTED", 429, 8)
    UNIMPLEMENTED = ("UNIMPLEMENTED", 501, 12)
    INTERNAL = ("INTERNAL", 500, 13)
    UNAVAILABLE = ("UNAVAILABLE", 503, 14)
    DATA_LOSS = ("DATA_LOSS", 500, 15)
    TOO_LARGE = ("RESOURCE_EXHAUSTED", 413, 8)
    UNSUPPORTED_MEDIA = ("UNIMPLEMENTED", 415, 12)
    METHOD_NOT_ALLOWED = ("UNIMPLEMENTED", 405, 12)

    def __init__(self, canonical: str, http_status: int, grpc_number: int) -> None:
        self.canonical = canonical
        self.http_status = http_status
        self.grpc_number = grpc_number


class StatusError(Exception):
    """A failure whose text may be shown to a client."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid_argument(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    return StatusError(Code.NOT_FOUND, message)


def permission_denied(message: str) -> StatusError:
    return StatusError(Code.PERMISSION_DENIED, message)


def unavailable(message: str) -> StatusError:
    return StatusError(Code.UNAVAILABLE, message)


def unimplemented(message: str) -> StatusError:
    return StatusError(Code.UNIMPLEMENTED, message)


_BY_BOTH = {(code.canonical, code.http_status): code for code in Code}
_BY_NAME = {code.canonical: code for code in reversed(Code)}  # where several share one, the plainest


def core_failure(error: "CoreError") -> StatusError:
    """An error of the core's, whose text may be shown to a client."""
    code = _BY_BOTH.get((error.code, error.http_status)) or _BY_NAME.get(error.code, Code.INTERNAL)
    return StatusError(code, str(error))
