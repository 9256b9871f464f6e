"""A control call and its reply."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from servolley.status import Code, StatusError

if TYPE_CHECKING:
    from servolley._core import ControlCall

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """One control call. ``path``: as sent, without the query. ``params``: of the route, percent-decoded."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    params: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_core(cls, call: "ControlCall") -> "Call":
        return cls(call.method, call.target.partition("?")[0], call.headers, call.body)

    def header(self, name: str) -> str | None:
        """The first header of that lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object. Raises StatusError."""
        if not self.body:
            return {}
        try:
            document = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise StatusError(Code.INVALID_ARGUMENT, f"failed to parse the request JSON: {error}") from error
        if not isinstance(document, dict):
            raise StatusError(Code.INVALID_ARGUMENT, "the request must be a JSON object")
        return document


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer. An empty ``content_type`` sends no such header; ``headers`` are names and values."""

    status: int
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def extra_headers(self) -> str:
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers)


def json_reply(document: object) -> Reply:
    return Reply(200, orjson.dumps(document), JSON)


def error_reply(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """``{"error": message}``, which every dialect and every client here understands."""
    # A path may be any bytes: what is not Unicode by itself is replaced, never refused.
    text = message.encode("utf-8", "replace").decode()
    return Reply(status, orjson.dumps({"error": text}), JSON, headers)


def status_reply(error: StatusError) -> Reply:
    return error_reply(error.code.http_status, error.message)
