"""One control call after the other, over TCP, TLS or a UNIX socket."""

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

_TIMEOUT_S = 3600.0  # a load answers when the model is there
_CONNECT_TIMEOUT_S = 10.0
_LARGEST_ANSWER_BYTES = 64 << 20


class ClientError(Exception):
    """The call could not be made; the text is for the user."""


class Refused(Exception):  # noqa: N818 - the server's answer, not an error of ours
    """The server said no: its HTTP status and its text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ServerConnection:
    """``url``: http://HOST:PORT, https://HOST:PORT, HOST:PORT or unix:PATH. ``ca_file``: who may have issued
    an https server's certificate, if not one of the system's authorities."""

    def __init__(self, url: str, token: str | None = None, ca_file: str | None = None) -> None:
        """Raises ClientError."""
        self._url = url
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._connection = _connection(url, ca_file)

    def call(self, method: str, path: str, document: Any = None) -> Any:
        """The answer's document, None if it is empty. Raises ClientError or Refused."""
        body = None if document is None else json.dumps(document).encode()
        connection = self._connection
        try:
            if connection.sock is None:
                connection.connect()
                connected: socket.socket | None = connection.sock
                assert connected is not None
                connected.settimeout(_TIMEOUT_S)
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            answer = response.read(_LARGEST_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ClientError(f"{self._url}: {str(error) or type(error).__name__}") from error
        if len(answer) > _LARGEST_ANSWER_BYTES:
            raise ClientError(f"{self._url}: the answer is too large")
        return self._document(response.status, answer)

    def close(self) -> None:
        self._connection.close()

    def _document(self, status: int, answer: bytes) -> Any:
        try:
            document = json.loads(answer) if answer else None
        except ValueError:
            raise ClientError(f"{self._url}: HTTP {status}, and no JSON: is it a servolley server?") from None
        if status != http.client.OK:
            text = document.get("error") if isinstance(document, dict) else None
            raise Refused(status, str(text or f"HTTP {status}"))
        return document


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_CONNECT_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_TIMEOUT_S)
        self.sock.connect(self._path)


def _connection(url: str, ca_file: str | None) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:"))
    wrong = ClientError(f"not a server: {url!r} (write http://HOST:PORT, https://HOST:PORT or unix:PATH)")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if host is None or parts.scheme not in {"http", "https"} or parts.path not in {"", "/"} or parts.query:
        raise wrong
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port or 8000, timeout=_CONNECT_TIMEOUT_S)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ClientError(f"{ca_file}: {error.strerror or error}") from error
    return http.client.HTTPSConnection(host, port or 8000, timeout=_CONNECT_TIMEOUT_S, context=context)


def read_token(path: str) -> str:
    """Raises ClientError."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{path}: {getattr(error, 'strerror', None) or 'not a token'}") from error
    if not text or not text.isprintable() or " " in text:
        raise ClientError(f"{path}: not a token")
    return text


def segment(text: str) -> str:
    """One segment of a path."""
    return quote(text, safe="")
