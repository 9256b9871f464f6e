"""Puts together what gpu_bundle.py has taken apart and installs it into the Python that runs this, offline.

    python benchmarks/gpu_unbundle.py DIR

DIR has the parts and the folder of wheels. Again is as good as once. Only the standard library is needed.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO, Final, cast

PARTS: Final = "onnxruntime.part-*"
WHEELS: Final = "wheels"
SUMS: Final = "SHA256SUMS"
_CHUNK: Final = 1 << 20


def digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def verified(folder: Path) -> list[Path]:
    """The parts in their order. Raises ValueError if one is missing or not what it was."""
    parts = []
    for line in (folder / WHEELS / SUMS).read_text().splitlines():
        wanted, name = line.split()
        part = folder / name
        if not part.is_file():
            raise ValueError(f"{part} is missing")
        if digest(part) != wanted:
            raise ValueError(f"{part} is damaged")
        parts.append(part)
    return parts


class _Joined:
    """The parts, read as one file."""

    def __init__(self, parts: list[Path]) -> None:
        self._parts = list(parts)
        self._open: BinaryIO | None = None

    def read(self, size: int = -1) -> bytes:
        while self._open is not None or self._parts:
            if self._open is None:
                self._open = self._parts.pop(0).open("rb")
            if content := self._open.read(size):
                return content
            self._open.close()
            self._open = None
        return b""


def join(parts: list[Path], folder: Path) -> Path:
    """The wheel that was packed, under its own name."""
    joined = folder / "wheel"
    with lzma.open(cast("BinaryIO", _Joined(parts))) as packed, joined.open("wb") as wheel:
        shutil.copyfileobj(packed, wheel, _CHUNK)
    with zipfile.ZipFile(joined) as archive:
        described = next(name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        lines = archive.read(described).decode().splitlines()
    tags = [line.removeprefix("Tag: ") for line in lines if line.startswith("Tag: ")]
    return joined.rename(folder / f"{described.split('.dist-info/')[0]}-{tags[0]}.whl")


def pip(command: str, *arguments: str) -> None:
    # A Python of the system's own refuses otherwise; a machine that is lent for this may be told to.
    environment = os.environ | {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    options = ["--quiet", "--root-user-action", "ignore", *arguments]
    subprocess.run([sys.executable, "-m", "pip", command, *options], env=environment, check=True)


def main() -> int:
    folder = Path(sys.argv[1])
    try:
        parts = verified(folder)
    except (OSError, ValueError) as error:
        print(f"unbundle: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="servolley-bundle-") as there:
        wheels = [str(join(parts, Path(there))), *map(str, sorted((folder / WHEELS).glob("*.whl")))]
        # The two runtimes lie in one folder: whichever goes second would take the other's files with it. And
        # this server may have been here before, with the same version and other code.
        pip("uninstall", "--yes", "onnxruntime", "onnxruntime-gpu", "servolley")
        pip("install", "--no-index", "--no-deps", "--no-compile", "--upgrade", *wheels)
    said = "import onnxruntime; print(onnxruntime.__version__, *onnxruntime.get_available_providers())"
    return subprocess.run([sys.executable, "-c", said], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
