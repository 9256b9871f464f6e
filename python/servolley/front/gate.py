"""Who may change the server. Routes and methods say what they ask for; each listener has a gate that says
whether it may be asked there, and by whom."""

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from servolley.status import permission_denied

Headers = Iterable[tuple[str, str]]

_LARGEST_TOKEN_FILE_BYTES = 4096
_TOKEN = re.compile(r"[!-~]{16,1024}", re.ASCII)
_SCHEME = re.compile(r"bearer +", re.ASCII | re.IGNORECASE)

_log = logging.getLogger(__name__)


class Access(Enum):
    """What a call asks for.

    OPEN: nothing that everybody who reaches the port may not have. ADMIN: a change of the server. INSIGHT: to
    read what concerns the administrator: open until there is a token or an address for admin calls.
    """

    OPEN = "open"
    INSIGHT = "insight"
    ADMIN = "admin"


class Refusal(Enum):
    """Why a call was refused: a word for the metrics, and the text for the client."""

    FROM_A_PAGE = (
        "from_a_page",
        "admin calls from web pages are not taken: this one has an Origin header, and the server no admin "
        "token",
    )
    REACHABLE = (
        "reachable",
        "admin calls are off at this address, because others can reach it: start the server with "
        "--admin-token-file FILE, or with --admin-listen 127.0.0.1:PORT",
    )
    ELSEWHERE = (
        "elsewhere",
        "admin calls are not taken at this address: the server has another for them (--admin-listen)",
    )
    NO_TOKEN = ("no_token", "admin calls need the admin token, as 'Authorization: Bearer TOKEN'")
    WRONG_TOKEN = ("wrong_token", "this is not the admin token")

    def __init__(self, word: str, text: str) -> None:
        self.word = word
        self.text = text


class Refusals:
    """How many calls were refused since the start, by why."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Refusal, 0)

    def count(self, why: Refusal) -> None:
        self._counts[why] += 1

    def by_word(self) -> dict[str, int]:
        return {why.word: count for why, count in self._counts.items()}


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

    def refusal(self, headers: Headers) -> Refusal | None:
        """Why these headers are not enough: there is to be exactly one Authorization, with the token."""
        values = [value for name, value in headers if name == "authorization"]
        if not values:
            return Refusal.NO_TOKEN
        scheme = _SCHEME.match(values[0])
        given = values[0][scheme.end() :] if scheme is not None else ""
        if not hmac.compare_digest(_digest(given), self._digest) or len(values) != 1:
            return Refusal.WRONG_TOKEN
        return None


@dataclass(frozen=True, slots=True)
class Gate:
    """One listener's. refusal: why nobody may do anything here. guards_insight: whether INSIGHT is as
    ADMIN. refusals: where they are counted."""

    refusal: Refusal | None = None
    token: AdminToken | None = None
    guards_insight: bool = False
    refusals: Refusals = field(default_factory=Refusals, compare=False)

    def check(self, access: Access, headers: Headers) -> None:
        """``headers``: names in lower case. Raises StatusError PERMISSION_DENIED."""
        if access is Access.OPEN or (access is Access.INSIGHT and not self.guards_insight):
            return
        why = self._why_not(headers)
        if why is not None:
            self.refusals.count(why)
            raise permission_denied(why.text)

    def _why_not(self, headers: Headers) -> Refusal | None:
        if self.refusal is not None:
            return self.refusal
        if self.token is not None:
            return self.token.refusal(headers)
        # Without a token any page in a browser on this machine could call.
        return Refusal.FROM_A_PAGE if any(name == "origin" for name, _ in headers) else None


#: What has been given no gate takes no admin calls.
CLOSED = Gate(refusal=Refusal.ELSEWHERE, guards_insight=True)


@dataclass(frozen=True, slots=True)
class Gates:
    """One server's. own_address: whether admin calls have a listener of their own. refusals: of all of
    them."""

    token: AdminToken | None = None
    own_address: bool = False
    refusals: Refusals = field(default_factory=Refusals, compare=False)

    def everyday(self, local: bool) -> Gate:
        """``local``: only this machine reaches the listener: a loopback address or a UNIX socket."""
        if self.own_address:
            return replace(CLOSED, refusals=self.refusals)
        return self._gate(local)

    def own(self, local: bool) -> Gate:
        return self._gate(local)

    def _gate(self, local: bool) -> Gate:
        refusal = None if local or self.token is not None else Refusal.REACHABLE
        return Gate(refusal, self.token, self.token is not None, self.refusals)


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
