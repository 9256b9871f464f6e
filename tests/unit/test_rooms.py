"""The house rule: a folder is a room with a layer, and includes and imports point to lower layers only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "servolley"

CORE_LAYERS = {
    "base": 0,
    "tensor": 1,
    "device": 2,
    "memory": 3,
    "codec": 4,
    "net": 4,
    "shm": 4,
    "runtime": 4,
    "batching": 4,
    "engine": 5,
    "bindings": 6,
}
# Who may import whom inside the Python package, beyond the own room.
FRONT_ARROWS: dict[str, set[str]] = {
    "status": {"_core"},
    "config": {"_core", "status"},
    "observe": {"_core", "status"},
    "repository": {"_core", "config", "observe", "status"},
    "front": {"_core", "config", "observe", "repository", "status"},
    "huge_pages": set(),
    "listeners": {"status"},
    "ort_library": set(),
    "sources": {"config", "front", "repository"},
    "server": {
        "_core",
        "config",
        "front",
        "listeners",
        "mirror",
        "observe",
        "ort_library",
        "repository",
        "sources",
        "status",
    },
    "client": set(),
    "cli": {"client", "config", "huge_pages", "observe", "ort_library", "repository", "server", "status"},
    "mirror": {"config", "front", "repository", "status"},
    "importers": set(),
    "demo": {"importers"},
    "__main__": {"cli"},
    "__init__": set(),
}


def core_files() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cc"})


def includes(path: Path) -> Iterator[str]:
    yield from re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_includes_point_to_lower_layers(path: Path) -> None:
    room = path.relative_to(CSRC).parts[0]
    for included in includes(path):
        target = included.split("/")[0]
        if not (CSRC / included).is_file() or target == room:
            continue
        assert CORE_LAYERS[target] < CORE_LAYERS[room], f"{room} may not include {included}"
        if room == "engine" and target == "runtime":
            assert included == "runtime/runner.h", "the engine knows runtimes through runner.h only"


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_only_the_bindings_know_python(path: Path) -> None:
    if path.relative_to(CSRC).parts[0] != "bindings":
        assert not [name for name in includes(path) if name == "Python.h" or name.startswith("pybind11")]


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_only_the_cuda_room_knows_cudas_header(path: Path) -> None:
    hidden = {"cuda.h", "device/cuda/functions.h"} & set(includes(path))
    allowed = path.parent == CSRC / "device" / "cuda" and (path.suffix == ".cc" or path.name == "functions.h")
    assert not hidden or allowed


def test_every_core_folder_is_a_known_room() -> None:
    assert {path.name for path in CSRC.iterdir() if path.is_dir()} == set(CORE_LAYERS)


def front_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported_rooms(path: Path) -> Iterator[str]:
    """Rooms of ours that a module imports; what it imports for type checking only counts, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "servolley":
            names = [f"servolley.{alias.name}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        for name in names:
            parts = name.split(".")
            if parts[0] == "servolley" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("path", front_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = FRONT_ARROWS[room] | {room}
    assert set(imported_rooms(path)) <= allowed, f"{room} may import {sorted(allowed)} only"
