"""What lies in a remote repository, whatever it is kept in. Pure shapes; see folder.py and manifest.py."""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

MOST_FILES = 100_000  # of one look
DEEPEST = 8  # folders below a version


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """name: what the remote side calls it. size: None if it does not say. fingerprint: what tells its content
    from another without reading it. sha256: where the remote side knows it."""

    name: str
    size: int | None
    fingerprint: str
    sha256: str | None = None


Files = Mapping[str, RemoteFile]
"""Files of one folder by their relative paths, with "/" between segments that are all valid."""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """head: everything that is in no version. versions: version -> what its folder is called."""

    head: Files = field(default_factory=dict)
    versions: Mapping[int, str] = field(default_factory=dict)


class Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Listing(Protocol):
    """One look at the remote repository. Raises MirrorError or whatever the file system raises.

    atomic: it cannot be seen half-changed, so that one look is enough.
    """

    atomic: bool

    def models(self) -> list[str]: ...

    def model(self, name: str) -> RemoteModel:
        """Raises FileNotFoundError: there is none."""
        ...

    def version(self, model: str, folder: str) -> tuple[Files, bool]:
        """Everything below it, and whether it says that it is complete."""
        ...

    def open(self, file: RemoteFile) -> AbstractContextManager[Reader]: ...


def digest_of(files: Files) -> str:
    """What tells one content of a folder from another."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{files[path].fingerprint}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def size_of(files: Files) -> int:
    """Bytes, as far as they are known."""
    return sum(file.size or 0 for file in files.values())
