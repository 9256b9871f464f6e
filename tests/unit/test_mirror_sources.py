"""What a mirror is pointed at: names, manifests, web servers that list folders."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from servolley.mirror import folder, manifest
from servolley.mirror.cache import Cache
from servolley.mirror.folder import RemoteFolder, open_repository
from servolley.mirror.manifest import ManifestListing
from servolley.mirror.mirror import Mirror
from servolley.mirror.names import (
    MirrorError,
    cache_folder,
    said,
    scheme_of,
    shown,
    valid_segment,
    without_credentials,
)

SUM = "0" * 64


def test_schemes() -> None:
    assert scheme_of("/models") is None
    assert scheme_of("models/a:b") is None
    assert scheme_of("S3://bucket/models") == "s3"
    assert scheme_of("https://host/models") == "https"
    for url in ("ftp://host/x", "simplecache::s3://bucket", "s3://a::file://b", "git://x", "x+y://z"):
        with pytest.raises(MirrorError, match="not one of s3://"):
            scheme_of(url)


def test_who_calls_is_not_shown() -> None:
    assert shown("https://me:word@host:1/models?signature=x#y") == "https://host:1/models"
    with pytest.raises(MirrorError) as failure:
        scheme_of("ftp://me:word@host/models")
    assert "word" not in str(failure.value)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://u:secret@host/", "http://host/"),
        ("404, url='https://u:se@cret@host:1/a@b'", "404, url='https://host:1/a@b'"),
        ("https://secret@host/x and s3://secret:secret@host", "https://host/x and s3://host"),
        ("http://host/me@home?mail=a@b", "http://host/me@home?mail=a@b"),
        ("nothing at all: me@home", "nothing at all: me@home"),
    ],
)
def test_messages_of_others_without_credentials(text: str, left: str) -> None:
    assert without_credentials(text) == left
    assert said(FileNotFoundError(text)) == f"FileNotFoundError: {left}"


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "a\\b", "a\0", "a\n", "\x7f", "\ud800", "x" * 201]
)
def test_what_is_no_name_here(name: str) -> None:
    assert not valid_segment(name)


def test_every_url_has_a_folder_of_its_own(tmp_path: Path) -> None:
    urls = [
        "s3://b/m",
        "s3://b/m/",
        "s3://b/n",
        "gs://b/m",
        "https://h/../../etc",
        "https://u:p@h/m",
        "memory://",
    ]
    folders = [cache_folder(tmp_path, url) for url in urls]
    assert len(set(folders)) == len(urls)
    for chosen in folders:
        assert chosen.parent == tmp_path
        assert ":" not in chosen.name


# --- manifests


def listing(text: str, *, escape: bool = False) -> ManifestListing:
    return ManifestListing(text, "base", lambda name: contextlib.nullcontext(io.BytesIO()), escape=escape)


def test_a_manifest_as_sha256sum_writes_it() -> None:
    read = listing(
        f"# models\n{SUM}  ./m/1/model.onnx\n{'A' * 64} *m/2/model.onnx/data b\n{SUM}  m/model.toml\n"
        f"{SUM}  readme\n\n{SUM}  ./.hidden/x\n{SUM}  n/more/x\n"
    )
    assert read.atomic
    assert read.models() == ["m", "n"]
    model = read.model("m")
    assert (set(model.head), dict(model.versions)) == ({"model.toml"}, {1: "1", 2: "2"})
    files, complete = read.version("m", "2")
    assert complete
    (file,) = files.values()
    assert (file.name, file.size, file.sha256) == ("base/m/2/model.onnx/data b", None, "a" * 64)
    assert set(read.model("n").head) == {"more/x"}
    escaped, _ = listing(f"{SUM}  m/1/a b%.onnx", escape=True).version("m", "1")
    assert [each.name for each in escaped.values()] == ["base/m/1/a%20b%25.onnx"]
    for model_name, version in (("m", "3"), ("m", "x")):
        with pytest.raises(FileNotFoundError):
            read.version(model_name, version)
    with pytest.raises(FileNotFoundError):
        read.model("nobody")


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        f"{SUM} m/1/x",
        f"{SUM[1:]}  m/1/x",
        f"{SUM}  ../m/1/x",
        f"{SUM}  m/../../x",
        f"{SUM}  /etc/passwd",
        f"{SUM}  m/1/a\\b",
        f"{SUM}  m//x",
        f"{SUM}  m/1/",
        f"{SUM}  " + "a/" * 50 + "x",
        f"{SUM}   m/1/x",
        f"\\{SUM}  m/1/x",
    ],
)
def test_manifests_that_are_none(line: str) -> None:
    with pytest.raises(MirrorError, match="SHA256SUMS"):
        listing(f"{SUM}  ok/1/model.onnx\n{line}\n")


def test_a_manifest_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MOST_FILES", 2)
    with pytest.raises(MirrorError, match="more than 2 files"):
        listing(f"{SUM}  m/1/a\n{SUM}  m/1/b\n{SUM}  m/1/c\n")


# --- over HTTP


class Handler(SimpleHTTPRequestHandler):
    """A web server that lists folders, and misbehaves where it is told to."""

    statuses: ClassVar[dict[str, int]] = {}
    cut: ClassVar[set[str]] = set()
    requests: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        self.requests.append(f"{self.command} {self.path}")

    def do_GET(self) -> None:
        if self.path in self.statuses:
            self.send_error(self.statuses[self.path])
        elif self.path in self.cut:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
        else:
            super().do_GET()


class Web:
    def __init__(self, root: Path, cache: Path, handler: type[Handler], port: int) -> None:
        self.root, self.cache, self.handler = root, cache, handler
        self.url = f"http://127.0.0.1:{port}"

    def put(self, path: str, text: str = "x") -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def mirror(self, below: str = "/", **settings: Any) -> Mirror:
        url = self.url + below
        arguments: dict[str, Any] = {"max_bytes": 1 << 20, "downloads": 2, "triton_message": lambda: None}
        return Mirror(
            open_repository(url, None, {}), Cache(self.cache, url), url=url, **(arguments | settings)
        )

    def contents(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.cache)): path.read_text()
            for path in sorted(self.cache.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(self.cache).parts)
        }

    def sums(self) -> str:
        return "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(self.root)}\n"
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.name != "SHA256SUMS"
        )


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    root = tmp_path / "web"
    root.mkdir()

    class OwnHandler(Handler):
        statuses, cut, requests = {}, set(), []

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(OwnHandler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Web(root, tmp_path / "cache", OwnHandler, server.server_address[1])
    server.shutdown()
    thread.join(30)
    server.server_close()


def test_a_web_server_that_lists_folders(web: Web) -> None:
    web.put("m/1/model.onnx", "one")
    web.put("m/model.toml", "")
    web.put("with blank/3/a b%.bin", "odd")
    web.put("readme.html", '<a href="http://elsewhere/m/2/">')
    mirror = web.mirror()
    assert mirror.sync().problems == {}
    assert web.contents() == {
        "m/1/model.onnx": "one",
        "m/model.toml": "",
        "with blank/3/a b%.bin": "odd",
    }
    web.handler.requests.clear()
    assert not mirror.sync().changed
    assert not [each for each in web.handler.requests if each.startswith("GET") and not each.endswith("/")]
    web.put("m/2/model.onnx", "two")
    mirror.sync()
    assert mirror.sync().changed
    assert web.contents()["m/2/model.onnx"] == "two"


def test_a_web_servers_one_model_and_one_file(web: Web, tmp_path: Path) -> None:
    web.put("net/1/model.onnx", "one")
    web.put("net/1/model.onnx_data", "weights")
    web.mirror("/net/").sync()
    assert web.contents() == {"net/1/model.onnx": "one", "net/1/model.onnx_data": "weights"}
    web.cache = tmp_path / "single"
    web.mirror("/net/1/model.onnx").sync()
    assert web.contents() == {"model/1/model.onnx": "one", "model/1/model.onnx_data": "weights"}


def test_folders_that_are_no_models(web: Web) -> None:
    web.put("m/1/model.onnx", "one")
    web.put("docs/manual/deep/page.html", "no")
    web.put("docs/index.txt", "no")
    web.put("configured/model.toml", "")
    assert web.mirror().sync().problems == {}
    assert web.contents() == {"configured/model.toml": "", "m/1/model.onnx": "one"}
    assert not [each for each in web.handler.requests if "page" in each or "deep" in each]


def test_answers_that_end_too_soon(web: Web) -> None:
    web.put("m/1/model.onnx", "one")
    web.put("n/1/model.onnx", "one")
    web.handler.cut.add("/m/1/model.onnx")
    mirror = web.mirror()
    assert set(mirror.sync().problems) == {"m"}
    assert set(web.contents()) == {"n/1/model.onnx"}
    web.handler.cut.clear()
    assert mirror.sync().problems == {}
    assert "m/1/model.onnx" in web.contents()


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_answers_that_are_errors_take_nothing_away(web: Web, status: int) -> None:
    web.put("m/1/model.onnx", "one")
    mirror = web.mirror()
    mirror.sync()
    web.handler.statuses["/"] = status
    for _ in range(3):
        with pytest.raises(MirrorError, match="http://127"):
            mirror.sync()
    web.handler.statuses = {"/m/": status}
    for _ in range(3):
        assert set(mirror.sync().problems) == {"m"}
    assert web.contents() == {"m/1/model.onnx": "one"}


def test_a_password_is_in_no_message(web: Web) -> None:
    """fsspec puts the whole URL into what it raises."""
    web.put("m/1/model.onnx", "one")
    web.url = web.url.replace("://", "://u:secret@")
    messages: list[str] = []
    for statuses in ({"/": 404}, {"/m/1/model.onnx": 404}, {"/m/1/": 500}):
        web.handler.statuses = statuses
        try:
            messages += web.mirror().sync().problems.values()
        except MirrorError as error:
            messages.append(str(error))
    assert len(messages) == 3
    assert "secret" not in "".join(messages)
    assert web.contents() == {}


def test_links_that_lead_elsewhere(web: Web) -> None:
    web.put("m/1/model.onnx", "one")
    web.put(
        "m/1/index.html",
        '<a href="model.onnx">ok</a> <a href="../../secret">1</a> <a href="/secret">2</a> '
        '<a href="..%2f..%2fsecret">3</a> <a href="?C=N">4</a> <a href="http://127.0.0.1:1/x">5</a> '
        '<a href="%2e%2e/">6</a>',
    )
    web.put("secret", "no")
    outcome = web.mirror().sync()
    assert "m" in outcome.problems  # not a copy of what is only in part
    assert web.contents() == {}


def test_a_manifest_over_http(web: Web) -> None:
    web.put("m/1/model.onnx", "one")
    web.put("m/1/a b", "blank")
    web.put("SHA256SUMS", web.sums())
    mirror = web.mirror("/SHA256SUMS")
    assert mirror.sync().problems == {}
    assert web.contents() == {"m/1/a b": "blank", "m/1/model.onnx": "one"}
    web.handler.requests.clear()
    assert not mirror.sync().changed
    assert {each.split()[1] for each in web.handler.requests} == {"/SHA256SUMS"}
    # It counts at once, since it cannot be seen half-written without somebody's fault...
    web.put("m/2/model.onnx", "two")
    web.put("SHA256SUMS", web.sums())
    assert mirror.sync().changed
    assert web.contents()["m/2/model.onnx"] == "two"
    # ...and what is not what it says is not taken.
    web.put("m/3/model.onnx", "three")
    web.put("SHA256SUMS", web.sums())
    web.put("m/3/model.onnx", "thr")
    assert "SHA-256" in mirror.sync().problems["m"]
    assert "m/3/model.onnx" not in web.contents()


def test_a_long_manifest_is_read_to_its_end(web: Web) -> None:
    web.put("z/1/model.onnx", "last")
    lines = "".join(f"{SUM}  m/{version}/model.onnx\n" for version in range(1, 20_000))
    web.put("SHA256SUMS", lines + web.sums())
    mirror = web.mirror("/SHA256SUMS")
    assert mirror.names() == ["m", "z"]
    assert set(mirror.sync().problems) == {"m"}  # no such file
    assert web.contents() == {"z/1/model.onnx": "last"}


def test_what_a_manifest_lists_has_a_limit_without_saying_its_size(web: Web) -> None:
    web.put("m/1/model.onnx", "one")
    web.put("m/2/model.onnx", "x" * 5000)
    web.put("SHA256SUMS", web.sums())
    assert "max_size" in web.mirror("/SHA256SUMS", max_bytes=1000).sync().problems["m"]
    assert web.contents() == {}


def test_a_manifest_that_is_too_large(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LARGEST_MANIFEST_BYTES", 10)
    web.put("SHA256SUMS", "x" * 11)
    with pytest.raises(MirrorError, match="larger than 10 bytes"):
        web.mirror("/SHA256SUMS").sync()


# --- file systems


def test_what_opens_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(*_: object, **__: object) -> None:
        raise ImportError("no", name="s3fs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(MirrorError, match=r"pip install 'servolley\[s3\]' \(s3fs\)"):
        open_repository("s3://bucket/models", None, {})


def test_a_url_with_a_query() -> None:
    with pytest.raises(MirrorError, match="https://host/models: what has a query") as refused:
        open_repository("https://host/models?signature=secret", None, {})
    assert "secret" not in str(refused.value)


def test_options_that_it_does_not_know() -> None:
    with pytest.raises(MirrorError, match="file://"):
        open_repository("file:///models", None, {"auto_mkdir": 1, "protocol": []}).look().models()


def test_what_object_stores_say_of_a_file(tmp_path: Path) -> None:
    """The marks of the usual ones; the same content has the same fingerprint whatever else is said."""
    (tmp_path / "x").touch()
    remote = RemoteFolder(f"file://{tmp_path}", None, {})

    def fingerprint(**info: Any) -> tuple[str, str | None]:
        file = remote.file(folder.Entry("x", "x", False, {"name": "x", "size": 1, "type": "file"} | info))
        return file.fingerprint, file.sha256

    assert fingerprint(ETag='"a"') != fingerprint(ETag='"b"')
    assert fingerprint(ETag='"a"', created=1) == fingerprint(ETag='"a"', created=2)
    assert fingerprint(ETag='"a"', LastModified=1) == fingerprint(ETag='"a"', LastModified=2)
    assert fingerprint(md5Hash="a", generation="1", updated=1) == fingerprint(
        md5Hash="a", generation="1", updated=2
    )
    assert fingerprint(created=1) != fingerprint(created=2)
    assert fingerprint(generation="1") != fingerprint(generation="2")
    assert fingerprint(mtime=1.5) != fingerprint(mtime=2.5)
    assert fingerprint(lfs={"sha256": SUM, "size": 1})[1] == SUM
    assert fingerprint(size=2, ETag='"a"') != fingerprint(ETag='"a"')
