"""The unit tests need no build: where there is none, a stand-in takes the extension's place, and protoc runs
when a test wants our messages."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

try:
    importlib.import_module("servolley._core")
except ImportError:
    sys.modules["servolley._core"] = importlib.import_module("unit.fake_core")


@pytest.fixture(scope="session")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The descriptors of our messages, where front.grpc.messages finds them."""
    from servolley.front import grpc
    from servolley.front.grpc.messages import DESCRIPTORS, built_descriptors

    try:
        return built_descriptors()
    except FileNotFoundError:
        folder = tmp_path_factory.mktemp("descriptors")
        compile_protos(Path(grpc.__path__[0], "protos"), folder / DESCRIPTORS)
        grpc.__path__.append(str(folder))
        return built_descriptors()


def compile_protos(protos: Path, descriptors: Path) -> None:
    """As CMakeLists.txt does it."""
    from grpc_tools import protoc

    files = sorted(str(path) for path in protos.rglob("*.proto"))
    arguments = [f"--proto_path={protos}", "--include_imports", f"--descriptor_set_out={descriptors}"]
    assert protoc.main(["protoc", *arguments, *files]) == 0


@pytest.fixture
def written_through(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was written through to the disk and what was renamed, in turn; the disk of the tests need not be
    waited for."""
    log: list[str] = []
    rename = Path.rename

    def fsync(descriptor: int) -> None:
        log.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")

    def renamed(self: Path, target: Path) -> Path:
        log.append(f"rename {self.name} {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    return log
