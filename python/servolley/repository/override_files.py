"""Files that come with a load, instead of the model's folder: kept in a temporary directory of the server's
own as long as the model is what they say."""

import base64
import binascii
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from servolley.repository.names import parse_version
from servolley.status import Code, StatusError, invalid_argument

PREFIX = "file:"

#: Files that may come with one load.
MOST_FILES = 1000
_MOST_PARTS = 16
_LONGEST_PATH = 1024
_LONGEST_PART_BYTES = 255
# Of base64 text, decoded and written at a time: others have their turn in between.
_CHUNK = 1 << 18

Files = Mapping[PurePosixPath, bytes | str]
"""<version>/<path> -> content; text is base64."""


def take_files(parameters: Mapping[str, Any]) -> Files:
    """Those of a load's parameters that are files. Raises StatusError for a name that leads elsewhere."""
    files: dict[PurePosixPath, bytes | str] = {}
    for key, content in parameters.items():
        if not key.startswith(PREFIX):
            continue
        if not isinstance(content, bytes | str):
            raise invalid_argument(f"'{key[:100]}' must be the file's content, in base64 or as bytes")
        path = _checked(key)
        if path in files:
            raise invalid_argument(f"'{key[:100]}' is given twice")
        files[path] = content
        if len(files) > MOST_FILES:
            raise invalid_argument(f"a load may come with {MOST_FILES} files")
    for path in files:
        if any(folder in files for folder in path.parents):
            raise invalid_argument(f"'{PREFIX}{path}' lies below another file")
    return files


def size_of(files: Files) -> int:
    """Bytes on disk, rounded up."""
    return sum(
        len(content) if isinstance(content, bytes) else len(content) * 3 // 4 for content in files.values()
    )


def _checked(key: str) -> PurePosixPath:
    refused = invalid_argument(f"'{key[:100]}' is not {PREFIX}<version>/<file name>")
    text = key.removeprefix(PREFIX)
    parts = text.split("/")
    version = parse_version(parts[0])
    if version is None or not 2 <= len(parts) <= _MOST_PARTS or len(text) > _LONGEST_PATH:
        raise refused
    if not all(_is_a_name(part) for part in parts[1:]):
        raise refused
    return PurePosixPath(str(version), *parts[1:])


def _is_a_name(part: str) -> bool:
    # Nothing hidden either: no "..", no marker that says when a folder is complete.
    return (
        part != ""
        and not part.startswith(".")
        and part.isprintable()
        and "\\" not in part
        and len(part.encode("utf-8", "surrogatepass")) <= _LONGEST_PART_BYTES
    )


@dataclass(frozen=True, slots=True)
class Written:
    """A repository of one model. ``size``: what counts against the limit."""

    root: Path
    size: int

    def holds(self, directory: Path | None) -> bool:
        return directory is not None and directory.is_relative_to(self.root)

    def remove(self) -> None:
        """Blocking."""
        shutil.rmtree(self.root, ignore_errors=True)


class OverrideStore:
    """The files of every model that came with them, within ``limit_bytes``. Loop thread only."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: dict[str, Written] = {}

    def begin(self, files: Files) -> Written:
        """An empty directory, and room for them. Raises StatusError RESOURCE_EXHAUSTED."""
        size = size_of(files)
        if self._bytes + size > self._limit_bytes:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                f"the files that models came with may take {self._limit_bytes} bytes together",
            )
        try:
            root = Path(tempfile.mkdtemp(prefix="servolley-"))
        except OSError as error:
            raise _no_room(error) from error
        self._bytes += size
        return Written(root, size)

    def give_up(self, written: Written) -> None:
        """Its room; what lies there, the caller removes."""
        self._bytes -= written.size

    def kept(self, name: str) -> Written | None:
        return self._kept.get(name)

    def keep(self, name: str, written: Written | None) -> None:
        """The model is that from now on, or is nothing of ours."""
        self._kept.pop(name, None)
        if written is not None:
            self._kept[name] = written

    def close(self) -> None:
        """Blocking, for a moment: removes everything."""
        for written in self._kept.values():
            written.remove()
        self._kept.clear()


def write_files(written: Written, name: str, files: Files) -> None:
    """Puts them below ``name``. Blocking. Raises StatusError."""
    try:
        for path, content in files.items():
            _write(written.root / name / path, content, f"{PREFIX}{path}")
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> StatusError:
    return StatusError(Code.RESOURCE_EXHAUSTED, f"the files of a load cannot be kept: {error.strerror}")


def _write(path: Path, content: bytes | str, key: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        if isinstance(content, bytes):
            file.write(content)
            return
        for start in range(0, len(content), _CHUNK):
            chunk = content[start : start + _CHUNK]
            try:
                if "=" in chunk and start + _CHUNK < len(content):
                    raise binascii.Error("padding before the end")
                file.write(base64.b64decode(chunk, validate=True))
            except ValueError:  # binascii's is one, and so is that of a text which is not ASCII
                raise invalid_argument(f"'{key[:100]}' is not base64") from None
