"""A mirror of a repository in fsspec's memory, whose file system does what a test says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

from servolley.mirror.cache import Cache
from servolley.mirror.folder import RemoteFolder
from servolley.mirror.mirror import Mirror, Outcome
from servolley.repository.layout import ModelOnDisk, scan

_NUMBERS = itertools.count()


class Bench:
    """``put`` and ``delete`` change the remote side; ``served`` is what a server would find here."""

    def __init__(self, root: Path, name: str | None = None, below: str = "", **settings: Any) -> None:
        self.memory = fsspec.filesystem("memory")
        self.remote = f"/bench{next(_NUMBERS)}/models"
        self.url = f"memory:/{self.remote}{below}"
        self.cache = Cache(root / "cache", self.url)
        self.name = name
        self.settings = settings
        self.mirror = self.begin()

    def begin(self) -> Mirror:
        """Another life of the mirror's process."""
        arguments: dict[str, Any] = {"max_bytes": 1 << 20, "downloads": 2, "triton_message": lambda: None}
        folder = RemoteFolder(self.url, self.name, {})
        self.mirror = Mirror(folder, self.cache, url=self.url, **(arguments | self.settings))
        return self.mirror

    def put(self, path: str, text: str = "x") -> None:
        with self.memory.open(f"{self.remote}/{path}", "wb") as file:
            file.write(text.encode())

    def delete(self, path: str) -> None:
        self.memory.rm(f"{self.remote}/{path}", recursive=True)

    def sync(self, only: list[str] | None = None) -> Outcome:
        return self.mirror.sync(only)

    def settle(self) -> Outcome:
        """Two looks."""
        first = self.sync()
        second = self.sync()
        second.changed |= first.changed
        return second

    def served(self) -> dict[str, ModelOnDisk]:
        return scan(self.cache.root)

    def contents(self) -> dict[str, str]:
        """What is to be seen here: path -> text."""
        root = self.cache.root
        return {
            str(path.relative_to(root)): path.read_text()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
        }

    def leftovers(self) -> list[str]:
        """Files that are under way or thrown away."""
        return [
            str(path.relative_to(self.cache.root))
            for hidden in (".staging", ".trash")
            for path in (self.cache.root / hidden).rglob("*")
            if path.is_file()
        ]


class Opened:
    """A file that a test has a say in: ``spoil`` turns a chunk into another, or raises."""

    def __init__(self, file: Any, spoil: Callable[[bytes], bytes]) -> None:
        self._file = file
        self._spoil = spoil

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        return self._spoil(self._file.read(size))
