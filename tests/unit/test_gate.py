from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import Any

import pytest

from servolley.config.addresses import TcpAddress, UnixAddress, parse_address
from servolley.front.gate import CLOSED, Access, AdminError, AdminToken, Gate, Gates, Refusal, Refusals
from servolley.status import Code, StatusError
from unit.grpc_front import MODELS, OIP, GrpcFront
from unit.routes_front import Front

TOKEN = "s3cret-s3cret-s3cret"
RIGHT = ("authorization", f"Bearer {TOKEN}")


def admits(gate: Gate, access: Access, *headers: tuple[str, str]) -> bool:
    refusal = None
    try:
        gate.check(access, headers)
    except StatusError as error:
        refusal = error
    assert refusal is None or (refusal.code is Code.PERMISSION_DENIED and TOKEN not in refusal.message)
    return refusal is None


@pytest.fixture
def token(tmp_path: Path) -> AdminToken:
    (tmp_path / "token").write_text(TOKEN + "\n")
    return AdminToken(tmp_path / "token")


def test_who_may_where(token: AdminToken) -> None:
    """For insight and for changes, at an everyday listener and at the own one."""
    for with_token in (False, True):
        headers = (RIGHT,) if with_token else ()
        for local in (False, True):
            for gates, everyday in (
                (Gates(), (True, local)),
                (Gates(token), (with_token, with_token)),
                (Gates(own_address=True), (False, False)),
                (Gates(token, own_address=True), (False, False)),
            ):
                asked = [admits(gates.everyday(local), a, *headers) for a in (Access.INSIGHT, Access.ADMIN)]
                assert tuple(asked) == everyday, (gates, local, with_token)
                assert admits(gates.everyday(local), Access.OPEN)
    assert admits(Gates(own_address=True).own(local=True), Access.ADMIN)
    assert not admits(Gates(own_address=True).own(local=False), Access.ADMIN)
    assert admits(Gates(token, own_address=True).own(local=False), Access.ADMIN, RIGHT)
    assert not admits(Gates(token, own_address=True).own(local=True), Access.ADMIN)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", TOKEN)],
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", f"Bearer {TOKEN}x")],
        [("authorization", f"Bearer {TOKEN[:-1]}")],
        [("authorization", f"Bearer {TOKEN.upper()}")],
        [("authorization", f"Bearer {TOKEN}, Bearer {TOKEN}")],
        [("authorization", f"Bearer\t{TOKEN}")],
        [("authorization", f" Bearer {TOKEN}")],
        [("authorization", f"Bearer {TOKEN}\n")],
        [("authorization", f"Bearer {TOKEN}\udcff")],
        [RIGHT, RIGHT],
        [RIGHT, ("authorization", "Bearer other")],
        [("authorization", "Bearer other"), RIGHT],
        [("proxy-authorization", f"Bearer {TOKEN}")],
        [("triton-grpc-protocol-authorization", f"Bearer {TOKEN}")],
    ],
)
def test_what_is_not_the_token(token: AdminToken, headers: list[tuple[str, str]]) -> None:
    assert not admits(Gate(token=token), Access.ADMIN, *headers)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_what_is_the_token(token: AdminToken, scheme: str) -> None:
    assert admits(Gate(token=token), Access.ADMIN, ("accept", "*/*"), ("authorization", f"{scheme} {TOKEN}"))


def test_the_comparison_takes_the_same_time(token: AdminToken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of one length, whatever is given, by the function that is made for it."""
    lengths: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watched(one: Any, other: Any) -> bool:
        lengths.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    for given in ("", "x" * 10_000, TOKEN):
        admits(Gate(token=token), Access.ADMIN, ("authorization", f"Bearer {given}"))
    assert lengths == [(32, 32)] * 3


def test_pages_in_a_browser_are_not_heard_without_a_token(token: AdminToken) -> None:
    assert not admits(Gate(), Access.ADMIN, ("origin", "http://localhost:8000"))
    assert not admits(Gate(), Access.ADMIN, ("origin", "null"))
    assert admits(Gate(token=token), Access.ADMIN, ("origin", "https://console"), RIGHT)
    assert admits(Gate(), Access.INSIGHT, ("origin", "null"))


def test_refusals_are_counted_by_why(token: AdminToken) -> None:
    refusals = Refusals()
    assert refusals.by_word() == dict.fromkeys(
        ("from_a_page", "reachable", "elsewhere", "no_token", "wrong_token"), 0
    )
    open_gates, with_token = Gates(refusals=refusals), Gates(token, refusals=refusals)
    page, wrong = ("origin", "https://page"), ("authorization", "Bearer wrong-wrong-wrong")
    for gate, headers in (
        (open_gates.everyday(local=True), [page]),
        (open_gates.everyday(local=False), []),
        (Gates(own_address=True, refusals=refusals).everyday(local=True), []),
        (with_token.everyday(local=False), []),
        (with_token.everyday(local=True), [wrong]),
        (with_token.own(local=True), [RIGHT, RIGHT]),
    ):
        assert not admits(gate, Access.ADMIN, *headers)
    for gate, headers in ((open_gates.everyday(local=True), []), (with_token.everyday(local=True), [RIGHT])):
        assert admits(gate, Access.ADMIN, *headers)
        assert admits(gate, Access.OPEN)
    assert refusals.by_word() == {
        "from_a_page": 1,
        "reachable": 1,
        "elsewhere": 1,
        "no_token": 1,
        "wrong_token": 2,
    }
    assert sum(CLOSED.refusals.by_word().values()) == 0  # servers do not count for each other


@pytest.mark.parametrize(
    "text", ["", "\n", "short", "two words two words", "s3cret-s3cret-s3cret-\u00e9", "x" * 2000]
)
def test_files_that_hold_no_token(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(AdminError, match="token") as failure:
        AdminToken(file)
    assert "x" * 30 not in str(failure.value)
    assert "s3cret" not in str(failure.value)


def test_no_file() -> None:
    with pytest.raises(AdminError, match="No such file"):
        AdminToken(Path("/absent/token"))


async def test_a_renewed_token(tmp_path: Path, token: AdminToken) -> None:
    gate = Gate(token=token)
    (tmp_path / "token").write_text("another-word-another-word")
    await token.read_again()
    assert not admits(gate, Access.ADMIN, RIGHT)
    assert admits(gate, Access.ADMIN, ("authorization", "Bearer another-word-another-word"))
    (tmp_path / "token").write_text("bad")
    await token.read_again()
    assert admits(gate, Access.ADMIN, ("authorization", "Bearer another-word-another-word"))


async def test_every_route_that_changes_the_server_asks_for_it() -> None:
    """What is behind a closed gate: a route of the repository that forgets to ask fails here."""
    front = Front()
    await front.load()
    front.gate = CLOSED
    refused = set()
    for route in front.router._routes:
        # A path that the pattern matches.
        path = re.sub(r"\(\?P<version>.*?\)", "1", re.sub(r"\(\?P<\w+>\[.*?\)", "m", route.pattern.pattern))
        path = re.sub(r"\(\?:([^()]*)\)\?", "", path)
        if path.endswith(("/infer", "predict)")):
            continue  # never gets here
        if path.startswith("/v2/repository"):
            assert route.access is not Access.OPEN, route.pattern
        for method in ("GET", "POST", "PUT", "DELETE"):
            if method in route.handlers and route.pattern.fullmatch(path):
                reply = await front.ask(method, path, {})
                if reply.status == 403:
                    refused.add((method, path))
    assert refused >= {
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/m/load"),
        ("POST", "/v2/repository/models/m/unload"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/trace/setting"),
    }


async def test_grpc_methods_that_change_the_server(descriptors: bytes, token: AdminToken) -> None:
    """Refused at a closed gate before a message has come, if every call of theirs is one."""
    front = GrpcFront(descriptors)
    await front.load()
    front.calls._gate = CLOSED
    for target in (
        OIP + "RepositoryModelLoad",
        OIP + "RepositoryModelUnload",
        OIP + "RepositoryIndex",
        MODELS + "HandleReloadConfigRequest",
    ):
        exchange = front.begin(target, None)
        assert front.core.finished[exchange][0] == Code.PERMISSION_DENIED.grpc_number, target
        assert not front.calls.count
    for target in (OIP + "LogSettings", OIP + "TraceSetting"):
        code, _ = await front.call(target, {})
        assert code == Code.PERMISSION_DENIED.grpc_number, target
    assert await front.call(OIP + "ServerLive", {})
    # Where there is a token it is asked for, and what only asks for settings is for everybody elsewhere.
    front.calls._gate = Gate(token=token, guards_insight=True)
    assert (await front.call(OIP + "RepositoryIndex", {}))[0] == 7
    front.calls._gate = Gate(refusal=Refusal.REACHABLE)
    assert not isinstance(await front.call(OIP + "LogSettings", {}), tuple)
    change = {"settings": {"log_info": {"bool_param": False}}}
    assert await front.call(OIP + "LogSettings", change) == (7, Refusal.REACHABLE.text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:9000", TcpAddress("localhost", 9000)),
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("[::1]:9000", TcpAddress("::1", 9000)),
        ("unix:/run/admin.sock", UnixAddress("/run/admin.sock")),
        ("unix:admin", UnixAddress("admin")),
    ],
)
def test_addresses(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "localhost", ":9000", "::1:9000", "[::1]", "a:b", "a:99999", "unix:", "http://a:1", "a b:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)
