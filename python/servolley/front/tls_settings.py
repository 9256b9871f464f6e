"""Where certificates are read from, as the settings say: files of their own, or TensorFlow Serving's
ssl_config_file."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servolley.config.strict import ConfigError, read_config
from servolley.config.tfserving import parse_message
from servolley.front.grpc.services import built_messages
from servolley.front.tls_context import Contexts, TlsError, TlsFiles, load_contexts

if TYPE_CHECKING:
    from servolley.config.settings import Tls

MESSAGE = "tensorflow.serving.SSLConfig"

_PEM = "-----BEGIN "


def loader(tls: "Tls") -> Callable[[], Contexts]:
    """What reads the certificates, anew at each call. It raises TlsError."""
    if tls.ssl_config_file is not None:
        file = Path(tls.ssl_config_file)
        return lambda: _from_ssl_config(file)
    assert tls.cert is not None
    assert tls.key is not None
    files = TlsFiles(Path(tls.cert), Path(tls.key), None if tls.client_ca is None else Path(tls.client_ca))
    return lambda: load_contexts(files)


def _from_ssl_config(file: Path) -> Contexts:
    """Raises TlsError."""
    config: Any = built_messages().message(MESSAGE)()
    try:
        parse_message(read_config(file), config, MESSAGE)
    except ConfigError as error:
        raise TlsError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error
    for field in ("server_key", "server_cert", *(["custom_ca"] if config.client_verify else [])):
        if not getattr(config, field):
            raise TlsError(f"{file}: {MESSAGE} has no {field}")
    with contextlib.ExitStack() as stack:
        names: dict[str, str] = {}

        def place(field: str) -> Path:
            text = getattr(config, field)
            path = stack.enter_context(_as_file(text, field))
            if str(path) != text:
                names[str(path)] = f"{field} of {file}"
            return path

        files = TlsFiles(
            place("server_cert"), place("server_key"), place("custom_ca") if config.client_verify else None
        )
        try:
            return load_contexts(files)
        except TlsError as error:
            text = str(error)
            for path in sorted(names, key=len, reverse=True):
                text = text.replace(path, names[path])
            raise TlsError(text) from error


@contextlib.contextmanager
def _as_file(text: str, name: str) -> Iterator[Path]:
    """PEM text where OpenSSL finds it, which is never a disk; what is no PEM names a file."""
    if _PEM not in text:
        yield Path(text)
        return
    descriptor = os.memfd_create(name)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode())
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
