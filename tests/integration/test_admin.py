"""Who may change the server: every call that does, through every front end, with every kind of key.
Hostile case 42."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

import models
from certificates import Authority
from integration.conftest import ServerFactory
from integration.hostile import survives
from integration.lifecycle import repository
from integration.raw_http import RawConnection, request
from integration.server_process import Server, wait_until
from integration.slim_tensorflow import stock_module

TOKEN = "a-word-that-nobody-guesses"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
EXPLICIT = ("--model-control-mode", "explicit")
LOAD = "/v2/repository/models/m/load"
OIP = "/inference.GRPCInferenceService/"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"

#: (verb, path, whether it is one only where admin calls are restricted)
REST_CALLS = [
    ("POST", LOAD, False),
    ("POST", "/v2/repository/models/m/unload", False),
    ("POST", "/v2/repository/some/models/m/load", False),
    ("POST", "/v2/logging", False),
    ("POST", "/v2/trace/setting", False),
    ("POST", "/v2/models/m/trace/setting", False),
    ("POST", "/v2/repository/index", True),
    ("GET", "/v2/logging", True),
    ("GET", "/v2/trace/setting", True),
]


def grpc_calls() -> list[tuple[str, Any, bool]]:
    settings = service_pb2.LogSettingsRequest()
    settings.settings["log_info"].bool_param = False
    trace = service_pb2.TraceSettingRequest()
    trace.settings["trace_rate"].value.append("1")
    return [
        (OIP + "RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="m"), False),
        (OIP + "RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="m"), False),
        (OIP + "LogSettings", settings, False),
        (OIP + "TraceSetting", trace, False),
        (RELOAD, stock_module("model_management_pb2").ReloadConfigRequest(), False),
        (OIP + "RepositoryIndex", service_pb2.RepositoryIndexRequest(), True),
        (OIP + "LogSettings", service_pb2.LogSettingsRequest(), True),
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return repository(tmp_path / "r", 1)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


def admin_url(server: Server) -> str:
    found = re.search(r"admin calls on \w+://(\S+)", server.log)
    assert found, server.log
    return found[1]


def refused_over_rest(server: Server, *, restricted: bool, headers: dict[str, str] | None = None) -> set[str]:
    """What was refused, after checking that it was refused as it should be."""
    refused = set()
    for verb, path, only_restricted in REST_CALLS:
        answer = server.call(verb, path, {} if verb == "POST" else None, headers)
        if answer.status == 403:
            assert "admin" in answer.error
            assert TOKEN not in answer.error
            refused.add(f"{verb} {path}")
        assert (answer.status == 403) == (restricted or not only_restricted), (verb, path, answer)
    return refused


def refused_over_grpc(
    url: str,
    *metadata: tuple[str, str],
    credentials: grpc.ChannelCredentials | None = None,
    restricted: bool = True,
) -> int:
    """How many calls were refused; the others must not have been."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "127.0.0.1")]
    channel = (
        grpc.insecure_channel(url, options[:1])
        if credentials is None
        else grpc.secure_channel(url, credentials, options)
    )
    refused = 0
    with channel:
        for target, message, only_restricted in grpc_calls():
            call = channel.unary_unary(target, lambda m: m.SerializeToString(), lambda body: body)
            try:
                call(message, timeout=60, metadata=metadata, wait_for_ready=True)
                denied, text = False, ""
            except grpc.RpcError as error:
                denied, text = error.code() is grpc.StatusCode.PERMISSION_DENIED, error.details()
            refused += denied
            assert not denied or "admin" in text
            if denied:
                assert restricted or not only_restricted, target
    return refused


def test_on_loopback_nobody_needs_a_key(serve: ServerFactory, root: Path) -> None:
    server = serve(root, *EXPLICIT, "--grpc-port", "0")
    for url in (server.url, f"127.0.0.1:{server.grpc_port}"):
        assert refused_over_grpc(url) == 0
    for path in ("/v2/repository/index", LOAD):
        assert server.post(path).status == 200
    page = server.post(LOAD, headers={"Origin": "http://evil.example"})
    assert page.status == 403
    assert "Origin" in page.error
    figures = server.get("/metrics").body.decode()
    for reason, count in {"from_a_page": 1, "reachable": 0, "no_token": 0}.items():
        assert f'servolley_admin_refused_total{{reason="{reason}"}} {float(count)}\n' in figures


def test_where_others_can_reach_it_nobody_is_heard(root: Path) -> None:
    with Server(root, *EXPLICIT, "--grpc-port", "0", host="0.0.0.0") as server:
        server.wait_ready()
        with survives(server):
            assert len(refused_over_rest(server, restricted=False)) == 6
            assert "--admin-token-file" in server.post(LOAD).error
            for url in (server.url, f"127.0.0.1:{server.grpc_port}"):
                assert refused_over_grpc(url, restricted=False) == 5
        assert server.post("/v2/repository/index").status == 200
        assert server.stop() == 0


KEYS: list[dict[str, str]] = [
    {},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": f"Bearer {TOKEN.upper()}"},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": TOKEN},
    {"Authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"},
    {"Authorization": "Bearer " + "x" * 20_000},
    {"Proxy-Authorization": f"Bearer {TOKEN}"},
    {"X-Authorization": f"Bearer {TOKEN}"},
]


def test_a_token_is_needed_everywhere(
    serve: ServerFactory, root: Path, token_file: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    server = serve(
        root, *EXPLICIT, "--admin-token-file", token_file, "--grpc-port", "0", "--unix-socket", path
    )
    urls = (server.url, f"127.0.0.1:{server.grpc_port}", f"unix:{path}")
    with survives(server):
        for key in KEYS:
            assert len(refused_over_rest(server, restricted=True, headers=key)) == len(REST_CALLS), key
        for url in urls:
            assert refused_over_grpc(url) == len(grpc_calls())
            for value in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, ""):
                assert refused_over_grpc(url, ("authorization", value)) == len(grpc_calls()), value
            doubled = [("authorization", f"Bearer {TOKEN}")] * 2
            assert refused_over_grpc(url, *doubled) == len(grpc_calls())
    # Header names have no letter case, nor does the scheme.
    for key in (BEARER, {"AUTHORIZATION": f"bearer {TOKEN}"}, {"authorization": f"BEARER {TOKEN}"}):
        assert server.post(LOAD, headers=key).status == 200
        assert server.post("/v2/repository/index", headers=key).status == 200
    for url in urls:
        assert refused_over_grpc(url, ("authorization", f"Bearer {TOKEN}")) == 0


def ask_raw(where: Any, *headers: tuple[str, str], path: str = LOAD, tail: bytes = b"") -> int:
    connection = RawConnection(where)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    body = tail or b"Content-Length: 2\r\n\r\n{}"
    connection.send(f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}".encode() + body)
    status = connection.read_answer().status
    connection.socket.close()
    return status


def test_keys_that_no_client_library_sends(
    serve: ServerFactory, root: Path, token_file: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    server = serve(root, *EXPLICIT, "--admin-token-file", token_file, "--unix-socket", path)
    right = ("Authorization", f"Bearer {TOKEN}")
    with survives(server):
        for where in (server.address, path):
            assert ask_raw(where, right) == 200
            assert ask_raw(where, right, right) == 403
            assert ask_raw(where, right, ("authorization", "Bearer x")) == 403
            assert ask_raw(where, ("authorization", "Bearer x"), right) == 403
            assert ask_raw(where, ("Authorization ", f"Bearer {TOKEN}")) in {400, 403}
            assert ask_raw(where, ("Authorization", f"\r\n Bearer {TOKEN}")) in {400, 403}
            assert ask_raw(where) == 403
            # In a trailer, which is no header.
            chunked = (
                b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer "
                + TOKEN.encode()
                + b"\r\n\r\n"
            )
            assert ask_raw(where, tail=chunked) in {400, 403}
            # Other spellings of the path are other paths, or are asked for the key, too.
            for other in (
                "http://x" + LOAD,
                "//v2/repository/models/m/load",
                "/v2/./repository/models/m/load",
                "/v1/../v2/repository/models/m/load",
                "/v2/%72epository/models/m/load",
                "/V2/REPOSITORY/models/m/load",
                LOAD + "?x=/v2/health/live",
                LOAD + "/",
                "/v2/repository//models/m/load",
                "/v2/repository/models/m%2Fload",
            ):
                assert ask_raw(where, path=other) in {400, 403, 404, 405}, other
    assert server.post("/v2/repository/index", headers=BEARER).json()[0].get("state") == "READY"


def test_an_address_of_its_own(serve: ServerFactory, root: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = serve(
        *(root, *EXPLICIT, "--admin-listen", "127.0.0.1:0"),
        *("--grpc-port", "0", "--unix-socket", path, "--metrics-port", "0"),
    )
    with survives(server):
        for key in ({}, BEARER):
            assert len(refused_over_rest(server, restricted=True, headers=key)) == len(REST_CALLS)
        for url in (server.url, f"127.0.0.1:{server.grpc_port}", f"unix:{path}"):
            assert refused_over_grpc(url) == len(grpc_calls())
        assert ask_raw(path) == 403
        found = re.search(r"metrics on http://127\.0\.0\.1:(\d+)", server.log)
        assert found
        assert ask_raw(("127.0.0.1", int(found[1]))) == 404
        assert "--admin-listen" in server.post(LOAD).error
    url = admin_url(server)
    assert refused_over_grpc(url) == 0
    host, port = url.split(":")
    assert ask_raw((host, int(port))) == 200
    # Nothing else is missing there.
    client = tritonclient.http.InferenceServerClient(url)
    client.load_model("m")
    assert client.is_model_ready("m")
    assert client.get_model_metadata("m")["name"] == "m"
    client.close()
    assert server.predict("m", {"instances": [0.0]}).json() == {"predictions": [1.0]}


def test_an_admin_socket_in_the_file_system(
    serve: ServerFactory, root: Path, tmp_path: Path, token_file: Path
) -> None:
    path = str(tmp_path / "admin")
    server = serve(root, *EXPLICIT, config=f'[admin]\nlisten = "unix:{path}"\n')
    assert server.post(LOAD).status == 403
    assert ask_raw(path) == 200
    assert server.stop() == 0
    assert not Path(path).exists()
    guarded = serve(root, *EXPLICIT, "--admin-listen", f"unix:{path}", "--admin-token-file", token_file)
    assert (ask_raw(path), ask_raw(path, ("Authorization", f"Bearer {TOKEN}"))) == (403, 200)
    assert guarded.post(LOAD, headers=BEARER).status == 403  # the right key at the wrong door


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--admin-listen", "0.0.0.0:0"), "--admin-listen needs --admin-token-file"),
        (("--admin-listen", "nowhere"), "HOST:PORT"),
        (("--admin-token-file", "/absent/token"), "/absent/token: No such file"),
    ],
)
def test_starts_that_fail(root: Path, flags: tuple[str, ...], complaint: str) -> None:
    with Server(root, *flags) as server:
        assert server.wait_exit() == 1
        assert complaint in server.log
        assert "Traceback" not in server.log


def test_a_renewed_token(serve: ServerFactory, root: Path, token_file: Path) -> None:
    server = serve(root, *EXPLICIT, "--admin-token-file", token_file)
    assert server.post(LOAD, headers=BEARER).status == 200
    token_file.write_text("another-word-that-nobody-guesses")
    server.signal(signal.SIGHUP)
    wait_until(lambda: "the admin token was read again" in server.log, 30, "the token is read")
    assert server.post(LOAD, headers=BEARER).status == 403
    other = {"Authorization": "Bearer another-word-that-nobody-guesses"}
    assert server.post(LOAD, headers=other).status == 200
    token_file.write_text("")
    server.signal(signal.SIGHUP)
    wait_until(lambda: "the old one stays" in server.log, 30, "the file is refused")
    assert server.post(LOAD, headers=other).status == 200
    assert TOKEN not in server.log


@pytest.fixture(params=[tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def make_client(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    client: Callable[[str], Any] = request.param.InferenceServerClient
    return client


def test_the_stock_clients_with_a_key(
    serve: ServerFactory, root: Path, token_file: Path, make_client: Callable[[str], Any]
) -> None:
    server = serve(root, *EXPLICIT, "--admin-token-file", token_file)
    client = make_client(server.url)
    with pytest.raises(InferenceServerException) as refused:
        client.load_model("m")
    assert str(refused.value.status()).removeprefix("StatusCode.") in {"403", "PERMISSION_DENIED"}
    key = {"authorization": f"Bearer {TOKEN}"}
    client.load_model("m", headers=key)
    assert client.is_model_ready("m")
    client.get_model_repository_index(headers=key)
    client.unload_model("m", headers=key)
    client.close()


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Authority, Path, Path]:
    authority = Authority(tmp_path)
    return (authority, *authority.issue("server"))


def test_over_tls(root: Path, token_file: Path, tls: tuple[Authority, Path, Path]) -> None:
    authority, certificate, key = tls
    flags = (*EXPLICIT, "--tls-cert", certificate, "--tls-key", key, "--grpc-port", "0")
    credentials = grpc.ssl_channel_credentials(Path(authority.ca).read_bytes())
    with Server(root, *flags, "--admin-token-file", token_file, tls=authority.client_context()) as server:
        server.wait_ready()
        for headers in ({}, {"Authorization": "Bearer x"}):
            assert len(refused_over_rest(server, restricted=True, headers=headers)) == len(REST_CALLS)
        assert server.post(LOAD, headers=BEARER).status == 200
        for url in (server.url, f"127.0.0.1:{server.grpc_port}"):
            assert refused_over_grpc(url, credentials=credentials) == len(grpc_calls())
            metadata = ("authorization", f"Bearer {TOKEN}")
            assert refused_over_grpc(url, metadata, credentials=credentials) == 0
        assert server.stop() == 0
    with Server(root, *flags, "--admin-listen", "127.0.0.1:0", tls=authority.client_context()) as server:
        server.wait_ready()
        assert "admin calls on https://" in server.log
        assert server.post(LOAD).status == 403
        assert refused_over_grpc(server.url, credentials=credentials) == len(grpc_calls())
        host, port = admin_url(server).split(":")
        secure = authority.client_context()
        raw = RawConnection((host, int(port)))
        raw.socket = secure.wrap_socket(raw.socket, server_hostname="127.0.0.1")
        assert raw.send(request("POST", LOAD, b"{}")).read_answer().status == 200
        assert ask_raw((host, int(port))) == 400  # not without TLS
        assert server.stop() == 0


def test_inference_asks_for_no_key(serve: ServerFactory, token_file: Path) -> None:
    server = serve({"tiny": models.tiny()}, "--admin-token-file", token_file, "--admin-listen", "127.0.0.1:0")
    for path in ("/v2", "/v2/models", "/v2/models/tiny", "/v2/models/stats", "/v1/models/tiny", "/metrics"):
        assert server.get(path).status == 200, path
