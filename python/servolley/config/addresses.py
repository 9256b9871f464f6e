"""Where to listen, as one word: "HOST:PORT", "[IPV6]:PORT" or "unix:PATH"."""

import re
from dataclasses import dataclass

_TCP = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]/]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """port 0: any free one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str


def parse_address(text: str) -> TcpAddress | UnixAddress:
    """Raises ValueError with a text for the user."""
    scheme, _, path = text.partition(":")
    if scheme == "unix" and path:
        return UnixAddress(path)
    match = _TCP.fullmatch(text)
    if match is None or int(match["port"]) > _LARGEST_PORT:
        raise ValueError(f"not an address: {text!r} (write HOST:PORT, [IPV6]:PORT or unix:PATH)")
    return TcpAddress(match["six"] or match["host"], int(match["port"]))
