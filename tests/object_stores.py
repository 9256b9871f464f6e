"""Two object stores over a folder of this machine, as their client libraries speak to them: Google Cloud
Storage's JSON API, and the Hugging Face Hub's routes for files."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

#: What a folder's files are called there: BUCKET/..., ORG/REPO/...
BUCKET = "bucket"
REPOSITORY = "org/repo"

# Entries of one page, so that there are several.
_PAGE = 2


def need(library: str) -> None:
    """Skips a test where it is not installed. Looks without importing it: the mirror first says how."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'servolley[gcs,hf]'")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    gone: threading.Event
    requests: list[str]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        self.requests.append(f"{self.command} {self.path}" if self.command else "no HTTP")

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if self.gone.is_set():
            self._send(403, b"{}")  # what libraries do not try again
        else:
            self.route(url.path, query)

    def route(self, path: str, query: dict[str, str]) -> None:
        raise NotImplementedError

    def files(self) -> dict[str, Path]:
        return {
            str(path.relative_to(self.root)): path
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }

    def send_json(self, document: object, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def send_file(self, content: bytes, headers: dict[str, str]) -> None:
        """Whole, or the range that is asked for."""
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not first:
            self._send(200, content, headers)
            return
        part = content[int(first) : int(last) + 1 if last else None]
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        self._send(206, part, headers | {"Content-Range": span})

    def send_nothing(self, headers: dict[str, str] | None = None) -> None:
        self._send(404, b'{"error": {"code": 404, "message": "No such object"}}', headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class GoogleStorage(_Handler):
    """One bucket: lists by prefix and delimiter in pages, objects, their content."""

    def route(self, path: str, query: dict[str, str]) -> None:
        below = path.removeprefix("/download").removeprefix(f"/storage/v1/b/{BUCKET}")
        if below == "/o":
            self._list(query)
        elif below.startswith("/o/"):
            name = unquote(below.removeprefix("/o/"))
            file = self.files().get(name)
            if file is None:
                self.send_nothing()
            elif query.get("alt") == "media":
                self.send_file(file.read_bytes(), {"Content-Type": "application/octet-stream"})
            else:
                self.send_json(self._object(name, file))
        else:
            self.send_nothing()

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        found: dict[str, Any] = {}
        for name, file in self.files().items():
            if name.startswith(prefix):
                rest, separator, _ = name.removeprefix(prefix).partition(delimiter or "\0")
                if separator:
                    found[prefix + rest + separator] = None
                else:
                    found[name] = self._object(name, file)
        start = int(query.get("pageToken", "0"))
        page = sorted(found.items())[start : start + _PAGE]
        answer: dict[str, Any] = {"kind": "storage#objects"}
        if folders := [name for name, entry in page if entry is None]:
            answer["prefixes"] = folders
        if objects := [entry for _, entry in page if entry is not None]:
            answer["items"] = objects
        if start + _PAGE < len(found):
            answer["nextPageToken"] = str(start + _PAGE)
        self.send_json(answer)

    def _object(self, name: str, file: Path) -> dict[str, Any]:
        status, content = file.stat(), file.read_bytes()
        return {
            "kind": "storage#object",
            "bucket": BUCKET,
            "name": name,
            "size": str(len(content)),
            "generation": str(status.st_mtime_ns // 1000),
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }


class Hub(_Handler):
    """One repository of models: what it is, its tree in pages, its files. Those that end in .onnx are large
    ones (LFS), of which the SHA-256 is known."""

    def route(self, path: str, query: dict[str, str]) -> None:
        api = f"/api/models/{REPOSITORY}"
        if path in (api, f"{api}/revision/main"):
            self.send_json({"id": REPOSITORY, "modelId": REPOSITORY, "sha": "1" * 40, "siblings": []})
        elif path == f"{api}/tree/main" or path.startswith(f"{api}/tree/main/"):
            self._tree(unquote(path.removeprefix(f"{api}/tree/main")).strip("/"), query)
        elif path.startswith(f"/{REPOSITORY}/resolve/main/"):
            name = unquote(path.removeprefix(f"/{REPOSITORY}/resolve/main/"))
            file = self.files().get(name)
            if file is None:
                self.send_nothing({"X-Error-Code": "EntryNotFound"})
            else:
                content = file.read_bytes()
                etag = f'"{hashlib.sha256(content).hexdigest()}"'
                self.send_file(content, {"ETag": etag, "X-Repo-Commit": "1" * 40, "Accept-Ranges": "bytes"})
        else:
            self.send_nothing({"X-Error-Code": "RepoNotFound"})

    def _tree(self, folder: str, query: dict[str, str]) -> None:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, Any] = {}
        for name, file in self.files().items():
            if name.startswith(prefix):
                first, separator, _ = name.removeprefix(prefix).partition("/")
                entries[prefix + first] = (
                    {"type": "directory", "path": prefix + first, "size": 0, "oid": _sha1(name.encode())}
                    if separator
                    else self._file(name, file)
                )
        if folder and not entries:
            self.send_nothing({"X-Error-Code": "EntryNotFound"})
            return
        start = int(query.get("cursor", "0"))
        headers = {}
        if start + _PAGE < len(entries):
            host, path = self.headers["Host"], urlsplit(self.path).path
            headers["Link"] = f'<http://{host}{path}?cursor={start + _PAGE}>; rel="next"'
        self.send_json([entries[name] for name in sorted(entries)][start : start + _PAGE], headers)

    def _file(self, name: str, file: Path) -> dict[str, Any]:
        content = file.read_bytes()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": _sha1(content)}
        if name.endswith(".onnx"):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            entry["oid"] = _sha1(sha256.encode())  # that of the pointer
        return entry


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class ObjectStore:
    """``url``: where it listens. gone: it lets nobody in while this is set. requests: what was asked."""

    def __init__(self, handler: type[_Handler], root: Path) -> None:
        self.gone = threading.Event()
        self.requests: list[str] = []
        members = {"root": root, "gone": self.gone, "requests": self.requests}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (handler,), members))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def object_store(handler: type[_Handler], root: Path) -> Iterator[ObjectStore]:
    """One over ``root``, for as long as it is needed."""
    store = ObjectStore(handler, root)
    thread = threading.Thread(target=store.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield store
    finally:
        store.server.shutdown()
        thread.join(30)
        store.server.server_close()
