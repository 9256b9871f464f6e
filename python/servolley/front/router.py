"""Which handler answers a control call. Patterns match the path as it was sent; only what they capture is
percent-decoded, so that an escaped slash never makes a new segment."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from servolley.front.calls import Call, Reply, error_reply
from servolley.front.gate import CLOSED, Access, Gate
from servolley.repository.names import LARGEST_VERSION, valid_model_name
from servolley.status import invalid_argument

Answer = Reply | Awaitable[Reply]
Handler = Callable[[Call], Answer]

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class _Route:
    pattern: re.Pattern[str]
    handlers: dict[str, Handler]
    allow: str
    access: Access

    def access_of(self, method: str) -> Access:
        """Reading what others may not change is no change."""
        return Access.INSIGHT if self.access is Access.ADMIN and method == "GET" else self.access


class Router:
    """Patterns in order; the first that matches the path decides, whatever the verb."""

    def __init__(self) -> None:
        self._routes: list[_Route] = []
        self._fallbacks: list[tuple[str, Handler]] = []

    def add(
        self,
        pattern: str,
        handlers: dict[str, Handler],
        *,
        ignore_case: bool = False,
        access: Access = Access.OPEN,
    ) -> None:
        """``pattern``: a regular expression for the whole path; its named groups become ``Call.params``.

        A group named ``model`` must be a model name, one named ``version`` a 64-bit number.
        ``handlers``: verb -> handler; other verbs get 405 with Allow. ``access``: what their calls ask for;
        the GETs of what is for administrators ask for insight.
        """
        flags = re.ASCII | (re.IGNORECASE if ignore_case else 0)
        allow = ", ".join(sorted(handlers))
        self._routes.append(_Route(re.compile(pattern, flags), handlers, allow, access))

    def add_fallback(self, prefix: str, handler: Handler) -> None:
        """For paths that start with ``prefix`` (any letter case) and match no pattern."""
        self._fallbacks.append((prefix, handler))

    def answer(self, call: Call, gate: Gate = CLOSED) -> Answer:
        """Raises StatusError for a path that names something impossible, and for what ``gate`` refuses."""
        for route in self._routes:
            match = route.pattern.fullmatch(call.path)
            if match is None:
                continue
            handler = route.handlers.get(call.method)
            if handler is None:
                return error_reply(405, "Method Not Allowed", (("Allow", route.allow),))
            gate.check(route.access_of(call.method), call.headers)
            groups = {name: text for name, text in match.groupdict().items() if text is not None}
            if groups:
                return handler(replace(call, params=_checked(groups)))
            return handler(call)
        for prefix, handler in self._fallbacks:
            if call.path.lower().startswith(prefix):
                return handler(call)
        return error_reply(404, "Not Found")


def percent_decode(segment: str) -> str:
    """One path segment, sent as UTF-8. Raises StatusError for a broken escape or broken UTF-8."""
    raw = segment.encode("latin-1", "replace")  # the core shows bytes as Latin-1
    if _BROKEN_ESCAPE.search(raw):
        raise invalid_argument("malformed percent-escape in the path")
    try:
        return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), raw).decode()
    except UnicodeDecodeError:
        raise invalid_argument("the path is not UTF-8") from None


def _checked(groups: dict[str, str]) -> dict[str, str]:
    params = {name: percent_decode(text) for name, text in groups.items()}
    if "model" in params and not valid_model_name(params["model"]):
        raise invalid_argument("not a model name")
    if "version" in params:
        digits = params["version"].lstrip("0") or "0"
        if len(digits) > len(str(LARGEST_VERSION)) or int(digits) > LARGEST_VERSION:
            raise invalid_argument("Failed to convert version: it does not fit 64 bits")
        params["version"] = digits
    return params
