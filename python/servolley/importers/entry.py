"""One version of a model on disk: ``<repository>/<name>/<version>/model.onnx``, there completely or not at
all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


def next_version(repository: Path, name: str) -> int:
    """The number after the highest version of ``name`` on disk; 1 for a new model."""
    folder = repository / name
    if not folder.is_dir():
        return 1
    return max((int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()), default=0) + 1


def write_entry(repository: Path, name: str, version: int | None, model: bytes) -> Path:
    """Puts ``model`` (a serialized ONNX ModelProto) into the repository and returns its path.

    A server that polls the repository never sees a half-written version: the files are written and synced in
    a folder whose name starts with a dot, which is then renamed into place.

    Raises ValueError for a name that is not a plain folder name or a version below 1, FileExistsError if the
    version is already there, OSError if it cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"model name {name!r}: letters, digits, '_', '-' and '.' only, not starting with '.' or '-'"
        )
    if version is None:
        version = next_version(repository, name)
    if version < 1:
        raise ValueError(f"version {version}: versions count from 1")
    target = repository / name / str(version)
    if target.exists():
        raise FileExistsError(f"{target} exists; versions are never overwritten")
    repository.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".import-", dir=repository))
    try:
        staged = staging / str(version)
        staged.mkdir()
        with (staged / "model.onnx").open("wb") as file:
            file.write(model)
            file.flush()
            os.fsync(file.fileno())
        # The model's folder appears empty for a moment when it is new, which a repository scan tolerates: it
        # is what removing the last version leaves, too.
        target.parent.mkdir(exist_ok=True)
        staged.rename(target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target / "model.onnx"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
