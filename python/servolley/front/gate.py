"""Who may change the server. Routes and methods say what they ask for; each listener has a gate that says
whether it may be asked there, and by whom."""

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from servolley.status import permission_denied

Headers = Iterable[tuple[str, str]]

_LARGEST_TOKEN_FILE_BYTES = 4096
_TOKEN = re.compile(r"[!-~]{16,1024}", re.ASCII)
_SCHEME = re.compile(r"bearer +", re.ASCII | re.IGNORECASE)

_FROM_A_PAGE = (
    "admin calls from web pages are not taken: this one has an Origin header, and the server no admin token"
)
_REACHABLE = (
    "admin calls are off at this address, because others can reach it: start the server with "
    "--admin-token-file FILE, or with --admin-listen 127.0.0.1:PORT"
)
_ELSEWHERE = "admin calls are not taken at this address: the server has another for them (--admin-listen)"
_NO_TOKEN = "admin calls need the admin token, as 'Authorization: Bearer TOKEN'"  # noqa: S105
_WRONG_TOKEN = "this is not the admin token"  # noqa: S105

_log = logging.getLogger(__name__)


class Access(Enum):
    """What a call asks for.

    OPEN: nothing that everybody who reaches the port may not have. ADMIN: a change of the server. INSIGHT: to
    read what concerns the administrator: open until there is a token or an address for admin calls.
    """

    OPEN = "open"
    INSIGHT = "insight"
    ADMIN = "admin"


class AdminError(Exception):
    """Admin calls cannot be set up as asked for; the text is for the user."""


class AdminToken:
    """The token in a file. Only its digest is kept, and two of those are compared in constant time."""

    def __init__(self, path: Path) -> None:
        """Raises AdminError."""
        self._path = path
        self._digest = _digest_in(path)

    async def read_again(self) -> None:
        """A file that cannot be used leaves the token that was."""
        try:
            self._digest = await asyncio.to_thread(_digest_in, self._path)
        except AdminError as error:
            _log.error("the admin token was not read again, the old one stays: %s", error)
        else:
            _log.info("the admin token was read again")

    def check(self, headers: Headers) -> None:
        """Exactly one Authorization header, with the token. Raises StatusError."""
        values = [value for name, value in headers if name == "authorization"]
        if not values:
            raise permission_denied(_NO_TOKEN)
        scheme = _SCHEME.match(values[0])
        given = values[0][scheme.end() :] if scheme is not None else ""
        if not hmac.compare_digest(_digest(given), self._digest) or len(values) != 1:
            raise permission_denied(_WRONG_TOKEN)


@dataclass(frozen=True, slots=True)
class Gate:
    """One listener's. refusal: why nobody may do anything here. guards_insight: whether INSIGHT is as
    ADMIN."""

    refusal: str | None = None
    token: AdminToken | None = None
    guards_insight: bool = False

    def check(self, access: Access, headers: Headers) -> None:
        """``headers``: names in lower case. Raises StatusError PERMISSION_DENIED."""
        if access is Access.OPEN or (access is Access.INSIGHT and not self.guards_insight):
            return
        if self.refusal is not None:
            raise permission_denied(self.refusal)
        if self.token is not None:
            self.token.check(headers)
        elif any(name == "origin" for name, _ in headers):
            # Without a token any page in a browser on this machine could call.
            raise permission_denied(_FROM_A_PAGE)


#: What has been given no gate takes no admin calls.
CLOSED = Gate(refusal=_ELSEWHERE, guards_insight=True)


@dataclass(frozen=True, slots=True)
class Gates:
    """One server's. own_address: whether admin calls have a listener of their own."""

    token: AdminToken | None = None
    own_address: bool = False

    def everyday(self, local: bool) -> Gate:
        """``local``: only this machine reaches the listener: a loopback address or a UNIX socket."""
        if self.own_address:
            return CLOSED
        return self._gate(local)

    def own(self, local: bool) -> Gate:
        return self._gate(local)

    def _gate(self, local: bool) -> Gate:
        refusal = None if local or self.token is not None else _REACHABLE
        return Gate(refusal, self.token, guards_insight=self.token is not None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "backslashreplace")).digest()


def _digest_in(path: Path) -> bytes:
    """Raises AdminError, without the token in its text."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_TOKEN_FILE_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise AdminError(f"{path}: {error.strerror}") from error
    if _TOKEN.fullmatch(text) is None:
        raise AdminError(f"{path}: a token is one word of 16 to 1024 visible ASCII characters")
    return _digest(text)
